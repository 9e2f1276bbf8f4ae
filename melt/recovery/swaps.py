"""
Swaps that can be repeated (NUT-03): to exact amounts, to fence inputs off, to reclaim value (DESIGN sections 4 and 5).

A swap has no effect outside the mint, and its inputs and outputs are in the journal before it is sent, so after a lost
answer the very same request is sent again: either it goes through now, or the mint says that it knows it, and a restore
of the outputs brings the signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from melt.errors import Code, MintRejected, MintUnreachable, StoreError
from melt.model import Ambiguous, MintState, Refused, Signed
from melt.recovery.signatures import finish_signed
from melt.selection import input_fee, split_amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melt.model import InputRef, Keyset, KeysetId, Melt, NewProof, Proof, SwapPlan, Y
    from melt.ports import Mint, Outputs, Store, StoreThreads

NOT_SENT = -1
"""``Refused.mint_code`` of a request of which provably no byte left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """The new proofs, in the plan's order."""

    proofs: tuple[NewProof, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRefused:
    """The mint will not do it, and all inputs are UNSPENT: two agreeing signals."""

    mint_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapTaken:
    """Not done by us, and some inputs are SPENT (by somebody else) or PENDING."""

    spent: tuple[Y, ...]
    pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapUnknown:
    """Nothing is known yet: repeat it later. ``mint_code`` where the mint answered, with a code that says nothing clear."""

    mint_code: int | None = None


SwapOutcome: TypeAlias = Swapped | SwapRefused | SwapTaken | SwapUnknown


async def load_proofs(store: Store, threads: StoreThreads, melt: Melt, refs: Sequence[InputRef]) -> tuple[Proof, ...]:
    """
    The proofs that ``refs`` of ``melt`` name, in order, as its entry keeps them.

    An entry of an older release keeps none: StoreError with PROOF_STATE_INCONSISTENCY where another writer has
    taken one out of its document since.
    """
    ys = [ref.y for ref in refs]
    found = await threads(lambda: store.input_proofs(melt, ys))
    if len(found) != len(ys):
        missing = sorted(set(ys) - {proof.y for proof in found})
        raise StoreError(
            Code.PROOF_STATE_INCONSISTENCY,
            f"{len(missing)} reserved proofs are no longer in their documents, the first is {missing[0]}",
        )
    return found


async def plan_amounts(mint: Mint, keyset: Keyset, refs: Iterable[InputRef]) -> tuple[tuple[int, ...], int]:
    """
    The output amounts, largest first, and the fee of swapping ``refs`` whole; no amounts where the fee eats it all.

    Raises MintRejected where the mint does not list an input's keyset or has no keys to make up the amount.
    """
    refs = list(refs)
    ppk = await _fees_of(mint, refs)
    fee = input_fee([ref.keyset_id for ref in refs], ppk)
    total = sum(ref.amount for ref in refs) - fee
    if total <= 0:
        return (), fee
    try:
        return split_amount(total, list(await mint.keys(keyset.id))), fee
    except ValueError as error:
        raise MintRejected(f"keyset {keyset.id} has no keys that make up {total}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactAmounts:
    """A swap to exact amounts: what is kept, what pays, and the swap's own input fee."""

    keep: tuple[int, ...]
    pay: tuple[int, ...]
    fee: int


async def exact_amounts(mint: Mint, keyset: Keyset, refs: Sequence[InputRef], need: int) -> ExactAmounts | None:
    """
    The outputs of a swap of ``refs`` after which ``need`` can be paid without overpay; None where nothing would be kept.

    Raises MintRejected where an input's keyset is not listed, MintError where the keys can't be had.
    """
    ppk = await _fees_of(mint, refs)
    denominations = list(await mint.keys(keyset.id))
    fee = input_fee([ref.keyset_id for ref in refs], ppk)
    pay: tuple[int, ...] = ()
    for _ in range(8):  # the pay proofs' own input fee depends on how many they are; it settles at once
        again = split_amount(need + -(-keyset.input_fee_ppk * len(pay) // 1000), denominations)
        settled = len(again) == len(pay)
        pay = again
        if settled:
            break
    left = sum(ref.amount for ref in refs) - fee - sum(pay)
    return None if left <= 0 else ExactAmounts(keep=split_amount(left, denominations), pay=pay, fee=fee)


async def _fees_of(mint: Mint, refs: Sequence[InputRef]) -> dict[KeysetId, int]:
    ppk = {k: v.input_fee_ppk for k, v in (await mint.keysets()).items()}
    unlisted = next((ref.keyset_id for ref in refs if ref.keyset_id not in ppk), None)
    if unlisted is not None:
        raise MintRejected(f"the mint does not list keyset {unlisted}")
    return ppk


async def run_swap(
    mint: Mint,
    outputs: Outputs,
    store: Store,
    threads: StoreThreads,
    melt: Melt,
    plan: SwapPlan,
    *,
    timeout_s: float,
) -> SwapOutcome:
    """
    Send the swap that ``melt`` has planned, or send it again, and find out what became of it.

    Raises:
        MintError: the mint could not be asked; repeat later.
        StoreError: the inputs could not be loaded.
    """
    proofs = await load_proofs(store, threads, melt, plan.inputs)
    answer = await mint.swap(proofs, outputs.blinded(plan.outputs), timeout_s=timeout_s)
    code: int | None = None
    vague: int | None = None
    match answer:
        case Signed(signatures=signatures):
            done = await finish_signed(mint, outputs, plan.outputs, signatures, melt.unit)
            return SwapUnknown() if done is None else Swapped(proofs=done)
        case Refused(mint_code=refused):
            code = refused
            if code == NOT_SENT:
                raise MintUnreachable("the swap could not be sent")
            await mint.keysets(refresh=True)  # it may be about a keyset that is gone: whoever plans anew should know
        case Ambiguous(mint_code=unclear):
            vague = unclear
            # Older mints refuse a rotated keyset by a code that means several things. The list of keysets is asked
            # before anything else: whatever copy of this request arrives after it is refused, too.
            if unclear is not None and not await _signs_still(mint, plan.outputs.keyset_id):
                code = unclear
        case _:
            assert_never(answer)
    # A refusal may be about a repetition of what went through before, so the signatures are asked for in any case.
    done = await finish_signed(mint, outputs, plan.outputs, (), melt.unit)
    if done is not None:
        return Swapped(proofs=done)
    states = {one.y: one.state for one in await mint.check_states([ref.y for ref in plan.inputs])}
    spent = tuple(y for y, state in states.items() if state is MintState.SPENT)
    pending = MintState.PENDING in states.values()
    if spent or pending:
        return SwapTaken(spent=spent, pending=pending)
    return SwapUnknown(mint_code=vague) if code is None else SwapRefused(mint_code=code)


async def _signs_still(mint: Mint, keyset_id: KeysetId) -> bool:
    """Whether the mint still signs with a keyset, asked anew. Raises MintError."""
    keyset = (await mint.keysets(refresh=True)).get(keyset_id)
    return keyset is not None and keyset.active
