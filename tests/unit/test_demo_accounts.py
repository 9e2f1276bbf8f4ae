"""The demo's books catch what they are there to catch: each test plants one error and sees it."""

from dataclasses import replace

import pytest

from daemon.demo.accounts import Count, Ledger, Operation, Stored, count, elsewhere, input_fees
from melt.model import Y

USER = "npub1user"
KEYSET = "00aa"
PPK = {KEYSET: 100}


def proof(name: str, amount: int, *, status: str = "unspent", kind: str = "minted", **more: object) -> Stored:
    fields = {"npub": USER, "document": f"doc-{name}", "keyset": KEYSET, "signed": True, **more}
    return Stored(status=status, kind=kind, y=Y(name), amount=amount, **fields)  # type: ignore[arg-type]


BEFORE = [
    proof("a", 64),
    proof("b", 16),
    proof("gone", 8),
    proof("lost", 4, status="spent"),
    proof("theirs", 32, status="spent", kind="sent"),
    proof("held", 2),
]
STATES_BEFORE = {
    "a": "UNSPENT",
    "b": "UNSPENT",
    "gone": "SPENT",
    "lost": "UNSPENT",
    "theirs": "UNSPENT",
    "held": "PENDING",
}
"""84 sat are the user's: a, b and lost."""

AFTER = [
    proof("a", 64, status="spent"),
    proof("b", 16),
    proof("gone", 8, status="spent"),
    proof("lost", 4, status="spent"),
    proof("theirs", 32, status="spent", kind="sent"),
    proof("held", 2),
    proof("change", 12, kind="change"),
    proof("back", 3, kind="change"),
]
"""50 sat were paid out of a, for a Lightning fee of 1 and an input fee of 1; lost came back for a fee of 1."""
STATES_AFTER = STATES_BEFORE | {"a": "SPENT", "lost": "SPENT", "change": "UNSPENT", "back": "UNSPENT"}
OPERATIONS = [
    Operation(npub=USER, ys=(Y("a"),), keysets=(KEYSET,)),
    Operation(npub=USER, ys=(Y("lost"),), keysets=(KEYSET,)),
]


def words(states: dict[str, str]) -> dict[Y, str]:
    return {Y(name): state for name, state in states.items()}


def ledger(after: list[Stored], states: dict[str, str] | None = None, *, paid: int = 50) -> Ledger:
    before_states = words(STATES_BEFORE)
    others = elsewhere(BEFORE, before_states)
    after_states = words(states or STATES_AFTER)
    fees, faults = input_fees(OPERATIONS, after_states, PPK, {one.y: one.npub for one in after})
    assert faults == []
    return Ledger(
        npub=USER,
        before=count(BEFORE, before_states, others)[USER],
        after=count(after, after_states, others)[USER],
        paid=paid,
        lightning_fees=1,
        input_fees=fees[USER],
        shortfall=0,
    )


def test_books_that_are_right_are_conserved_and_agree():
    books = ledger(AFTER)
    assert (books.before.honoured, books.after.honoured) == (84, 31)
    assert (books.before.counted, books.before.gone, books.before.missed) == (88, 8, 4)
    assert books.difference == 0
    assert books.conserved
    assert books.agreed


def test_a_change_that_was_lost_is_missing():
    books = ledger([one for one in AFTER if one.y != "change"])
    assert books.difference == 12
    assert not books.conserved


def test_a_reclaim_whose_new_proofs_were_lost_is_missing():
    assert ledger([one for one in AFTER if one.y != "back"]).difference == 3


def test_a_proof_that_is_stored_twice_is_a_fault_even_where_the_sum_is_right():
    books = ledger([*AFTER, replace(AFTER[6], document="doc-again")])
    assert books.difference == 0
    assert "lies in 2 places" in books.after.faults[0]
    assert not books.conserved
    assert not books.agreed  # the service would count it twice


def test_a_proof_that_two_users_have_is_a_fault_of_both():
    stored = [proof("a", 64), proof("a", 64, npub="npub1other")]
    counts = count(stored, words({"a": "UNSPENT"}), frozenset())
    assert all(one.faults for one in counts.values())
    assert len(counts) == 2


def test_a_proof_that_was_made_up_is_a_fault_although_the_mint_calls_it_unspent():
    books = ledger([*AFTER[:6], proof("change", 12, kind="change", signed=False), AFTER[7]])
    assert books.difference == 0
    assert "no signature" in books.after.faults[0]
    assert not books.conserved


def test_money_that_was_taken_back_from_its_recipient_is_too_much():
    states = STATES_AFTER | {"theirs": "SPENT", "taken": "UNSPENT"}
    books = ledger([*AFTER, proof("taken", 31, kind="change")], states)
    assert books.difference == -31
    assert not books.conserved


def test_an_invoice_that_was_paid_twice_is_missing_once():
    assert ledger(AFTER, paid=100).difference == -50


def test_a_document_that_still_counts_what_is_gone_does_not_agree():
    books = ledger([proof("gone", 8) if one.y == "gone" else one for one in AFTER])
    assert books.conserved
    assert not books.agreed
    assert books.after.gone == 8


def test_a_state_that_no_mint_has_is_a_fault():
    counts = count([proof("a", 1)], words({"a": "unspent"}), frozenset())
    assert "'unspent'" in counts[USER].faults[0]


def test_a_proof_that_the_mint_was_not_asked_about_is_an_error():
    with pytest.raises(KeyError):
        count([proof("a", 1)], {}, frozenset())


@pytest.mark.parametrize(("proofs", "fee"), [(1, 1), (10, 1), (11, 2)])
def test_input_fees_are_rounded_up_once_a_request(proofs: int, fee: int):
    ys = tuple(Y(f"y{number}") for number in range(proofs))
    operation = Operation(npub=USER, ys=ys, keysets=(KEYSET,) * proofs)
    found = input_fees([operation], dict.fromkeys(ys, "SPENT"), PPK, dict.fromkeys(ys, USER))
    assert found == ({USER: fee}, [])


@pytest.mark.parametrize(
    ("operations", "states", "owners", "fault"),
    [
        (OPERATIONS[:1], {"a": "UNSPENT"}, {"a": USER}, "not spent"),
        (OPERATIONS[:1], {"a": "SPENT"}, {}, "not in its user's documents"),
        (OPERATIONS[:1], {"a": "SPENT"}, {"a": "npub1other"}, "not in its user's documents"),
        (OPERATIONS[:1] * 2, {"a": "SPENT"}, {"a": USER}, "two operations"),
    ],
)
def test_a_fee_that_was_made_up_is_a_fault(
    operations: list[Operation], states: dict[str, str], owners: dict[str, str], fault: str
):
    _, faults = input_fees(operations, words(states), PPK, {Y(y): npub for y, npub in owners.items()})
    assert any(fault in one for one in faults)


def test_an_empty_account_is_conserved():
    empty = Ledger(npub=USER, before=Count(), after=Count(), paid=0, lightning_fees=0, input_fees=0, shortfall=0)
    assert empty.conserved
