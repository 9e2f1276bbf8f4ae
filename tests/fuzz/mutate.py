"""Answers made odd: the tree of a real one changed here and there, or its bytes. The same generator, the same answers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, 1e308, -0.0,
    "", "0", "00", " ", "PAID", "paid", "UNPAID", "PENDING", "FAILED", "UNKNOWN", "SPENT", "UNSPENT", "ISSUED", "sat",
    "msat", "None", "0x00", "0" * 64, "f" * 64, "02" + "11" * 32, "02" + "ff" * 32, "03" + "00" * 32, "zz" * 33, "é" * 66,
    "\u2028", "\x00", "x" * 300, "x" * 70_000, [], {}, [[]], [None], {"": None}, [[[[[[[[]]]]]]]],
)  # fmt: skip
NAMES: Final = (
    "id", "unit", "active", "input_fee_ppk", "final_expiry", "keysets", "keys", "quote", "amount", "fee_reserve", "state",
    "paid", "expiry", "payment_preimage", "change", "C_", "dleq", "e", "s", "Y", "states", "witness", "signatures", "promises",
    "outputs", "B_", "code", "detail", "nuts", "max_array_length", "name", "version", "methods", "supported", "disabled",
    "min_amount", "max_amount", "ttl", "cached_endpoints", "protected_endpoints", "", "__proto__",
)  # fmt: skip
STATUSES: Final = (200, 200, 200, 201, 204, 302, 400, 400, 400, 401, 403, 404, 409, 422, 422, 429, 500, 502, 503, 511)
CODES: Final = (
    0, 10000, 10001, 10002, 10003, 11000, 11001, 11002, 11003, 11004, 11005, 11006, 11007, 11008, 11009, 11010, 11011, 11012,
    11013, 11014, 11015, 11016, 12001, 12002, 12003, 20000, 20001, 20003, 20004, 20005, 20006, 20007, 20008, 30001, 30002, 31001,
    31002, 50000, 99999,
)  # fmt: skip
PAGES: Final = (
    b"", b"null", b"[]", b"{}", b'""', b"NaN", b"{", b"<html><body>502 Bad Gateway</body></html>", b"\xff\xfe{}", b"[" * 50_000,
    b'{"a":' * 5_000, b'{"code":NaN}', b'{"amount":' + b"9" * 5_000 + b"}", b'{"state":"PAID","state":"UNPAID"}', b"\xef\xbb\xbf{}",
    b'{"error":"\\ud800"}', b"QuoteId must be either a UUID or a valid base64 string",
)  # fmt: skip
SIZE_MAX: Final = 512 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer of a mint: ``body`` is a tree of JSON, or bytes that are sent as they are."""

    status: int
    body: Any

    @property
    def sent(self) -> bytes:
        """As it travels."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def mutated(said: Said, chance: random.Random, others: Sequence[Any]) -> Said:
    """Another answer. ``others`` are trees of which parts may be taken."""
    status = said.status if chance.random() < 0.8 else chance.choice(STATUSES)
    kind = chance.random()
    if kind < 0.03:
        return Said(status=status, body=chance.choice(PAGES))
    body = said.body
    if isinstance(body, bytes):
        return Said(status=status, body=_bytes(body, chance))
    if kind < 0.12:
        refusal = {
            "detail": chance.choice(("no", "", None, [], {})),
            "code": chance.choice((*CODES, *CODES, *ODD[:16])),
        }
        return Said(status=chance.choice((400, 400, 422, 429, 500)), body=refusal)
    tree = json.loads(json.dumps(body))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
        tree = _tree(tree, chance, others)
    if kind > 0.92:
        return Said(status=status, body=_bytes(json.dumps(tree).encode(), chance))
    return Said(status=status, body=tree)


def _bytes(body: bytes, chance: random.Random) -> bytes:
    made = bytearray(body[:SIZE_MAX])
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0:
                del made[at:]
            case 1:
                made[at:at] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del made[at : at + chance.randint(1, 40)]
            case _:
                made[at : at + 1] = chance.choice((b'"', b"{", b"}", b"[", b",", b"\\", b"0", b"-", b"e", b"\x00"))
    return bytes(made)


def _places(tree: Any, found: list[tuple[Any, Any]]) -> None:
    """Every (container, key) of a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(inner)[:400]:
        found.append((tree, key))
        _places(value, found)


def _tree(tree: Any, chance: random.Random, others: Sequence[Any]) -> Any:
    places: list[tuple[Any, Any]] = []
    _places(tree, places)
    if not places:
        return _odd(chance)
    container, key = chance.choice(places)
    value = copy.deepcopy(container[key])
    match chance.randrange(9):
        case 0:
            del container[key]
        case 1 | 2:
            container[key] = _odd(chance)
        case 3 if isinstance(container, dict):
            container[chance.choice(NAMES)] = chance.choice((value, _odd(chance)))
        case 3 | 4 if isinstance(container, list):
            container.insert(chance.randint(0, len(container)), chance.choice((value, _odd(chance))))
        case 4:
            container[key] = _foreign(chance, others)
        case 5 if isinstance(value, list):
            _list(value, chance)
            container[key] = value
        case 6 if isinstance(value, int) and not isinstance(value, bool):
            container[key] = chance.choice(
                (value + 1, value - 1, -value, value * 1000, str(value), float(value % 2**53))
            )
        case 7 if isinstance(value, str):
            container[key] = chance.choice((value.upper(), value[:-1], value + "0", value[1:], value[::-1], [value]))
        case 8 if isinstance(container, dict) and isinstance(key, str):
            container[chance.choice((key.upper(), "0" + key, key + " ", *NAMES))] = container.pop(key)
        case _:
            container[key] = chance.choice((None, [value], {"value": value}))
    return tree


def _odd(chance: random.Random) -> Any:
    """One of its own: a list that stood in two places would grow in both."""
    return copy.deepcopy(chance.choice(ODD))


def _list(value: list[Any], chance: random.Random) -> None:
    change: Callable[[], object] = chance.choice(
        (value.clear, value.reverse, lambda: chance.shuffle(value), lambda: value.extend(value[:50]))
    )
    change()


def _foreign(chance: random.Random, others: Sequence[Any]) -> Any:
    """A part of another answer."""
    tree = chance.choice(others)
    places: list[tuple[Any, Any]] = []
    _places(tree, places)
    if not places:
        return None
    container, key = chance.choice(places)
    return json.loads(json.dumps(container[key]))
