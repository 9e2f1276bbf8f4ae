"""What no verdict may ever ask for, over all documents and answers."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from melt.drift import SEVERITIES, Context, classify
from melt.model import TOKEN_MOVES, Action, DriftType, MintState, TokenStatus
from tests.support.engine import KEYSET, NOW, token, y

NEW_STATUS = {Action.MARK_SPENT: TokenStatus.SPENT, Action.RELEASE: TokenStatus.UNSPENT}
DATES = st.none() | st.integers(-100_000, 100_000).map(lambda s: NOW + timedelta(seconds=s))


@st.composite
def cases(draw):
    amounts = draw(st.lists(st.sampled_from([1, 2, 64, 2**62]), max_size=6))
    document = token(
        draw(st.sampled_from(TokenStatus)),
        *amounts,
        reserved_by=draw(st.sampled_from([None, "m"])),
        type_=draw(st.sampled_from(["received", "sent", "minted", "change", "melted", "", "x"])),
        total_amount=draw(st.none() | st.integers(-1, 2**63)),
        created_at=draw(DATES),
        updated_at=draw(DATES),
    )
    states = {
        y(i): state
        for i, state in enumerate(draw(st.lists(st.sampled_from([*MintState, None]), min_size=8, max_size=8)))
        if state is not None
    }
    context = Context(
        now=NOW,
        pending_grace_s=draw(st.floats(0, 1e6)),
        reservation_live=draw(st.booleans()),
        known_keysets=draw(st.sampled_from([frozenset(), frozenset({KEYSET}), frozenset({"00"})])),
    )
    return document, states, context


@given(cases())
def test_no_verdict_asks_for_what_is_forbidden(case):
    document, states, context = case
    verdicts = classify(document, states, context)

    assert len({v.type for v in verdicts}) == len(verdicts), "one record a type and document"
    by_y = {p.y: p for p in document.proofs}
    for verdict in verdicts:
        assert set(verdict.ys) <= set(by_y)
        assert verdict.value == sum(by_y[one].amount for one in verdict.ys)
        assert verdict.reason
        if verdict.type is not DriftType.LEGACY_MELTED_DOCUMENT:
            assert verdict.severity is SEVERITIES[verdict.type]
        seen = {states.get(one) for one in verdict.ys}
        match verdict.action:
            case Action.MARK_SPENT:
                assert TokenStatus.SPENT in TOKEN_MOVES[document.status]
                assert seen == {MintState.SPENT}, "only what the mint took is marked"
            case Action.RELEASE:
                assert TokenStatus.UNSPENT in TOKEN_MOVES[document.status]
                assert seen == {MintState.UNSPENT}
            case Action.RECLAIM:
                assert document.status in {TokenStatus.SPENT, TokenStatus.FAILED}
                assert seen == {MintState.UNSPENT}
                assert document.transaction_type not in {"sent", "melted"}, "it belongs to somebody else"
            case _:
                pass
    if document.reservation is not None and context.reservation_live and document.status is TokenStatus.PENDING:
        assert all(v.action in {Action.NONE, Action.RECORD} for v in verdicts), "a live melt's own recovery decides"


@given(cases())
def test_a_verdict_depends_on_nothing_but_its_arguments(case):
    document, states, context = case
    assert classify(document, states, context) == classify(document, dict(reversed(states.items())), context)
