"""The journal: T1, conditional moves, swap plans, and looking entries up (DESIGN section 4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import DuplicateKeyError

from melt.audit import reserve_operation
from melt.errors import DuplicateMelt, InvariantBroken, LostRace
from melt.model import (
    MELT_MOVES,
    TERMINAL,
    JournalKind,
    KeysetId,
    MeltId,
    MeltState,
    MintAlias,
    OutputPlan,
    PostOutcome,
    Reservation,
    SwapPlan,
    Token,
    TokenStatus,
    TransactionType,
    Y,
    normalise_mint_url,
)
from melt.store.core import Core, bounded, in_batches, new_mark
from melt.store.documents import raw_ids, read_token
from melt.store.door import is_unproved_change, pass_door
from melt.store.faults import Retry, key_of, store_method
from melt.store.inputs import raw_of, ys_by_token
from melt.store.journal import MELT_FIELDS, held_ys, melt_document, melt_update, read_melt
from melt.store.ledger import BATCH_MAX, Held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pymongo.client_session import ClientSession

    from melt.model import InputRef, Melt, TokenId, Warrant
    from melt.store.connect import Document
    from melt.store.ledger import Loose

_OPEN_STATES = [state.value for state in MeltState if state not in TERMINAL]
_FIXED_FIELDS = frozenset({"id", "rev", "state", "created_at", "updated_at"})
_COUNTER_MAX = 2**31 - 1
"""NUT-13 derives from hardened BIP-32 indices, which are below 2^31."""


class Melts(Core):
    """The journal part of :class:`melt.ports.Store`, without the ends of a melt (:mod:`melt.store.settlement`)."""

    # --- reading ---

    @store_method
    def melt(self, melt_id: MeltId) -> Melt | None:
        """The entry."""
        return self._one({"_id": str(melt_id)})

    @store_method
    def melt_by_key(self, idempotency_key: str) -> Melt | None:
        """The entry that has this idempotency key."""
        return self._one({"idempotency_key": idempotency_key})

    @store_method
    def melt_by_payment_hash(self, payment_hash: str) -> Melt | None:
        """The one entry that claims this payment hash: any state but RELEASED."""
        return self._one({"claim": payment_hash})

    @store_method
    def open_melts(self) -> tuple[Melt, ...]:
        """
        All entries that hold inputs, oldest first.

        One that can't be read does not hide the others: :meth:`unreadable_melts` tells of it.
        """
        found = [melt for melt, _ in self._open_entries() if melt is not None]
        return tuple(sorted(found, key=lambda melt: (melt.created_at, melt.id)))

    @store_method
    def unreadable_melts(self) -> tuple[tuple[MeltId, str | None, MintAlias | None], ...]:
        """Open entries that can't be read: damaged by another hand. Their ids, and whose they seem to be, where told."""
        return tuple(
            (
                MeltId(str(raw.get("_id"))),
                raw["npub"] if isinstance(raw.get("npub"), str) else None,
                MintAlias(raw["mint"]) if isinstance(raw.get("mint"), str) else None,
            )
            for melt, raw in self._open_entries()
            if melt is None
        )

    def _open_entries(self) -> Iterator[tuple[Melt | None, Document]]:
        for raw in self._c.melts.find({"state": {"$in": _OPEN_STATES}}):
            try:
                yield read_melt(raw), raw
            except InvariantBroken:
                yield None, raw

    @store_method
    def list_melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        """Newest first; an empty ``states`` means all."""
        chosen: Document = {}
        if npub is not None:
            chosen["npub"] = npub
        if states:
            chosen["state"] = {"$in": [str(state) for state in states]}
        found = self._c.melts.find(chosen).sort("created_at", -1).limit(bounded(limit))
        return tuple(read_melt(raw) for raw in found)

    @store_method
    def live_melt_ids(self, ids: Sequence[MeltId]) -> frozenset[MeltId]:
        """Those of ``ids`` whose entry exists and is open."""
        live: set[MeltId] = set()
        by_text = {str(melt_id): melt_id for melt_id in ids}
        for batch in in_batches(list(by_text), BATCH_MAX):
            chosen = {"_id": {"$in": list(batch)}, "state": {"$in": _OPEN_STATES}}
            live |= {by_text[raw["_id"]] for raw in self._c.melts.find(chosen, {"_id": 1})}
        return frozenset(live)

    @store_method
    def melts_with_proof(self, y: Y, limit: int) -> tuple[Melt, ...]:
        """See :meth:`melt.ports.Store.melts_with_proof`."""
        found = self._c.melts.find({"inputs.y": str(y)}).sort("created_at", -1).limit(bounded(limit))
        return tuple(read_melt(raw) for raw in found)

    @store_method
    def pending_since(self) -> tuple[int, timedelta]:
        """How many melts are open, and the age of the oldest."""
        created = [raw["created_at"] for raw in self._c.melts.find({"state": {"$in": _OPEN_STATES}}, {"created_at": 1})]
        if not created:
            return 0, timedelta()
        return len(created), max(self._clock.now() - min(created), timedelta())

    def _one(self, chosen: Document, session: ClientSession | None = None) -> Melt | None:
        raw = self._c.melts.find_one(chosen, session=session)
        return None if raw is None else read_melt(raw)

    # --- T1 ---

    @store_method
    def reserve(
        self, melt: Melt, *, blanks: tuple[KeysetId, int] | None, seed_id: str, warrant: Warrant | None = None
    ) -> Melt:
        """
        T1; see :meth:`melt.ports.Store.reserve`. The move, the split, the counters and the intent are one transaction.

        ``source_token_ids`` of the returned entry are the inputs' documents where the caller gave none.
        """
        if melt.state is not MeltState.RESERVED:
            msg = f"melt {melt.id} starts as RESERVED, not {melt.state}"
            raise InvariantBroken(msg)
        mark = new_mark()
        now = self._now()
        start = replace(melt, created_at=_whole_ms(melt.created_at), updated_at=now)
        # What has no blanks is a reclaim, which a tour may have begun; its later steps are the journal's own to guard.
        run = self._run_fenced if blanks is None else self._run_alone
        return run(lambda session: self._reserve(session, start, blanks, seed_id, mark, warrant))

    def _reserve(
        self,
        session: ClientSession,
        melt: Melt,
        blanks: tuple[KeysetId, int] | None,
        seed_id: str,
        mark: str,
        warrant: Warrant | None,
    ) -> Melt:
        stored = self._c.melts.find_one({"_id": str(melt.id)}, session=session)
        if stored is not None:
            if stored.get("operation") == mark:
                return read_melt(stored)
            msg = f"melt {melt.id} is there already"
            raise DuplicateMelt(msg, melt_id=melt.id)
        self._refuse_claimed(melt, session)
        entry = melt
        if blanks is not None:
            entry = replace(entry, blanks=self._take_counters(session, seed_id, blanks[0], (0,) * blanks[1]))
        if melt.kind is not JournalKind.RECLAIM:
            entry, proofs = self._reserve_inputs(session, entry)
        else:
            # It writes no document yet, but its swap at the mint comes next and must not begin while meltd observes.
            self._pass_gate(session, finishing=False)
            self._require_warrant(session, entry, warrant)
            self._refuse_shared(session, entry)
            proofs = self._raw_inputs(session, entry)
        if not entry.source_token_ids:
            entry = replace(entry, source_token_ids=tuple(dict.fromkeys(ref.token_id for ref in entry.inputs)))
        self._insert_entry(session, entry, mark, proofs)
        return entry

    def _reserve_inputs(self, session: ClientSession, melt: Melt) -> tuple[Melt, list[Document]]:
        """
        Move the inputs' documents to pending; what they hold beyond the inputs becomes ``<tx>_keep``.

        With the entry come the inputs' raw proofs.
        """
        ledger = self._new_ledger(
            session,
            now=melt.updated_at,
            operation_id=reserve_operation(melt.id),
            actor=melt.actor,
            melt_id=melt.id,
        )
        wanted = ys_by_token(melt.inputs)
        reservation = Reservation(melt_id=melt.id, at=melt.updated_at)
        rests: list[Loose] = []
        proofs: list[Document] = []
        for held in ledger.load(wanted):
            check_owner(melt, held.token.npub, held.token.mint_url, held.token.id)
            if held.token.status is not TokenStatus.UNSPENT or self._is_reserved(session, held.token):
                msg = f"token {held.token.id} is {held.token.status} and can't be reserved"
                raise LostRace(msg)
            if held.token.is_sent:
                msg = f"token {held.token.id} was handed out: its proofs are their recipient's"
                raise LostRace(msg)
            check_amounts(melt.inputs, {proof.y: proof.amount for proof in held.token.proofs}, held.token.id)
            rest = ledger.move(
                held,
                TokenStatus.PENDING,
                reason="melt_reserved",
                take=wanted[held.token.id],
                reservation=reservation,
            )
            proofs += raw_of(held, wanted[held.token.id])
            if rest is not None:
                rests.append(rest)
        kept = ledger.store_loose(
            rests,
            name=f"{melt.transaction_id}_keep",
            parent=melt.transaction_id,
            status=TokenStatus.UNSPENT,
            reason="melt_split",
        )
        ledger.finish()
        keep_amount = sum(entry.amount for entry in ledger.entries if entry.from_status is None)
        reserved = replace(
            melt, keep_token_ids=(*melt.keep_token_ids, *kept), keep_amount=melt.keep_amount + keep_amount
        )
        return reserved, proofs

    def _is_reserved(self, session: ClientSession, token: Token) -> bool:
        """Whether an open entry has reserved it: the mark of one that has ended, brought back by another writer, is none."""
        return token.reservation is not None and self._is_live(session, token.reservation.melt_id)

    def _is_live(self, session: ClientSession, melt_id: MeltId) -> bool:
        found = self._one({"_id": str(melt_id)}, session)
        return found is not None and found.is_open

    def _raw_inputs(self, session: ClientSession, melt: Melt) -> list[Document]:
        """The inputs' raw proofs, from their documents."""
        wanted = ys_by_token(melt.inputs)
        ledger = self._new_ledger(session, now=melt.updated_at, operation_id="", actor=melt.actor)
        found = [held for held in ledger.find(wanted).values() if isinstance(held, Held)]
        return [raw for held in found for raw in raw_of(held, wanted[held.token.id])]

    def _refuse_claimed(self, melt: Melt, session: ClientSession) -> None:
        """The unique indexes hold this too; here the refusal can name the other melt."""
        claims: list[Document] = []
        if melt.idempotency_key is not None:
            claims.append({"idempotency_key": melt.idempotency_key})
        if melt.payment_hash is not None:
            claims.append({"claim": melt.payment_hash})
        for claim in claims:
            taken = self._c.melts.find_one(claim, {"_id": 1}, session=session)
            if taken is not None:
                msg = "the idempotency key or the payment hash is taken by another melt"
                raise DuplicateMelt(msg, melt_id=taken["_id"])
        for batch in in_batches(held_ys(melt), BATCH_MAX):
            other = self._c.melts.find_one({"held": {"$in": list(batch)}}, {"_id": 1}, session=session)
            if other is not None:
                msg = f"open melt {other['_id']} holds one of the proofs"
                raise LostRace(msg)

    def _require_warrant(self, session: ClientSession, melt: Melt, warrant: Warrant | None) -> None:
        """A reclaim swaps proofs of a document that it doesn't reserve: it passes the door like any correction (I13)."""
        if warrant is None:
            self._require_unproved(session, melt)
            return
        for raw in self._c.tokens.find({"_id": {"$in": list(raw_ids(warrant.token_id))}}, session=session):
            token = read_token(raw)
            if isinstance(token, Token) and {ref.token_id for ref in melt.inputs} == {token.id}:
                pass_door(self._c, session, warrant, token, self._settle)
                return
        msg = f"token {warrant.token_id} is gone, can't be read, or is not what reclaim {melt.id} is about"
        raise LostRace(msg)

    def _require_unproved(self, session: ClientSession, melt: Melt) -> None:
        """Without a warrant a reclaim is about unproved change that we have stored ourselves, and about nothing else."""
        ids = {ref.token_id for ref in melt.inputs}
        raw = [raw_id for token_id in ids for raw_id in raw_ids(token_id)]
        found = [read_token(one) for one in self._c.tokens.find({"_id": {"$in": raw}}, session=session)]
        ours = [one.id for one in found if isinstance(one, Token) and is_unproved_change(self._c, session, one)]
        if set(ours) != ids:
            msg = f"reclaim {melt.id} comes without a warrant"
            raise InvariantBroken(msg)

    def _refuse_shared(self, session: ClientSession, melt: Melt) -> None:
        """
        LostRace where another document holds one of the proofs too: a reclaim would take it from there.

        A service that keeps proofs unchanged stores them anew beside their spent source, and old code has copied them, into
        ``sent`` documents for one. A user's own ``melted`` copy counts for nothing and holds nothing up.
        """
        wanted = ys_by_token(melt.inputs)
        ids = [raw_id for token_id in wanted for raw_id in raw_ids(token_id)]
        ys = {str(ref.y) for ref in melt.inputs}
        secrets: list[str] = []
        for raw in self._c.tokens.find({"_id": {"$in": ids}}, session=session):
            token = read_token(raw)
            if isinstance(token, Token):
                secrets += [proof.secret for proof in token.proofs if proof.y in ys]
        for batch in in_batches(secrets, BATCH_MAX):
            chosen = {"proofs.secret": {"$in": list(batch)}, "_id": {"$nin": ids}}
            for other in self._c.tokens.find(chosen, {"npub": 1, "transaction_type": 1}, session=session):
                if other.get("npub") != melt.npub or other.get("transaction_type") != TransactionType.MELTED:
                    msg = f"token {other['_id']} holds one of the proofs too"
                    raise LostRace(msg)

    def _insert_entry(self, session: ClientSession, melt: Melt, mark: str, proofs: Sequence[Document]) -> None:
        collided: str | None = None
        try:
            self._c.melts.insert_one(melt_document(melt, mark, proofs), session=session)
        except DuplicateKeyError as error:
            collided = key_of(error)
        if collided is not None:
            # Somebody committed it between our snapshot and now: the next run sees it and can name it.
            raise Retry

    # --- moves ---

    @store_method
    def advance(self, /, melt: Melt, to: MeltState, **changes: object) -> Melt:
        """
        See :meth:`melt.ports.Store.advance`.

        An entry ends through :meth:`settle`, :meth:`release` or one of the ``finish_`` methods, which end its
        reservations with it: to end it here is refused with :class:`melt.errors.InvariantBroken`.
        """
        if to in TERMINAL and to is not melt.state:
            msg = f"melt {melt.id} can't become {to} without its tokens"
            raise InvariantBroken(msg)
        mark = new_mark()
        now = self._now()
        return self._run(lambda session: self._move(session, melt, to, changes, mark, now))

    @store_method
    def plan_swap(
        self,
        melt: Melt,
        to: MeltState,
        *,
        inputs: Sequence[InputRef],
        amounts: Sequence[int],
        keep: int,
        fee: int,
        keyset_id: KeysetId,
        seed_id: str,
        fence: bool,
    ) -> Melt:
        """See :meth:`melt.ports.Store.plan_swap`."""
        if sum(ref.amount for ref in inputs) != sum(amounts) + fee or not 0 <= keep <= len(amounts):
            msg = f"the swap of melt {melt.id} does not add up"
            raise InvariantBroken(msg)
        mark = new_mark()
        now = self._now()

        def work(session: ClientSession) -> Melt:
            done = self._moved_already(session, melt, mark)
            if done is not None:
                return done
            outputs = self._take_counters(session, seed_id, keyset_id, tuple(amounts))
            plan = SwapPlan(inputs=tuple(inputs), outputs=outputs, keep=keep, fee=fee)
            return self._move(session, melt, to, {"fence" if fence else "swap": plan}, mark, now)

        return self._run_alone(work)

    @store_method
    def renew_blanks(self, melt: Melt, *, keyset_id: KeysetId, count: int, seed_id: str) -> Melt:
        """See :meth:`melt.ports.Store.renew_blanks`."""
        if melt.state is not MeltState.MELTING or melt.post is not PostOutcome.REFUSED:
            msg = f"melt {melt.id} was not refused before its payment, so it is not sent again (I1)"
            raise InvariantBroken(msg)
        mark = new_mark()
        now = self._now()

        def work(session: ClientSession) -> Melt:
            done = self._moved_already(session, melt, mark)
            if done is not None:
                return done
            blanks = self._take_counters(session, seed_id, keyset_id, (0,) * count)
            changes = {"blanks": blanks, "post": PostOutcome.NOT_SENT, "posted_at": None}
            return self._move(session, melt, MeltState.MELTING, changes, mark, now)

        return self._run_alone(work)

    @store_method
    def counter(self, seed_id: str, keyset_id: KeysetId) -> int:
        """See :meth:`melt.ports.Store.counter`."""
        raw = self._c.counters.find_one({"_id": f"{seed_id}:{keyset_id}"})
        return 0 if raw is None else int(raw["next"])

    @store_method
    def raise_counter(self, seed_id: str, keyset_id: KeysetId, at_least: int) -> None:
        """See :meth:`melt.ports.Store.raise_counter`."""
        if not 0 <= at_least <= _COUNTER_MAX:
            msg = f"keyset {keyset_id} can't have {at_least} counters"
            raise InvariantBroken(msg)
        chosen = {"_id": f"{seed_id}:{keyset_id}"}
        update = {"$max": {"next": at_least}}
        self._run_alone(lambda session: self._c.counters.update_one(chosen, update, upsert=True, session=session))

    def _moved_already(self, session: ClientSession, melt: Melt, mark: str) -> Melt | None:
        stored = self._c.melts.find_one({"_id": str(melt.id), "operation": mark}, session=session)
        return None if stored is None else read_melt(stored)

    def _move(
        self,
        session: ClientSession,
        melt: Melt,
        to: MeltState,
        changes: Mapping[str, object],
        mark: str,
        now: Any,
        proofs: Sequence[Document] | None = None,
    ) -> Melt:
        """The one conditional update of the journal, by ``{_id, state, rev}``; the only function that changes a state."""
        if to is not melt.state and to not in MELT_MOVES[melt.state]:
            msg = f"melt {melt.id} can't go from {melt.state} to {to}"
            raise InvariantBroken(msg)
        unknown = set(changes) - (MELT_FIELDS - _FIXED_FIELDS)
        if unknown:
            msg = f"a move of melt {melt.id} can't change {min(unknown)}"
            raise InvariantBroken(msg)
        given: dict[str, Any] = dict(changes)
        new = replace(melt, **given, state=to, rev=melt.rev + 1, updated_at=now)
        if to in TERMINAL and melt.state not in TERMINAL:
            new = replace(new, ended_at=now)
        present = {"_id": str(melt.id), "state": str(melt.state), "rev": melt.rev}
        collided = False
        try:
            update = melt_update(melt, new, mark, proofs)
            updated = self._c.melts.update_one(present, update, session=session).modified_count
        except DuplicateKeyError:
            collided = True
        if collided:
            msg = f"another open melt holds a proof of melt {melt.id}"
            raise LostRace(msg)
        if updated == 1:
            return new
        done = self._moved_already(session, melt, mark)
        if done is None:
            msg = f"melt {melt.id} is no longer {melt.state} at revision {melt.rev}"
            raise LostRace(msg)
        return done

    def _take_counters(
        self, session: ClientSession, seed_id: str, keyset_id: KeysetId, amounts: tuple[int, ...]
    ) -> OutputPlan:
        """Counters for these outputs. An aborted transaction gives them back unused; none is given out twice."""
        collided = False
        raw: Document | None = None
        try:
            raw = self._c.counters.find_one_and_update(
                {"_id": f"{seed_id}:{keyset_id}"},
                {"$inc": {"next": len(amounts)}},
                upsert=True,
                return_document=pymongo.ReturnDocument.AFTER,
                session=session,
            )
        except DuplicateKeyError:
            collided = True
        if collided or raw is None:
            raise Retry
        after = int(raw["next"])
        if after > _COUNTER_MAX:
            msg = f"keyset {keyset_id} has no counters left"
            raise InvariantBroken(msg)
        return OutputPlan(keyset_id=keyset_id, counter=after - len(amounts), amounts=amounts, seed_id=seed_id)


def check_owner(melt: Melt, npub: str, mint_url: str, token_id: TokenId) -> None:
    """
    Raises :class:`melt.errors.LostRace` where a melt would touch another user's or another mint's token.

    It was the melt's own user's when it was chosen: another writer may have moved it since.
    """
    if npub != melt.npub or normalise_mint_url(mint_url) != normalise_mint_url(melt.mint_url):
        msg = f"token {token_id} is not of the user and mint of melt {melt.id}"
        raise LostRace(msg)


def check_amounts(inputs: Sequence[InputRef], amounts: Mapping[Y, int], token_id: TokenId) -> None:
    """Raises :class:`melt.errors.LostRace` where an input's amount is not the document's any more."""
    for ref in inputs:
        if ref.token_id == token_id and amounts.get(ref.y, ref.amount) != ref.amount:
            msg = f"token {token_id} holds a proof with another amount now"
            raise LostRace(msg)


def _whole_ms(moment: Any) -> Any:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
