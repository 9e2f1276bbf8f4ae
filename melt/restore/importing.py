"""Writing down what the database lacks, and importing what may be imported (DESIGN section 5, guards)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.errors import DuplicateSecret, InvariantBroken, LostRace, Observing
from melt.model import Discrepancy, DriftType
from melt.model.restore import Discovery, RestoreImport
from melt.restore.judging import NOT_BELIEVED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melt.events import CriticalEvents
    from melt.model import Finding, Melt, MintAlias, Owner
    from melt.model.restore import ImportResult
    from melt.ports import Clock, Mint, RestoreStore, RestoreTelemetry, Store, StoreThreads
    from melt.restore.judging import Lacking
    from melt.restore.run import Run

_log = structlog.get_logger("melt.restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """What is lacking, with where an import would put it. ``owner`` None: nobody is known. ``melt``: who planned it."""

    lacking: Lacking
    owner: Owner | None
    name: str
    parent: str
    melt: Melt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Records and imports. A dry run asks the same questions and writes nothing."""

    store: Store
    restores: RestoreStore
    threads: StoreThreads
    events: CriticalEvents
    clock: Clock
    telemetry: RestoreTelemetry
    is_paused: Callable[[MintAlias], str | None]
    observing: Callable[[], str | None]

    async def act(
        self, mint: Mint, found: Sequence[Addressed], clear: Sequence[str], run: Run, *, believed: bool
    ) -> None:
        """
        Record ``found``, import what may be, and close the records about ``clear``, which lack nothing.

        ``believed`` false: a sentinel failed, so nothing is imported. Raises StoreError.
        """
        findings = [one.lacking.finding for one in found]
        if not believed:
            findings = [replace(one, evidence={**one.evidence, "mint_state": NOT_BELIEVED}) for one in findings]
        records: Sequence[Discrepancy | Finding] = findings
        ids = [f"{DriftType.PROOF_NOT_IN_DB}:{one.lacking.finding.subject}" for one in found]
        if found and not run.dry_run:
            records = await record_findings(findings, store=self.store, threads=self.threads, telemetry=self.telemetry)
        acknowledged = await self.threads(lambda: self.restores.acknowledged(ids)) if ids else frozenset()
        for one, record, record_id in zip(found, records, ids, strict=True):
            kept_out = (
                "a person has acknowledged it"
                if record_id in acknowledged
                else self._kept_out(mint, one, run, believed)
            )
            if kept_out is None and isinstance(record, Discrepancy):
                kept_out = await self._import(mint, one, record, run)
            if kept_out is None:
                run.caps.count(run.totals, value=record.value, unit=record.unit, now_s=self.clock.monotonic())
            run.note(Discovery(found=record, kept_out=kept_out))
        if clear and not run.dry_run:
            await self.threads(lambda: self.restores.clear_not_in_db(clear))

    def _kept_out(self, mint: Mint, one: Addressed, run: Run, believed: bool) -> str | None:  # noqa: FBT001
        """Why this may not be imported now, or None."""
        if not believed:
            return NOT_BELIEVED
        if one.owner is None:
            return "nobody knows whose it is: name restore.operator_npub"
        observing = self.observing()
        if observing is not None:
            return observing
        paused = self.is_paused(mint.alias)
        if paused is not None:
            return f"paused: {paused}"
        frozen = self.events.frozen(one.owner.npub, mint.alias)
        if frozen is not None:
            return f"frozen: {frozen}"
        finding = one.lacking.finding
        cap = run.caps.refuses(
            run.totals,
            value=finding.value,
            unit=finding.unit,
            documents=run.entries + run.blocks,
            now_s=self.clock.monotonic(),
        )
        return None if cap is None else f"over the cap: {cap}"

    async def _import(self, mint: Mint, one: Addressed, record: Discrepancy, run: Run) -> str | None:
        """Import; why it did not happen, or None."""
        if one.owner is None:
            return None
        restored = RestoreImport(
            discrepancy_id=record.id,
            occurrence=record.occurrence,
            owner=one.owner,
            name=one.name,
            parent=one.parent,
            proofs=tuple(output.proof for output in one.lacking.outputs),
            change_ys=one.lacking.change_ys,
            owned_by_melt=None if one.melt is None else one.melt.id,
            actor=run.actor,
        )
        try:
            result = await self.threads(partial(self.restores.import_restored, restored))
        except DuplicateSecret:
            return "another document has it by now"
        except Observing as observing:
            return observing.detail
        except LostRace:
            return "the record or the journal entry moved on meanwhile"
        except InvariantBroken as error:
            await self.events.invariant_broken(error, npub=one.owner.npub, mint=mint.alias)
            return "an invariant was found broken"
        if not result.again:
            self._tell(one, record, result)
        return None

    def _tell(self, one: Addressed, record: Discrepancy, result: ImportResult) -> None:
        self.telemetry.drift_corrected(record.type, record.severity, record.mint)
        if record.mint is not None:
            self.telemetry.restored(record.mint, record.unit, result.amount, result.late_change)
        if result.shortfall_paid and not result.shortfall_left and record.mint is not None:
            shortfall = DriftType.CHANGE_SHORTFALL
            self.telemetry.drift_corrected(shortfall, SEVERITIES[shortfall], record.mint)
        _log.warning(
            "value that the database lacked was restored from the mint",
            mint=record.mint,
            subject=record.subject,
            npub=None if one.owner is None else one.owner.npub,
            token_ids=list(result.token_ids),
            amount=result.amount,
            unit=record.unit,
            late_change=result.late_change,
            shortfall_left=result.shortfall_left,
        )
