"""I5 where a melt is settled, on the real store: what does not add up is not written; what a mint gives too much is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.metrics import Metrics
from daemon.system import SystemClock
from melt.ecash import Seed
from melt.errors import InvariantBroken
from melt.events import CriticalEvents
from melt.model import EventType, MeltState, MintAlias, PostOutcome, QuoteState
from melt.recovery import Patience, Recovery, RecoveryPolicy
from melt.store import Threads
from tests.support.engine import SigningMint, quote_of
from tests.support.store import (
    KEYSET,
    MINT_URL,
    insert_token,
    insert_wallet,
    make_melt,
    new_proof,
    npub,
    sums_by_status,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from melt.model import Melt

SEED = Seed(b"books " * 6)


@pytest.fixture
def melt(store: Any, db: Any) -> Melt:
    """100 in, 80 to pay, 1 of input fee, a reserve of 5: the POST is out."""
    user = npub()
    wallet = insert_wallet(db, user)
    insert_token(db, user, [64, 32, 4], wallet_id=wallet)
    tokens = store.spendable(user, [MINT_URL], "sat")
    intent = make_melt(tokens, amount=80, fee_reserve=5, input_fee=1, mint=MintAlias("main"))
    reserved = store.reserve(intent, blanks=(KEYSET, 5), seed_id=SEED.seed_id)
    melting: Melt = store.advance(reserved, MeltState.MELTING, post=PostOutcome.IN_FLIGHT)
    return melting


@pytest.mark.parametrize(
    ("change", "shortfall", "fees_paid"),
    [
        ([16], 0, 2),  # 1 vanishes
        ([16], 0, 0),
        ([16], 4, 0),  # 1 is made
        ([16, 4], 1, 0),  # more than was overpaid, and yet something is missing
        ([], 0, 0),
        ([16], -1, 4),
        ([16], 4, -1),
    ],
)
def test_what_does_not_add_up_is_refused_and_nothing_is_written(
    store: Any, db: Any, melt: Melt, change: list[int], shortfall: int, fees_paid: int
) -> None:
    before = sums_by_status(db, melt.npub)
    with pytest.raises(InvariantBroken):
        store.settle(melt, [new_proof(a) for a in change], shortfall=shortfall, fees_paid=fees_paid, preimage=None)
    assert sums_by_status(db, melt.npub) == before
    assert store.melt(melt.id).state is MeltState.MELTING


@pytest.mark.parametrize(
    ("change", "shortfall", "fees_paid"), [([16], 0, 3), ([16, 2, 1], 0, 0), ([], 14, 5), ([16, 4], 0, 0)]
)
def test_what_adds_up_is_settled(
    store: Any, db: Any, melt: Melt, change: list[int], shortfall: int, fees_paid: int
) -> None:
    proofs = [new_proof(amount) for amount in change]
    settled, _ = store.settle(melt, proofs, shortfall=shortfall, fees_paid=fees_paid, preimage=None)
    assert settled.state is MeltState.SETTLED
    assert sums_by_status(db, melt.npub).get("unspent", 0) == sum(change)


def test_what_stands_in_the_journal_is_checked_again_where_it_is_read(store: Any, db: Any, melt: Melt) -> None:
    proofs = [new_proof(16)]
    store.settle(melt, proofs, shortfall=0, fees_paid=3, preimage=None)
    db["meltd_melts"].update_one({"_id": melt.id}, {"$set": {"change_amount": 1}})
    with pytest.raises(InvariantBroken, match="I5"):
        store.settle(melt, proofs, shortfall=0, fees_paid=3, preimage=None)


@pytest.fixture
async def recovery(store: Any) -> AsyncIterator[Recovery]:
    threads, clock, metrics = Threads(2), SystemClock(), Metrics(version="0")
    yield Recovery(
        store=store,
        threads=threads,
        mints={MintAlias("main"): SigningMint()},  # type: ignore[dict-item]  # the part that a settlement asks
        outputs=SEED,
        clock=clock,
        telemetry=metrics,
        events=CriticalEvents(store, threads, metrics, clock=clock),
        policy=RecoveryPolicy(patience=Patience(post_grace_s=1, confirm_s=1), swap_timeout_s=1),
    )
    await threads.aclose()


@pytest.mark.parametrize(("amounts", "events"), [((16, 2), []), ((16, 8, 2), [EventType.MINT_UNTRUSTED])])
async def test_change_above_what_was_overpaid_is_kept_and_the_mint_called_untrusted(
    store: Any, db: Any, melt: Melt, recovery: Recovery, amounts: tuple[int, ...], events: list[EventType]
) -> None:
    mint: Any = recovery.mints[MintAlias("main")]
    assert melt.blanks is not None
    outputs = SEED.blinded(melt.blanks)
    change = tuple(mint.sign(output, amount) for output, amount in zip(outputs, amounts, strict=False))

    settled = await recovery.settle(melt, quote_of(QuoteState.PAID, change=change, change_known=True))

    assert settled.state is MeltState.SETTLED
    assert (settled.change_amount, settled.shortfall) == (sum(amounts), 0)
    assert sums_by_status(db, melt.npub)["unspent"] == sum(amounts)
    assert [event.type for event in store.events(open_only=True, limit=10)] == events


async def test_a_melt_that_was_sent_before_is_not_sent_again(store: Any, melt: Melt, recovery: Recovery) -> None:
    from melt.saga import Forward, MeltPolicy

    forward = Forward(
        store=store,
        threads=recovery.threads,
        outputs=SEED,
        clock=recovery.clock,
        entropy=None,  # type: ignore[arg-type]  # not reached
        telemetry=recovery.telemetry,
        preflight=None,  # type: ignore[arg-type]
        recovery=recovery,
        policy=MeltPolicy(),
        holder="test",
    )
    for state in (MeltState.RESERVED, MeltState.READY, MeltState.MELTING):
        with pytest.raises(InvariantBroken, match="I1"):
            await forward.pay(recovery.mints[MintAlias("main")], replace(melt, state=state))
