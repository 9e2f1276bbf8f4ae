"""What became of a swap whose answer said nothing (melt/recovery/swaps)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from melt.model import Ambiguous, InputRef, MintState, OutputPlan, ProofState, SwapPlan, TokenStatus
from melt.recovery.swaps import SwapTaken, SwapUnknown, run_swap
from tests.support.engine import KEYSET, token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melt.model import Y


class SilentMint:
    """Answers a swap ambiguously, has signed nothing, and calls the inputs what it is told to."""

    alias = "m"
    url = "http://m"

    def __init__(self, states: Sequence[MintState]) -> None:
        self._states = states

    async def swap(self, *_: Any, **__: Any) -> Ambiguous:
        return Ambiguous(reason="time-out")

    async def keys(self, _: Any) -> dict[int, str]:
        return {}

    async def restore(self, _: Any) -> tuple[()]:
        return ()

    async def check_states(self, ys: Sequence[Y]) -> tuple[ProofState, ...]:
        return tuple(ProofState(y=y, state=state) for y, state in zip(ys, self._states, strict=True))


class NoOutputs:
    """Nothing is signed, so nothing is derived."""

    seed_id = "s"

    def blinded(self, _: OutputPlan) -> tuple[()]:
        return ()


class OneDocument:
    """The inputs' document."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def tokens(self, _: Any) -> tuple[Any, ...]:
        return (self._held,)


async def at_once(work: Callable[[], Any]) -> Any:
    """Threads that are none."""
    return work()


@pytest.mark.parametrize(
    ("states", "spent", "pending"),
    [
        ((MintState.SPENT, MintState.SPENT), 2, False),
        ((MintState.SPENT, MintState.UNSPENT), 1, False),
        ((MintState.PENDING, MintState.UNSPENT), 0, True),
        ((MintState.UNSPENT, MintState.UNSPENT), 0, False),
    ],
)
async def test_a_lost_swap_is_judged_by_its_inputs(states: tuple[MintState, ...], spent: int, *, pending: bool) -> None:
    held = token(TokenStatus.PENDING, 2, 4)
    plan = SwapPlan(
        inputs=tuple(InputRef(token_id=held.id, y=p.y, amount=p.amount, keyset_id=p.keyset_id) for p in held.proofs),
        outputs=OutputPlan(keyset_id=KEYSET, counter=0, amounts=(4, 2), seed_id="s"),
        keep=2,
        fee=0,
    )

    outcome = await run_swap(SilentMint(states), NoOutputs(), OneDocument(held), at_once, plan, unit="sat", timeout_s=1)

    if spent or pending:
        assert isinstance(outcome, SwapTaken), "somebody else has them: repeating it would go on for ever"
        assert (len(outcome.spent), outcome.pending) == (spent, pending)
    else:
        assert outcome == SwapUnknown()
