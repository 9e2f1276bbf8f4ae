"""What a mint gives as the proof of a payment (NUT-05 ``payment_preimage``), and what it is worth."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

HEX_CHARS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


class Preimage(StrEnum):
    """What it shows."""

    PROVES = "proves"
    NONE = "none"
    """Nothing is told: absent, empty, zeros, or a text that no preimage is. No NUT promises one."""
    IS_HASH = "is_hash"
    """The payment hash stands in its place, which everybody knows: it proves nothing."""
    WRONG = "wrong"
    """A preimage, of another payment."""


def judge(told: str | None, payment_hash: str | None) -> tuple[Preimage, str | None]:
    """What the mint's text shows about a payment, and the preimage as lower-case hex where it proves it."""
    text = (told or "").strip().lower().removeprefix("0x")
    if payment_hash is None or len(text) != HEX_CHARS or not _HEX.issuperset(text) or not text.strip("0"):
        return Preimage.NONE, None
    if hashlib.sha256(bytes.fromhex(text)).hexdigest() == payment_hash:
        return Preimage.PROVES, text
    return (Preimage.IS_HASH if text == payment_hash else Preimage.WRONG), None
