"""
One odd answer through melt's mint client, and what must hold of what comes out.

A read raises MintError or nothing; a payment and a swap raise nothing at all (melt/mint/client). What they make of the
answer is held against the answer: nothing is PAID that does not say so, nothing is refused for certain by a 5xx, no state
and no signature stands for something that was not asked about, and every amount fits where it will be stored.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from melt.ecash import y_of
from melt.errors import MintError
from melt.mint import HttpMint, MintLimits
from melt.mint.transport import Answer, Transport
from melt.model import (
    Ambiguous,
    BlindedMessage,
    KeysetId,
    MintAlias,
    MintState,
    Paid,
    Proof,
    QuoteId,
    Refused,
    Signed,
    StillPending,
)
from tests.fuzz.mutate import Said
from tests.support.mint_client import RememberingTelemetry, SystemEntropy, WallClock

SEEDS: Final = Path(__file__).with_name("seeds")
KINDS: Final = (
    "info", "keysets", "keys", "melt_quote", "melt_quote_state", "melt", "swap", "checkstate", "restore"
)  # fmt: skip
STORED_MAX: Final = 2**63 - 1
POINT: Final = "02" + "11" * 32
YS: Final = tuple(y_of(f"{number:064x}") for number in range(12))
SPENT: Final = tuple(y_of(f"{number:064x}") for number in range(100, 103))


class Broken(Exception):
    """Something came out that must not. The text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A real answer of one mint, with its other answers beside it."""

    mint: str
    kind: str
    said: Said
    beside: Mapping[str, list[Said]]


def seeds() -> list[Seed]:
    """All of them, from every mint."""
    found = []
    for file in sorted(SEEDS.glob("*.json")):
        given = json.loads(file.read_text(encoding="utf-8"))
        beside = {kind: [Said(status=one["status"], body=one["body"]) for one in given[kind]] for kind in given}
        found += [
            Seed(mint=file.stem, kind=kind, said=said, beside=beside)
            for kind, answers in beside.items()
            for said in answers
        ]
    return found


Speaker = Callable[[str, str, Any], Answer]


@contextmanager
def speaking(speak: Speaker) -> Iterator[None]:
    """Every request of every client is answered by ``speak`` in the meantime, without a socket."""

    async def exchange(_: Transport, method: str, path: str, *, body: Any = None, **__: Any) -> Answer:
        return speak(method, path, body)

    async def closed(_: Transport) -> None:
        pass

    # A connection pool costs more than everything else here, and is never used.
    instead = {"__init__": lambda *_, **__: None, "exchange": exchange, "aclose": closed}
    before = {name: getattr(Transport, name) for name in instead}
    for name, value in instead.items():
        setattr(Transport, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(Transport, name, value)


async def drive(seed: Seed, said: Said) -> str:
    """
    Give the answer to the request that it belongs to; one word for what came of it, by which new kinds are noticed.

    Raises Broken, and whatever the client lets past.
    """
    answers: dict[str, Answer] = {}

    def speak(method: str, path: str, body: Any) -> Answer:
        del method
        kind = _kind_of(path)
        if kind == seed.kind:
            sent = _fitted(kind, said, body)
            answers[kind] = Answer(status=said.status, body=sent, retry_after_s=None)
            return answers[kind]
        return _honest(seed, kind, body)

    with speaking(speak):
        client = HttpMint(
            MintAlias("fuzz"),
            "http://127.0.0.1:1",
            telemetry=RememberingTelemetry(),  # type: ignore[arg-type]
            clock=WallClock(),
            entropy=SystemEntropy(),
            limits=MintLimits(states_batch=32),
        )
        try:
            word = await DRIVERS[seed.kind](client, seed, answers)
        except MintError as error:
            if seed.kind in {"melt", "swap"}:
                raise Broken(f"a {seed.kind} raised {type(error).__name__}") from error
            word = f"{type(error).__name__}: {str(error)[:80]}"
    return word


def _kind_of(path: str) -> str:
    parts = path.split("/")[2:]
    if parts[0] == "melt":
        return "melt" if len(parts) == 2 else "melt_quote" if len(parts) == 3 else "melt_quote_state"
    return parts[0]


def _honest(seed: Seed, kind: str, body: Any) -> Answer:
    said = seed.beside[kind][0]
    return Answer(status=said.status, body=_fitted(kind, said, body), retry_after_s=None)


def _fitted(kind: str, said: Said, asked: Any) -> bytes:
    """What was asked about put into the places of what the seed was asked about: else every answer is a stranger's."""
    if not isinstance(said.body, dict):
        return said.sent
    if kind == "checkstate" and isinstance(said.body.get("states"), list):
        return json.dumps({**said.body, "states": _states(said.body["states"], asked["Ys"])}).encode()
    if kind == "restore" and isinstance(said.body.get("outputs"), list):
        wanted = iter(asked["outputs"])
        outputs = [
            {**one, "B_": next(wanted, one)["B_"]} if isinstance(one, dict) and len(str(one.get("B_"))) == 66 else one
            for one in said.body["outputs"]
        ]
        return json.dumps({**said.body, "outputs": outputs}).encode()
    return said.sent


def _states(given: list[Any], ys: list[str]) -> list[Any]:
    """The Ys of the question with the seed's entries, and the states that an honest mint has for them."""
    made: list[Any] = []
    for number, y in enumerate(ys):
        entry = given[number] if number < len(given) else {"state": "UNSPENT"}
        if not isinstance(entry, dict):
            made.append(entry)
            continue
        honest = "SPENT" if y in SPENT else "UNSPENT"
        state = entry.get("state", honest)
        told = honest if state in ("SPENT", "UNSPENT") else state
        # An entry whose Y was changed keeps it.
        odd = "Y" in entry and not (isinstance(entry["Y"], str) and len(entry["Y"]) == 66)
        made.append({**entry, "Y": entry["Y"] if odd else y, "state": told})
    return made + given[len(ys) :]


# --- the requests ---


async def _info(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del seed, answers
    info = await client.info()
    if not info.max_array_length >= 1:
        raise Broken("a limit below one")
    _storable(info)
    return "info"


async def _keysets(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del seed, answers
    found = await client.keysets(refresh=True)
    for keyset_id, keyset in found.items():
        if keyset.id != keyset_id or not keyset_id:
            raise Broken("a keyset under another's id")
        _storable(keyset)
    return f"keysets {min(len(found), 3)}"


async def _keys(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del answers
    keyset_id = KeysetId(seed.said.body["keysets"][0]["id"])
    found = await client.keys(keyset_id)
    honest = {int(amount): key for amount, key in seed.said.body["keysets"][0]["keys"].items()}
    if dict(found) != honest:
        raise Broken("keys that are not those of the id")
    return "keys"


async def _melt_quote(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del seed
    quote = await client.melt_quote("lnbc1", "sat")
    _storable(quote)
    _paid_only_if_said(quote.state.value, answers["melt_quote"])
    return f"quote {quote.state}"


async def _melt_quote_state(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    body = seed.said.body
    quote_id = QuoteId(body["quote"] if isinstance(body, dict) and "quote" in body else "nope")
    quote = await client.melt_quote_state(quote_id)
    if quote.id != quote_id:
        raise Broken("another quote")
    _storable(quote)
    _paid_only_if_said(quote.state.value, answers["melt_quote_state"])
    return f"state {quote.state} {len(quote.change) > 0}"


async def _melt(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    body = seed.said.body
    quote_id = QuoteId(body["quote"] if isinstance(body, dict) and "quote" in body else "q")
    outputs = [BlindedMessage(keyset_id=KeysetId("00ad268c4d1f5826"), amount=0, b_=POINT)] * 5
    answer = await client.melt(quote_id, [_proof()], outputs, timeout_s=5)
    status = answers["melt"].status
    _storable(answer)
    match answer:
        case Paid():
            _paid_only_if_said("PAID", answers["melt"])
        case Refused():
            if not 400 <= status < 500 or status == 429:
                raise Broken(f"a refusal out of HTTP {status}")
        case StillPending() | Ambiguous():
            pass
        case _:
            raise Broken(f"a melt came to {answer!r}")
    return f"{type(answer).__name__} {getattr(answer, 'mint_code', '')} {getattr(answer, 'reason', '')}"


async def _swap(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    given = next(one.body["signatures"] for one in seed.beside["swap"] if one.status == 200)
    outputs = [BlindedMessage(keyset_id=KeysetId(one["id"]), amount=one["amount"], b_=POINT) for one in given]
    answer = await client.swap([_proof()], outputs, timeout_s=5)
    status = answers["swap"].status
    match answer:
        case Signed(signatures=signatures):
            if [(s.keyset_id, s.amount) for s in signatures] != [(o.keyset_id, o.amount) for o in outputs]:
                raise Broken("signatures of other outputs")
            if not 200 <= status < 300:
                raise Broken(f"signed by HTTP {status}")
        case Refused():
            if not 400 <= status < 500 or status == 429:
                raise Broken(f"a definite refusal out of HTTP {status}")
        case Ambiguous():
            pass
        case _:
            raise Broken(f"a swap came to {answer!r}")
    return f"{type(answer).__name__} {getattr(answer, 'mint_code', '')} {getattr(answer, 'reason', '')}"


async def _checkstate(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del seed
    found = await client.check_states(YS, spent=SPENT)
    if [one.y for one in found] != list(YS):
        raise Broken("states of other proofs, or in another order")
    told: dict[str, set[str]] = {}
    for entry in json.loads(answers["checkstate"].body)["states"]:
        if isinstance(entry, dict):
            told.setdefault(str(entry.get("Y")).lower(), set()).add(str(entry.get("state")))
    for one in found:
        said = told.get(one.y.lower(), set())
        # PENDING is what is left of an entry that can't be used: it is waited for, and nothing is done about it.
        unsaid = one.state.value not in said
        if unsaid and (one.state is not MintState.PENDING or said in ({"UNSPENT"}, {"SPENT"})):
            raise Broken(f"a proof is {one.state}, which nobody said")
    return f"states {sorted({one.state.value for one in found})}"


async def _restore(client: HttpMint, seed: Seed, answers: dict[str, Answer]) -> str:
    del seed, answers
    outputs = [
        BlindedMessage(keyset_id=KeysetId("00ad268c4d1f5826"), amount=1, b_=f"02{number:064x}")
        for number in range(1, 8)
    ]
    found = await client.restore(outputs)
    names = [one.b_ for one in found]
    if len(set(names)) != len(names) or not set(names) <= {output.b_ for output in outputs}:
        raise Broken("outputs that were not asked about, or one twice")
    for one in found:
        _storable(one)
    return f"restored {len(found)}"


DRIVERS: Final[dict[str, Callable[[HttpMint, Seed, dict[str, Answer]], Awaitable[str]]]] = {
    "info": _info,
    "keysets": _keysets,
    "keys": _keys,
    "melt_quote": _melt_quote,
    "melt_quote_state": _melt_quote_state,
    "melt": _melt,
    "swap": _swap,
    "checkstate": _checkstate,
    "restore": _restore,
}


# --- what must hold ---


def _proof() -> Proof:
    secret = "a" * 64
    return Proof(keyset_id=KeysetId("00ad268c4d1f5826"), amount=8, secret=secret, c=POINT, y=y_of(secret))


def _paid_only_if_said(state: str, answer: Answer) -> None:
    if state != "PAID":
        return
    if not 200 <= answer.status < 300:
        raise Broken(f"paid by HTTP {answer.status}")
    body = json.loads(answer.body)
    word = body.get("state")
    if not (word is None and body.get("paid") is True) and str(word).upper() != "PAID":
        raise Broken("paid, which nobody said")


def _storable(value: Any) -> None:
    """No int that a database does not take, whatever a mint has said."""
    if is_dataclass(value):
        for field in fields(value):
            _storable(getattr(value, field.name))
    elif isinstance(value, tuple | list | frozenset):
        for one in value:
            _storable(one)
    elif isinstance(value, int) and not -STORED_MAX <= value <= STORED_MAX:
        raise Broken(f"{value} can't be stored")
