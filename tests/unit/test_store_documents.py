"""Reading token documents as years of other code left them, and writing them strictly (DESIGN section 3)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import bson
import pytest
from bson import DatetimeMS, Decimal128, Int64, ObjectId, Regex, json_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melt.ecash import y_of
from melt.errors import InvariantBroken
from melt.model import MalformedToken, Token, TokenStatus
from melt.store.connect import TOLERANT
from melt.store.documents import read_token, token_document, token_id_of, whole_number
from melt.store.tokens import stored_forms
from tests.support.store import fake_proof

FIXTURES = Path(__file__).parent.parent / "fixtures"
OPTIONS = json_util.JSONOptions(tz_aware=True, tzinfo=UTC)


def fixture_documents():
    text = (FIXTURES / "cashu_tokens.extended.json").read_text(encoding="utf-8")
    return json_util.loads(text, json_options=OPTIONS)


def a_token(**changes):
    return {
        "_id": ObjectId(),
        "npub": "npub1" + "q" * 58,
        "proofs": [fake_proof(8)],
        "mint_url": "http://mint",
        "status": "unspent",
        "transaction_type": "minted",
        "transaction_id": "tx_1",
        "total_amount": 8,
        **changes,
    }


@pytest.mark.parametrize("document", fixture_documents(), ids=lambda document: document["transaction_id"])
def test_each_fixture_reads_as_what_it_says(document):
    """Mongoose's and older code's documents alike: amounts as ints, times aware, nothing lost."""
    token = read_token(document)
    assert isinstance(token, Token)
    assert token.id == str(document["_id"])
    assert token.status == document["status"]
    assert token.transaction_id == document["transaction_id"]
    assert token.transaction_type == document["transaction_type"]
    assert token.wallet_id == str(document["wallet_id"])
    assert token.amount == int(document["total_amount"])
    assert not token.sum_mismatch
    assert token.created_at is not None
    assert token.created_at.tzinfo is not None
    assert (token.spent_at is not None) is (document["status"] == "spent")
    assert [proof.secret for proof in token.proofs] == [proof["secret"] for proof in document["proofs"]]
    assert all(proof.y == y_of(proof.secret) for proof in token.proofs)
    assert all(
        (proof.dleq is not None) is ("dleq" in raw) for proof, raw in zip(token.proofs, document["proofs"], strict=True)
    )
    assert token.rev is None
    assert token.reservation is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (Int64(5), 5),
        (5.0, 5),
        (Decimal128("5"), 5),
        (Decimal128("5.00"), 5),
        (2**63 - 1, 2**63 - 1),
        (5.5, None),
        (Decimal128("5.5"), None),
        (Decimal128("1E+6000"), None),
        (Decimal128("NaN"), None),
        (float("nan"), None),
        (float("inf"), None),
        (2**63, None),
        (1e300, None),
        (True, None),
        ("5", None),
        (None, None),
    ],
    ids=repr,
)
def test_numbers_are_read_in_any_type_that_is_whole(value, number):
    """int, long, double and Decimal128 arrive alike; texts and booleans are no numbers."""
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "melted"}, "status"),
        ({"status": None}, "status"),
        ({"status": ["unspent"]}, "status"),
        ({"npub": 5}, "npub"),
        ({"mint_url": None}, "mint_url"),
        ({"proofs": None}, "proofs are missing"),
        ({"proofs": "x"}, "proofs is not a list"),
        ({"proofs": [5]}, "proofs[0]: is not a document"),
        ({"proofs": [fake_proof(1), {**fake_proof(8), "amount": "8.0"}]}, "proofs[1]: amount"),
        ({"proofs": [{**fake_proof(8), "amount": -8}]}, "proofs[0]: amount"),
        ({"proofs": [{**fake_proof(8), "secret": None}]}, "proofs[0]: secret"),
        ({"proofs": [{**fake_proof(8), "secret": "\ud800"}]}, "proofs[0]: secret"),
        ({"proofs": [fake_proof(8)] * 2}, "twice"),
        ({"_id": 5}, "_id"),
    ],
)
def test_what_is_no_token_says_why_without_its_values(changes, reason):
    """Reported by reason; the document's secrets are in none of them (I10)."""
    document = a_token(**changes)
    token = read_token(document)
    assert isinstance(token, MalformedToken)
    assert any(reason in text for text in token.reasons)
    for proof in document["proofs"] if isinstance(document["proofs"], list) else ():
        if isinstance(proof, dict) and proof["secret"]:
            assert proof["secret"] not in repr(token)


def test_a_document_without_the_later_fields_is_a_token():
    """No wallet, no times, no totals, a string for an id: still somebody's money."""
    token = read_token(
        {"_id": "legacy-7", "npub": "n", "mint_url": "m", "status": "unspent", "proofs": [fake_proof(4)]}
    )
    assert isinstance(token, Token)
    assert (token.id, token.amount, token.wallet_id, token.total_amount) == ("legacy-7", 4, None, None)
    assert token.transaction_id == "tx_legacy-7"


def test_a_reservation_that_is_junk_still_counts_as_one():
    """So that it is reported as orphaned and its token is not taken for free."""
    token = read_token(a_token(status="pending", reservation="soon"))
    assert isinstance(token, Token)
    assert token.reservation is not None
    assert token.reservation.melt_id == ""


def test_a_wrong_total_is_seen():
    """``total_amount`` against the proofs' sum."""
    token = read_token(a_token(total_amount=9.0))
    assert isinstance(token, Token)
    assert token.sum_mismatch


def test_broken_text_and_impossible_dates_are_read_as_far_as_they_can_be():
    """Bytes that are no UTF-8, a date beyond the year 9999: neither ends a tour."""
    raw = bson.encode(a_token(createdAt=DatetimeMS(2**60), note="XXXX", rev=2**40, __v=1.5))
    token = read_token(bson.decode(raw.replace(b"XXXX", b"\xff\xfe\xfd\xfc"), codec_options=TOLERANT))
    assert isinstance(token, Token)
    assert (token.amount, token.rev) == (8, 2**40)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(ObjectId),
    st.datetimes(),
    st.just(Decimal128("NaN")),
    st.just(Regex("x")),
    st.sampled_from(["unspent", "pending", "spent", "failed", "melted"]),
)
PROOF_KEYS = st.sampled_from(["id", "amount", "secret", "C", "witness", "dleq", "_id", "x"])
KEYS = st.sampled_from(
    [
        "_id",
        "npub",
        "wallet_id",
        "proofs",
        "mint_url",
        "total_amount",
        "status",
        "transaction_type",
        "transaction_id",
        "metadata",
        "spent_at",
        "createdAt",
        "created_at",
        "updatedAt",
        "rev",
        "reservation",
        "__v",
    ]
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(PROOF_KEYS, inner, max_size=6)),
    max_leaves=12,
)


@given(changes=st.dictionaries(KEYS, JUNK, max_size=8), bare=st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_junk_never_raises(changes, bare):
    """Whatever lies in the collection becomes a token or a malformed one."""
    document = changes if bare else a_token() | changes
    token = read_token(document)
    assert isinstance(token, Token | MalformedToken)
    assert token.id == token_id_of(document.get("_id"))
    if isinstance(token, MalformedToken):
        assert token.reasons
    else:
        assert all(0 < proof.amount < 2**63 for proof in token.proofs)


def written(raw_proofs):
    return token_document(
        npub="n",
        wallet_id=None,
        mint_url="m",
        raw_proofs=raw_proofs,
        status=TokenStatus.UNSPENT,
        transaction_id="tx_keep",
        parent_transaction_id="tx",
        operation_id="op",
        now=datetime(2025, 8, 8, 11, 21, 49, 356000, tzinfo=UTC),
        reservation=None,
    )


def test_a_new_document_has_the_shape_of_the_wallets_own():
    """Field for field as the fixture's keep document, and beyond it only ``rev``."""
    ours = written([fake_proof(4)])
    theirs = next(item for item in fixture_documents() if item["transaction_id"].endswith("_keep"))
    assert set(ours) == (set(theirs) - {"wallet_id"}) | {"rev"}
    assert set(ours["metadata"]) == set(theirs["metadata"])
    assert ours["metadata"]["operation_timestamp"] == "2025-08-08T11:21:49.356Z"
    token = read_token(ours)
    assert isinstance(token, Token)
    assert token.amount == 4


@pytest.mark.parametrize(
    "raw_proofs",
    [
        [],
        [fake_proof(0)],
        [fake_proof(-1)],
        [fake_proof("four")],
        [fake_proof(2**62), fake_proof(2**62)],
        [{**fake_proof(1), "secret": "s"}] * 2,
        [fake_proof(1) for _ in range(1001)],
    ],
    ids=["none", "zero", "negative", "text", "overflow", "twice", "too many"],
)
def test_what_must_not_be_written_is_not(raw_proofs):
    """Strict in writing: an invariant, before anything reaches the database."""
    with pytest.raises(InvariantBroken):
        written(raw_proofs)


def test_mint_urls_are_asked_for_as_they_may_be_stored():
    """With and without a trailing slash."""
    assert set(stored_forms(["http://Mint:80/"])) >= {"http://Mint:80", "http://Mint:80/", "http://mint"}
