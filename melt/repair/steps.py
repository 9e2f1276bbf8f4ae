"""From decisions to steps: one change a document, in batches that fit a transaction (ADR 13). Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from melt.errors import Severity
from melt.model import DriftType, MintState, TokenStatus
from melt.model.repair import Left, LeftReason, Removal, RepairBatch, RepairStep, RepairType, step_key
from melt.repair.decide import Group, Kept, Undecided, concerned, counts, decide, is_melted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import Actor, MeltId, MintAlias, Token, TokenId, Y

KEEPERS_PER_STEP_MAX: Final = 90
"""A document whose proofs stay in more others than this loses them in several steps, since a transaction is bounded."""
TOUCHED_PER_BATCH_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of one mint's documents: the mint's states of their proofs, open melts, frozen wallets, units."""

    mint: MintAlias
    states: Mapping[Y, MintState]
    live: frozenset[MeltId]
    frozen: frozenset[str]
    units: Mapping[TokenId, str]


@dataclass(slots=True)
class Draft:
    """A plan in the making. ``unresolved`` are documents of which something stays as it is."""

    type: RepairType
    across_users: bool
    steps: list[RepairStep] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unresolved: set[TokenId] = field(default_factory=set)

    def leave(self, groups: Sequence[Group], answer: Undecided, sight: Sight) -> None:
        """Proofs that stay where they are, those of the same documents together."""
        together: dict[tuple[TokenId, ...], list[Group]] = defaultdict(list)
        for group in groups:
            together[tuple(token.id for token in group.holders)].append(group)
        for ids, same in together.items():
            holders = same[0].holders
            self.unresolved.update(ids)
            self.left.append(
                Left(
                    reason=answer.reason,
                    mint=sight.mint,
                    unit=sight.units.get(ids[0], "sat"),
                    value=sum(group.proof(holders[0]).amount for group in same),
                    ys=tuple(group.y for group in same),
                    token_ids=ids,
                    npubs=tuple(dict.fromkeys(token.npub for token in holders)),
                    type=_type_of(holders),
                    proposal=answer.proposal,
                )
            )


def plan_mint(draft: Draft, groups: Sequence[Group], melted: Sequence[Token], sight: Sight) -> None:
    """
    The steps for the documents of one mint, added to the draft.

    ``groups`` are its secrets that stand in several documents, ``melted`` its ``melted`` documents that count. What
    the mint gave no state for is passed over.
    """
    removals: dict[TokenId, list[Removal]] = defaultdict(list)
    tokens: dict[TokenId, Token] = {token.id: token for token in melted}
    undecided: dict[tuple[LeftReason, TokenId | None], list[Group]] = defaultdict(list)
    for group in groups:
        state = sight.states.get(group.y)
        if state is None:
            continue
        answer = decide(group, state, live=sight.live, frozen=sight.frozen, across_users=draft.across_users)
        if isinstance(answer, Undecided):
            undecided[answer.reason, answer.proposal].append(group)
            continue
        tokens |= {token.id: token for token in group.holders}
        _take(draft, group, answer, removals, spent=state is MintState.SPENT)
    for (reason, proposal), same in undecided.items():
        draft.leave(same, Undecided(reason=reason, proposal=proposal), sight)
    undecided_ys = {group.y for same in undecided.values() for group in same}
    in_melted = {token.id for token in melted}
    for token_id in sorted(removals.keys() | in_melted):
        token = tokens[token_id]
        leaving = removals[token_id]
        ends = bool(leaving) and len(leaving) == len(token.proofs)
        if token_id in in_melted and not ends:
            ends = _judge_melted(draft, token, {r.y for r in leaving}, undecided_ys, sight)
        if leaving or ends:
            draft.steps.extend(_steps(token, leaving, sight, ends=ends))


def _take(draft: Draft, group: Group, answer: Kept, removals: dict[TokenId, list[Removal]], *, spent: bool) -> None:
    """The proof leaves all but one of the documents that are not history; ``melted`` ones alone where it is about those."""
    keeper = next(token for token in group.holders if token.id == answer.keeper)
    losing = [token for token in concerned(group.holders) if token.id != keeper.id and not token.is_history]
    if not draft.type.duplicates and any(not is_melted(token) for token in losing):
        draft.unresolved.update(token.id for token in group.holders)
        losing = [token for token in losing if is_melted(token)]
    for token in losing:
        proof = group.proof(token)
        status = None if spent else keeper.status
        removals[token.id].append(Removal(y=group.y, amount=proof.amount, kept_in=keeper.id, kept_status=status))


def _judge_melted(draft: Draft, token: Token, leaving: set[Y], undecided: set[Y], sight: Sight) -> bool:
    """
    Whether a ``melted`` document that counts can be marked spent: all that is left in it is SPENT at the mint.

    What the mint still honours and no other document holds is money: left as it is, for a person.
    """
    rest = [proof.y for proof in token.proofs if proof.y not in leaving]
    alone = [y for y in rest if y not in undecided]
    if any(y not in sight.states for y in alone):
        return False
    reasons: dict[LeftReason, list[Group]] = defaultdict(list)
    for y in alone:
        reason = _why_left(token, sight.states[y], sight)
        if reason is not None:
            reasons[reason].append(Group(y=y, holders=(token,)))
    for reason, groups in reasons.items():
        draft.leave(groups, Undecided(reason=reason), sight)
    return not reasons and len(alone) == len(rest)


def _why_left(token: Token, state: MintState, sight: Sight) -> LeftReason | None:
    """Why a proof that a ``melted`` document alone holds keeps the document from being marked; None: it doesn't."""
    if token.reservation is not None and token.reservation.melt_id in sight.live:
        return LeftReason.RESERVED
    if token.npub in sight.frozen:
        return LeftReason.FROZEN
    match state:
        case MintState.PENDING:
            return LeftReason.MINT_PENDING
        case MintState.UNSPENT:
            return LeftReason.MELTED_UNSPENT
        case MintState.SPENT:
            return None


def _steps(token: Token, leaving: Sequence[Removal], sight: Sight, *, ends: bool) -> list[RepairStep]:
    """One document's steps: one, or several where its proofs stay in very many others."""
    to_status = TokenStatus.SPENT if ends else token.status
    by_keeper: dict[TokenId, list[Removal]] = defaultdict(list)
    for removal in leaving:
        by_keeper[removal.kept_in].append(removal)
    keepers = sorted(by_keeper)
    starts = range(0, len(keepers), KEEPERS_PER_STEP_MAX) if keepers else range(1)
    steps: list[RepairStep] = []
    ys = tuple(proof.y for proof in token.proofs)
    for start in starts:
        chosen = tuple(r for keeper in keepers[start : start + KEEPERS_PER_STEP_MAX] for r in by_keeper[keeper])
        last = start + KEEPERS_PER_STEP_MAX >= len(keepers)
        to = to_status if last else token.status
        gone = {r.y for r in chosen}
        stops = set(ys) if to is not token.status else gone
        steps.append(
            RepairStep(
                key=step_key(token.id, token.status, token.rev, to, tuple(gone)),
                token_id=token.id,
                npub=token.npub,
                mint=sight.mint,
                unit=sight.units.get(token.id, "sat"),
                transaction_type=token.transaction_type,
                status=token.status,
                rev=token.rev,
                ys=ys,
                to_status=to,
                removals=chosen,
                amount=sum(proof.amount for proof in token.proofs if proof.y in stops),
                reason=_type_of((token,)),
                severity=Severity.HIGH if counts(token) or not is_melted(token) else Severity.LOW,
            )
        )
        ys = tuple(y for y in ys if y not in gone)
    return steps


def _type_of(holders: Iterable[Token]) -> DriftType:
    melted = any(is_melted(token) for token in holders)
    return DriftType.LEGACY_MELTED_DOCUMENT if melted else DriftType.DUPLICATE_PROOF


def close_records(draft: Draft) -> None:
    """Give each record that ends to the last step about its document, where nothing of the document stays undone."""
    last: dict[TokenId, int] = {}
    for position, step in enumerate(draft.steps):
        last |= dict.fromkeys(step.touches, position)
    closing: dict[int, list[str]] = defaultdict(list)
    final = {step.token_id for step in draft.steps if step.to_status not in {TokenStatus.UNSPENT, TokenStatus.PENDING}}
    for token_id, position in last.items():
        if token_id in draft.unresolved:
            continue
        closing[position].append(f"{DriftType.DUPLICATE_PROOF}:token:{token_id}")
        if token_id in final:
            closing[position].append(f"{DriftType.LEGACY_MELTED_DOCUMENT}:token:{token_id}")
    for position, records in closing.items():
        draft.steps[position] = replace(draft.steps[position], closes=tuple(sorted(records)))


def batches(steps: Sequence[RepairStep]) -> list[tuple[RepairStep, ...]]:
    """The steps in order, as many together as one transaction may touch documents; none changes a document twice."""
    made: list[tuple[RepairStep, ...]] = []
    present: list[RepairStep] = []
    touched: frozenset[TokenId] = frozenset()
    for step in steps:
        together = touched | step.touches
        if present and (
            len(together) > TOUCHED_PER_BATCH_MAX or any(other.token_id == step.token_id for other in present)
        ):
            made.append(tuple(present))
            present, together = [], step.touches
        present.append(step)
        touched = together
    if present:
        made.append(tuple(present))
    return made


def as_batch(steps: Sequence[RepairStep], *, actor: Actor, note: str) -> RepairBatch:
    """One transaction's work, with an operation id that follows from its steps."""
    told = hashlib.sha256("\n".join(step.key for step in steps).encode()).hexdigest()[:32]
    return RepairBatch(operation_id=f"repair:{told}", steps=tuple(steps), actor=actor, note=note)
