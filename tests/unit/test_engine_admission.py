"""A request that meets its own melt, begun elsewhere between two looks at the store, is answered with that melt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from daemon.demo.lightning import Node
from melt.errors import Code, DuplicateMelt, MeltdError, MintRejected, Refusal
from melt.model import Actor, Melt, MeltState
from melt.saga.engine import Engine
from melt.saga.forward import MeltPolicy
from melt.saga.request import MeltRequest
from tests.support.engine import melt_of
from tests.support.mint_client import SystemEntropy, WallClock

NPUB = "npub1" + "q" * 58


class Journal:
    """A store that holds one melt, whose key is found from the second look on: it was committed after the first."""

    def __init__(self, melt: Melt, *, claims: bool) -> None:
        self.stands, self.claims, self.looks = melt, claims, 0

    def melt_by_key(self, key: str) -> Melt | None:
        self.looks += 1
        return self.stands if self.looks > 1 and key == self.stands.idempotency_key else None

    def melt_by_payment_hash(self, _: str) -> Melt | None:
        return self.stands if self.claims else None

    def npub_known(self, _: str) -> bool:
        return True

    def melt(self, _: str) -> Melt:
        return self.stands


class Ahead:
    """The forward path up to where it fails; ``recovery.events`` freezes nothing."""

    def __init__(self, error: MeltdError) -> None:
        self.error = error
        self.recovery = self
        self.events = self

    def frozen(self, *_: Any) -> None:
        return None

    def distrusted(self, *_: Any) -> None:
        return None

    async def quote(self, *_: Any) -> None:
        raise self.error


class Silent:
    """A telemetry that listens to nothing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


class OneMint:
    alias, url = "main", "http://mint"


@pytest.fixture
def request_(tmp_path) -> MeltRequest:
    invoice, _ = Node(tmp_path / "node.json").make_invoice(21_000)
    return MeltRequest(
        idempotency_key="key", npub=NPUB, mint="main", invoice=invoice, unit="sat", actor=Actor(name="test")
    )


def engine_over(journal: Journal, error: MeltdError) -> Engine:
    async def threads(call: Any) -> Any:
        return await asyncio.to_thread(call)

    parts: Any = {
        "store": journal,
        "threads": threads,
        "mints": {"main": OneMint()},
        "forward": Ahead(error),
        "telemetry": Silent(),
    }
    return Engine(**parts, clock=WallClock(), entropy=SystemEntropy(), policy=MeltPolicy())


def settled(request: MeltRequest) -> Melt:
    return melt_of(21, state=MeltState.SETTLED, idempotency_key="key", request_digest=request.digest())


async def test_a_claim_on_the_invoice_by_the_same_request_is_its_melt(request_):
    engine = engine_over(Journal(settled(request_), claims=True), Refusal(Code.INTERNAL, "not reached"))
    assert (await engine.melt(request_, wait_s=0)).id == "m"


@pytest.mark.parametrize(
    "error",
    [
        MintRejected("invoice already paid", mint_code=20006),
        DuplicateMelt("taken", melt_id="m"),
        Refusal(Code.INSUFFICIENT_FUNDS, "the same request has reserved it"),
    ],
)
async def test_what_the_same_request_did_at_another_instance_is_its_melt(request_, error):
    engine = engine_over(Journal(settled(request_), claims=False), error)
    assert (await engine.melt(request_, wait_s=0)).id == "m"
    assert engine.in_flight == 0


async def test_a_claim_by_another_request_stays_a_conflict(request_):
    other = replace(settled(request_), idempotency_key="other")
    with pytest.raises(DuplicateMelt):
        await engine_over(Journal(other, claims=True), Refusal(Code.INTERNAL, "x")).melt(request_, wait_s=0)


async def test_the_same_key_with_another_body_stays_a_conflict(request_):
    other = replace(settled(request_), request_digest="other")
    with pytest.raises(DuplicateMelt):
        await engine_over(Journal(other, claims=True), Refusal(Code.INTERNAL, "x")).melt(request_, wait_s=0)


async def test_a_refusal_that_no_melt_explains_is_the_answer(request_):
    other = replace(settled(request_), idempotency_key="other")
    with pytest.raises(MintRejected):
        await engine_over(Journal(other, claims=False), MintRejected("no", mint_code=0)).melt(request_, wait_s=0)
