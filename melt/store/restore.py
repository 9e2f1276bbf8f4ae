"""The database as a restore asks for it: what the journal has planned, what no document holds, and the import (NUT-09)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from melt.audit import correction_operation
from melt.ecash import y_of
from melt.errors import InvariantBroken, LostRace
from melt.model import (
    OPEN_DISCREPANCY,
    TERMINAL,
    DiscrepancyState,
    DriftType,
    JournalKind,
    KeysetId,
    MeltId,
    MeltState,
    MintAlias,
    TokenId,
    TokenStatus,
    normalise_mint_url,
)
from melt.model.restore import CounterPosition, ImportResult, JournalPosition, RestoreRecord
from melt.store.atomic import AtomicMelts
from melt.store.core import in_batches, new_mark
from melt.store.documents import raw_ids, whole_number
from melt.store.faults import AlreadyDone, store_method
from melt.store.findings import close_update
from melt.store.journal import encode, moment, read_melt, record_time
from melt.store.ledger import BATCH_MAX
from melt.store.long_cursor import LongCursor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    from melt.model import Melt, NewProof, Y
    from melt.model.restore import RestoreImport
    from melt.ports import EndedMelts, Telemetry
    from melt.store.connect import Document

RESTORED: Final = "restored"
"""The reason by which the audit tells of an import."""
_PLAN_OUTPUTS_MAX: Final = 1000
_PLANS: Final = ("blanks", "swap.outputs", "fence.outputs")
_CURSOR_BATCH: Final = 100
_OPEN: Final = sorted(state.value for state in OPEN_DISCREPANCY)
_NOT_ENDED: Final = sorted(state.value for state in (*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED))


class Restores(AtomicMelts):
    """Implements :class:`melt.ports.RestoreStore`."""

    # --- the journal ---

    def ended_melts(
        self, mint_url: str, *, after: JournalPosition | None, since: datetime | None, until: datetime | None
    ) -> EndedMelts:
        """See :meth:`melt.ports.RestoreStore.ended_melts`. Asks nothing before its first page."""
        chosen: Document = {"mint_key": normalise_mint_url(mint_url)}
        # An entry that is open has null there, which no date is compared with.
        chosen["ended_at"] = {"$type": "date"}
        if since is not None:
            chosen["ended_at"]["$gte"] = since
        if until is not None:
            chosen["ended_at"]["$lt"] = until
        return _EndedMelts(self._c.melts, chosen, after, self.telemetry)

    @store_method
    def planned_counters(self, seed_id: str, keyset_id: KeysetId, first: int, end: int) -> tuple[tuple[int, int], ...]:
        """
        See :meth:`melt.ports.RestoreStore.planned_counters`.

        One query for all kinds of plans: a server that reads the whole journal for it does so once.
        """
        overlapping = {"$gt": first - _PLAN_OUTPUTS_MAX, "$lt": end}
        chosen = [
            {f"{path}.keyset_id": str(keyset_id), f"{path}.counter": overlapping, f"{path}.seed_id": seed_id}
            for path in _PLANS
        ]
        parts = {f"{path}.{name}": 1 for path in _PLANS for name in ("seed_id", "keyset_id", "counter", "amounts")}
        found: list[tuple[int, int]] = []
        for raw in self._c.melts.find({"$or": chosen}, parts):
            for path in _PLANS:
                plan: Any = raw
                for name in path.split("."):
                    plan = plan.get(name) if isinstance(plan, dict) else None
                if plan and (plan["seed_id"], plan["keyset_id"]) == (seed_id, str(keyset_id)):
                    found.append((int(plan["counter"]), len(plan["amounts"])))
        return tuple(sorted(found))

    # --- the documents ---

    @store_method
    def absent(self, proofs: Sequence[NewProof], *, likely: Sequence[TokenId]) -> frozenset[Y]:
        """
        See :meth:`melt.ports.RestoreStore.absent`.

        The likely documents are read by ``_id``; only what they don't hold is looked for in the whole collection, which some
        servers read from one end to the other for it.
        """
        missing = {proof.secret for proof in proofs}
        raw_likely = [raw_id for token_id in dict.fromkeys(likely) for raw_id in raw_ids(token_id)]
        for ids in in_batches(raw_likely, BATCH_MAX):
            if missing:
                missing -= self._secrets({"_id": {"$in": list(ids)}})
        for secrets in in_batches(sorted(missing), BATCH_MAX):
            missing -= self._secrets({"proofs.secret": {"$in": list(secrets)}})
        return frozenset(y_of(secret) for secret in missing)

    def _secrets(self, chosen: Document) -> set[str]:
        held: set[str] = set()
        for raw in self._c.tokens.find(chosen, {"proofs.secret": 1}):
            proofs = raw.get("proofs")
            for proof in proofs if isinstance(proofs, list) else ():
                secret = proof.get("secret") if isinstance(proof, dict) else None
                if isinstance(secret, str):
                    held.add(secret)
        return held

    @store_method
    def wallet_of(self, npub: str, mint_url: str, unit: str) -> str | None:
        """See :meth:`melt.ports.RestoreStore.wallet_of`."""
        units = self._units(npub, mint_url)
        return next((wallet_id for wallet_id, found in units if found == unit), None)

    def _units(self, npub: str, mint_url: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for wallet in self._c.wallets.find({"npub": npub}, {"mint_url": 1, "wallet_config.unit": 1}):
            url, config = wallet.get("mint_url"), wallet.get("wallet_config")
            if isinstance(url, str) and normalise_mint_url(url) == normalise_mint_url(mint_url):
                unit = config.get("unit") if isinstance(config, dict) else None
                found.append((str(wallet["_id"]), unit if isinstance(unit, str) and unit else "sat"))
        return sorted(found)

    # --- records ---

    @store_method
    def acknowledged(self, discrepancy_ids: Sequence[str]) -> frozenset[str]:
        """See :meth:`melt.ports.RestoreStore.acknowledged`."""
        found: set[str] = set()
        for batch in in_batches(list(discrepancy_ids), BATCH_MAX):
            chosen = {"_id": {"$in": list(batch)}, "state": str(DiscrepancyState.ACKNOWLEDGED)}
            found |= {raw["_id"] for raw in self._c.discrepancies.find(chosen, {"_id": 1})}
        return frozenset(found)

    @store_method
    def clear_not_in_db(self, subjects: Sequence[str]) -> int:
        """See :meth:`melt.ports.RestoreStore.clear_not_in_db`. Other types about the same subject are not touched."""
        cleared = 0
        for batch in in_batches([f"{DriftType.PROOF_NOT_IN_DB}:{subject}" for subject in subjects], BATCH_MAX):
            # Read first, outside of any transaction: almost always there is nothing to close.
            chosen = {"_id": {"$in": list(batch)}, "state": {"$in": _OPEN}}
            ids = [raw["_id"] for raw in self._c.discrepancies.find(chosen, {"_id": 1})]
            if not ids:
                continue
            closing = close_update(DiscrepancyState.CLEARED, self._now())
            still = {"_id": {"$in": ids}, "state": {"$in": _OPEN}}

            def work(session: ClientSession, still: Document = still, closing: Document = closing) -> int:
                return self._c.discrepancies.update_many(still, closing, session=session).modified_count

            cleared += self._run(work)
        return cleared

    @store_method
    def save_restore(self, record: RestoreRecord) -> None:
        """Write one mint's record."""
        raw = encode(record)
        raw["_id"] = raw.pop("mint")
        chosen = {"_id": raw["_id"]}
        self._run(lambda session: self._c.restores.replace_one(chosen, raw, upsert=True, session=session))

    @store_method
    def restores(self) -> tuple[RestoreRecord, ...]:
        """Every mint's, by alias."""
        return tuple(sorted((_read_record(raw) for raw in self._c.restores.find()), key=lambda record: record.mint))

    # --- the import ---

    @store_method
    def import_restored(self, restored: RestoreImport) -> ImportResult:
        """See :meth:`melt.ports.RestoreStore.import_restored`."""
        mark, now = new_mark(), self._now()
        operation_id = correction_operation(restored.discrepancy_id, restored.occurrence)

        def work(session: ClientSession) -> ImportResult:
            return self._import(session, restored, operation_id, mark, now)

        try:
            return self._run(work)
        except AlreadyDone:
            entries = [(raw["token_id"], int(raw["amount"])) for raw in self._c.audit.find({"operation": operation_id})]
            return ImportResult(
                token_ids=tuple(TokenId(token_id) for token_id, _ in sorted(entries)),
                amount=sum(amount for _, amount in entries),
                again=True,
            )

    def _import(
        self, session: ClientSession, restored: RestoreImport, operation_id: str, mark: str, now: datetime
    ) -> ImportResult:
        ledger = self._new_ledger(
            session,
            now=now,
            operation_id=operation_id,
            actor=restored.actor,
            melt_id=restored.owned_by_melt,
            discrepancy_id=restored.discrepancy_id,
        )
        ledger.begin()
        melt = None if restored.owned_by_melt is None else self._ended_entry(session, restored.owned_by_melt)
        late = 0 if melt is None else self._late_change(session, melt, restored)
        made = ledger.store_new(
            restored.owner,
            restored.proofs,
            name=restored.name,
            parent=restored.parent,
            status=TokenStatus.UNSPENT,
            reason=RESTORED,
        )
        ledger.finish()
        self._close_record(session, restored, made[0], now)
        amount = sum(proof.amount for proof in restored.proofs)
        if melt is None or not late:
            return ImportResult(token_ids=made, amount=amount)
        paid, left = self._book_late_change(session, melt, late, made[0], mark, now)
        return ImportResult(token_ids=made, amount=amount, late_change=late, shortfall_paid=paid, shortfall_left=left)

    def _ended_entry(self, session: ClientSession, melt_id: MeltId) -> Melt:
        melt = self._one({"_id": str(melt_id)}, session)
        if melt is None or melt.state not in TERMINAL:
            msg = f"melt {melt_id} has not ended: its recovery decides about its outputs"
            raise LostRace(msg)
        return melt

    def _close_record(self, session: ClientSession, restored: RestoreImport, made: TokenId, now: datetime) -> None:
        record = {"_id": restored.discrepancy_id, "occurrence": restored.occurrence, "state": {"$in": _OPEN}}
        closing = close_update(DiscrepancyState.CORRECTED, now)
        closing["$set"]["token_id"] = str(made)
        if self._c.discrepancies.update_one(record, closing, session=session).modified_count != 1:
            # Raised, not answered: the transaction must not be committed.
            msg = f"discrepancy {restored.discrepancy_id} is no longer open at occurrence {restored.occurrence}"
            raise LostRace(msg)

    def _late_change(self, session: ClientSession, melt: Melt, restored: RestoreImport) -> int:
        """
        How much of the import is change that this database never had, so that the settlement booked it otherwise.

        What the audit knows of was stored once and has gone since: the books have it already.
        """
        if melt.kind is not JournalKind.MELT or melt.state is not MeltState.SETTLED:
            return 0
        known: set[str] = set()
        for raw in self._c.audit.find({"melt_id": str(melt.id)}, {"ys": 1}, session=session):
            known |= set(raw["ys"])
        ys = {y_of(proof.secret): proof.amount for proof in restored.proofs}
        late = sum(amount for y, amount in ys.items() if y in restored.change_ys and y not in known)
        # No more than the books miss: what a mint gives beyond that is nobody's shortfall and nobody's fee.
        missing = melt.unaccounted if melt.inputs_gone else melt.shortfall + (melt.fees_paid or 0)
        return min(late, missing)


class _EndedMelts:
    """Implements :class:`melt.ports.EndedMelts`."""

    def __init__(
        self,
        melts: Collection[Document],
        chosen: Document,
        after: JournalPosition | None,
        telemetry: Telemetry | None,
    ) -> None:
        self.telemetry = telemetry
        self._melts = melts
        self._chosen = chosen
        position = None if after is None else (after.at, str(after.melt_id))
        self._cursor = LongCursor(self._open_behind, _position_of, position)

    @store_method
    def next_page(self, entries_max: int) -> tuple[Melt, ...]:
        """See :meth:`melt.ports.EndedMelts.next_page`."""
        return self._cursor.page(_readable, entries_max)

    def close(self) -> None:
        """See :meth:`melt.store.long_cursor.LongCursor.close`."""
        self._cursor.close()

    def _open_behind(self, position: tuple[datetime, str] | None) -> Cursor[Document]:
        chosen = dict(self._chosen)
        if position is not None:
            at, melt_id = position
            chosen["$or"] = [{"ended_at": {"$gt": at}}, {"ended_at": at, "_id": {"$gt": melt_id}}]
        return self._melts.find(chosen).sort([("ended_at", 1), ("_id", 1)]).batch_size(_CURSOR_BATCH)


def _position_of(raw: Document) -> tuple[datetime, str]:
    return raw["ended_at"], raw["_id"]


def _readable(raw: Document) -> Melt | None:
    """None where it can't be read: a damaged entry is told of elsewhere while it is open, and has ended here."""
    try:
        return read_melt(raw)
    except InvariantBroken:
        return None


def _read_record(raw: Document) -> RestoreRecord:
    counters = raw.get("counters")
    return RestoreRecord(
        mint=MintAlias(raw["_id"]),
        rounds=int(raw["rounds"]),
        started_at=record_time(raw["started_at"]),
        updated_at=record_time(raw["updated_at"]),
        finished_at=moment(raw.get("finished_at")),
        recent=_read_position(raw.get("recent")),
        past=_read_position(raw.get("past")),
        counters=None
        if counters is None
        else CounterPosition(keyset_id=KeysetId(counters["keyset_id"]), counter=int(counters["counter"])),
        recent_passes=whole_number(raw.get("recent_passes")) or 0,
        past_passes=whole_number(raw.get("past_passes")) or 0,
        counters_passes=whole_number(raw.get("counters_passes")) or 0,
        error=raw.get("error"),
    )


def _read_position(raw: Document | None) -> JournalPosition | None:
    return None if raw is None else JournalPosition(at=record_time(raw["at"]), melt_id=MeltId(raw["melt_id"]))
