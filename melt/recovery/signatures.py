"""
Turning a mint's signatures into proofs (DESIGN section 4, Change; NUT-08, 09, 12, 13).

Signatures are matched to our outputs by B_ (a restore says it) or by the DLEQ proof, never by position or amount:
mints have returned change permuted, and what is unblinded against the wrong output can never be spent.

They are unblinded with the keys of the keyset that each names: a mint whose keyset was replaced while a payment was under
way may sign change with the new one. Under another keyset than planned only a DLEQ proof that holds makes it money.
Without one it is :attr:`Change.unproved`: it may be worthless, and NUT-07 would not tell (Y depends on the secret alone).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import MintError, MintRejected, MintUntrusted
from melt.model import QuoteState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import BlindSignature, KeysetId, Melt, MeltQuote, NewProof, OutputPlan, Restored
    from melt.ports import Mint, Outputs

_log = structlog.get_logger("melt.recovery")

KEYSETS_MAX: Final = 4
"""So many keysets may one answer name; the keys of more are not asked for (I11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    The change of a melt. ``shortfall`` is what the mint owes beyond the largest fee it may keep, in the unit.

    ``unproved`` are signed under another keyset than planned and carry no DLEQ proof: they count for nothing until a swap
    has shown what they are worth.
    """

    proofs: tuple[NewProof, ...]
    amount: int
    shortfall: int
    fees_paid: int
    unproved: tuple[NewProof, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Keys:
    """The keys of the keysets that signatures name: planned ones, and others of the same unit that the mint lists."""

    mint: Mint
    planned: KeysetId
    unit: str
    known: dict[KeysetId, Mapping[int, str]] = field(default_factory=dict)

    async def of(self, keyset_id: KeysetId) -> Mapping[int, str]:
        """Amount to key; empty for a keyset that is none of ours. MintError where the planned one's can't be had."""
        if keyset_id not in self.known and len(self.known) < KEYSETS_MAX:
            self.known[keyset_id] = await self._ask(keyset_id)
        return self.known.get(keyset_id, {})

    async def _ask(self, keyset_id: KeysetId) -> Mapping[int, str]:
        if keyset_id == self.planned:
            return await self.mint.keys(keyset_id)
        try:
            keyset = (await self.mint.keysets_with((keyset_id,))).get(keyset_id)
            if keyset is None or keyset.unit != self.unit:
                return {}
            return await self.mint.keys(keyset_id)
        except (MintRejected, MintUntrusted):
            _log.error("signed under a keyset whose keys can't be used", mint=self.mint.alias, keyset=keyset_id[:80])
            return {}


async def claim_by_dleq(
    mint: Mint, outputs: Outputs, plan: OutputPlan, signatures: Sequence[BlindSignature], unit: str
) -> dict[int, NewProof]:
    """
    The proofs from signatures that came without B_, by output index.

    Each is tried on its own position first, since that is where honest mints put it, then on the others; what carries
    no DLEQ proof or matches nothing is left out. Raises MintError where the keys can't be had.
    """
    keys = _Keys(mint=mint, planned=plan.keyset_id, unit=unit)
    await keys.of(plan.keyset_id)
    claimed: dict[int, NewProof] = {}
    count = len(plan.amounts)
    for position, signature in enumerate(signatures[:count]):
        if signature.dleq_e is None or signature.dleq_s is None:
            continue
        public_key = (await keys.of(signature.keyset_id)).get(signature.amount)
        if public_key is None:
            continue
        dleq = (signature.dleq_e, signature.dleq_s)
        order = [position, *(i for i in range(count) if i != position)]
        index = next(
            (
                i
                for i in order
                if i not in claimed
                and plan.amounts[i] in (0, signature.amount)
                and outputs.match(plan, i, signature.c_, public_key, dleq)
            ),
            None,
        )
        if index is None:
            continue
        try:
            claimed[index] = outputs.unblind(
                plan, index, signature.amount, signature.c_, public_key, dleq, keyset_id=signature.keyset_id
            )
        except MintUntrusted:
            # An amount that can't be stored (2^63 is a denomination), or a point that unblinds to none.
            _log.error("a signature can't be used", mint=mint.alias, output=index)
    return claimed


async def claim_by_restore(
    mint: Mint, outputs: Outputs, plan: OutputPlan, unit: str
) -> tuple[dict[int, NewProof], dict[int, NewProof]]:
    """
    The proofs that the mint has signed for a plan, asked by B_ (NUT-09), by output index: those that count, and those
    that are unproved. Raises MintError.

    A signature whose DLEQ proof is wrong is left out: it would be value that can't be spent.
    """
    blinded = outputs.blinded(plan)
    index_of = {message.b_: index for index, message in enumerate(blinded)}
    restored: Sequence[Restored] = await mint.restore(blinded)
    keys = _Keys(mint=mint, planned=plan.keyset_id, unit=unit)
    await keys.of(plan.keyset_id)
    claimed: dict[int, NewProof] = {}
    unproved: dict[int, NewProof] = {}
    for one in restored:
        index = index_of.get(one.b_)
        signature = one.signature
        public_key = (await keys.of(signature.keyset_id)).get(signature.amount)
        if index is None or public_key is None:
            continue
        if plan.amounts[index] not in (0, signature.amount):
            continue
        dleq = (
            (signature.dleq_e, signature.dleq_s)
            if signature.dleq_e is not None and signature.dleq_s is not None
            else None
        )
        is_claimed = dleq is not None or signature.keyset_id == plan.keyset_id
        try:
            (claimed if is_claimed else unproved)[index] = outputs.unblind(
                plan, index, signature.amount, signature.c_, public_key, dleq, keyset_id=signature.keyset_id
            )
        except MintUntrusted:
            _log.error("a restored signature does not verify", mint=mint.alias, output=index)
    return claimed, unproved


async def collect_change(mint: Mint, outputs: Outputs, melt: Melt, quote: MeltQuote) -> Change:
    """
    The change of a paid melt, from three places in turn: the answer at hand, the quote, a restore of the blanks.

    A later place is asked where the one before said nothing of change, or leaves less than the mint owes at its
    highest fee: an answer without ``change`` does not mean that the fee took all of it. Raises
    MintError where that can't be told yet: then the melt waits, since the inputs are gone either way.
    """
    overpaid = melt.overpaid
    if overpaid <= 0 or melt.blanks is None:
        return Change(proofs=(), amount=0, shortfall=0, fees_paid=max(0, overpaid))
    owed_at_least = max(0, overpaid - melt.fee_reserve)
    claimed = await claim_by_dleq(mint, outputs, melt.blanks, quote.change, melt.unit)
    if quote.change_known and _enough(claimed, quote.change, owed_at_least):
        return _change(claimed, overpaid, owed_at_least)
    if not quote.change_known and melt.quote_id is not None:
        again = await mint.melt_quote_state(melt.quote_id)
        if again.state is QuoteState.PAID:
            claimed = await claim_by_dleq(mint, outputs, melt.blanks, again.change, melt.unit) | claimed
            if again.change_known and _enough(claimed, again.change, owed_at_least):
                return _change(claimed, overpaid, owed_at_least)
    # What carried a DLEQ proof stands: a restore may come without one, so with an amount that nothing shows.
    restored, unproved = await claim_by_restore(mint, outputs, melt.blanks, melt.unit)
    found = _believable(mint, restored | claimed, overpaid)
    left = {index: proof for index, proof in unproved.items() if index not in found}
    return _change(found, overpaid, owed_at_least, _at_most(left, overpaid - sum(p.amount for p in found.values())))


def _enough(claimed: dict[int, NewProof], signatures: Sequence[BlindSignature], owed_at_least: int) -> bool:
    """Whether everything that the answer carried was claimed and reaches what is owed."""
    return len(claimed) == len(signatures) and sum(p.amount for p in claimed.values()) >= owed_at_least


def _believable(mint: Mint, claimed: dict[int, NewProof], overpaid: int) -> dict[int, NewProof]:
    """
    Without what only the mint's word stands for, where all of it together is more than was overpaid.

    A signature without a DLEQ proof may be of another key than its amount says: such proofs would be counted as money
    and could never be spent. The outputs stay in the journal, so a restore can still bring them.
    """
    if sum(proof.amount for proof in claimed.values()) <= overpaid:
        return claimed
    proved = {index: proof for index, proof in claimed.items() if proof.dleq is not None}
    _log.error(
        "the mint returned more change than was overpaid",
        mint=mint.alias,
        overpaid=overpaid,
        amount=sum(proof.amount for proof in claimed.values()),
        proved=sum(proof.amount for proof in proved.values()),
    )
    return proved


def _at_most(unproved: dict[int, NewProof], owed: int) -> tuple[NewProof, ...]:
    """All of them, or none where together they are more than the mint can owe: then their amounts are made up."""
    proofs = tuple(unproved[index] for index in sorted(unproved))
    return proofs if sum(proof.amount for proof in proofs) <= owed else ()


def _change(
    claimed: dict[int, NewProof], overpaid: int, owed_at_least: int, unproved: tuple[NewProof, ...] = ()
) -> Change:
    proofs = tuple(claimed[index] for index in sorted(claimed))
    amount = sum(proof.amount for proof in proofs)
    shortfall = max(0, owed_at_least - amount)
    # What is unproved is not here yet, and is no fee: it is missing until a swap has brought it.
    shortfall = max(shortfall, min(overpaid - amount, sum(proof.amount for proof in unproved)))
    return Change(
        proofs=proofs,
        amount=amount,
        shortfall=shortfall,
        fees_paid=max(0, overpaid - amount - shortfall),
        unproved=unproved,
    )


async def finish_signed(
    mint: Mint, outputs: Outputs, plan: OutputPlan, signatures: Sequence[BlindSignature], unit: str
) -> tuple[NewProof, ...] | None:
    """
    All proofs of a swap from its answer, in the plan's order; by restore where the answer alone does not do.

    None where the mint does not (yet) have all signatures. Raises MintError.
    """
    count = len(plan.amounts)
    claimed = await claim_by_dleq(mint, outputs, plan, signatures, unit)
    if len(claimed) < count:
        try:
            restored, _ = await claim_by_restore(mint, outputs, plan, unit)
            claimed = restored | claimed
        except MintError:
            if not claimed:
                raise
    if len(claimed) < count:
        return None
    return tuple(claimed[index] for index in range(count))
