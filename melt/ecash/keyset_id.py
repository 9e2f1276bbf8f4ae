"""Keyset ids and what they commit to (NUT-02)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

V1_LENGTH: Final = 16
V2_LENGTH: Final = 66
LEGACY_LENGTH: Final = 12
LOWER_HEX: Final = frozenset("0123456789abcdef")


class KeysetIdVersion(StrEnum):
    """The kinds of keyset ids that meltd can derive outputs for and check."""

    LEGACY = "legacy"
    """Base64, of mints before Nutshell 0.15."""
    V1 = "00"
    V2 = "01"


def keyset_id_version(keyset_id: str) -> KeysetIdVersion | None:
    """
    The kind of a keyset id; None for what is none of ours: a short v2 id, BLS keysets (``02``), later versions, text.

    Hex is lower case only: NUT-13 derives from the bytes, but a mint compares ids as text.
    """
    if len(keyset_id) == LEGACY_LENGTH:
        try:
            base64.b64decode(keyset_id, validate=True)
        except (binascii.Error, ValueError):
            return None
        return KeysetIdVersion.LEGACY
    if not LOWER_HEX.issuperset(keyset_id):
        return None
    if len(keyset_id) == V1_LENGTH and keyset_id.startswith("00"):
        return KeysetIdVersion.V1
    if len(keyset_id) == V2_LENGTH and keyset_id.startswith("01"):
        return KeysetIdVersion.V2
    return None


def keyset_id_matches(
    keyset_id: str,
    keys: Mapping[int, str],
    *,
    unit: str,
    input_fee_ppk: int = 0,
    final_expiry: int | None = None,
) -> bool:
    """
    Whether the id commits to these keys (amount to compressed public key as hex), for v2 also to unit, fee and expiry.

    A legacy id must match the derivation of its time (hash of the concatenated hex keys); one that nothing
    derives is refused like any other wrong id, since meltd only asks for keys to make or check signatures with them.
    Keys that are not hex make it False. A ``final_expiry`` of 0 is none; an id that commits to the 0 itself commits to the
    same keys.
    """
    ordered = sorted(keys.items())
    try:
        raw = [bytes.fromhex(key) for _, key in ordered]
    except ValueError:
        return False
    match keyset_id_version(keyset_id):
        case KeysetIdVersion.V1:
            return keyset_id == "00" + hashlib.sha256(b"".join(raw)).hexdigest()[:14]
        case KeysetIdVersion.V2:
            preimage = ",".join(f"{amount}:{key.hex()}" for (amount, _), key in zip(ordered, raw, strict=True))
            preimage += f"|unit:{unit.lower()}"
            if input_fee_ppk > 0:
                preimage += f"|input_fee_ppk:{input_fee_ppk}"
            ends = [f"|final_expiry:{final_expiry}"] if final_expiry else ["", "|final_expiry:0"]
            return any(keyset_id == "01" + hashlib.sha256((preimage + end).encode()).hexdigest() for end in ends)
        case KeysetIdVersion.LEGACY:
            digest = hashlib.sha256("".join(key.hex() for key in raw).encode()).digest()
            return keyset_id == base64.b64encode(digest).decode()[:LEGACY_LENGTH]
        case None:
            return False
