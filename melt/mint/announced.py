"""
Reading what a mint lists about itself: its settings (NUT-06), its keysets (NUT-02), their keys (NUT-01).

One entry that can't be used costs that entry alone: it is left out and named (:class:`Oddities`), and everything else on
the list stands. What is only shown, or only a hint, is ignored where it is odd. BadAnswer where there is no list at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from melt.mint.wire import (
    ID_MAX,
    POINT_HEX,
    TEXT_MAX,
    BadAnswer,
    amount_in,
    default,
    hex_in,
    list_in,
    load,
    object_in,
    text_in,
)
from melt.model import AMOUNT_MAX, CachedEndpoint, Keyset, KeysetId, MethodLimits, MintInfo, ProtectedEndpoint

KEYSETS_MAX: Final = 4096
KEYS_MAX: Final = 512
METHODS_MAX: Final = 64
KEY_AMOUNT_MAX: Final = 2**64
EXPIRY_MAX: Final = 2**64 - 1
NAMED_MAX: Final = 32
"""So many of the entries that can't be used are named; all of them are counted (I11)."""
_NAME_CHARS: Final = 80


@dataclass(slots=True)
class Oddities:
    """What could not be used of one list: ``named`` as ``"keyset 00ab..: active is no boolean"``, the first NAMED_MAX."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def note(self, what: str, why: str) -> None:
        """One entry is left out, or one field of it ignored."""
        self.count += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(f"{what}: {why}")


# --- NUT-06 ---


def info(body: bytes, *, arrays_max: int, odd: Oddities | None = None) -> MintInfo:
    """NUT-06. A name or version that is missing or no text is empty; a NUT counts unless it says ``supported: false``."""
    odd = Oddities() if odd is None else odd
    answer = load(body)
    given = answer.get("nuts")
    nuts: Mapping[str, Any] = given if isinstance(given, dict) else {}
    supported = {
        int(number)
        for number, about in nuts.items()
        if number.isascii()
        and number.isdecimal()
        and len(number) < 5
        and not (isinstance(about, dict) and about.get("supported") is False)
    }
    longest = _count(answer.get("max_array_length"))
    melting = nuts.get("5")
    return MintInfo(
        name=_short(answer.get("name")),
        version=_short(answer.get("version")),
        nuts=frozenset(supported),
        max_array_length=arrays_max if longest is None else min(longest, arrays_max),
        subscribable=_subscribable(nuts.get("17")),
        melting_disabled=isinstance(melting, dict) and melting.get("disabled") is True,
        melt_methods=_methods(melting, odd),
        multi_path=_multi_path(nuts.get("15")),
        cached=_cached(nuts.get("19")),
        protected=(*_protected(nuts.get("21"), blind=False), *_protected(nuts.get("22"), blind=True)),
    )


def _methods(about: object, odd: Oddities) -> tuple[MethodLimits, ...]:
    """NUT-05's list of methods. A bound that is no amount is as if it hadn't been told."""
    found: list[MethodLimits] = []
    for entry in _entries(about, "methods"):
        method, unit = entry.get("method"), entry.get("unit")
        if not isinstance(method, str) or not isinstance(unit, str):
            odd.note("a melt method", "method or unit is no text")
            continue
        options = entry.get("options")
        inside: Mapping[str, Any] = options if isinstance(options, dict) else {}
        least, most = _count(entry.get("min_amount")), _count(entry.get("max_amount"))
        found.append(
            MethodLimits(
                method=_short(method),
                unit=_short(unit),
                min_amount=least or 0,
                max_amount=most,
                amountless=inside.get("amountless") is True or entry.get("amountless") is True,
            )
        )
    return tuple(found)


def _multi_path(about: object) -> frozenset[str]:
    """NUT-15: the units that can be paid in parts over bolt11."""
    return frozenset(
        _short(entry.get("unit")) for entry in _entries(about, "methods") if entry.get("method") == "bolt11"
    )


def _cached(about: object) -> frozenset[CachedEndpoint]:
    """NUT-19: the requests whose answers the mint repeats to the byte."""
    return frozenset(
        CachedEndpoint(method=_short(entry.get("method")).upper(), path=_short(entry.get("path")))
        for entry in _entries(about, "cached_endpoints")
    )


def _protected(about: object, *, blind: bool) -> tuple[ProtectedEndpoint, ...]:
    """NUT-21 and NUT-22: the requests that want a login, by method and a pattern of paths."""
    return tuple(
        ProtectedEndpoint(method=_short(entry.get("method")).upper(), path=_short(entry.get("path")), blind=blind)
        for entry in _entries(about, "protected_endpoints")
        if isinstance(entry.get("path"), str)
    )


def _subscribable(about: object) -> frozenset[str]:
    """NUT-17's list of methods with their commands; anything of another shape offers nothing."""
    found: set[str] = set()
    for entry in _entries(about, "supported"):
        commands = entry.get("commands") if entry.get("method") == "bolt11" else None
        found |= {_short(one) for one in commands[:METHODS_MAX]} if isinstance(commands, list) else set()
    return frozenset(found)


def _entries(about: object, name: str) -> Iterable[Mapping[str, Any]]:
    listed = about.get(name) if isinstance(about, dict) else None
    return [entry for entry in listed[:METHODS_MAX] if isinstance(entry, dict)] if isinstance(listed, list) else ()


# --- NUT-02 ---


def keysets(body: bytes, odd: Oddities | None = None) -> dict[KeysetId, Keyset]:
    """NUT-02. ``input_fee_ppk`` absent or null is 0. Units that meltd doesn't know are kept."""
    odd = Oddities() if odd is None else odd
    found: dict[KeysetId, Keyset] = {}
    twice: set[KeysetId] = set()
    listed = load(body).get("keysets")
    if not isinstance(listed, list):
        raise BadAnswer("keysets is no list")
    if len(listed) > KEYSETS_MAX:
        odd.note(f"{len(listed) - KEYSETS_MAX} keysets", f"only {KEYSETS_MAX} are read")
    for number, entry in enumerate(listed[:KEYSETS_MAX]):
        try:
            keyset = _keyset(object_in(entry, "keyset"), odd)
        except BadAnswer as bad:
            odd.note(_name_of(entry, number), str(bad))
            continue
        if keyset.id in twice or found.get(keyset.id, keyset) != keyset:
            # Nobody can tell which of them holds: neither does.
            found.pop(keyset.id, None)
            twice.add(keyset.id)
            odd.note(_name_of(entry, number), "listed twice, with different words")
            continue
        found[keyset.id] = keyset
    return found


def _keyset(one: Mapping[str, Any], odd: Oddities) -> Keyset:
    keyset_id = KeysetId(text_in(one.get("id"), "keyset id", ID_MAX))
    active = one.get("active")
    if type(active) is not bool:
        raise BadAnswer("active is no boolean")
    return Keyset(
        id=keyset_id,
        unit=text_in(one.get("unit"), "unit", ID_MAX),
        active=active,
        input_fee_ppk=amount_in(default(one.get("input_fee_ppk"), 0), "input_fee_ppk"),
        final_expiry=_expiry(one.get("final_expiry"), keyset_id, odd),
    )


def _expiry(value: object, keyset_id: KeysetId, odd: Oddities) -> int | None:
    """
    The unix time of a keyset's end; 0 and null are none.

    An odd one is none too: the keyset's ecash is no less its owner's. Should the id commit to it (version 01), its keys
    do not give the id, and nothing new is signed there.
    """
    if value is None or (type(value) is int and value == 0):
        return None
    if type(value) is int and 0 < value <= EXPIRY_MAX:
        return value
    odd.note(f"keyset {keyset_id[:_NAME_CHARS]}", "final_expiry is no time")
    return None


def _name_of(entry: object, number: int) -> str:
    keyset_id = entry.get("id") if isinstance(entry, dict) else None
    named = isinstance(keyset_id, str) and keyset_id and keyset_id.isprintable()
    return (
        f"keyset {keyset_id[:_NAME_CHARS]}" if named and isinstance(keyset_id, str) else f"keyset number {number + 1}"
    )


# --- NUT-01 ---


def keys(body: bytes, keyset_id: KeysetId) -> dict[int, str]:
    """
    NUT-01: the public keys of the keyset asked for, by amount. That they are points is checked by whoever uses them.

    All or none: the keyset's id commits to all of them. BadAnswer where the answer has them not.
    """
    for entry in list_in(load(body).get("keysets"), "keysets", KEYSETS_MAX):
        if not isinstance(entry, dict) or entry.get("id") != keyset_id:
            continue
        given = object_in(entry.get("keys"), "keys")
        if not 0 < len(given) <= KEYS_MAX:
            raise BadAnswer("no keys, or too many")
        found: dict[int, str] = {}
        for amount, key in given.items():
            # Canonical decimals only: "01" beside "1" would be two keys for one amount.
            if not amount.isascii() or not amount.isdecimal() or len(amount) > 20 or str(int(amount)) != amount:
                raise BadAnswer("an amount of a key is no number")
            if not 0 < int(amount) <= KEY_AMOUNT_MAX:
                raise BadAnswer("an amount of a key is out of range")
            found[int(amount)] = hex_in(key, "key", POINT_HEX).lower()
        return found
    raise BadAnswer("other keysets than asked for")


# --- parts ---


def _count(value: object) -> int | None:
    """A positive whole number, or None: what an odd one stands for is not guessed."""
    return value if type(value) is int and 0 < value <= AMOUNT_MAX else None


def _short(value: object) -> str:
    return value[:TEXT_MAX] if isinstance(value, str) and value.isprintable() else ""
