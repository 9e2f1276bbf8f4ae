"""
Reading a mint's JSON: strict about what meltd uses, blind to every other field.

Each function raises BadAnswer, with a word of our own and nothing of the mint's text, when a field that it needs is
missing or of the wrong kind. Integers are integers (no floats, no booleans) within 0 .. 2^63 - 1. What may be absent on
older mints is named where it is read (MINTS.md). An entry of a list that can't be used costs that entry alone. What a
mint lists about itself is read in :mod:`melt.mint.announced`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from melt.model import (
    AMOUNT_MAX,
    BlindedMessage,
    BlindSignature,
    KeysetId,
    MeltQuote,
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
SIGNATURES_MAX: Final = 4096
MOMENT_MAX: Final = 253_402_300_799
"""The end of the year 9999, the last moment that a date can tell."""
HEX: Final = frozenset("0123456789abcdefABCDEF")
STATES: Final = {state.value: state for state in MintState}


class BadAnswer(Exception):
    """The answer is not what the protocol says. ``args[0]`` is our own word for what is wrong."""


class Unreadable(BadAnswer):
    """The answer is not even a JSON object: a proxy's page, half a body. It says nothing about the mint."""


# --- writing ---


def inputs_body(inputs: Sequence[Proof]) -> list[dict[str, Any]]:
    """
    Proofs as a mint takes them. Their DLEQ stays at home: it holds the blinding factor, which links them.

    A witness goes with a spending condition (NUT-10, 11, 14) and with nothing else: what other code has stored there
    beside a plain secret, an empty text for one, makes some mints refuse the whole request.
    """
    return [
        {"id": proof.keyset_id, "amount": proof.amount, "secret": proof.secret, "C": proof.c}
        | ({"witness": proof.witness} if proof.is_locked and proof.witness else {})
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


def melt_quote(body: bytes, *, quote_id: QuoteId | None = None, posted: bool = False) -> MeltQuote:
    """
    A melt quote (NUT-05, 23): of a quote request, a GET, or with ``posted`` of the melt POST.

    ``state`` may be absent on old mints, where ``paid`` tells. The POST of old mints also leaves out the quote's id
    and amounts; they are 0 then. ``expiry`` is only a hint, since mints pay expired quotes too: an odd one is none.
    A signature of the change that can't be read is as if it hadn't been sent: there are two more places to get it from
    (``change_known`` is false), and the payment is no less paid.
    """
    answer = load(body)
    given_id = answer.get("quote")
    if given_id is None and posted and quote_id is not None:
        given_id = quote_id
    found_id = QuoteId(text_in(given_id, "quote id", TEXT_MAX))
    if quote_id is not None and found_id != quote_id:
        raise BadAnswer("another quote")
    missing: int | None = 0 if posted else None
    change, change_known = _change(answer.get("change"))
    preimage = answer.get("payment_preimage")
    return MeltQuote(
        id=found_id,
        state=_quote_state(answer),
        amount=amount_in(default(answer.get("amount"), missing), "amount"),
        fee_reserve=amount_in(default(answer.get("fee_reserve"), missing), "fee_reserve"),
        expiry=_moment(answer.get("expiry")),
        preimage=preimage if isinstance(preimage, str) and 0 < len(preimage) <= TEXT_MAX else None,
        change=change,
        change_known=change_known,
    )


def states(body: bytes) -> list[tuple[str, MintState]]:
    """
    NUT-07: (Y, state) as they come.

    A word that no NUT has says neither that the proof is free nor that it is gone: it is read as PENDING, so that nobody
    chooses, marks or releases it.
    """
    found: list[tuple[str, MintState]] = []
    entries = load(body).get("states")
    if not isinstance(entries, list):
        raise BadAnswer("states is no list")
    try:
        for entry in entries:
            y = entry["Y"]
            if type(y) is not str:
                raise BadAnswer("a Y is no text")
            word = entry["state"]
            state = STATES.get(word)
            if state is None:
                state = STATES.get(text_in(word, "a state", TEXT_MAX).strip().upper(), MintState.PENDING)
            found.append((y, state))
    except (KeyError, TypeError) as error:
        raise BadAnswer("a state without Y, or no state") from error
    return found


def signatures(body: bytes) -> tuple[BlindSignature, ...]:
    """The signatures of a swap (NUT-03)."""
    return _signatures(load(body).get("signatures"))


def restored(body: bytes, asked: frozenset[str]) -> tuple[Restored, ...]:
    """NUT-09: outputs and signatures side by side. What was not asked for, comes twice or can't be read is left out."""
    answer = load(body)
    outputs = list_in(answer.get("outputs"), "outputs", SIGNATURES_MAX)
    given = answer.get("signatures")
    signed = list_in(given if given is not None else answer.get("promises"), "signatures", SIGNATURES_MAX)
    if len(outputs) != len(signed):
        raise BadAnswer("as many outputs as signatures")
    found: dict[str, Restored] = {}
    twice: set[str] = set()
    for output, signature in zip(outputs, signed, strict=True):
        b_ = output.get("B_") if isinstance(output, dict) else None
        read = _usable(signature)
        if not isinstance(b_, str) or b_ not in asked or read is None:
            continue
        one = Restored(b_=b_, signature=read)
        if found.setdefault(b_, one) != one:
            twice.add(b_)
    return tuple(one for b_, one in found.items() if b_ not in twice)


# --- parts ---


def _change(value: object) -> tuple[tuple[BlindSignature, ...], bool]:
    """What of the change can be read, and whether that is all of it."""
    if not isinstance(value, list) or len(value) > SIGNATURES_MAX:
        return (), False
    read = [_usable(entry) for entry in value]
    return tuple(one for one in read if one is not None), None not in read


def _usable(value: object) -> BlindSignature | None:
    try:
        return _signature(value)
    except BadAnswer:
        return None


def _signatures(value: object) -> tuple[BlindSignature, ...]:
    return tuple(_signature(entry) for entry in list_in(value, "signatures", SIGNATURES_MAX))


def _signature(value: object) -> BlindSignature:
    entry = object_in(value, "signature")
    e, s = _dleq(entry.get("dleq"))
    return BlindSignature(
        keyset_id=KeysetId(text_in(entry.get("id"), "keyset id", ID_MAX)),
        amount=amount_in(entry.get("amount"), "amount"),
        c_=hex_in(entry.get("C_"), "C_", POINT_HEX),
        dleq_e=e,
        dleq_s=s,
    )


def _dleq(value: object) -> tuple[str, str] | tuple[None, None]:
    """The scalars of a DLEQ proof; one that can't be read proves nothing, as if it hadn't been sent."""
    try:
        proof = object_in(value, "dleq")
        return hex_in(proof.get("e"), "e", SCALAR_HEX), hex_in(proof.get("s"), "s", SCALAR_HEX)
    except BadAnswer:
        return None, None


def _quote_state(answer: Mapping[str, Any]) -> QuoteState:
    state, paid = answer.get("state"), answer.get("paid")
    if state is None and type(paid) is bool:
        return QuoteState.PAID if paid else QuoteState.UNPAID
    word = text_in(state, "state", TEXT_MAX).strip().upper()
    return QuoteState(word) if word in QuoteState.__members__ else QuoteState.UNKNOWN


def object_in(value: object, what: str) -> Mapping[str, Any]:
    """A JSON object. BadAnswer for anything else."""
    if not isinstance(value, dict):
        raise BadAnswer(f"{what} is no object")
    return value


def list_in(value: object, what: str, longest: int) -> list[Any]:
    """A list of at most ``longest`` entries. BadAnswer for anything else."""
    if not isinstance(value, list):
        raise BadAnswer(f"{what} is no list")
    if len(value) > longest:
        raise BadAnswer(f"{what} is too long")
    return value


def text_in(value: object, what: str, longest: int) -> str:
    """A printable text of 1 to ``longest`` characters. BadAnswer for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise BadAnswer(f"{what} is no text")
    return value


def hex_in(value: object, what: str, length: int) -> str:
    """Hex of exactly ``length`` characters, in either case. BadAnswer for anything else."""
    if not isinstance(value, str) or len(value) != length or not HEX.issuperset(value):
        raise BadAnswer(f"{what} is no hex of {length} characters")
    return value


def amount_in(value: object, what: str) -> int:
    """An int within 0 .. 2^63 - 1. BadAnswer for anything else."""
    if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
        raise BadAnswer(f"{what} is no amount")
    return value


def _moment(value: object) -> int | None:
    """A unix time in seconds until the year 9999; None for what is none: it is only shown."""
    return value if type(value) is int and 0 <= value <= MOMENT_MAX else None


def default(value: Any, missing: Any) -> Any:
    """``value``, or ``missing`` where it is absent or null."""
    return missing if value is None else value


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")
