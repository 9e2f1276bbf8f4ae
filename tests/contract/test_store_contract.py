"""
What any store must do (:class:`melt.ports.Store`): the same tests on MongoDB's protocol and on the model of the simulation.

The simulation is worth what its store is worth. Whatever a test here shows of the real store holds for the model, too;
where the real one is mended, its test belongs here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from melt import fencing
from melt.ecash import y_of
from melt.errors import (
    Code,
    DuplicateMelt,
    DuplicateSecret,
    InvariantBroken,
    LeaseLost,
    LostRace,
    Severity,
    StoreError,
)
from melt.model import (
    SANE_AGAIN,
    Action,
    Actor,
    Correction,
    DiscrepancyState,
    Dleq,
    DriftType,
    EventType,
    Fence,
    Finding,
    JournalKind,
    KeysetId,
    Lease,
    Melt,
    MeltId,
    MeltState,
    MintAlias,
    NewProof,
    Owner,
    PostOutcome,
    Proof,
    Resolution,
    ResolveAs,
    SweepRecord,
    TakenBecause,
    Token,
    TokenId,
    TokenStatus,
    sweep_shard,
)
from melt.ports import Leases, SpentRecords, Store
from melt.store import MongoStore
from tests.simulation.model_store import ModelStore
from tests.support.store import (
    KEYSET,
    MINT_URL,
    fake_proof,
    insert_token,
    insert_wallet,
    make_melt,
    new_proof,
    npub,
    warrant_of,
)

ACTOR = Actor(name="test", uid=7)
SEED = "5eed5eed5eed5eed"
UNSPENT, PENDING, SPENT, FAILED = TokenStatus.UNSPENT, TokenStatus.PENDING, TokenStatus.SPENT, TokenStatus.FAILED


class ManualClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    async def sleep(self, seconds: float, /) -> None:
        self.at += timedelta(seconds=seconds)

    async def wait(self, event: object, seconds: float, /) -> bool:
        raise NotImplementedError


class Bench:
    """A store under test, and what a wallet service writes beside it."""

    def __init__(
        self,
        store: Store,
        clock: ManualClock,
        plant: Callable[..., str],
        wallet: Callable[..., str],
        change: Callable[[TokenId, dict[str, Any] | None], None],
    ) -> None:
        self._change = change
        self.store = store
        self.clock = clock
        self._plant = plant
        self._wallet = wallet

    @property
    def leases(self) -> Leases:
        """The same store; both implement the other port, too."""
        return self.store  # type: ignore[return-value]

    def wallet(self, owner: str, unit: str = "sat", mint_url: str = MINT_URL) -> str:
        return self._wallet(owner, mint_url, unit)

    def token(self, owner: str, amounts: Sequence[int | dict[str, Any]], **more: Any) -> Token:
        """Plant a document; as the store reads it."""
        self.clock.at += timedelta(seconds=1)
        proofs = [fake_proof(one) if isinstance(one, int) else one for one in amounts]
        token_id = TokenId(self._plant(owner, proofs, created_at=self.clock.at, **more))
        found = self.store.tokens([token_id])[0]
        assert isinstance(found, Token)
        return found

    def again(self, token: Token) -> Token:
        """The document as it is now."""
        found = self.store.tokens([token.id])[0]
        assert isinstance(found, Token)
        return found

    def named(self, owner: str, transaction_id: str) -> Token:
        """A user's document by its transaction id."""
        tour = self.store.tour(tuple(TokenStatus), (MINT_URL,), None, npub=owner)
        found = [t for t in tour.next_page(1000) if isinstance(t, Token) and t.transaction_id == transaction_id]
        tour.close()
        assert len(found) == 1, f"{len(found)} documents are called {transaction_id}"
        return found[0]

    def change(self, token: Token, **fields: Any) -> None:
        """Another writer changes a document; ``reservation=None`` takes it off."""
        self._change(token.id, fields)

    def delete(self, token: Token) -> None:
        """Another writer deletes it."""
        self._change(token.id, None)

    def sums(self, owner: str) -> dict[str, int]:
        return {balance.status: balance.amount for balance in self.store.balances(owner) if balance.amount}

    def reserve(self, tokens: Sequence[Token], ys: Sequence[str] | None = None, **changes: Any) -> Melt:
        """T1 with two blanks."""
        entry = make_melt(tokens, ys, **{"created_at": self.clock.at, "actor": ACTOR, **changes})
        return self.store.reserve(entry, blanks=(KeysetId(KEYSET), 2), seed_id=SEED)

    def reasons(self, melt: Melt) -> list[tuple[str, str | None, str]]:
        """The audit of a melt, sorted: reason, from, to."""
        entries = self.store.audit(token_id=None, melt_id=melt.id, limit=100)
        return sorted(
            (e.reason, None if e.from_status is None else str(e.from_status), str(e.to_status)) for e in entries
        )


@pytest.fixture(params=["model", "mongo"])
def bench(request: pytest.FixtureRequest) -> Bench:
    clock = ManualClock()
    if request.param == "model":
        model = ModelStore(clock=clock, y_of=y_of)

        def plant(owner: str, proofs: list[dict[str, Any]], **more: Any) -> str:
            return model.plant(_token(model, owner, proofs, **more))

        def alter(token_id: TokenId, fields: dict[str, Any] | None) -> None:
            with model.tables.transaction():
                if fields is None:
                    model.tables.drop_token(token_id)
                    return
                if "proofs" in fields:
                    fields = fields | {"total_amount": sum(proof.amount for proof in fields["proofs"])}
                model.tables.put_token(token_id, replace(model.tables.token(token_id), **fields))

        return Bench(model, clock, plant, model.plant_wallet, alter)
    db = request.getfixturevalue("db")
    mongo = request.getfixturevalue("make_store")(clock=clock)

    def insert(owner: str, proofs: list[dict[str, Any]], **more: Any) -> str:
        if more.get("wallet_id") is not None:
            from bson import ObjectId

            more["wallet_id"] = ObjectId(more["wallet_id"])
        return insert_token(db, owner, proofs, **more)

    def write(token_id: TokenId, fields: dict[str, Any] | None) -> None:
        from bson import ObjectId

        chosen = {"_id": ObjectId(token_id)}
        if fields is None:
            db["cashu_tokens"].delete_one(chosen)
            return
        update: dict[str, Any] = {"$set": {name: value for name, value in fields.items() if name != "reservation"}}
        if "proofs" in fields:
            names = {proof.y: proof.secret for proof in fields["proofs"]}
            stored = db["cashu_tokens"].find_one(chosen)
            assert stored is not None
            update["$set"]["proofs"] = [raw for raw in stored["proofs"] if raw["secret"] in names.values()]
            update["$set"]["total_amount"] = sum(proof.amount for proof in fields["proofs"])
        if "reservation" in fields:
            update["$unset"] = {"reservation": ""}
        db["cashu_tokens"].update_one(chosen, {name: part for name, part in update.items() if part})

    return Bench(mongo, clock, insert, lambda *args: str(insert_wallet(db, *args)), write)


def _token(
    model: ModelStore,
    owner: str,
    proofs: list[dict[str, Any]],
    *,
    created_at: datetime,
    status: str = "unspent",
    mint_url: str = MINT_URL,
    wallet_id: str | None = None,
    transaction_type: str = "minted",
    transaction_id: str | None = None,
) -> Token:
    held = tuple(
        Proof(
            keyset_id=KeysetId(one["id"]),
            amount=one["amount"],
            secret=one["secret"],
            c=one["C"],
            y=y_of(one["secret"]),
            dleq=Dleq(**one["dleq"]) if "dleq" in one else None,
        )
        for one in proofs
    )
    return Token(
        id=model.tables.new_id(),
        npub=owner,
        wallet_id=wallet_id,
        mint_url=mint_url,
        status=TokenStatus(status),
        transaction_type=transaction_type,
        transaction_id=transaction_id or f"tx_{secrets.token_hex(8)}",
        proofs=held,
        total_amount=sum(proof.amount for proof in held),
        created_at=created_at,
        updated_at=created_at,
        spent_at=created_at if status == "spent" else None,
    )


def mark_spent(bench: Bench, token: Token) -> bool:
    """A rule's correction, on the mint's word."""
    finding = Finding(
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=Action.MARK_SPENT,
        subject=f"token:{token.id}",
        npub=token.npub,
        mint=MintAlias("main"),
        unit="sat",
        value=token.amount,
        token_id=token.id,
        ys=tuple(proof.y for proof in token.proofs),
        evidence={},
    )
    (record,) = bench.store.record([finding])
    return bench.store.correct(
        Correction(
            discrepancy_id=record.id,
            occurrence=record.occurrence,
            token_id=token.id,
            expected_status=token.status,
            expected_rev=token.rev,
            new_status=SPENT,
            ys=finding.ys,
            reason=finding.type,
            actor=ACTOR,
            warrant=warrant_of(record, token),
        )
    )


def new(amount: int) -> NewProof:
    """A proof as it comes out of unblinding."""
    return NewProof(
        keyset_id=KeysetId(KEYSET),
        amount=amount,
        secret=secrets.token_hex(32),
        c="02" + secrets.token_hex(32),
        dleq=Dleq(e="aa" * 32, s="bb" * 32, r="cc" * 32),
    )


def finding(token: Token, *, action: Action = Action.MARK_SPENT, ys: Sequence[str] | None = None) -> Finding:
    """Something wrong with a document."""
    return Finding(
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=action,
        subject=f"token:{token.id}",
        npub=token.npub,
        mint=MintAlias("m"),
        unit="sat",
        value=token.amount,
        token_id=token.id,
        ys=tuple(proof.y for proof in token.proofs) if ys is None else tuple(ys),  # type: ignore[arg-type]
        evidence={"seen_by": "test"},
    )


def correction(record: Any, token: Token, to: TokenStatus = SPENT, **changes: Any) -> Correction:
    """What puts it right."""
    fields: dict[str, Any] = {
        "discrepancy_id": record.id,
        "occurrence": record.occurrence,
        "token_id": token.id,
        "expected_status": token.status,
        "expected_rev": token.rev,
        "new_status": to,
        "ys": record.ys,
        "reason": record.type,
        "actor": ACTOR,
        "warrant": warrant_of(record, token),
    }
    return Correction(**{**fields, **changes})


# --- reading ---


def test_a_user_is_known_by_a_wallet_or_a_token(bench: Bench) -> None:
    """And by nothing else."""
    with_wallet, with_token, stranger = npub(), npub(), npub()
    bench.wallet(with_wallet)
    bench.token(with_token, [1])
    assert [bench.store.npub_known(who) for who in (with_wallet, with_token, stranger)] == [True, True, False]


def test_spendable_is_unspent_oldest_first_of_that_mint_and_unit(bench: Bench) -> None:
    """A slash at the URL's end is no other mint; a wallet of another unit is; legacy melted documents never count."""
    user = npub()
    sat, msat = bench.wallet(user), bench.wallet(user, "msat")
    first = bench.token(user, [4, 2], wallet_id=sat)
    second = bench.token(user, [8], mint_url=MINT_URL + "/")
    bench.token(user, [16], wallet_id=msat)
    bench.token(user, [32], mint_url="http://other.example")
    bench.token(user, [64], transaction_type="melted")
    bench.token(user, [128], status="spent")
    bench.token(npub(), [256])
    assert bench.store.spendable(user, (MINT_URL,), "sat") == (first, second)


def test_balances_count_a_document_under_its_status(bench: Bench) -> None:
    """By mint and unit, without what was melted."""
    user = npub()
    wallet = bench.wallet(user)
    bench.token(user, [4, 2], wallet_id=wallet)
    bench.token(user, [8], mint_url=MINT_URL + "/")
    bench.token(user, [16], status="spent")
    bench.token(user, [32], transaction_type="melted")
    rows = {row.status: row for row in bench.store.balances(user)}
    assert {status: (row.amount, row.proofs, row.documents) for status, row in rows.items()} == {
        "unspent": (14, 3, 2),
        "spent": (16, 1, 1),
    }
    assert {row.unit for row in rows.values()} == {"sat"}


def test_tokens_come_in_the_order_asked_and_unknown_ones_not_at_all(bench: Bench) -> None:
    """Each once."""
    user = npub()
    one, two = bench.token(user, [1]), bench.token(user, [2])
    assert bench.store.tokens([two.id, TokenId("f" * 24), one.id, two.id]) == (two, one)


def test_a_tour_passes_every_document_once_and_goes_on_from_a_position(bench: Bench) -> None:
    """By statuses, URLs and user."""
    user = npub()
    tokens = [bench.token(user, [1]) for _ in range(5)]
    bench.token(user, [2], status="spent")
    bench.token(user, [4], mint_url="http://other.example")
    tour = bench.store.tour((UNSPENT, PENDING), (MINT_URL,), None)
    assert (tour.next_page(2), tour.next_page(2), tour.next_page(2)) == (
        tuple(tokens[:2]),
        tuple(tokens[2:4]),
        tuple(tokens[4:]),
    )
    assert tour.next_page(2) == ()
    tour.close()
    later = bench.store.tour((UNSPENT, PENDING), (MINT_URL,), tokens[2].id)
    assert later.next_page(10) == tuple(tokens[3:])
    later.close()
    assert bench.store.count_tokens((UNSPENT, PENDING), (MINT_URL,)) == 5
    assert bench.store.count_tokens((SPENT,), (MINT_URL,)) == 1
    assert bench.store.mint_urls() == tuple(sorted((MINT_URL, "http://other.example")))


# --- T1 ---


def test_t1_reserves_splits_and_takes_counters(bench: Bench) -> None:
    """The inputs' documents are pending and reserved; the rest lies in ``<tx>_keep``; the entry tells all that."""
    user = npub()
    one, two = bench.token(user, [16, 8]), bench.token(user, [4])
    ys = [one.proofs[0].y, two.proofs[0].y]
    melt = bench.reserve([one, two], ys, amount=10)
    assert bench.store.melt(melt.id) == melt
    assert (melt.state, melt.keep_amount, len(melt.keep_token_ids)) == (MeltState.RESERVED, 8, 1)
    assert set(melt.source_token_ids) == {one.id, two.id}
    assert melt.blanks is not None
    assert (melt.blanks.counter, melt.blanks.amounts, melt.blanks.seed_id) == (0, (0, 0), SEED)
    held = bench.again(one)
    assert (held.status, held.amount, held.total_amount, held.rev) == (PENDING, 16, 16, 1)
    assert held.reservation is not None
    assert held.reservation.melt_id == melt.id
    keep = bench.named(user, f"{melt.transaction_id}_keep")
    assert (keep.status, keep.amount, keep.transaction_type, keep.rev) == (UNSPENT, 8, "change", 1)
    assert (keep.id,) == melt.keep_token_ids
    assert bench.sums(user) == {"pending": 20, "unspent": 8}
    assert bench.reasons(melt) == [
        ("melt_reserved", "unspent", "pending"),
        ("melt_reserved", "unspent", "pending"),
        ("melt_split", None, "unspent"),
    ]


def test_t1_is_refused_where_a_document_is_no_longer_unspent(bench: Bench) -> None:
    """And leaves nothing behind: no counter, no entry, no pending document."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [8], status="spent")
    with pytest.raises(LostRace):
        bench.reserve([one, two])
    assert bench.again(one) == one
    assert bench.store.open_melts() == ()
    assert bench.store.counter(SEED, KeysetId(KEYSET)) == 0
    assert bench.store.audit(token_id=None, melt_id=None, limit=10) == ()


def test_one_proof_is_held_by_one_melt(bench: Bench) -> None:
    """A document that another melt has reserved can't be reserved again."""
    user = npub()
    one = bench.token(user, [16])
    bench.reserve([one])
    with pytest.raises(LostRace):
        bench.reserve([one])


def test_key_and_payment_hash_are_taken_by_one_melt(bench: Bench) -> None:
    """The refusal names it. A released melt gives its hash back, and never its key."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [16])
    melt = bench.reserve([one])
    assert bench.store.melt_by_key(str(melt.idempotency_key)) == melt
    assert bench.store.melt_by_payment_hash(str(melt.payment_hash)) == melt
    for taken in ({"idempotency_key": melt.idempotency_key}, {"payment_hash": melt.payment_hash}):
        with pytest.raises(DuplicateMelt) as refused:
            bench.reserve([two], **taken)
        assert refused.value.melt_id == melt.id
    bench.store.release(melt, spent=(), error_code="X", error_detail="x")
    assert bench.store.melt_by_payment_hash(str(melt.payment_hash)) is None
    with pytest.raises(DuplicateMelt):
        bench.reserve([two], idempotency_key=melt.idempotency_key)
    again = bench.reserve([two], payment_hash=melt.payment_hash)
    assert bench.store.melt_by_payment_hash(str(melt.payment_hash)) == again


def test_a_melt_never_touches_another_users_money(bench: Bench) -> None:
    """Nor another mint's. That another writer moves a document there is nothing that freezes a wallet: choose again."""
    one = bench.token(npub(), [16])
    with pytest.raises(LostRace):
        bench.reserve([one], npub=npub())
    with pytest.raises(LostRace):
        bench.reserve([one], mint_url="http://other.example")
    assert bench.again(one) == one


def test_an_entry_starts_as_reserved(bench: Bench) -> None:
    """And in no other state."""
    with pytest.raises(InvariantBroken):
        bench.reserve([bench.token(npub(), [16])], state=MeltState.READY)


# --- moves ---


def test_a_move_needs_the_state_and_the_revision(bench: Bench) -> None:
    """Whoever comes second has lost."""
    melt = bench.reserve([bench.token(npub(), [16])])
    moved = bench.store.advance(melt, MeltState.MELTING, post=PostOutcome.IN_FLIGHT, posted_at=bench.clock.at)
    assert (moved.state, moved.rev, moved.post) == (MeltState.MELTING, melt.rev + 1, PostOutcome.IN_FLIGHT)
    assert bench.store.melt(melt.id) == moved
    with pytest.raises(LostRace):
        bench.store.advance(melt, MeltState.MELTING)
    same = bench.store.advance(moved, MeltState.MELTING, holder="other")
    assert (same.state, same.rev, same.holder) == (MeltState.MELTING, moved.rev + 1, "other")


def test_moves_that_are_not_in_the_table_are_refused(bench: Bench) -> None:
    """So are ends without their tokens, and fields that nobody may change."""
    melt = bench.reserve([bench.token(npub(), [16])])
    with pytest.raises(InvariantBroken):
        bench.store.advance(melt, MeltState.FENCING)
    with pytest.raises(InvariantBroken):
        bench.store.advance(melt, MeltState.RELEASED)
    with pytest.raises(InvariantBroken):
        bench.store.advance(melt, MeltState.MELTING, rev=7)
    assert bench.store.melt(melt.id) == melt


def test_open_entries_are_listed_until_they_end(bench: Bench) -> None:
    """Oldest first; others newest first."""
    user = npub()
    melts = [bench.reserve([bench.token(user, [16])]) for _ in range(3)]
    assert bench.store.open_melts() == tuple(melts)
    ended = bench.store.release(melts[0], spent=(), error_code="X", error_detail="x")
    assert bench.store.open_melts() == tuple(melts[1:])
    assert [melt.id for melt in bench.store.list_melts(npub=user, states=(), limit=2)] == [melts[2].id, melts[1].id]
    assert bench.store.list_melts(npub=None, states=(MeltState.RELEASED,), limit=5) == (ended,)
    assert bench.store.live_melt_ids([melts[0].id, melts[1].id, MeltId("?")]) == {melts[1].id}
    assert [melt.id for melt in bench.store.melts_with_proof(melts[1].inputs[0].y, 5)] == [melts[1].id]
    bench.clock.at += timedelta(seconds=30)
    number, age = bench.store.pending_since()
    assert (number, age) == (2, bench.clock.at - melts[1].created_at)


def test_counters_rise_and_are_never_given_twice(bench: Bench) -> None:
    """By seed and keyset, also past what was raised."""
    user, keyset = npub(), KeysetId(KEYSET)
    one = bench.reserve([bench.token(user, [16])])
    two = bench.reserve([bench.token(user, [16])])
    assert one.blanks is not None
    assert two.blanks is not None
    assert (one.blanks.counter, two.blanks.counter) == (0, 2)
    bench.store.raise_counter(SEED, keyset, 50)
    bench.store.raise_counter(SEED, keyset, 20)
    assert bench.store.counter(SEED, keyset) == 50
    assert bench.store.counter("another seed", keyset) == 0
    three = bench.reserve([bench.token(user, [16])])
    assert three.blanks is not None
    assert three.blanks.counter == 50


# --- swaps ---


def planned(bench: Bench, melt: Melt, to: MeltState, amounts: Sequence[int], *, keep: int, fee: int) -> Melt:
    """A swap of all inputs."""
    return bench.store.plan_swap(
        melt,
        to,
        inputs=melt.inputs,
        amounts=amounts,
        keep=keep,
        fee=fee,
        keyset_id=KeysetId(KEYSET),
        seed_id=SEED,
        fence=to is MeltState.FENCING,
    )


def followed(bench: Bench, melt: Melt, post: PostOutcome = PostOutcome.AMBIGUOUS) -> Melt:
    """PENDING after its POST."""
    melting = bench.store.advance(melt, MeltState.MELTING, post=PostOutcome.IN_FLIGHT)
    return bench.store.advance(melting, MeltState.PENDING, post=post)


def test_t2_spends_sources_and_reserves_what_will_pay(bench: Bench) -> None:
    """The pay proofs are the melt's new inputs."""
    user = npub()
    source = bench.token(user, [16, 4])
    melt = planned(bench, bench.reserve([source], amount=10), MeltState.SWAPPING, (4, 2, 1, 8, 4), keep=3, fee=1)
    assert melt.swap is not None
    assert (melt.swap.outputs.counter, melt.swap.keep) == (2, 3)
    keep, pay = [new(4), new(2), new(1)], [new(8), new(4)]
    ready = bench.store.finish_swap(melt, keep_proofs=keep, pay_proofs=pay)
    assert (ready.state, ready.inputs_amount, ready.keep_amount, ready.swap_fee) == (MeltState.READY, 12, 7, 1)
    assert [ref.y for ref in ready.inputs] == [y_of(proof.secret) for proof in pay]
    assert bench.again(source).status is SPENT
    send = bench.named(user, f"{melt.transaction_id}_send")
    assert (send.status, send.reservation is not None, send.id) == (PENDING, True, ready.inputs[0].token_id)
    assert bench.sums(user) == {"spent": 20, "unspent": 7, "pending": 12}
    again = bench.store.finish_swap(melt, keep_proofs=keep, pay_proofs=pay)
    assert again == ready
    assert bench.sums(user) == {"spent": 20, "unspent": 7, "pending": 12}


def test_a_swap_that_does_not_add_up_is_an_invariant(bench: Bench) -> None:
    """I5, when it is planned and when it is finished."""
    melt = bench.reserve([bench.token(npub(), [16, 4])], amount=10)
    with pytest.raises(InvariantBroken):
        planned(bench, melt, MeltState.SWAPPING, (16, 8), keep=1, fee=0)
    melt = planned(bench, melt, MeltState.SWAPPING, (16, 4), keep=1, fee=0)
    with pytest.raises(InvariantBroken):
        bench.store.finish_swap(melt, keep_proofs=[new(8)], pay_proofs=[new(4)])


def test_a_fence_brings_new_proofs_and_ends_the_melt(bench: Bench) -> None:
    """All inputs are spent, also those that the fence left out because others had taken them."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [4])
    melt = followed(bench, bench.reserve([one, two], amount=10))
    fenced = bench.store.plan_swap(
        melt,
        MeltState.FENCING,
        inputs=melt.inputs[:1],
        amounts=(8, 4, 2, 1),
        keep=4,
        fee=1,
        keyset_id=KeysetId(KEYSET),
        seed_id=SEED,
        fence=True,
    )
    proofs = [new(amount) for amount in (8, 4, 2, 1)]
    released = bench.store.finish_fence(fenced, proofs)
    assert (released.state, released.keep_amount, released.swap_fee) == (MeltState.RELEASED, 15, 1)
    assert released.ended_at is not None
    assert bench.sums(user) == {"spent": 20, "unspent": 15}
    assert bench.named(user, f"{melt.transaction_id}_fenced").amount == 15
    assert bench.store.finish_fence(fenced, proofs) == released


def test_what_was_just_signed_is_stored_once(bench: Bench) -> None:
    """I4: a proof that lies anywhere already is refused, and nothing is written."""
    user = npub()
    source = bench.token(user, [16])
    melt = followed(bench, bench.reserve([source], amount=10))
    known = NewProof(
        keyset_id=KeysetId(KEYSET), amount=16, secret=source.proofs[0].secret, c=source.proofs[0].c, dleq=None
    )
    melt = planned(bench, melt, MeltState.FENCING, (16,), keep=1, fee=0)
    with pytest.raises(DuplicateSecret):
        bench.store.finish_fence(melt, [known])
    twice = new(8)
    with pytest.raises(StoreError):
        bench.store.finish_fence(melt, [twice, twice])
    assert bench.store.melt(melt.id) == melt
    assert bench.sums(user) == {"pending": 16}


def test_a_reclaim_leaves_its_source_as_it_is(bench: Bench) -> None:
    """Final is final (I7): value comes back as new documents, and what was found is corrected."""
    user = npub()
    source = bench.token(user, [16], status="spent", transaction_type="received")
    record = bench.store.record([finding(source, action=Action.RECLAIM)])[0]
    entry = make_melt([source], kind=JournalKind.RECLAIM, idempotency_key=None, payment_hash=None, quote_id=None)
    melt = bench.store.reserve(entry, blanks=None, seed_id=SEED, warrant=warrant_of(record, source))
    assert bench.again(source) == source
    melt = planned(bench, melt, MeltState.SWAPPING, (8, 4, 2, 1), keep=4, fee=1)
    done = bench.store.finish_reclaim(melt, [new(amount) for amount in (8, 4, 2, 1)])
    assert (done.state, done.keep_amount) == (MeltState.SETTLED, 15)
    assert bench.again(source) == source
    assert bench.sums(user) == {"spent": 16, "unspent": 15}
    found = bench.store.discrepancies(states=(), types=(), severities=(), npub=user, limit=5)
    assert [(one.id, one.state) for one in found] == [(record.id, DiscrepancyState.CORRECTED)]


def test_two_reclaims_of_one_proof_exclude_each_other(bench: Bench) -> None:
    """While the first is open."""
    source = bench.token(npub(), [16], status="spent", transaction_type="received")
    record = bench.store.record([finding(source, action=Action.RECLAIM)])[0]
    fields: dict[str, Any] = {"kind": JournalKind.RECLAIM, "idempotency_key": None, "payment_hash": None}
    more: dict[str, Any] = {"blanks": None, "seed_id": SEED, "warrant": warrant_of(record, source)}
    first = bench.store.reserve(make_melt([source], **fields), **more)
    with pytest.raises(LostRace):
        bench.store.reserve(make_melt([source], **fields), **more)
    bench.store.release(first, spent=(), error_code="X", error_detail="x")
    assert bench.again(source) == source
    bench.store.reserve(make_melt([source], **fields), **more)


def test_a_reclaim_without_a_warrant_is_an_invariant(bench: Bench) -> None:
    """I13: it swaps proofs of a document that it doesn't reserve, and that has one door."""
    source = bench.token(npub(), [16], status="spent", transaction_type="received")
    entry = make_melt([source], kind=JournalKind.RECLAIM, idempotency_key=None, payment_hash=None)
    with pytest.raises(InvariantBroken):
        bench.store.reserve(entry, blanks=None, seed_id=SEED)


def unproved_change(bench: Bench, owner: str) -> Token:
    """What T3 stores apart; as the store reads it."""
    melt = bench.store.advance(bench.reserve([bench.token(owner, [16, 8])], amount=10), MeltState.MELTING)
    parts = [new(8), new(4)]
    bench.store.settle(melt, [], shortfall=12, fees_paid=2, preimage="00", unproved=parts)
    return bench.named(owner, f"{melt.transaction_id}_unproved")


def reclaim_of(token: Token) -> Melt:
    return make_melt([token], kind=JournalKind.RECLAIM, idempotency_key=None, payment_hash=None, quote_id=None)


def test_change_that_we_have_stored_apart_is_reclaimed_without_a_warrant(bench: Bench) -> None:
    """It was made of signatures that nobody else has seen, so nobody else may need it."""
    source = unproved_change(bench, npub())
    assert source.status is TokenStatus.FAILED
    melt = bench.store.reserve(reclaim_of(source), blanks=None, seed_id=SEED)
    assert (melt.state, bench.again(source)) == (MeltState.RESERVED, source)


@pytest.mark.parametrize("touched", ["status", "proofs", "owner"])
def test_change_that_another_has_touched_since_needs_a_warrant_like_all_else(bench: Bench, touched: str) -> None:
    """I13: from then on another writer may need it."""
    source = unproved_change(bench, npub())
    fields: dict[str, dict[str, Any]] = {
        "status": {"status": UNSPENT},
        "proofs": {"proofs": source.proofs[:1]},
        "owner": {"npub": npub()},
    }
    bench.change(source, **fields[touched])
    entry = reclaim_of(bench.again(source))
    with pytest.raises(InvariantBroken):
        bench.store.reserve(entry, blanks=None, seed_id=SEED)
    assert bench.store.melt(entry.id) is None


def test_what_was_handed_out_is_never_reserved_and_has_a_line_of_its_own(bench: Bench) -> None:
    """A ``sent`` document is its recipient's, whatever its status says."""
    user = npub()
    sent = bench.token(user, [16], transaction_type="sent")
    own = bench.token(user, [4])
    assert [token.id for token in bench.store.spendable(user, [MINT_URL], "sat")] == [own.id]
    assert bench.sums(user) == {"sent": 16, "unspent": 4}
    with pytest.raises(LostRace):
        bench.reserve([sent], amount=10)
    assert bench.again(sent) == sent


def test_what_is_split_from_a_document_that_was_handed_out_stays_so(bench: Bench) -> None:
    """With its parent: a part that was redeemed takes nothing of the rest from its recipient."""
    user = npub()
    sent = bench.token(user, [16, 4, 1], transaction_type="sent")
    ys = [sent.proofs[0].y]
    record = bench.store.record([finding(sent, ys=ys)])[0]
    assert bench.store.correct(correction(record, sent)) is True
    rest = bench.named(user, f"{sent.transaction_id}_keep")
    assert (rest.transaction_type, rest.status, rest.amount) == ("sent", UNSPENT, 5)
    assert bench.sums(user) == {"spent": 16, "sent": 5}
    assert bench.store.spendable(user, [MINT_URL], "sat") == ()


# --- T3 and release ---


def test_t3_spends_stores_change_and_settles_at_once(bench: Bench) -> None:
    """And a second time answers what the first one did."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [4])
    melt = bench.store.advance(bench.reserve([one, two], amount=10), MeltState.MELTING)
    change = [new(8), new(1)]
    settled, result = bench.store.settle(melt, change, shortfall=0, fees_paid=1, preimage="00")
    assert (settled.state, settled.change_amount, settled.fees_paid, settled.preimage) == (
        MeltState.SETTLED,
        9,
        1,
        "00",
    )
    assert (result.source_tokens_spent, result.melt_change_amount, result.melt_change_token_id) == (
        2,
        9,
        settled.change_token_id,
    )
    assert bench.store.melt(melt.id) == settled
    assert bench.sums(user) == {"spent": 20, "unspent": 9}
    spent = bench.again(one)
    assert (spent.reservation, spent.spent_at is not None) == (None, True)
    assert bench.named(user, f"{melt.transaction_id}_melt_change").amount == 9
    assert bench.store.settle(melt, change, shortfall=0, fees_paid=1, preimage="00")[0] == settled
    assert bench.sums(user) == {"spent": 20, "unspent": 9}


def records(bench: Bench) -> SpentRecords:
    """The store as the guards see it."""
    store = bench.store
    assert isinstance(store, ModelStore | MongoStore)
    return store


def test_what_a_mint_called_spent_is_remembered_newest_first(bench: Bench) -> None:
    """Inputs of settled entries and what a rule marked on the mint's word; not what somebody else recorded as spent."""
    user, guards = npub(), records(bench)
    theirs = bench.token(user, [2], status="spent")
    assert guards.spent_memory(MintAlias("main"), MINT_URL, 10).known == ()
    assert guards.spent_memory(MintAlias("main"), MINT_URL + "/", 10).hints == (theirs.proofs[0].y,)

    melt = bench.store.advance(bench.reserve([bench.token(user, [16])], amount=10), MeltState.MELTING)
    bench.store.settle(melt, [], shortfall=2, fees_paid=4, preimage=None)
    (paid,) = (ref.y for ref in melt.inputs)
    marked = bench.token(user, [8])
    bench.clock.at += timedelta(seconds=1)
    assert mark_spent(bench, marked)

    memory = guards.spent_memory(MintAlias("main"), MINT_URL + "/", 10)
    assert (memory.known, memory.hints) == ((marked.proofs[0].y, paid), ())
    assert guards.spent_memory(MintAlias("main"), MINT_URL, 1).known == (marked.proofs[0].y,)
    assert guards.spent_memory(MintAlias("other"), "http://other.example", 10).known == ()
    never = y_of("never")
    once = guards.once_spent([paid, marked.proofs[0].y, theirs.proofs[0].y, never])
    assert once.keys() == {paid, marked.proofs[0].y}
    assert guards.once_spent([]) == {}


def test_what_a_person_has_resolved_is_no_longer_held_against_the_mint(bench: Bench) -> None:
    """Evidence from before that is not known any more; what ended by itself changes nothing."""
    guards, alias, subject = records(bench), MintAlias("main"), "mint:main"
    marked = bench.token(npub(), [8])
    assert mark_spent(bench, marked)
    y = marked.proofs[0].y

    def raised() -> None:
        bench.clock.at += timedelta(seconds=1)
        bench.store.raise_event(
            EventType.MINT_STATE_REGRESSED,
            subject,
            mint=alias,
            detail="forgot",
            requires_manual_intervention=False,
            evidence={"ys": f"{y},{y}"},
        )

    raised()
    assert guards.spent_memory(alias, MINT_URL, 10).regressed == (y, y)
    bench.clock.at += timedelta(seconds=1)
    bench.store.resolve_event(EventType.MINT_STATE_REGRESSED, subject, reason=SANE_AGAIN)
    memory = guards.spent_memory(alias, MINT_URL, 10)
    assert (memory.known, memory.regressed, memory.accepted_at) == ((y,), (), None)

    raised()
    bench.store.resolve_event(EventType.MINT_STATE_REGRESSED, subject, reason="restored (uid 0)")
    memory = guards.spent_memory(alias, MINT_URL, 10)
    assert (memory.known, memory.accepted_at) == ((), bench.clock.at)
    assert guards.once_spent([y]).keys() == {y}, "that it was so is not forgotten"


def test_t3_of_an_entry_that_has_moved_on_writes_nothing(bench: Bench) -> None:
    """The journal's revision decides for the whole transaction."""
    user = npub()
    source = bench.token(user, [16])
    stale = bench.store.advance(bench.reserve([source], amount=10), MeltState.MELTING)
    bench.store.advance(stale, MeltState.PENDING, post=PostOutcome.PENDING)
    with pytest.raises(LostRace):
        bench.store.settle(stale, [new(4)], shortfall=0, fees_paid=2, preimage=None)
    assert bench.sums(user) == {"pending": 16}


def test_t3_books_what_the_mint_kept_and_never_a_negative_fee(bench: Bench) -> None:
    """Without change it leaves no document, and a second time is no other."""
    user = npub()
    melt = bench.store.advance(bench.reserve([bench.token(user, [16])], amount=10), MeltState.MELTING)
    with pytest.raises(InvariantBroken):
        bench.store.settle(melt, [], shortfall=0, fees_paid=-1, preimage=None)
    settled, _ = bench.store.settle(melt, [], shortfall=2, fees_paid=4, preimage=None)
    assert (settled.change_token_id, settled.shortfall) == (None, 2)
    assert bench.store.settle(melt, [], shortfall=2, fees_paid=4, preimage=None)[0] == settled


def test_t3_without_an_entry(bench: Bench) -> None:
    """Whole documents of one user, reserved by nobody who is open."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [4])
    owner = Owner(npub=user, wallet_id=None, mint_url=MINT_URL)
    fields: dict[str, Any] = {"transaction_id": "tx_own", "owner": owner, "actor": ACTOR}
    keep, change = [new(2)], [new(1)]
    result = bench.store.execute_atomic_melt(
        source_token_ids=[one.id], keep_proofs=keep, melt_change_proofs=change, **fields
    )
    assert (result.source_tokens_spent, result.keep_amount, result.melt_change_amount) == (1, 2, 1)
    assert bench.sums(user) == {"spent": 16, "unspent": 7}
    again = bench.store.execute_atomic_melt(
        source_token_ids=[one.id], keep_proofs=keep, melt_change_proofs=change, **fields
    )
    assert (again.source_tokens_spent, again.keep_token_id) == (1, result.keep_token_id)
    assert bench.sums(user) == {"spent": 16, "unspent": 7}
    other = {**fields, "transaction_id": "tx_other"}
    with pytest.raises(StoreError) as spent:
        bench.store.execute_atomic_melt(source_token_ids=[one.id], keep_proofs=(), melt_change_proofs=(), **other)
    assert spent.value.code is Code.TOKEN_ALREADY_SPENT
    bench.reserve([two], amount=2)
    with pytest.raises(LostRace):
        bench.store.execute_atomic_melt(source_token_ids=[two.id], keep_proofs=(), melt_change_proofs=(), **other)
    with pytest.raises(StoreError):
        bench.store.execute_atomic_melt(source_token_ids=[], keep_proofs=(), melt_change_proofs=(), **other)


def test_a_release_gives_back_and_marks_what_others_took(bench: Bench) -> None:
    """A document with both kinds keeps the spent proofs; the rest becomes its sibling."""
    user = npub()
    one, two = bench.token(user, [16, 2], transaction_id="tx_one"), bench.token(user, [4])
    melt = followed(bench, bench.reserve([one, two], amount=10), PostOutcome.FAILED)
    gone = one.proofs[0].y
    released = bench.store.release(melt, spent=(gone,), error_code="TOKEN_ALREADY_SPENT", error_detail="others")
    assert (released.state, released.error_code) == (MeltState.RELEASED, "TOKEN_ALREADY_SPENT")
    assert bench.sums(user) == {"spent": 16, "unspent": 6}
    taken = bench.again(one)
    assert (taken.status, [proof.y for proof in taken.proofs]) == (SPENT, [gone])
    assert bench.named(user, "tx_one_keep").amount == 2
    back = bench.again(two)
    assert (back.status, back.reservation) == (UNSPENT, None)
    assert bench.store.release(melt, spent=(gone,), error_code="TOKEN_ALREADY_SPENT", error_detail="o") == released
    assert bench.sums(user) == {"spent": 16, "unspent": 6}


OTHERS: dict[str, Callable[[Bench, Token], None]] = {
    "failed": lambda bench, token: bench.change(token, status=FAILED),
    "spent": lambda bench, token: bench.change(token, status=SPENT),
    "unspent": lambda bench, token: bench.change(token, status=UNSPENT),
    "deleted": lambda bench, token: bench.delete(token),
    "another's": lambda bench, token: bench.change(token, npub="npub1" + "z" * 58),
    "another mint's": lambda bench, token: bench.change(token, mint_url="http://elsewhere"),
    "unreserved": lambda bench, token: bench.change(token, reservation=None),
    "taken back": lambda bench, token: bench.change(token, status=UNSPENT, reservation=None),
    "less": lambda bench, token: bench.change(token, proofs=bench.again(token).proofs[:1]),
}
"""What others do to a reserved document."""
AFTER_T3 = {"deleted": None, "unreserved": PENDING, "taken back": UNSPENT}
"""What becomes of it by T3, where it is not spent."""
AFTER_RELEASE = {"deleted": None, "unreserved": PENDING, "spent": SPENT}
"""By a release, where it is not unspent."""
LEFT = {"unreserved", "taken back"}
"""Left as others have them."""


def told_state(bench: Bench, user: str, token: Token) -> DiscrepancyState:
    """Of the record of what others did to a reserved document; there is one, and it says how much lay there."""
    types = [DriftType.RESERVED_TOKEN_CHANGED]
    (record,) = bench.store.discrepancies(states=(), types=types, severities=(), npub=user, limit=10)
    assert (record.token_id, record.value, record.action) == (token.id, token.amount, Action.RECORD)
    return record.state


@pytest.mark.parametrize("other", OTHERS)
def test_a_payment_settles_whatever_others_did_to_its_documents(bench: Bench, other: str) -> None:
    """The change is stored and the entry ends; what still carries its mark is spent, the rest is told and left."""
    user = npub()
    one, two = bench.token(user, [16, 8]), bench.token(user, [4])
    melt = followed(bench, bench.reserve([one, two], amount=10))
    OTHERS[other](bench, one)
    settled, _ = bench.store.settle(melt, [new_proof(1)], shortfall=0, fees_paid=17, preimage=None)
    assert (settled.state, settled.change_amount) == (MeltState.SETTLED, 1)
    found = bench.store.tokens([one.id])
    after = found[0] if found else None
    assert (after.status if isinstance(after, Token) else None) is AFTER_T3.get(other, SPENT)
    assert not isinstance(after, Token) or after.reservation is None
    assert (bench.again(two).status, bench.again(two).reservation) == (SPENT, None)
    (told,) = settled.altered
    assert (told.token_id, told.amount) == (one.id, 24)
    assert told.written is (other not in {*LEFT, "deleted"})
    assert told_state(bench, user, one) is (DiscrepancyState.OPEN if other in LEFT else DiscrepancyState.CORRECTED)
    assert bench.store.melt(melt.id) == settled
    assert bench.store.input_proofs(settled, [two.proofs[0].y]) == (
        () if isinstance(bench.store, ModelStore) else two.proofs
    )


@pytest.mark.parametrize("other", OTHERS)
def test_a_release_gives_everything_back_whatever_others_did(bench: Bench, other: str) -> None:
    """What lies in no document any more is put back, and nothing twice."""
    user = npub()
    one, two = bench.token(user, [16, 8]), bench.token(user, [4])
    melt = followed(bench, bench.reserve([one, two], amount=10), PostOutcome.FAILED)
    OTHERS[other](bench, one)
    released = bench.store.release(melt, spent=(), error_code="PAYMENT_FAILED", error_detail="no")
    assert (released.state, len(released.altered)) == (MeltState.RELEASED, 1)
    assert told_state(bench, user, one) is (DiscrepancyState.OPEN if other in LEFT else DiscrepancyState.CORRECTED)
    found = bench.store.tokens([one.id])
    after = found[0] if found else None
    assert (after.status if isinstance(after, Token) else None) is AFTER_RELEASE.get(other, UNSPENT)
    assert not isinstance(after, Token) or after.reservation is None
    assert bench.again(two).status is UNSPENT
    put_back = {"deleted": 24, "less": 8}.get(other, 0)
    if put_back:
        returned = bench.named(user, f"{melt.transaction_id}_returned")
        assert (returned.status, returned.amount) == (UNSPENT, put_back)
    assert ("melt_returned" in {reason for reason, _, _ in bench.reasons(melt)}) is bool(put_back)


def test_what_others_took_at_the_mint_is_not_put_back(bench: Bench) -> None:
    """Their document is gone, and so is the value."""
    user = npub()
    one = bench.token(user, [16, 8])
    melt = followed(bench, bench.reserve([one], amount=10), PostOutcome.FAILED)
    bench.delete(one)
    assert set(bench.store.strayed_inputs(melt)) == {proof.y for proof in one.proofs}
    bench.store.release(melt, spent=[one.proofs[0].y], error_code="X", error_detail="x")
    assert bench.named(user, f"{melt.transaction_id}_returned").amount == 8


def test_proofs_that_others_have_put_into_another_document_are_not_put_back(bench: Bench) -> None:
    """They would count twice."""
    user = npub()
    one = bench.token(user, [16])
    melt = followed(bench, bench.reserve([one], amount=10), PostOutcome.FAILED)
    bench.delete(one)
    proof = one.proofs[0]
    bench.token(user, [{"id": proof.keyset_id, "amount": 16, "secret": proof.secret, "C": proof.c}])
    bench.store.release(melt, spent=(), error_code="X", error_detail="x")
    assert bench.sums(user) == {"unspent": 16}


def test_an_open_entry_keeps_its_proofs_whatever_becomes_of_their_documents(bench: Bench) -> None:
    """By them the swap, the fence and the payment are sent."""
    user = npub()
    one, two = bench.token(user, [16]), bench.token(user, [4])
    melt = bench.reserve([one, two], amount=10)
    assert bench.store.strayed_inputs(melt) == ()
    bench.delete(one)
    bench.change(two, reservation=None)
    ys = [ref.y for ref in melt.inputs]
    assert bench.store.input_proofs(melt, ys) == (*one.proofs, *two.proofs)
    assert set(bench.store.strayed_inputs(melt)) == set(ys)


def test_inputs_that_are_gone_end_with_nothing_called_paid_and_the_invoice_claimed(bench: Bench) -> None:
    """I1: nobody knows, so nobody may try again."""
    user = npub()
    one = bench.token(user, [16, 4])
    melt = bench.store.advance(followed(bench, bench.reserve([one], amount=10)), MeltState.HELD)
    person = Actor(name="operator", uid=1000)
    decision = Resolution(outcome=ResolveAs.INPUTS_GONE, reason="nobody knows", actor=person, at=bench.clock.at)
    ended = bench.store.finish_gone(melt, decision)
    assert (ended.state, ended.paid_amount, ended.fees_paid) == (MeltState.SETTLED, None, None)
    assert (ended.unaccounted, ended.shortfall, ended.error_code) == (20, 0, "OUTCOME_UNKNOWN")
    assert ended.payment_hash is not None
    assert bench.store.melt_by_payment_hash(ended.payment_hash) == ended
    assert bench.sums(user) == {"spent": 20}
    entries = bench.store.audit(token_id=None, melt_id=melt.id, limit=9)
    assert [(e.actor, e.note) for e in entries if e.reason == "melt_inputs_gone"] == [(person, "nobody knows")]
    assert bench.store.finish_gone(melt, decision) == ended
    with pytest.raises(LostRace):
        bench.store.settle(melt, [], shortfall=0, fees_paid=10, preimage=None)
    other = Resolution(outcome=ResolveAs.SETTLED, reason="x", actor=person, at=bench.clock.at)
    with pytest.raises(InvariantBroken):
        bench.store.finish_gone(melt, other)


def test_what_a_person_decides_stands_in_the_audit(bench: Bench) -> None:
    """With the reason given."""
    user = npub()
    melt = followed(bench, bench.reserve([bench.token(user, [16])], amount=10))
    held = bench.store.advance(melt, MeltState.HELD)
    person = Actor(name="operator", uid=1000)
    decision = Resolution(outcome=ResolveAs.SETTLED, reason="seen the node", actor=person, at=bench.clock.at)
    held = bench.store.advance(held, MeltState.HELD, resolution=decision)
    assert bench.store.melt(melt.id) == held
    settled, _ = bench.store.settle(held, [], shortfall=0, fees_paid=6, preimage=None)
    assert settled.resolution == decision
    last = bench.store.audit(token_id=None, melt_id=melt.id, limit=1)[0]
    assert (last.to_status, last.actor, last.note) == (SPENT, person, "seen the node")


def test_documents_are_marked_spent_once_and_never_under_an_open_melt(bench: Bench) -> None:
    """A failed one is final, too."""
    user = npub()
    one, two, failed = bench.token(user, [16]), bench.token(user, [4]), bench.token(user, [1], status="failed")
    mark = bench.store.mark_tokens_spent
    assert mark([one.id], operation_id="op1", reason="told", actor=ACTOR) == 1
    assert mark([one.id], operation_id="op1", reason="told", actor=ACTOR) == 0
    assert mark([one.id], operation_id="op2", reason="told", actor=ACTOR) == 0
    with pytest.raises(StoreError):
        mark([failed.id], operation_id="op3", reason="told", actor=ACTOR)
    with pytest.raises(LostRace):
        mark([TokenId("f" * 24)], operation_id="op4", reason="told", actor=ACTOR)
    bench.reserve([two], amount=2)
    with pytest.raises(LostRace):
        mark([two.id], operation_id="op5", reason="told", actor=ACTOR)
    assert bench.sums(user) == {"spent": 16, "pending": 4, "failed": 1}


# --- findings ---


def test_a_finding_is_opened_seen_again_cleared_and_opened_anew(bench: Bench) -> None:
    """One record for ever, with its occurrences; confirmed by how long the same was seen."""
    token = bench.token(npub(), [16, 4])
    started = bench.clock.at
    first = bench.store.record([finding(token)])[0]
    assert (first.state, first.sightings, first.occurrence) == (DiscrepancyState.OPEN, 1, 1)
    assert (first.first_seen, first.same_since) == (started, started)
    bench.clock.at += timedelta(seconds=10)
    again = bench.store.record([finding(token)])[0]
    assert (again.sightings, again.first_seen, again.same_since) == (2, started, started)
    bench.clock.at += timedelta(seconds=10)
    other = bench.store.record([finding(token, ys=[token.proofs[0].y])])[0]
    assert (other.sightings, other.same_since) == (3, bench.clock.at)
    assert bench.store.count_open_discrepancies() == {("DB_UNSPENT_MINT_SPENT", "HIGH", "m"): 1}
    assert bench.store.clear_unseen([f"token:{token.id}"], [other.id]) == 0
    assert bench.store.clear_unseen([f"token:{token.id}"], []) == 1
    assert bench.store.count_open_discrepancies() == {}
    assert bench.store.open_discrepancies_of([token.id], [Severity.HIGH]) == ()
    anew = bench.store.record([finding(token)])[0]
    assert (anew.state, anew.occurrence, anew.sightings) == (DiscrepancyState.RECURRED, 2, 1)
    assert bench.store.open_discrepancies_of([token.id], [Severity.HIGH]) == (anew,)
    assert bench.store.open_discrepancies_of([token.id], [Severity.LOW]) == ()
    assert bench.store.discrepancies_of_proof(token.proofs[0].y, 5) == (anew,)


def test_a_correction_splits_corrects_and_is_done_once(bench: Bench) -> None:
    """The document keeps what was spent; the rest becomes its sibling; the record is closed."""
    user = npub()
    token = bench.token(user, [16, 4], transaction_id="tx_a")
    record = bench.store.record([finding(token, ys=[token.proofs[1].y])])[0]
    assert bench.store.correct(correction(record, token)) is True
    assert bench.sums(user) == {"spent": 4, "unspent": 16}
    assert bench.named(user, "tx_a_keep").amount == 16
    assert bench.store.correct(correction(record, token)) is True
    assert bench.sums(user) == {"spent": 4, "unspent": 16}
    closed = bench.store.discrepancies(states=(), types=(), severities=(), npub=user, limit=5)[0]
    assert (closed.state, closed.closed_at) == (DiscrepancyState.CORRECTED, bench.clock.at)
    entry = bench.store.audit(token_id=token.id, melt_id=None, limit=1)[0]
    assert (entry.reason, entry.discrepancy_id, entry.actor) == ("DB_UNSPENT_MINT_SPENT", record.id, ACTOR)
    assert bench.store.audit_of_proof(token.proofs[1].y, 5)[0] == entry


def test_a_correction_leaves_alone_what_has_moved_on(bench: Bench) -> None:
    """Another status, another revision, an open melt, a closed record: nothing is done."""
    user = npub()
    token = bench.token(user, [16])
    record = bench.store.record([finding(token)])[0]
    assert bench.store.correct(correction(record, token, expected_status=PENDING)) is False
    assert bench.store.correct(correction(record, token, expected_rev=5)) is False
    assert bench.store.correct(correction(record, token, occurrence=9)) is False
    assert bench.store.correct(correction(record, token, token_id=TokenId("f" * 24))) is False
    assert bench.again(token) == token
    melt = bench.reserve([token], amount=10)
    held = bench.again(token)
    assert bench.store.correct(correction(record, held)) is False
    bench.store.release(melt, spent=(), error_code="X", error_detail="x")
    bench.store.clear_unseen([f"token:{token.id}"], [])
    assert bench.store.correct(correction(record, bench.again(token))) is False
    assert bench.sums(user) == {"unspent": 16}


def test_final_statuses_stay_final(bench: Bench) -> None:
    """I7: no correction turns a spent document back."""
    token = bench.token(npub(), [16], status="spent")
    record = bench.store.record([finding(token, action=Action.RELEASE)])[0]
    with pytest.raises(InvariantBroken):
        bench.store.correct(correction(record, token, UNSPENT))
    assert bench.again(token) == token


# --- events, sweeps, instances ---


def test_an_event_is_open_once_and_closed_with_its_time(bench: Bench) -> None:
    """Seen again it stays as old as it is; closed, the next one is another."""

    def raised(detail: str, opened_at: datetime | None = None) -> tuple[Any, bool]:
        return bench.store.raise_event(
            EventType.MELT_HELD,
            "melt:x",
            mint=MintAlias("m"),
            detail=detail,
            requires_manual_intervention=True,
            evidence={"a": 1},
            opened_at=opened_at,
        )

    early = bench.clock.at - timedelta(seconds=60)
    first, opened = raised("one", early)
    assert (opened, first.opened_at, first.sightings) == (True, early, 1)
    bench.clock.at += timedelta(seconds=5)
    second, opened = raised("two")
    assert (opened, second.id, second.opened_at, second.sightings, second.detail) == (False, first.id, early, 2, "two")
    assert [event.id for event in bench.store.events(open_only=True, limit=5)] == [first.id]
    closed = bench.store.resolve_event(EventType.MELT_HELD, "melt:x", reason="over")
    assert closed is not None
    assert (closed.id, closed.resolution, closed.recovery_s) == (first.id, "over", 65.0)
    assert bench.store.resolve_event(EventType.MELT_HELD, "melt:x", reason="over") is None
    assert bench.store.events(open_only=True, limit=5) == ()
    third, opened = raised("three")
    assert opened
    assert third.id != first.id


def test_a_sweep_is_kept_by_mint(bench: Bench) -> None:
    """The last one saved."""
    now = bench.clock.at
    record = SweepRecord(
        mint=MintAlias("m"),
        tour=1,
        position=TokenId("a" * 24),
        started_at=now,
        updated_at=now,
        finished_at=None,
        documents=3,
        proofs=9,
        total_documents=12,
        found={"AMOUNT_MISMATCH": 1},
        corrected={},
        error=None,
    )
    bench.store.save_sweep(record)
    bench.store.save_sweep(replace(record, tour=2))
    assert bench.store.sweeps() == (replace(record, tour=2),)


def test_instances_renew(bench: Bench) -> None:
    """Each its own count."""
    for holder in ("a", "b", "a"):
        bench.store.renew_instance(holder)
    assert bench.store.instances() == {"a": 2, "b": 1}
    bench.store.ping()


def test_the_model_has_every_method_of_the_port() -> None:
    """A method that the model lacks would not be simulated."""
    wanted = {name for name in vars(Store) if not name.startswith("_")}
    assert wanted <= set(dir(ModelStore))


# --- leases, and what is written under one ---

SHARD = sweep_shard(MintAlias("m"))


def sweep_record(tour: int = 1) -> SweepRecord:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return SweepRecord(
        mint=MintAlias("m"),
        tour=tour,
        position=None,
        started_at=at,
        updated_at=at,
        finished_at=None,
        documents=0,
        proofs=0,
        total_documents=0,
        found={},
        corrected={},
        error=None,
        succeeded_at=at,
    )


def lease_of(bench: Bench) -> Lease | None:
    return bench.leases.lease_book().leases.get(SHARD)


def taken(bench: Bench, holder: str, why: TakenBecause = TakenBecause.LAPSED) -> Fence:
    fence = bench.leases.take_lease(SHARD, holder, seen=lease_of(bench), why=why)
    assert fence is not None
    return fence


def test_a_lease_is_taken_by_one_of_those_who_saw_it_the_same(bench: Bench) -> None:
    assert lease_of(bench) is None
    first = bench.leases.take_lease(SHARD, "a", seen=None, why=TakenBecause.FIRST)
    assert first == Fence(shard=SHARD, holder="a", epoch=1)
    assert bench.leases.take_lease(SHARD, "b", seen=None, why=TakenBecause.FIRST) is None
    seen = lease_of(bench)
    assert seen is not None
    assert bench.leases.renew_lease(first)
    assert bench.leases.take_lease(SHARD, "b", seen=seen, why=TakenBecause.LAPSED) is None, "it was renewed since"
    second = taken(bench, "b")
    assert second == Fence(shard=SHARD, holder="b", epoch=2)
    assert not bench.leases.renew_lease(first)
    assert not bench.leases.release_lease(first)
    assert bench.leases.renew_lease(second)
    assert bench.leases.release_lease(second)
    free = lease_of(bench)
    assert free is not None
    assert (free.holder, free.epoch) == (None, 2)
    assert taken(bench, "a").epoch == 3


def test_members_say_what_they_can_do_until_they_leave(bench: Bench) -> None:
    other = sweep_shard(MintAlias("n"))
    bench.store.renew_instance("a")
    bench.leases.announce("a", [SHARD, other])
    bench.leases.announce("b", [SHARD])
    bench.leases.announce("b", [])
    members = bench.leases.lease_book().members
    assert {m.holder: (m.shards, m.renewals) for m in members.values()} == {
        "a": (frozenset({SHARD, other}), 1),
        "b": (frozenset(), 2),
    }
    bench.leases.leave("a")
    assert set(bench.leases.lease_book().members) == {"b"}
    assert bench.store.instances() == {"a": 1}, "the lease of its melts is another thing"


def test_writes_under_a_lease_that_has_gone_are_refused_and_write_nothing(bench: Bench) -> None:
    owner = npub()
    token = bench.token(owner, [8, 4])
    spent = bench.token(owner, [16], status="spent")
    stale = taken(bench, "a")
    with fencing.under(stale):
        record = bench.store.record([finding(token)])[0]
        bench.store.save_sweep(sweep_record())
    taken(bench, "b")
    reclaim = make_melt([spent], kind=JournalKind.RECLAIM, payment_hash=None, idempotency_key=None, fee_reserve=0)
    writes: list[Callable[[], object]] = [
        lambda: bench.store.record([finding(token)]),
        lambda: bench.store.clear_unseen([f"token:{token.id}"], []),
        lambda: bench.store.correct(correction(record, token)),
        lambda: bench.store.save_sweep(sweep_record(tour=9)),
        lambda: bench.store.reserve(reclaim, blanks=None, seed_id=SEED),
    ]

    for write in writes:
        with fencing.under(stale), pytest.raises(LeaseLost):
            write()

    assert bench.again(token) == token
    after = bench.store.open_discrepancies_of([token.id], list(Severity))
    assert [(one.sightings, one.state) for one in after] == [(1, DiscrepancyState.OPEN)]
    assert [one.tour for one in bench.store.sweeps()] == [1]
    assert bench.store.melt(reclaim.id) is None
    assert bench.store.audit(token_id=None, melt_id=None, limit=10) == ()


def test_a_lease_that_was_given_up_fences_too(bench: Bench) -> None:
    fence = taken(bench, "a")
    assert bench.leases.release_lease(fence)
    with fencing.under(fence), pytest.raises(LeaseLost):
        bench.store.save_sweep(sweep_record())


def test_the_audit_says_under_which_lease_a_correction_was_made(bench: Bench) -> None:
    owner = npub()
    token, other = bench.token(owner, [8, 4]), bench.token(owner, [2])
    fence = taken(bench, "a")
    with fencing.under(fence):
        record = bench.store.record([finding(token)])[0]
        assert bench.store.correct(correction(record, token, ys=(token.proofs[0].y,)))
    record = bench.store.record([finding(other)])[0]
    assert bench.store.correct(correction(record, other))

    entries = bench.store.audit(token_id=None, melt_id=None, limit=10)
    by_token = {entry.token_id: entry.fence for entry in entries}
    assert len(entries) == 3, "two documents and what was split off"
    assert by_token.pop(other.id) is None
    assert set(by_token.values()) == {fence}
    assert bench.store.open_discrepancies_of([token.id, other.id], list(Severity)) == ()


def test_corrections_of_the_last_hour_are_known_to_whoever_takes_over(bench: Bench) -> None:
    owner = npub()
    start = bench.clock.at
    for _ in range(3):
        token = bench.token(owner, [8])
        record = bench.store.record([finding(token)])[0]
        assert bench.store.correct(correction(record, token))
    bench.store.record([finding(bench.token(owner, [4]))])

    assert len(bench.leases.corrected_since(MintAlias("m"), start, 10)) == 3
    assert len(bench.leases.corrected_since(MintAlias("m"), start, 2)) == 2
    assert len(bench.leases.corrected_since(MintAlias("m"), start + timedelta(seconds=2), 10)) == 2
    assert bench.leases.corrected_since(MintAlias("n"), start, 10) == ()
