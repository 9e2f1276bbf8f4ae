"""The repair of the double count in the database: the search's cursor, the batches, the wish for the index (ADR 13)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

from melt.audit import repaired
from melt.duplicates import digest_of
from melt.errors import InvariantBroken
from melt.model import (
    LIVE_STATUSES,
    OPEN_DISCREPANCY,
    TERMINAL,
    DiscrepancyState,
    DriftType,
    MalformedToken,
    TokenId,
    TokenStatus,
)
from melt.model.repair import DocumentSecrets, UniqueProofsWish, repaired_reason
from melt.store.core import Core, in_batches
from melt.store.documents import (
    amount_of,
    amounts_of,
    created_at_of,
    moment_of,
    raw_ids,
    read_token,
    token_id_of,
    whole_number,
)
from melt.store.faults import AlreadyDone, Retry, store_method
from melt.store.findings import close_update, read_watched
from melt.store.journal import encode, read_actor, record_time
from melt.store.ledger import BATCH_MAX, Held, Ledger
from melt.store.long_cursor import LongCursor, id_of
from melt.store.schema import UNIQUE_PROOFS_WISH
from melt.store.tour import chosen_behind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    from melt.model import Actor, Token, Y
    from melt.model.repair import RepairBatch, RepairStep
    from melt.ports import RepairStore, SecretTour, Telemetry
    from melt.store.connect import Document

REMOVED_FIELD = "meltd_removed_proofs"
"""Where a document keeps what a repair took out of it: nothing is ever deleted."""
_CURSOR_BATCH = 500
_SHAPE = (
    "proofs.secret",
    "proofs.amount",
    "status",
    "transaction_type",
    "npub",
    "wallet_id",
    "createdAt",
    "created_at",
    "spent_at",
)
"""What a search for duplicates and a survey read of a document: of its proofs no signature."""
_ENDED_MELT = sorted(state.value for state in TERMINAL)
_CLOSABLE = sorted([*(state.value for state in OPEN_DISCREPANCY), DiscrepancyState.ACKNOWLEDGED.value])
_LIVE = sorted(status.value for status in LIVE_STATUSES)


class Repairs(Core):
    """Implements :class:`melt.ports.RepairStore`."""

    def secret_tour(self) -> SecretTour:
        """See :class:`MongoSecretTour`. Asks nothing before its first page."""
        return MongoSecretTour(self._c.tokens, self.telemetry)

    @store_method
    def documents_estimated(self) -> int:
        """From the collection's own count."""
        return self._c.tokens.estimated_document_count()

    @store_method
    def counting_documents(self, npub: str) -> tuple[Token, ...]:
        """See :meth:`melt.ports.RepairStore.counting_documents`. By the index on npub and status, hence unordered."""
        found = map(read_token, self._c.tokens.find({"npub": npub, "status": {"$in": list(_LIVE)}}))
        return tuple(token for token in found if not isinstance(token, MalformedToken))

    @store_method
    def apply_repairs(self, batch: RepairBatch) -> tuple[str | None, ...]:
        """See :meth:`melt.ports.RepairStore.apply_repairs`."""
        _check_size(batch)
        now = self._now()

        def work(session: ClientSession) -> tuple[str | None, ...]:
            ledger = RepairLedger(
                self._c,
                session,
                now=now,
                operation_id=batch.operation_id,
                actor=batch.actor,
                gate=partial(self._pass_gate, session, finishing=False),
            )
            ledger.begin()
            held = self._held(session, batch)
            blocked = self._blocked(session, held, batch)
            settled = self._stood_still(session, held, batch)
            answers = tuple(_why_not(step, held, blocked) or _why_not_yet(step, settled) for step in batch.steps)
            done = [step for step, answer in zip(batch.steps, answers, strict=True) if answer is None]
            ledger.carry_out(done, held, note=batch.note)
            ledger.finish()
            self._close(session, batch, answers, now)
            return answers

        try:
            return self._run(work)
        except AlreadyDone:
            written = {raw["token_id"] for raw in self._c.audit.find({"operation": batch.operation_id})}
            return tuple(None if step.token_id in written else "the document had moved on" for step in batch.steps)

    def _held(self, session: ClientSession, batch: RepairBatch) -> Mapping[TokenId, Held]:
        """The readable documents of a batch; what is gone or can't be read is left out."""
        wanted = sorted(frozenset().union(*(step.touches for step in batch.steps)))
        chosen = {"_id": {"$in": [raw_id for token_id in wanted for raw_id in raw_ids(token_id)]}}
        found: dict[TokenId, Held] = {}
        for raw in self._c.tokens.find(chosen, session=session):
            token = read_token(raw)
            if not isinstance(token, MalformedToken):
                found[token.id] = Held(raw=raw, token=token)
        return found

    def _blocked(self, session: ClientSession, held: Mapping[TokenId, Held], batch: RepairBatch) -> frozenset[str]:
        """Documents and Ys that an open melt (or a reclaim, which reserves no document) holds now."""
        melts = {str(h.token.reservation.melt_id): h.token.id for h in held.values() if h.token.reservation is not None}
        blocked: set[str] = set()
        if melts:
            chosen = {"_id": {"$in": sorted(melts)}, "state": {"$nin": _ENDED_MELT}}
            blocked |= {melts[raw["_id"]] for raw in self._c.melts.find(chosen, {"_id": 1}, session=session)}
        ys = sorted({y for step in batch.steps for y in (*step.ys, *(removal.y for removal in step.removals))})
        for part in in_batches(ys, BATCH_MAX):
            for raw in self._c.melts.find({"held": {"$in": list(part)}}, {"held": 1}, session=session):
                blocked |= set(raw["held"])
        return frozenset(blocked)

    def _stood_still(
        self, session: ClientSession, held: Mapping[TokenId, Held], batch: RepairBatch
    ) -> frozenset[TokenId]:
        """
        The documents that may be repaired by what their records say: watched standing still for long enough, as they are (I13).

        A repair is a person's word about the rule, not about each document: another writer may be at work on one of them. Where
        nobody else writes all of them are.
        """
        losing = [step.token_id for step in batch.steps]
        if not self._settle.waits:
            return frozenset(losing)
        needs_ms = round(1000 * self._settle.correct_after_s)
        chosen = {
            "token_id": {"$in": [str(token_id) for token_id in losing]},
            "type": {"$in": [str(DriftType.DUPLICATE_PROOF), str(DriftType.LEGACY_MELTED_DOCUMENT)]},
            "state": {"$in": _CLOSABLE},
        }
        found: set[TokenId] = set()
        for raw in self._c.discrepancies.find(chosen, {"token_id": 1, "watched": 1}, session=session):
            token_id, watched = TokenId(raw["token_id"]), read_watched(raw)
            stands = token_id in held and watched.mark == held[token_id].token.mark
            if stands and watched.watched_ms >= needs_ms:
                found.add(token_id)
        return frozenset(found)

    def _close(self, session: ClientSession, batch: RepairBatch, answers: Sequence[str | None], now: Any) -> None:
        """End the records that the done steps end, except for documents that a step left undone still concerns."""
        undone: set[TokenId] = set()
        for step, answer in zip(batch.steps, answers, strict=True):
            if answer is not None:
                undone |= step.touches
        closing = [
            record
            for step, answer in zip(batch.steps, answers, strict=True)
            if answer is None
            for record in step.closes
            if record.rpartition("token:")[2] not in undone
        ]
        if closing:
            chosen = {"_id": {"$in": closing}, "state": {"$in": _CLOSABLE}}
            update = close_update(DiscrepancyState.CORRECTED, now)
            self._c.discrepancies.update_many(chosen, update, session=session)

    # --- the wish for the unique index ---

    @store_method
    def unique_proofs_wish(self) -> UniqueProofsWish | None:
        """See :meth:`melt.ports.RepairStore.unique_proofs_wish`."""
        raw = self._c.wishes.find_one({"_id": UNIQUE_PROOFS_WISH})
        return None if raw is None else _read_wish(raw)

    @store_method
    def wish_unique_proofs(self, *, actor: Actor, reason: str) -> UniqueProofsWish:
        """See :meth:`melt.ports.RepairStore.wish_unique_proofs`."""
        fresh: Document = {"_id": UNIQUE_PROOFS_WISH, "at": self._now(), "actor": encode(actor), "reason": reason}

        def work(session: ClientSession) -> UniqueProofsWish:
            present = self._c.wishes.find_one({"_id": UNIQUE_PROOFS_WISH}, session=session)
            collided = False
            if present is None:
                try:
                    self._c.wishes.insert_one(fresh, session=session)
                except DuplicateKeyError:
                    collided = True
            if collided:
                raise Retry
            return _read_wish(present or fresh)

        return self._run(work)


class RepairLedger(Ledger):
    """The token writes of one batch of a repair."""

    def carry_out(self, steps: Sequence[RepairStep], held: Mapping[TokenId, Held], *, note: str) -> None:
        """
        Write the documents that lose proofs, and bump the ``rev`` of those that keep them.

        The bump makes two repairs that would take the same proof out of *both* documents write one document, so
        that one of them loses (a snapshot alone would let both through).
        """
        losing = {step.token_id for step in steps}
        for step in steps:
            self._take_out(step, held[step.token_id], note)
        for token_id in sorted({keeper for step in steps for keeper in step.keepers} - losing):
            keeper = held[token_id]
            self._compare_and_set(keeper, {"$set": {"rev": (keeper.token.rev or 0) + 1}})

    def _take_out(self, step: RepairStep, held: Held, note: str) -> None:
        token = held.token
        leaving = {removal.y: removal for removal in step.removals}
        pairs = list(zip(held.raw.get("proofs") or [], token.proofs, strict=True))
        kept = [raw for raw, proof in pairs if proof.y not in leaving]
        changed: Document = {"updatedAt": self._now, "rev": (token.rev or 0) + 1}
        update: Document = {"$set": changed}
        if not kept and step.to_status is TokenStatus.SPENT:
            # All of them live elsewhere. They stay here as history: a wallet's own validators refuse a document without proofs.
            changed["total_amount"] = sum(amounts_of([raw for raw, _ in pairs]))
        elif leaving:
            changed["proofs"] = kept
            changed["total_amount"] = sum(amounts_of(kept))
            archived = [
                {
                    "proof": raw,
                    "kept_in": str(leaving[proof.y].kept_in),
                    "operation": self._operation_id,
                    "reason": repaired_reason(step.reason),
                    "at": self._now,
                }
                for raw, proof in pairs
                if proof.y in leaving
            ]
            update["$push"] = {REMOVED_FIELD: {"$each": archived}}
            if whole_number(held.raw.get("__v")) is not None:
                # As in Ledger.move: a service that loaded the document before must not bring the proofs back.
                update["$inc"] = {"__v": 1}
        if step.to_status is not token.status:
            changed["status"] = str(step.to_status)
            changed["spent_at"] = self._now
            update["$unset"] = {"reservation": ""}
        gone = {proof.y for proof in token.proofs} if step.to_status is not token.status else set(leaving)
        self._compare_and_set(held, update)
        self.entries.append(
            repaired(
                operation_id=self._operation_id,
                at=self._now,
                token_id=token.id,
                npub=token.npub,
                mint_url=token.mint_url,
                from_status=token.status,
                to_status=step.to_status,
                amount=sum(proof.amount for proof in token.proofs if proof.y in gone),
                ys=tuple(proof.y for proof in token.proofs if proof.y in gone),
                reason=repaired_reason(step.reason),
                actor=self._actor,
                note=note,
            )
        )


def _why_not(step: RepairStep, held: Mapping[TokenId, Held], blocked: frozenset[str]) -> str | None:
    """Why a step may not be carried out on the documents as they are now; None: it may."""
    mine = held.get(step.token_id)
    if mine is None or any(keeper not in held for keeper in step.keepers):
        return "a document is gone or can't be read any more"
    token = mine.token
    if token.status is not step.status or token.rev != step.rev or {proof.y for proof in token.proofs} != set(step.ys):
        return "the document had moved on"
    if blocked & ({str(token_id) for token_id in step.touches} | {str(removal.y) for removal in step.removals}):
        return "an open melt holds one of the documents or proofs"
    if not step.removals and blocked & {str(y) for y in step.ys}:
        return "an open melt holds one of the proofs"
    for removal in step.removals:
        keeper = held[removal.kept_in].token
        stands = removal.kept_status in {None, keeper.status} and _holds(keeper.proofs, removal.y)
        if keeper.id == token.id or not stands:
            return "the document that was to keep a proof had moved on"
    return None


def _why_not_yet(step: RepairStep, settled: frozenset[TokenId]) -> str | None:
    """Why a step that could be carried out is left for later; None: it need not be."""
    if step.token_id in settled:
        return None
    return "the document has not stood still for long enough: it is watched from now on, repair it later"


def _holds(proofs: Sequence[Any], y: Y) -> bool:
    return any(proof.y == y for proof in proofs)


def _check_size(batch: RepairBatch) -> None:
    """Assertions on what the planner promises: bounded, and no document changed by two steps."""
    losing = [step.token_id for step in batch.steps]
    touched = frozenset().union(*(step.touches for step in batch.steps)) if batch.steps else frozenset()
    if len(losing) != len(set(losing)) or len(touched) > BATCH_MAX:
        msg = "a batch of a repair must touch at most 100 documents and change none twice"
        raise InvariantBroken(msg)


def _read_wish(raw: Document) -> UniqueProofsWish:
    return UniqueProofsWish(at=record_time(raw["at"]), actor=read_actor(raw["actor"]), reason=raw["reason"])


class MongoSecretTour:
    """
    Implements :class:`melt.ports.SecretTour`: one long cursor in ``_id`` order that fetches nothing but secrets.

    Secrets leave this class as digests (I10).
    """

    def __init__(self, tokens: Collection[Document], telemetry: Telemetry | None) -> None:
        self.telemetry = telemetry
        self._tokens = tokens
        self._cursor = LongCursor(self._open_behind, id_of)

    @store_method
    def next_page(self, documents_max: int) -> tuple[DocumentSecrets, ...]:
        """See :meth:`melt.ports.SecretTour.next_page`."""
        return self._cursor.page(_secrets_of, documents_max)

    def close(self) -> None:
        """See :meth:`melt.store.long_cursor.LongCursor.close`."""
        self._cursor.close()

    def _open_behind(self, position: object) -> Cursor[Document]:
        shape = dict.fromkeys(_SHAPE, 1)
        return self._tokens.find(chosen_behind({}, position), shape).sort("_id", 1).batch_size(_CURSOR_BATCH)


def _secrets_of(raw: Document) -> DocumentSecrets:
    held = raw.get("proofs")
    proofs = [proof for proof in (held if isinstance(held, list) else []) if isinstance(proof, dict)]
    amounts: dict[bytes, int] = {}
    for proof in proofs:
        secret = proof.get("secret")
        if isinstance(secret, str) and secret:
            amounts.setdefault(digest_of(secret), max(0, amount_of(proof.get("amount")) or 0))
    return DocumentSecrets(
        id=token_id_of(raw["_id"]),
        digests=tuple(amounts),
        amounts=tuple(amounts.values()),
        proofs=len(held) if isinstance(held, list) else 0,
        status=_text(raw.get("status")),
        transaction_type=_text(raw.get("transaction_type")),
        npub=_text(raw.get("npub")),
        wallet_id="" if raw.get("wallet_id") is None else str(raw["wallet_id"])[:80],
        value=sum(amounts.values()),
        created_at=created_at_of(raw),
        spent_at=moment_of(raw.get("spent_at")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _keeps_the_contract(store: Repairs) -> RepairStore:
    """Lets the type checker hold the class to the port."""
    return store
