"""Indexes in collections that another program writes, and makes indexes in: they get in nobody's way, on the real store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import DuplicateKeyError, OperationFailure

from melt.errors import ConfigError
from melt.model import Actor
from melt.model.indexes import IndexState
from melt.store.indexes import UNIQUE_COUNTED_INDEX
from tests.support.store import fake_proof, insert_token, npub

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.collection import Collection
    from pymongo.database import Database

    from melt.store import MongoStore

Document = dict[str, Any]
ACTOR = Actor(name="test", uid=1000)

MONGOOSE = (
    # What the wallet's own program makes at its start, by the driver's names.
    ([("transaction_id", 1)], {"unique": True, "background": True}),
    ([("npub", 1), ("status", 1)], {"background": True}),
    ([("proofs.secret", 1)], {"background": True}),
)


def mongoose_starts(db: Database[Document]) -> None:
    """Mongoose's ``createIndexes``: fails as it does where other options or another name stand on the same keys."""
    for keys, options in MONGOOSE:
        db["cashu_tokens"].create_index(keys, **options)
    db["cashu_wallets"].create_index([("npub", 1), ("mint_url", 1)], unique=True, background=True)


def names(collection: Collection[Document]) -> set[str]:
    return set(collection.index_information())


def of(store: MongoStore, purpose: str) -> Any:
    (found,) = (one for one in store.indexes.standings if purpose in one.purpose)
    return found


@pytest.mark.parametrize("first", ["the wallet's program", "meltd"])
def test_whoever_starts_first_breaks_nobody(
    first: str, db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    if first != "meltd":
        mongoose_starts(db)
    store = make_store()
    mongoose_starts(db)
    again = make_store()
    assert {"transaction_id_1", "proofs.secret_1", "npub_1_status_1", "meltd_npub_status_mint"} <= names(
        db["cashu_tokens"]
    )
    assert again.indexes.made == ()
    assert all(one.serves or one.on_a_yes for one in again.indexes.standings)
    assert not any(
        info.get("unique") for name, info in db["cashu_tokens"].index_information().items() if "meltd" in name
    )
    assert store.secrets_indexed
    assert not again.unique_proofs_indexed


def test_indexes_of_a_persons_own_on_the_same_keys_are_used(
    db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    insert_token(db, npub(), [4])
    db["cashu_tokens"].create_index([("npub", 1), ("status", 1), ("mint_url", 1)], name="mine")
    db["cashu_tokens"].create_index([("transaction_id", 1)], name="by_tx")
    db["cashu_tokens"].create_index([("proofs.secret", 1)], name="secrets", sparse=True)
    store = make_store()
    for purpose, name in (("balance", "mine"), ("free names", "by_tx"), ("who holds a proof", "secrets")):
        assert (of(store, purpose).name, of(store, purpose).state) == (name, IndexState.SHARED)
    assert {"meltd_npub_status_mint", "meltd_transaction_id", "transaction_id_1"}.isdisjoint(names(db["cashu_tokens"]))


def test_an_index_that_the_server_refuses_is_told_and_meltd_starts(
    db: Database[Document], make_store: Callable[..., MongoStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """85 and 86 (somebody has one), 67 (a sharded collection, or a filter that the server does not know)."""
    from pymongo.collection import Collection

    real = Collection.create_index
    answers = {"meltd_status_id": 85, "meltd_status_amount": 86, "transaction_id_1": 67, UNIQUE_COUNTED_INDEX: 67}

    def create_index(self: Collection[Document], keys: Any, **options: Any) -> str:
        if code := answers.get(options.get("name", "")):
            msg = "refused"
            raise OperationFailure(msg, code)
        return real(self, keys, **options)

    monkeypatch.setattr(Collection, "create_index", create_index)
    store = make_store(unique_proofs="on")
    assert of(store, "tours").state is IndexState.REFUSED
    assert of(store, "largest").state is IndexState.REFUSED
    assert of(store, "second counted").state is IndexState.REFUSED
    free = of(store, "free names")
    assert (free.name, free.unique, free.state) == ("meltd_transaction_id", False, IndexState.STANDS)
    assert not store.unique_proofs_indexed


def test_the_unique_index_lets_a_wallet_keep_a_proof_and_refuses_a_second_counted_copy(
    db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    """Sources spent, then ``_keep`` stored with a proof unchanged: the order of a wallet that swaps only what it must."""
    tokens = db["cashu_tokens"]
    store = make_store()
    store.wish_unique_proofs(actor=ACTOR, reason="all writers are fixed")
    assert make_store().unique_proofs_indexed
    kept, user = fake_proof(8), npub()
    source = insert_token(db, user, [kept, 4])
    with pytest.raises(DuplicateKeyError):
        insert_token(db, user, [kept], transaction_type="change")
    for status, type_ in (("spent", "received"), ("failed", "minted"), ("unspent", "sent"), ("unspent", "melted")):
        insert_token(db, user, [kept], status=status, transaction_type=type_)
    with tokens.database.client.start_session() as session, session.start_transaction():
        tokens.update_one(
            {"transaction_id": token_name(tokens, source)}, {"$set": {"status": "spent"}}, session=session
        )
        tokens.insert_one(
            {"transaction_id": "k", "status": "unspent", "transaction_type": "change", "proofs": [kept]},
            session=session,
        )
    with pytest.raises(DuplicateKeyError):
        tokens.update_one({"transaction_id": token_name(tokens, source)}, {"$set": {"status": "unspent"}})
    for _ in range(2):
        insert_token(db, user, [], status="pending")


def token_name(tokens: Collection[Document], token_id: str) -> str:
    return next(raw["transaction_id"] for raw in tokens.find({}) if str(raw["_id"]) == token_id)


def test_the_index_over_all_documents_of_an_older_meltd_goes_at_the_start(
    db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    tokens = db["cashu_tokens"]
    tokens.create_index(
        [("proofs.secret", 1)],
        name="meltd_unique_proofs_secret",
        unique=True,
        partialFilterExpression={"proofs.secret": {"$exists": True}},
    )
    tokens.create_index([("transaction_id", 1)], name="meltd_transaction_id")
    db["cashu_wallets"].create_index([("npub", 1)], name="meltd_npub")
    observing = make_store(mode="observe")
    assert "meltd_unique_proofs_secret" in names(tokens), "not in a collection that is only looked at"
    assert observing.indexes.dropped == ()
    store = make_store()
    assert set(store.indexes.dropped) == {"meltd_unique_proofs_secret", "meltd_transaction_id", "meltd_npub"}
    kept = fake_proof(8)
    insert_token(db, npub(), [kept], status="spent")
    insert_token(db, npub(), [kept], transaction_type="change")
    mongoose_starts(db)


def test_the_unique_index_stands_only_while_no_duplicate_is_known(
    db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    store = make_store(unique_proofs="on")
    assert store.unique_proofs_indexed
    db["meltd_discrepancies"].insert_one(record_of("DUPLICATE_PROOF"))
    store.look_after_indexes(make=False)
    assert not store.unique_proofs_indexed, "an index that was built beside writers may have missed one"
    db["meltd_discrepancies"].update_many({}, {"$set": {"state": "corrected"}})
    assert store.look_after_indexes(make=False).unique_proofs
    db["cashu_tokens"].drop_index(UNIQUE_COUNTED_INDEX)
    report = store.look_after_indexes(make=True)
    assert not report.unique_proofs, "known afresh, not remembered from the start"
    assert UNIQUE_COUNTED_INDEX in report.lost


def record_of(drift: str) -> Document:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    return {
        "_id": f"{drift}:token:x",
        "type": drift,
        "severity": "HIGH",
        "action": "record",
        "state": "open",
        "subject": "token:x",
        "first_seen": now,
        "last_seen": now,
        "sightings": 1,
        "occurrence": 1,
    }


@pytest.mark.parametrize("embedded", [True, False])
def test_indexes_that_disappear_are_noticed_and_made_again_where_that_is_safe(
    db: Database[Document], make_store: Callable[..., MongoStore], *, embedded: bool
) -> None:
    """``syncIndexes()`` drops what its schema does not know. On an embedded store only a start makes them again."""
    store = make_store(unique_proofs="on")
    store._indexes.embedded = embedded
    before = names(db["cashu_tokens"])
    dropped = {name for name in before if name.startswith("meltd_")}
    for name in dropped:
        db["cashu_tokens"].drop_index(name)
    report = store.look_after_indexes(make=True)
    assert set(report.lost) == dropped
    again = set() if embedded else dropped - {UNIQUE_COUNTED_INDEX}
    assert set(report.made) == again
    assert names(db["cashu_tokens"]) == before - dropped | again
    assert store.look_after_indexes(make=True).made == ()
    make_store(unique_proofs="on")
    assert names(db["cashu_tokens"]) == before


@pytest.mark.parametrize("keys", ["claim", "held", "idempotency_key"])
def test_a_journal_whose_unique_index_is_none_is_refused_at_the_start(
    keys: str, db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    """Of two reservations of one proof at once both would go through."""
    db["meltd_melts"].create_index([(keys, 1)], name=keys, sparse=True)
    with pytest.raises(ConfigError, match=f"{keys} of meltd_melts is not unique"):
        make_store()


def test_a_journal_with_duplicates_that_forbid_its_unique_index_is_refused(
    db: Database[Document], make_store: Callable[..., MongoStore]
) -> None:
    db["meltd_melts"].insert_many([{"claim": "x"}, {"claim": "x"}])
    with pytest.raises(ConfigError, match="claim"):
        make_store()
