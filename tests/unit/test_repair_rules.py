"""Who keeps a proof that stands in several documents, and the search that finds them (ADR 13)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from melt.duplicates import SUSPECTS_MAX, Holders, Suspects, slices_for, table_bits
from melt.model import MeltId, MintAlias, MintState, Reservation, Token, TokenId, TokenStatus
from melt.model.repair import LeftReason, RepairType
from melt.repair.decide import Group, Kept, Undecided, decide
from melt.repair.steps import KEEPERS_PER_STEP_MAX, Draft, Sight, batches, close_records, plan_mint
from melt.repair.value import value_user
from tests.support.engine import NOW, proof, token

U, P, S, F = TokenStatus.UNSPENT, TokenStatus.PENDING, TokenStatus.SPENT, TokenStatus.FAILED
OTHER = "npub1" + "p" * 58


def holder(name: str, status: TokenStatus = U, type_: str = "received", *, age: int = 0, **more: Any) -> Token:
    """A document that holds proof 0, the older the larger its ``age`` in days."""
    fields = {"id": TokenId(name), "created_at": NOW - timedelta(days=age)}
    return token(status, 16, type_=type_, **(fields | more))


def asked(state: MintState, *holders: Token, across: bool = False, **more: Any) -> str:
    """The keeper's id, or the reason for which it is left."""
    group = Group(y=holders[0].proofs[0].y, holders=holders)
    context: dict[str, Any] = {"live": frozenset(), "frozen": frozenset()} | more
    answers = {
        str(answer.keeper if isinstance(answer, Kept) else answer.reason)
        for ordered in (holders, holders[::-1])
        for answer in [decide(replace(group, holders=ordered), state, across_users=across, **context)]
    }
    (said,) = answers
    return said


@pytest.mark.parametrize(
    ("holders", "keeper"),
    [
        ([holder("a", U, age=1), holder("b", U), holder("c", S, age=2)], "a"),
        ([holder("a", U, age=1), holder("b", U, "sent")], "b"),
        ([holder("a", U), holder("b", P, age=1)], "b"),
        ([holder("a", F, age=9), holder("b", U)], "b"),
        ([holder("a", S, "melted", age=9), holder("b", U)], "b"),
        ([holder("a", U, "melted", age=9), holder("b", S, "melted")], "b"),
        ([holder("a", U, npub=OTHER), holder("b", U, age=1)], "b"),
    ],
)
def test_a_proof_that_is_gone_stays_where_that_is_written(holders: list[Token], keeper: str) -> None:
    assert asked(MintState.SPENT, *holders) == keeper


@pytest.mark.parametrize(
    ("holders", "said"),
    [
        ([holder("a", U), holder("b", U, age=1), holder("c", P, age=2)], "c"),
        ([holder("a", S, age=9), holder("b", U)], "b"),
        ([holder("a", F, age=9), holder("b", P)], "b"),
        ([holder("a", U, "melted", age=9), holder("b", U)], "b"),
        ([holder("a", U, "melted", age=9), holder("b", S)], "b"),
        ([holder("a", F, age=9), holder("b", S)], "b"),
        ([holder("a", S, age=9), holder("b", S, "sent")], "b"),
        ([holder("a", S, age=9), holder("b", P, "sent")], "b"),
        ([holder("a", U, age=9), holder("b", U), holder("c", S, "sent")], "a"),
        ([holder("a", U, age=9), holder("b", U, "sent")], "HANDED_OUT"),
        ([holder("a", U, age=9), holder("b", P, "sent")], "HANDED_OUT"),
        ([holder("a", U, "melted"), holder("b", P, "melted")], "MELTED_UNSPENT"),
        ([holder("a", U, age=1), holder("b", U, npub=OTHER)], "ACROSS_USERS"),
        ([holder("a", U, age=1), holder("b", U), holder("c", S, npub=OTHER)], "a"),
        ([holder("a", U, "melted", npub=OTHER), holder("b", U)], "ACROSS_USERS"),
    ],
)
def test_a_proof_that_is_money_stays_with_the_best_claim_or_is_left(holders: list[Token], said: str) -> None:
    assert asked(MintState.UNSPENT, *holders) == said


def test_a_person_confirms_across_users_and_nothing_else() -> None:
    across = [holder("a", U, age=1), holder("b", U, npub=OTHER)]
    assert asked(MintState.UNSPENT, *across, across=True) == "a"
    handed = [holder("a", U, age=1), holder("b", P, "sent", npub=OTHER)]
    assert asked(MintState.UNSPENT, *handed, across=True) == "HANDED_OUT"
    proposal = decide(
        Group(y=across[0].proofs[0].y, holders=tuple(across)), MintState.UNSPENT,
        live=frozenset(), frozen=frozenset(), across_users=False,
    )  # fmt: skip
    assert isinstance(proposal, Undecided)
    assert proposal.proposal == "a"


@pytest.mark.parametrize("state", list(MintState))
def test_open_melts_frozen_wallets_and_pending_proofs_are_left_alone(state: MintState) -> None:
    reserved = holder("a", P, reservation=Reservation(melt_id=MeltId("m"), at=NOW))
    assert asked(state, reserved, holder("b"), live=frozenset({MeltId("m")})) == "RESERVED"
    assert asked(state, holder("a"), holder("b"), frozen=frozenset({reserved.npub})) == "FROZEN"
    if state is MintState.PENDING:
        assert asked(state, holder("a"), holder("b")) == "MINT_PENDING"
    else:
        assert asked(state, reserved, holder("b", age=1)) == "b", "a reservation of no open melt holds nothing back"


def test_which_reasons_need_a_person() -> None:
    waits = {reason for reason in LeftReason if not reason.needs_person}
    assert waits == {LeftReason.RESERVED, LeftReason.MINT_PENDING, LeftReason.FROZEN}


# --- steps ---


def sight(tokens: list[Token], state: MintState = MintState.UNSPENT) -> Sight:
    return Sight(
        mint=MintAlias("main"),
        states={p.y: state for one in tokens for p in one.proofs},
        live=frozenset(),
        frozen=frozenset(),
        units={},
    )


def test_a_document_whose_proofs_stay_in_very_many_others_loses_them_in_bounded_steps() -> None:
    count = 2 * KEEPERS_PER_STEP_MAX + 5
    proofs = tuple(proof(i) for i in range(count))
    losing = replace(holder("zz"), proofs=proofs, total_amount=count)
    keepers = [replace(holder(f"k{i:03}", age=1), proofs=(proofs[i],)) for i in range(count)]
    draft = Draft(type=RepairType.ALL, across_users=False)
    plan_mint(draft, [Group(y=proofs[i].y, holders=(keepers[i], losing)) for i in range(count)], [], sight([losing]))
    close_records(draft)

    assert [len(step.removals) for step in draft.steps] == [KEEPERS_PER_STEP_MAX, KEEPERS_PER_STEP_MAX, 5]
    assert [step.to_status for step in draft.steps] == [U, U, S], "only the last one leaves it without proofs"
    assert [len(step.ys) for step in draft.steps] == [count, count - KEEPERS_PER_STEP_MAX, 5]
    assert len({step.key for step in draft.steps}) == 3
    assert sum(step.amount for step in draft.steps) == count
    closing = [record for step in draft.steps for record in step.closes if record.endswith(":zz")]
    assert closing == ["DUPLICATE_PROOF:token:zz", "LEGACY_MELTED_DOCUMENT:token:zz"]
    assert not any(record.endswith(":zz") for step in draft.steps[:2] for record in step.closes)
    made = batches(draft.steps)
    assert [len(batch) for batch in made] == [1, 1, 1]
    assert all(len(frozenset().union(*(step.touches for step in batch))) <= 100 for batch in made)


def test_a_record_stays_open_while_something_of_its_document_is_left() -> None:
    a, b = proof(0, 16), proof(1, 8)
    both = replace(holder("aa", age=1), proofs=(a, b))
    own, other = replace(holder("bb"), proofs=(a,)), replace(holder("cc", npub=OTHER), proofs=(b,))
    draft = Draft(type=RepairType.ALL, across_users=False)
    groups = [Group(y=a.y, holders=(both, own)), Group(y=b.y, holders=(both, other))]
    plan_mint(draft, groups, [], sight([both]))
    close_records(draft)
    (step,) = draft.steps
    assert step.token_id == "bb"
    assert set(step.closes) == {"DUPLICATE_PROOF:token:bb", "LEGACY_MELTED_DOCUMENT:token:bb"}
    assert [left.reason for left in draft.left] == [LeftReason.ACROSS_USERS]


def test_the_causes_add_up_to_the_inflation() -> None:
    gone, twice, theirs = proof(0, 64), proof(1, 32), proof(2, 16)
    documents = [
        replace(holder("aa"), proofs=(gone, twice, theirs)),
        replace(holder("bb", P), proofs=(twice,)),
        replace(holder("cc", U, "melted"), proofs=(gone, twice)),
        replace(holder("dd", S), proofs=(gone,)),
    ]
    value = value_user(
        documents[0].npub,
        documents,
        mint=MintAlias("main"),
        unit="sat",
        states={gone.y: MintState.SPENT, twice.y: MintState.UNSPENT, theirs.y: MintState.UNSPENT},
        kept={theirs.y: TokenId("xx")},
        owners={TokenId("xx"): OTHER},
        steps=[],
    )
    assert (value.counted, value.honoured, value.inflation) == (64 + 32 + 16 + 32 + 64 + 32, 32, 208)
    assert value.causes == {"spent": 64, "duplicate": 32, "melted": 96, "across_users": 16}


# --- the search ---


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("bits", [64, 2**20], ids=["a table so small that all are suspect", "a table of usual size"])
def test_the_search_finds_exactly_the_secrets_that_several_documents_hold(bits: int, parts: int) -> None:
    chance = random.Random(7)
    documents: dict[TokenId, set[bytes]] = {}
    for number in range(300):
        secrets = {hashlib.blake2b(str(chance.randrange(2000)).encode(), digest_size=16).digest() for _ in range(5)}
        documents[TokenId(f"d{number}")] = secrets
    truth: dict[bytes, tuple[TokenId, ...]] = {}
    for secret in set().union(*documents.values()):
        held = tuple(name for name, secrets in documents.items() if secret in secrets)
        if len(held) > 1:
            truth[secret] = held
    found: dict[bytes, tuple[TokenId, ...]] = {}
    for part in range(parts):
        suspects = Suspects(bits, part=part, parts=parts)
        for secrets in documents.values():
            suspects.note(secrets)
        assert suspects.is_full is (bits == 64)
        holders = Holders(suspects)
        for name, secrets in documents.items():
            holders.note(name, secrets)
        assert not found.keys() & holders.duplicates().keys()
        found |= holders.duplicates()
    assert found == truth
    assert len(truth) > 100


def test_the_search_needs_no_more_memory_for_a_larger_collection() -> None:
    assert (table_bits(10), table_bits(1_000_000), table_bits(10**9)) == (2**20, 2**27, 2**29)
    assert (slices_for(0), slices_for(16_000_000), slices_for(10**9)) == (1, 1, 60)
    suspects = Suspects(2**20)
    same = [number.to_bytes(8, "big") + bytes(8) for number in range(3)]
    suspects.note(same)
    suspects.note(same)
    assert (len(suspects.slots), suspects.overflowed) == (3, False)
    suspects.slots.update(range(10, 10 + SUSPECTS_MAX))
    suspects.note([(9).to_bytes(8, "big") + bytes(8)])
    suspects.note([(9).to_bytes(8, "big") + bytes(8)])
    assert suspects.overflowed, "what is not remembered is told"
