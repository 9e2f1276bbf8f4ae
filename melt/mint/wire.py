"""
Reading a mint's JSON: strict about what meltd uses, blind to every other field.

Each function raises BadAnswer, with a word of our own and nothing of the mint's text, when a field that it needs is
missing or of the wrong kind. Integers are integers (no floats, no booleans) within 0 .. 2^63 - 1. What may be absent on
older mints is named where it is read (MINTS.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from melt.model import (
    AMOUNT_MAX,
    BlindedMessage,
    BlindSignature,
    Keyset,
    KeysetId,
    MeltQuote,
    MintInfo,
    MintState,
    Proof,
    QuoteId,
    QuoteState,
    Restored,
)

POINT_HEX: Final = 66
SCALAR_HEX: Final = 64
TEXT_MAX: Final = 256
ID_MAX: Final = 128
KEYSETS_MAX: Final = 4096
KEYS_MAX: Final = 512
METHODS_MAX: Final = 64
KEY_AMOUNT_MAX: Final = 2**64
HEX: Final = frozenset("0123456789abcdefABCDEF")
STATES: Final = {state.value: state for state in MintState}


class BadAnswer(Exception):
    """The answer is not what the protocol says. ``args[0]`` is our own word for what is wrong."""


class Unreadable(BadAnswer):
    """The answer is not even a JSON object: a proxy's page, half a body. It says nothing about the mint."""


# --- writing ---


def inputs_body(inputs: Sequence[Proof]) -> list[dict[str, Any]]:
    """Proofs as a mint takes them. Their DLEQ stays at home: it holds the blinding factor, which links them."""
    return [
        {"id": proof.keyset_id, "amount": proof.amount, "secret": proof.secret, "C": proof.c}
        | ({} if proof.witness is None else {"witness": proof.witness})
        for proof in inputs
    ]


def outputs_body(outputs: Sequence[BlindedMessage]) -> list[dict[str, Any]]:
    """Blinded messages as a mint takes them."""
    return [{"id": output.keyset_id, "amount": output.amount, "B_": output.b_} for output in outputs]


# --- reading ---


def load(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also bad UTF-8 and integers of thousands of digits
        raise Unreadable("not JSON") from error
    if not isinstance(value, dict):
        raise Unreadable("no object")
    return value


def error_code(body: bytes) -> int | None:
    """``code`` of an error answer; None where there is none, or nothing that could be one."""
    try:
        code = load(body).get("code")
    except BadAnswer:
        return None
    return code if type(code) is int and 0 <= code <= AMOUNT_MAX else None


def is_validation_error(body: bytes) -> bool:
    """Whether the body of a 422 is that of a framework which refused the request before any handler saw it."""
    try:
        answer = load(body)
    except BadAnswer:
        return False
    return isinstance(answer.get("detail"), list) and "code" not in answer


def info(body: bytes, *, arrays_max: int) -> MintInfo:
    """NUT-06. A name or version that is missing or no text is empty; a NUT counts unless it says ``supported: false``."""
    answer = load(body)
    nuts = answer.get("nuts")
    supported = {
        int(number)
        for number, about in (nuts.items() if isinstance(nuts, Mapping) else ())
        if number.isdecimal()
        and len(number) < 5
        and not (isinstance(about, Mapping) and about.get("supported") is False)
    }
    longest = answer.get("max_array_length")
    return MintInfo(
        name=_short(answer.get("name")),
        version=_short(answer.get("version")),
        nuts=frozenset(supported),
        max_array_length=min(longest, arrays_max) if type(longest) is int and longest > 0 else arrays_max,
        subscribable=_subscribable(nuts.get("17") if isinstance(nuts, Mapping) else None),
    )


def _subscribable(about: object) -> frozenset[str]:
    """NUT-17's list of methods with their commands; anything of another shape offers nothing."""
    supported = about.get("supported") if isinstance(about, Mapping) else None
    found: set[str] = set()
    for entry in supported[:METHODS_MAX] if isinstance(supported, list) else ():
        commands = entry.get("commands") if isinstance(entry, Mapping) and entry.get("method") == "bolt11" else None
        found |= {_short(one) for one in commands[:METHODS_MAX]} if isinstance(commands, list) else set()
    return frozenset(found)


def keysets(body: bytes) -> dict[KeysetId, Keyset]:
    """NUT-02. ``input_fee_ppk`` absent or null is 0. Units that meltd doesn't know are kept."""
    entries = _list(load(body).get("keysets"), "keysets", KEYSETS_MAX)
    found: dict[KeysetId, Keyset] = {}
    for entry in entries:
        one = _object(entry, "keyset")
        keyset_id = KeysetId(_text(one.get("id"), "keyset id", ID_MAX))
        if keyset_id in found:
            raise BadAnswer("a keyset id twice")
        active = one.get("active")
        if type(active) is not bool:
            raise BadAnswer("active is no boolean")
        found[keyset_id] = Keyset(
            id=keyset_id,
            unit=_text(one.get("unit"), "unit", ID_MAX),
            active=active,
            input_fee_ppk=_amount(_default(one.get("input_fee_ppk"), 0), "input_fee_ppk"),
            final_expiry=_optional_amount(one.get("final_expiry"), "final_expiry"),
        )
    return found


def keys(body: bytes, keyset_id: KeysetId) -> dict[int, str]:
    """NUT-01: the public keys of the keyset asked for, by amount. That they are points is checked by whoever uses them."""
    for entry in _list(load(body).get("keysets"), "keysets", KEYSETS_MAX):
        one = _object(entry, "keyset")
        if one.get("id") != keyset_id:
            continue
        given = _object(one.get("keys"), "keys")
        if not 0 < len(given) <= KEYS_MAX:
            raise BadAnswer("no keys, or too many")
        found: dict[int, str] = {}
        for amount, key in given.items():
            # Canonical decimals only: "01" beside "1" would be two keys for one amount.
            if not amount.isascii() or not amount.isdecimal() or len(amount) > 20 or str(int(amount)) != amount:
                raise BadAnswer("an amount of a key is no number")
            if not 0 < int(amount) <= KEY_AMOUNT_MAX:
                raise BadAnswer("an amount of a key is out of range")
            found[int(amount)] = _hex(key, "key", POINT_HEX).lower()
        return found
    raise BadAnswer("other keysets than asked for")


def melt_quote(body: bytes, *, quote_id: QuoteId | None = None, posted: bool = False) -> MeltQuote:
    """
    A melt quote (NUT-05, 23): of a quote request, a GET, or with ``posted`` of the melt POST.

    ``state`` may be absent on old mints, where ``paid`` tells. The POST of old mints also leaves out the quote's id
    and amounts; they are 0 then. Change that can't be read is as if it hadn't been sent: there are two more places
    to get it from, and the payment is no less paid.
    """
    answer = load(body)
    given_id = answer.get("quote")
    if given_id is None and posted and quote_id is not None:
        given_id = quote_id
    found_id = QuoteId(_text(given_id, "quote id", TEXT_MAX))
    if quote_id is not None and found_id != quote_id:
        raise BadAnswer("another quote")
    missing: int | None = 0 if posted else None
    change = _change(answer.get("change"))
    preimage = answer.get("payment_preimage")
    return MeltQuote(
        id=found_id,
        state=_quote_state(answer),
        amount=_amount(_default(answer.get("amount"), missing), "amount"),
        fee_reserve=_amount(_default(answer.get("fee_reserve"), missing), "fee_reserve"),
        expiry=_optional_amount(answer.get("expiry"), "expiry"),
        preimage=preimage if isinstance(preimage, str) and 0 < len(preimage) <= TEXT_MAX else None,
        change=change or (),
        change_known=change is not None,
    )


def states(body: bytes) -> list[tuple[str, MintState]]:
    """NUT-07: (Y, state) as they come."""
    found: list[tuple[str, MintState]] = []
    entries = load(body).get("states")
    if not isinstance(entries, list):
        raise BadAnswer("states is no list")
    try:
        for entry in entries:
            y = entry["Y"]
            if type(y) is not str:
                raise BadAnswer("a Y is no text")
            found.append((y, STATES[entry["state"]]))
    except (KeyError, TypeError) as error:
        raise BadAnswer("a state without Y, or an unknown state") from error
    return found


def signatures(body: bytes) -> tuple[BlindSignature, ...]:
    """The signatures of a swap (NUT-03)."""
    return _signatures(load(body).get("signatures"))


def restored(body: bytes, asked: frozenset[str]) -> tuple[Restored, ...]:
    """NUT-09: outputs and signatures side by side; only outputs that were asked for, each once."""
    answer = load(body)
    outputs = _list(answer.get("outputs"), "outputs", len(asked))
    given = answer.get("signatures")
    signed = _signatures(given if given is not None else answer.get("promises"))
    if len(outputs) != len(signed):
        raise BadAnswer("as many outputs as signatures")
    found: dict[str, Restored] = {}
    for output, signature in zip(outputs, signed, strict=True):
        b_ = _object(output, "output").get("B_")
        if not isinstance(b_, str) or b_ not in asked or b_ in found:
            raise BadAnswer("an output that was not asked for")
        found[b_] = Restored(b_=b_, signature=signature)
    return tuple(found.values())


# --- parts ---


def _change(value: object) -> tuple[BlindSignature, ...] | None:
    if value is None:
        return None
    try:
        return _signatures(value)
    except BadAnswer:
        return None


def _signatures(value: object) -> tuple[BlindSignature, ...]:
    return tuple(_signature(entry) for entry in _list(value, "signatures", KEYSETS_MAX))


def _signature(value: object) -> BlindSignature:
    entry = _object(value, "signature")
    dleq = entry.get("dleq")
    e = s = None
    if dleq is not None:
        proof = _object(dleq, "dleq")
        e, s = _hex(proof.get("e"), "e", SCALAR_HEX), _hex(proof.get("s"), "s", SCALAR_HEX)
    return BlindSignature(
        keyset_id=KeysetId(_text(entry.get("id"), "keyset id", ID_MAX)),
        amount=_amount(entry.get("amount"), "amount"),
        c_=_hex(entry.get("C_"), "C_", POINT_HEX),
        dleq_e=e,
        dleq_s=s,
    )


def _quote_state(answer: Mapping[str, Any]) -> QuoteState:
    state, paid = answer.get("state"), answer.get("paid")
    if state is None and type(paid) is bool:
        return QuoteState.PAID if paid else QuoteState.UNPAID
    try:
        return QuoteState(_text(state, "state", TEXT_MAX))
    except ValueError as error:
        raise BadAnswer("an unknown state") from error


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer(f"{what} is no object")
    return value


def _list(value: object, what: str, longest: int) -> list[Any]:
    if not isinstance(value, list):
        raise BadAnswer(f"{what} is no list")
    if len(value) > longest:
        raise BadAnswer(f"{what} is too long")
    return value


def _text(value: object, what: str, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise BadAnswer(f"{what} is no text")
    return value


def _hex(value: object, what: str, length: int) -> str:
    if not isinstance(value, str) or len(value) != length or not HEX.issuperset(value):
        raise BadAnswer(f"{what} is no hex of {length} characters")
    return value


def _amount(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
        raise BadAnswer(f"{what} is no amount")
    return value


def _optional_amount(value: object, what: str) -> int | None:
    return None if value is None else _amount(value, what)


def _default(value: Any, missing: Any) -> Any:
    return missing if value is None else value


def _short(value: object) -> str:
    return value[:TEXT_MAX] if isinstance(value, str) and value.isprintable() else ""


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")
