"""
Every metric of meltd (DESIGN section 2), in a registry of its own, and the :class:`Telemetry` that feeds them.

Conventions, held by tests: prefix ``meltd_``; base units; ``_total`` on counters; ecash amounts carry their unit as a
label and are never summed over units. A label is one of a closed vocabulary or a name that :meth:`Metrics.declare`
was given; a value that is neither becomes :data:`OTHER` or :data:`UNCONFIGURED`, so that no id, URL, npub or text of
an error can become a label and the number of series is bounded (I10, I11).

Counters exist at 0 from the start, or ``increase()`` would miss the first event. Gauges that mirror the database
(open events, open discrepancies, open melts) or a mint (up) appear with their first reading: a 0 before it would be a
lie, which clears an alert at each restart or raises one about a mint that nobody has asked.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from daemon.ports import Lane
from melt.errors import Code, ConfigError, Severity
from melt.model import (
    LIVE_PLAN,
    MELT_MOVES,
    DriftType,
    EventType,
    HintDrop,
    HintKind,
    MeltState,
    MintAlias,
    PlanState,
    TakenBecause,
    TokenStatus,
)
from melt.model.mode import Mode
from melt.ports import (
    CaseStore,
    ModeStore,
    PlanStore,
    RepairStore,
    RestoreStore,
    SettleStore,
    Store,
    SummaryStore,
    WatchStore,
)
from melt.settling import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from melt.model import Solvency
    from melt.model.indexes import IndexReport
    from melt.ports.cases import OpenFigures

UNCONFIGURED: Final = "unconfigured"
"""The mint label of what belongs to no configured mint."""
OTHER: Final = "other"
"""Any value outside a label's vocabulary."""
ALL_MINTS: Final = "all"
"""The scope label of a pause of everything."""

MINTS_MAX: Final = 256
UNITS_MAX: Final = 16
NAMES_MAX: Final = 64
LOOPS_MAX: Final = 3 * MINTS_MAX + NAMES_MAX
"""Bounds on what becomes a label (I11). Each mint has three loops, and a job for two of them."""

OUTCOMES: Final = ("settled", "released", "held", "pending", "refused")
PHASES: Final = ("quote", "preflight", "reserve", "swap", "pay", "settle")
ENDPOINTS: Final = (
    "info",
    "keysets",
    "keys",
    "melt_quote",
    "melt_quote_state",
    "melt",
    "checkstate",
    "swap",
    "restore",
)
MINT_OUTCOMES: Final = ("ok", "rejected", "error")
STORE_OUTCOMES: Final = ("ok", "refused", "error")
"""``refused``: a lost race or a duplicate, which are answers; ``error``: the store failed."""
STORE_METHODS: Final = tuple(
    sorted(
        {
            name
            for port in (
                Store,
                CaseStore,
                ModeStore,
                PlanStore,
                RepairStore,
                RestoreStore,
                SettleStore,
                SummaryStore,
                WatchStore,
            )
            for name in vars(port)
            if not name.startswith("_")
        }
    )
)
RESTORE_OUTCOMES: Final = ("ok", "error", "unsupported")
"""``unsupported``: the mint does not restore (NUT-09)."""
SEVERITIES_OF: Final[dict[DriftType, tuple[Severity, ...]]] = {
    DriftType.DB_UNSPENT_MINT_SPENT: (Severity.HIGH,),
    # What does not come to rest in three times its time is HIGH, whatever it is.
    DriftType.DB_PENDING_MINT_SPENT: (Severity.HIGH, Severity.MEDIUM),
    DriftType.DB_PENDING_MINT_UNSPENT: (Severity.HIGH, Severity.LOW),
    DriftType.DB_SPENT_MINT_UNSPENT: (Severity.HIGH, Severity.MEDIUM, Severity.LOW),
    DriftType.DB_FAILED_MINT_UNSPENT: (Severity.HIGH, Severity.MEDIUM),
    DriftType.DUPLICATE_PROOF: (Severity.HIGH,),
    DriftType.LEGACY_MELTED_DOCUMENT: (Severity.HIGH, Severity.LOW),
    DriftType.AMOUNT_MISMATCH: (Severity.MEDIUM,),
    DriftType.MALFORMED_TOKEN: (Severity.MEDIUM,),
    DriftType.INVALID_SIGNATURE: (Severity.HIGH,),
    DriftType.UNKNOWN_KEYSET: (Severity.MEDIUM,),
    DriftType.KEYSET_EXPIRING: (Severity.HIGH, Severity.MEDIUM, Severity.LOW),
    DriftType.RESERVATION_ORPHANED: (Severity.HIGH, Severity.MEDIUM),
    DriftType.MINT_STATE_REGRESSED: (Severity.CRITICAL,),
    DriftType.QUOTE_PAID_INPUTS_UNSPENT: (Severity.CRITICAL,),
    DriftType.QUOTE_UNPAID_INPUTS_SPENT: (Severity.CRITICAL,),
    DriftType.CHANGE_SHORTFALL: (Severity.MEDIUM,),
    DriftType.PROOF_REFUSED: (Severity.HIGH,),
    DriftType.UNIT_MISMATCH: (Severity.MEDIUM,),
}
"""Which severities a type comes with (DESIGN section 5); a type that is not listed is LOW."""

_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_PAYMENT_BUCKETS_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)
_RECOVERY_BUCKETS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 604800)
_PHASE_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_REQUEST_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_STORE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
_BATCH_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOUR_BUCKETS_S: Final = (0.1, 1, 10, 60, 300, 900, 3600, 14400, 43200, 86400)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _is_name(value: str) -> bool:
    return 0 < len(value) <= NAMES_MAX and _NAME_CHARACTERS.issuperset(value)


class Metrics:
    """
    Implements :class:`melt.ports.Telemetry`; the daemon calls the ``set_`` methods.

    Args:
        version: meltd's, for ``meltd_build_info``.
        now: seconds since the epoch; only ``*_timestamp_seconds`` come from it.
    """

    def __init__(self, *, version: str, now: Callable[[], float] = time.time) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation there
        self.registry = CollectorRegistry(auto_describe=True)
        self._now = now
        self._mints: set[str] = set()
        self._jobs: set[str] = set()
        self._loops: set[str] = set()
        self._units: set[str] = set()
        self._case_units: set[str] = {"sat"}
        self._settling_units: set[str] = {"sat"}
        self._open_keys: set[tuple[str, str, str]] = set()
        self._make_drift()
        self._make_plans()
        self._make_melts()
        self._make_sweep()
        self._make_restore()
        self._make_leases()
        self._make_edges()
        self._make_daemon()
        ProcessCollector(registry=self.registry)
        self._build.info({"version": version, "python": platform.python_version()})
        self._start_at_zero()

    # --- the metrics ---
    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"meltd_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"meltd_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"meltd_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _make_drift(self) -> None:
        kind = ("type", "severity", "mint")
        self._found = self._counter("discrepancies_found_total", "Discrepancies found, each sighting.", *kind)
        self._corrected = self._counter("discrepancies_corrected_total", "Discrepancies corrected by rule.", *kind)
        self._open_found = self._gauge("open_discrepancies", "Discrepancies open now, read from the database.", *kind)
        self._alerting = self._counter(
            "discrepancies_alerting_total",
            "Discrepancies found of which an alert tells at once: nothing settles first.",
            *kind,
        )
        self._phases = self._gauge(
            "open_discrepancies_by_phase",
            "Discrepancies open now: settling (no alert yet), waiting to be carried out, or due.",
            *kind,
            "phase",
        )
        self._settling_value = self._gauge(
            "settling_amount",
            "Value in open records that are settling and say that a counted proof is spent, in the unit.",
            "mint",
            "unit",
        )
        self._unsettled = self._gauge(
            "unsettled_discrepancies", "Open records that have not come to rest in three times their time.", "mint"
        )
        self._settle_look = self._gauge(
            "settle_last_success_timestamp_seconds", "When the documents of open records were last looked at.", "mint"
        )
        self._critical = self._counter("critical_events_total", "CRITICAL events opened.", "type")
        self._event_s = self._histogram(
            "critical_event_recovery_seconds",
            "From a CRITICAL event's opening to its end.",
            _RECOVERY_BUCKETS_S,
            "type",
        )
        self._open_events = self._gauge(
            "open_critical_events", "CRITICAL events not yet resolved, read from the database.", "type"
        )

    def _make_plans(self) -> None:
        self._case_age_s = self._gauge(
            "open_discrepancy_oldest_age_seconds", "Age of the oldest open discrepancy; 0: none.", "severity"
        )
        self._case_value = self._gauge(
            "open_discrepancies_amount", "Value of the open discrepancies, in the unit.", "severity", "unit"
        )
        self._open_plans = self._gauge("open_plans", "Plans that wait or are being applied.", "state")
        self._plan_age_s = self._gauge("open_plan_oldest_age_seconds", "Age of the oldest such plan; 0: none.")

    def _make_melts(self) -> None:
        self._started = self._counter("melts_started_total", "Melts whose intent was written.", "mint")
        self._ended = self._counter("melts_ended_total", "Melts by what the caller was told.", "mint", "outcome")
        self._refused = self._counter("melt_refusals_total", "Requests refused before anything was sent.", "code")
        self._melt_s = self._histogram(
            "melt_duration_seconds", "From the request to its answer.", _PAYMENT_BUCKETS_S, "mint", "outcome"
        )
        self._phase_s = self._histogram(
            "melt_phase_duration_seconds", "One phase of a melt.", _PHASE_BUCKETS_S, "mint", "phase"
        )
        self._recovered = self._counter(
            "melt_recoveries_total", "Journal moves made by recovery.", "mint", "from_state", "to_state"
        )
        money = ("mint", "unit")
        self._paid = self._counter("melt_paid_amount_total", "Paid to invoices, in the unit.", *money)
        self._fees = self._counter("melt_fees_amount_total", "Lightning fees paid, in the unit.", *money)
        self._shortfall = self._counter(
            "melt_shortfall_amount_total", "Change that a mint owed and did not return, in the unit.", *money
        )
        self._open_melts = self._gauge("open_melts", "Journal entries that still hold inputs.", "state")
        self._oldest_melt_s = self._gauge("open_melt_oldest_age_seconds", "Age of the oldest open journal entry.")

    def _make_sweep(self) -> None:
        self._sweep_documents = self._counter("sweep_documents_total", "Token documents looked at.", "mint")
        self._sweep_proofs = self._counter("sweep_proofs_total", "Proofs asked about.", "mint")
        self._batch_s = self._histogram(
            "sweep_batch_duration_seconds", "One batch: page, mint states, corrections.", _BATCH_BUCKETS_S, "mint"
        )
        self._sweeps = self._counter("sweeps_total", "Tours ended, by outcome.", "mint", "outcome")
        self._sweep_s = self._histogram("sweep_duration_seconds", "One whole tour.", _TOUR_BUCKETS_S, "mint")
        self._sweep_success = self._gauge(
            "sweep_last_success_timestamp_seconds", "When the last tour of a mint ended well; 0: never.", "mint"
        )
        self._sweep_interval = self._gauge("sweep_interval_seconds", "How often a tour is due.", "mint")
        self._sweep_ratio = self._gauge("sweep_progress_ratio", "Share of the present tour that is done.", "mint")
        self._sweep_eta = self._gauge(
            "sweep_eta_seconds", "Time to the end of the present tour; NaN: unknown or none.", "mint"
        )
        self._lag = self._gauge(
            "detection_lag_seconds", "How old the oldest verification of an unspent sat is, at the scrape.", "mint"
        )
        self._lag_target = self._gauge(
            "detection_lag_target_seconds", "What the sweep keeps the detection lag within.", "mint"
        )
        self._duty = self._gauge("sweep_duty_ratio", "Share of a mint's time that the sweep takes now.", "mint")
        self._lane_documents = self._counter(
            "lane_documents_total", "Token documents looked at, by lane of the sweep.", "mint", "lane"
        )
        self._held = self._gauge(
            "liabilities_amount", "What the database owes, in the unit, by status.", "mint", "unit", "status"
        )
        self._owed = self._gauge(
            "solvency_owed_amount",
            "What counted as somebody's money in the last whole tour, in the unit.",
            "mint",
            "unit",
        )
        self._honoured = self._gauge(
            "solvency_honoured_amount", "What the mint honoured of it, in the unit.", "mint", "unit"
        )
        self._summary_success = self._gauge(
            "day_summaries_last_success_timestamp_seconds", "When the day's summary was last made; 0: never."
        )

    def _make_restore(self) -> None:
        money = ("mint", "unit")
        self._restore_rounds = self._counter(
            "restore_rounds_total", "Rounds of looking for lost value, by outcome.", "mint", "outcome"
        )
        self._restore_outputs = self._counter(
            "restore_outputs_total", "Outputs that a mint was asked about (NUT-09).", "mint"
        )
        self._restored = self._counter(
            "restored_amount_total", "Value that the database lacked and was imported, in the unit.", *money
        )
        self._late_change = self._counter(
            "restored_late_change_amount_total",
            "The part of it that had been booked as a shortfall or a fee, in the unit.",
            *money,
        )

    def _make_leases(self) -> None:
        self._lease_held = self._gauge(
            "lease_held", "1 while this instance sweeps the mint; over all instances it is 1 at most.", "shard"
        )
        self._lease_epoch = self._gauge("lease_epoch", "Epoch of the lease: rises with each change of holder.", "shard")
        self._lease_takeovers = self._counter(
            "lease_takeovers_total", "Leases taken by this instance, and why they could be.", "shard", "why"
        )
        self._lease_losses = self._counter(
            "lease_losses_total", "Leases that this instance lost without giving them up.", "shard"
        )

    def _make_edges(self) -> None:
        self._mint_up = self._gauge("mint_up", "Whether the mint answered when last asked.", "mint")
        self._circuit = self._gauge(
            "mint_circuit_open", "1 while new melts at a mint are refused because it gives no usable answer.", "mint"
        )
        self._mint_frozen = self._gauge(
            "mint_frozen", "1 while nothing is corrected and no melt is begun at a mint that is not believed.", "mint"
        )
        self._mint_requests = self._counter("mint_requests_total", "Requests to a mint.", "mint", "endpoint", "outcome")
        self._mint_s = self._histogram(
            "mint_request_duration_seconds", "One request to a mint.", _REQUEST_BUCKETS_S, "mint", "endpoint"
        )
        self._hints_up = self._gauge(
            "hints_connected", "Whether the mint's subscriptions (NUT-17) are connected.", "mint"
        )
        self._hints = self._counter("hints_total", "Changes that a mint's subscriptions told.", "mint", "kind")
        self._hints_again = self._counter("hints_reconnects_total", "Subscriptions connected again.", "mint")
        self._hints_dropped = self._counter(
            "hints_dropped_total", "Messages of subscriptions that were dropped, by why.", "mint", "reason"
        )
        self._store_up = self._gauge("store_up", "Whether the database answered when last asked.")
        self._store_calls = self._counter("store_calls_total", "Calls of the store.", "method", "outcome")
        self._store_s = self._histogram(
            "store_call_duration_seconds", "One call of the store.", _STORE_BUCKETS_S, "method"
        )
        self._webhooks = self._counter(
            "webhook_deliveries_total", "Attempts to deliver a webhook, by outcome.", "outcome"
        )

    def _make_daemon(self) -> None:
        self._build = Info("meltd_build", "Version of meltd and of Python.", registry=self.registry)
        self._missed = self._counter("schedule_runs_missed_total", "Scheduled runs that did not happen.", "job_name")
        self._overlapped = self._counter(
            "schedule_runs_overlapped_total", "Scheduled runs skipped because one was running.", "job_name"
        )
        self._restarts = self._counter("loop_restarts_total", "Supervised loops started again after a crash.", "loop")
        self._paused = self._gauge("paused", "1 while corrections and melts are paused.", "scope")
        self._observing = self._gauge("observing", "1 while nothing of the wallet's collections is changed.")
        self._indexes_missing = self._gauge(
            "wallet_indexes_missing", "Indexes that meltd wants in the wallet's collections and that are not there."
        )
        self._rejected = self._counter(
            "telemetry_rejections_total", "Observations dropped because a value was out of bounds."
        )

    def _start_at_zero(self) -> None:
        for event_type in EventType:
            self._critical.labels(event_type)
            self._event_s.labels(event_type)
        for code in Code:
            self._refused.labels(code)
        for method in (*STORE_METHODS, OTHER):
            for outcome in STORE_OUTCOMES:
                self._store_calls.labels(method, outcome)
        for outcome in ("ok", "error"):
            self._webhooks.labels(outcome)
        for name in (self._missed, self._overlapped, self._restarts):
            name.labels(OTHER)
        self._paused.labels(ALL_MINTS).set(0)
        self._drift_at_zero(UNCONFIGURED)

    def _drift_at_zero(self, mint: str) -> None:
        for drift in DriftType:
            for severity in SEVERITIES_OF.get(drift, (Severity.LOW,)):
                self._found.labels(drift, severity, mint)
                self._corrected.labels(drift, severity, mint)
                self._alerting.labels(drift, severity, mint)

    def declare(
        self,
        mints: Sequence[str],
        *,
        units: Sequence[str] = ("sat",),
        jobs: Sequence[str] = (),
        loops: Sequence[str] = (),
    ) -> None:
        """
        Make every label pair that is known now, at 0; may be called again with more.

        Raises ConfigError for an alias, unit or name that can't be a label, and where there are too many.
        """
        for name in (*mints, *units, *jobs, *loops):
            if not _is_name(name):
                raise ConfigError("a mint's alias, a unit and a job's name are 1 to 64 of A-Z a-z 0-9 . _ -")
        if {UNCONFIGURED, ALL_MINTS} & set(mints):
            raise ConfigError(f"a mint can't have the alias {UNCONFIGURED!r} or {ALL_MINTS!r}: these have a meaning")
        if len(self._mints | set(mints)) > MINTS_MAX or len(self._units | set(units)) > UNITS_MAX:
            raise ConfigError(f"at most {MINTS_MAX} mints and {UNITS_MAX} units can be watched by one meltd")
        if len(self._jobs | set(jobs)) > LOOPS_MAX or len(self._loops | set(loops)) > LOOPS_MAX:
            raise ConfigError(f"at most {LOOPS_MAX} jobs and loops")
        self._units |= set(units)
        for mint in mints:
            self._mints.add(mint)
            self._mint_at_zero(mint)
        for job in jobs:
            self._jobs.add(job)
            self._missed.labels(job)
            self._overlapped.labels(job)
        for loop in loops:
            self._loops.add(loop)
            self._restarts.labels(loop)

    def _mint_at_zero(self, mint: str) -> None:
        self._drift_at_zero(mint)
        self._started.labels(mint)
        for outcome in OUTCOMES:
            self._ended.labels(mint, outcome)
        for from_state, moves in MELT_MOVES.items():
            for to_state in moves:
                self._recovered.labels(mint, from_state, to_state)
        for unit in self._units:
            for amount in (self._paid, self._fees, self._shortfall, self._restored, self._late_change):
                amount.labels(mint, unit)
        self._sweep_documents.labels(mint)
        self._sweep_proofs.labels(mint)
        for outcome in ("ok", "error"):
            self._sweeps.labels(mint, outcome)
        self._restore_outputs.labels(mint)
        for outcome in RESTORE_OUTCOMES:
            self._restore_rounds.labels(mint, outcome)
        for endpoint in ENDPOINTS:
            for outcome in MINT_OUTCOMES:
                self._mint_requests.labels(mint, endpoint, outcome)
        for kind in HintKind:
            self._hints.labels(mint, kind)
        for reason in HintDrop:
            self._hints_dropped.labels(mint, reason)
        self._hints_again.labels(mint)
        for gauge in (self._sweep_success, self._sweep_interval, self._sweep_ratio, self._unsettled):
            gauge.labels(mint)
        for unit in self._units:
            self._settling_value.labels(mint, unit)
        self._sweep_eta.labels(mint).set(math.nan)
        for lane in Lane:
            self._lane_documents.labels(mint, lane)
        self._paused.labels(mint)
        self._circuit.labels(mint)
        self._lease_held.labels(mint)
        self._lease_epoch.labels(mint)
        self._lease_losses.labels(mint)
        for why in TakenBecause:
            self._lease_takeovers.labels(mint, why)

    # --- labels ---
    def _mint(self, mint: str | None) -> str:
        return mint if mint is not None and mint in self._mints else UNCONFIGURED

    def _unit(self, unit: str) -> str | None:
        """A label of its own for each unit, never a shared one: amounts of two units must not meet in one sum."""
        if unit not in self._units:
            if len(self._units) >= UNITS_MAX or not _is_name(unit):
                self._rejected.inc()
                return None
            self._units.add(unit)
        return unit

    # --- Telemetry (what each means: melt/ports.py) ---
    def drift_found(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None:
        self._found.labels(drift, severity, self._mint(mint)).inc()

    def drift_alerting(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None:
        self._alerting.labels(drift, severity, self._mint(mint)).inc()

    def drift_corrected(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None:
        self._corrected.labels(drift, severity, self._mint(mint)).inc()

    def critical_event(self, event_type: EventType) -> None:
        self._critical.labels(event_type).inc()

    def critical_event_resolved(self, event_type: EventType, seconds: float) -> None:
        self._event_s.labels(event_type).observe(seconds)

    def melt_started(self, mint: MintAlias) -> None:
        self._started.labels(self._mint(mint)).inc()

    def melt_ended(self, mint: MintAlias, outcome: str, seconds: float) -> None:
        """The caller has its answer; ``outcome`` is one of :data:`OUTCOMES`, any other open state is ``pending``."""
        if outcome not in OUTCOMES:
            outcome = "pending" if outcome.upper() in MeltState.__members__ else OTHER
        self._ended.labels(self._mint(mint), outcome).inc()
        self._melt_s.labels(self._mint(mint), outcome).observe(seconds)

    def melt_refused(self, code: str) -> None:
        self._refused.labels(code if code in Code.__members__ else OTHER).inc()

    def melt_phase(self, mint: MintAlias, phase: str, seconds: float) -> None:
        """``phase`` is one of :data:`PHASES`."""
        self._phase_s.labels(self._mint(mint), phase if phase in PHASES else OTHER).observe(seconds)

    def recovered(self, mint: MintAlias, from_state: MeltState, to_state: MeltState) -> None:
        self._recovered.labels(self._mint(mint), from_state, to_state).inc()

    def amount_paid(self, mint: MintAlias, unit: str, amount: int, fees: int, shortfall: int) -> None:
        """A settled melt's amounts, in ``unit``. Negative ones are dropped and counted as rejected."""
        label = self._unit(unit)
        if label is None:
            return
        if min(amount, fees, shortfall) < 0:
            self._rejected.inc()
            return
        alias = self._mint(mint)
        self._paid.labels(alias, label).inc(amount)
        self._fees.labels(alias, label).inc(fees)
        self._shortfall.labels(alias, label).inc(shortfall)

    def swept_batch(self, mint: MintAlias, documents: int, proofs: int, seconds: float) -> None:
        self._sweep_documents.labels(self._mint(mint)).inc(max(0, documents))
        self._sweep_proofs.labels(self._mint(mint)).inc(max(0, proofs))
        self._batch_s.labels(self._mint(mint)).observe(seconds)

    def sweep_finished(self, mint: MintAlias, *, ok: bool, seconds: float) -> None:
        """A tour ended; a good one sets the last success to now."""
        self._sweeps.labels(self._mint(mint), "ok" if ok else "error").inc()
        self._sweep_s.labels(self._mint(mint)).observe(seconds)
        if ok:
            self._sweep_success.labels(self._mint(mint)).set(self._now())

    def restore_asked(self, mint: MintAlias, outputs: int) -> None:
        self._restore_outputs.labels(self._mint(mint)).inc(max(0, outputs))

    def restored(self, mint: MintAlias, unit: str, amount: int, late_change: int) -> None:
        """An import's amounts, in ``unit``."""
        label = self._unit(unit)
        if label is None or min(amount, late_change) < 0:
            return
        self._restored.labels(self._mint(mint), label).inc(amount)
        self._late_change.labels(self._mint(mint), label).inc(late_change)

    def restore_round_ended(self, mint: MintAlias, outcome: str) -> None:
        """``outcome`` is one of :data:`RESTORE_OUTCOMES`."""
        self._restore_rounds.labels(self._mint(mint), outcome if outcome in RESTORE_OUTCOMES else OTHER).inc()

    def mint_request(self, mint: MintAlias, endpoint: str, outcome: str, seconds: float) -> None:
        """``endpoint`` is one of :data:`ENDPOINTS`, ``outcome`` one of :data:`MINT_OUTCOMES`."""
        endpoint = endpoint if endpoint in ENDPOINTS else OTHER
        outcome = outcome if outcome in MINT_OUTCOMES else OTHER
        self._mint_requests.labels(self._mint(mint), endpoint, outcome).inc()
        self._mint_s.labels(self._mint(mint), endpoint).observe(seconds)

    def store_call(self, method: str, outcome: str, seconds: float) -> None:
        """``method`` is one of :data:`STORE_METHODS`, ``outcome`` one of :data:`STORE_OUTCOMES`."""
        method = method if method in STORE_METHODS else OTHER
        self._store_calls.labels(method, outcome if outcome in STORE_OUTCOMES else OTHER).inc()
        self._store_s.labels(method).observe(seconds)

    def hints_connected(self, mint: MintAlias, *, connected: bool) -> None:
        """Whether hints come now; a mint that offers none is not connected."""
        if mint in self._mints:
            self._hints_up.labels(mint).set(connected)

    def hints_reconnected(self, mint: MintAlias) -> None:
        self._hints_again.labels(self._mint(mint)).inc()

    def hint_received(self, mint: MintAlias, kind: HintKind) -> None:
        self._hints.labels(self._mint(mint), kind).inc()

    def hint_dropped(self, mint: MintAlias, reason: HintDrop) -> None:
        self._hints_dropped.labels(self._mint(mint), reason).inc()

    # --- what the daemon reads and sets ---
    def set_open_events(self, by_type: Mapping[EventType, int]) -> None:
        """Open CRITICAL events as the database has them; a type that is not in ``by_type`` is 0."""
        for event_type in EventType:
            self._open_events.labels(event_type).set(by_type.get(event_type, 0))

    def set_open_discrepancies(self, counts: Mapping[tuple[str, str, str], int]) -> None:
        """``Store.count_open_discrepancies()``: (type, severity, alias or "") to how many; the others become 0."""
        fresh: dict[tuple[str, str, str], int] = {
            (drift, severity, mint): 0
            for drift in DriftType
            for severity in SEVERITIES_OF.get(drift, (Severity.LOW,))
            for mint in (*self._mints, UNCONFIGURED)
        }
        for (drift, severity, mint), count in counts.items():
            if drift in DriftType.__members__ and severity in Severity.__members__:
                key = (drift, severity, self._mint(mint))
                fresh[key] = fresh.get(key, 0) + count
        for key in self._open_keys | fresh.keys():
            self._open_found.labels(*key).set(fresh.get(key, 0))
        self._open_keys |= fresh.keys()

    def set_open_cases(self, *, oldest_age_s: Mapping[str, float], value: Mapping[tuple[str, str], int]) -> None:
        """Open discrepancies: the age of the oldest by severity, the value by (severity, unit); the others become 0."""
        for severity in Severity:
            self._case_age_s.labels(severity).set(max(0.0, oldest_age_s.get(severity, 0.0)))
        units = {unit for _, unit in value} | self._case_units
        for unit in units:
            label = self._unit(unit)
            if label is None:
                continue
            self._case_units.add(unit)
            for severity in Severity:
                self._case_value.labels(severity, label).set(value.get((severity, unit), 0))

    def set_settling(self, figures: OpenFigures) -> None:
        """Open discrepancies by phase, what the settling ones are worth, and those that do not settle; the others become 0."""
        fresh = {(*key, phase.value): 0 for key in self._open_keys for phase in Phase}
        for (drift, severity, mint, phase), count in figures.phases.items():
            labels = (drift, severity, self._mint(mint), phase)
            if labels in fresh:
                fresh[labels] += count
        for labels, count in fresh.items():
            self._phases.labels(*labels).set(count)
        for mint in self._mints:
            self._unsettled.labels(mint).set(figures.unsettled.get(mint, 0))
            units = {unit for alias, unit in figures.settling_value if alias == mint} | self._settling_units
            for unit in units:
                label = self._unit(unit)
                if label is not None:
                    self._settling_units.add(unit)
                    self._settling_value.labels(mint, label).set(figures.settling_value.get((mint, unit), 0))

    def settle_looked(self, mint: MintAlias) -> None:
        """A round of looks at what settles has ended well."""
        self._settle_look.labels(self._mint(mint)).set(time.time())

    def set_plans(self, by_state: Mapping[PlanState, int], *, oldest_age_s: float) -> None:
        """Plans that may still change something; ``oldest_age_s`` is 0 where there is none."""
        for state in LIVE_PLAN:
            self._open_plans.labels(state).set(by_state.get(state, 0))
        self._plan_age_s.set(max(0.0, oldest_age_s))

    def set_open_melts(self, by_state: Mapping[MeltState, int], *, oldest_age_s: float) -> None:
        """Open journal entries; ``oldest_age_s`` is 0 where there is none."""
        for state in MeltState:
            if MELT_MOVES[state]:
                self._open_melts.labels(state).set(by_state.get(state, 0))
        self._oldest_melt_s.set(oldest_age_s)

    def set_mint_up(self, mint: MintAlias, up: bool) -> None:  # noqa: FBT001 - the value is the point
        """Whether the mint answered when it was last asked."""
        if mint in self._mints:
            self._mint_up.labels(mint).set(up)

    def set_mint_circuit(self, mint: MintAlias, *, refusing: bool) -> None:
        """Whether the mint's circuit breaker refuses new melts."""
        if mint in self._mints:
            self._circuit.labels(mint).set(refusing)

    def set_mint_frozen(self, mint: MintAlias, frozen: bool) -> None:  # noqa: FBT001 - the value is the point
        """Whether an open CRITICAL event forbids corrections and new melts there."""
        if mint in self._mints:
            self._mint_frozen.labels(mint).set(frozen)

    def set_sweep_progress(self, mint: MintAlias, *, done: int, total: int, eta_s: float | None) -> None:
        """Documents of the present tour; no tour is running: ``done == total`` and no ETA."""
        if mint in self._mints:
            self._sweep_ratio.labels(mint).set(min(1.0, done / total) if total > 0 else 1.0)
            self._sweep_eta.labels(mint).set(math.nan if eta_s is None else eta_s)

    def watch_detection_lag(self, mint: MintAlias, lag_s: Callable[[], float], *, target_s: float) -> None:
        """At start: ``lag_s`` is asked at each scrape, so that the lag of a dead mint is seen to grow."""
        if mint in self._mints:
            self._lag.labels(mint).set_function(lag_s)
            self._lag_target.labels(mint).set(target_s)

    def set_sweep_duty(self, mint: MintAlias, duty: float) -> None:
        """The share of the mint's time that the sweep takes."""
        if mint in self._mints:
            self._duty.labels(mint).set(duty)

    def lane_documents(self, mint: MintAlias, lane: Lane, documents: int) -> None:
        """Documents that a lane has looked at."""
        self._lane_documents.labels(self._mint(mint), lane).inc(max(0, documents))

    def set_sweep_schedule(self, mint: MintAlias, *, interval_s: float, last_success: datetime | None) -> None:
        """At start: how often a tour is due, and when the last one ended well as ``meltd_sweeps`` has it."""
        if mint in self._mints:
            self._sweep_interval.labels(mint).set(interval_s)
            if last_success is not None:
                self._sweep_success.labels(mint).set(last_success.timestamp())

    def set_liabilities(self, mint: MintAlias, unit: str, status: TokenStatus, amount: int) -> None:
        """What the database owes to all users at one mint in one unit and status."""
        label = self._unit(unit)
        if label is not None:
            self._held.labels(self._mint(mint), label, status).set(amount)

    def set_solvency(self, mint: MintAlias, solvency: Sequence[Solvency]) -> None:
        """What a whole tour came to, by unit."""
        for one in solvency:
            label = self._unit(one.unit)
            if label is not None:
                self._owed.labels(self._mint(mint), label).set(one.owed)
                self._honoured.labels(self._mint(mint), label).set(one.honoured)

    def summary_made(self) -> None:
        """All mints' rows of the day were written."""
        self._summary_success.set(self._now())

    def set_lease(self, mint: MintAlias, *, held: bool, epoch: int) -> None:
        """Who sweeps a mint, as read last. Who does not can't know what the database owes: those amounts go away."""
        if mint not in self._mints:
            return
        self._lease_held.labels(mint).set(held)
        self._lease_epoch.labels(mint).set(epoch)
        if not held:
            self._forget_liabilities(mint)
            self._sweep_eta.labels(mint).set(math.nan)

    def _forget_liabilities(self, mint: str) -> None:
        for unit in self._units:
            for status in TokenStatus:
                with contextlib.suppress(KeyError):
                    self._held.remove(mint, unit, status)

    def lease_taken(self, mint: MintAlias, why: TakenBecause) -> None:
        """We took the lease of a mint's sweep."""
        if mint in self._mints:
            self._lease_takeovers.labels(mint, why).inc()

    def lease_lost(self, mint: MintAlias) -> None:
        """The lease went to another instance, or could not be renewed in time."""
        if mint in self._mints:
            self._lease_losses.labels(mint).inc()

    def set_paused(self, mint: MintAlias | None, paused: bool) -> None:  # noqa: FBT001 - the value is the point
        """Pause of one mint, or of everything where ``mint`` is None."""
        if mint is None or mint in self._mints:
            self._paused.labels(ALL_MINTS if mint is None else mint).set(paused)

    def set_mode(self, mode: Mode) -> None:
        """The mode in force."""
        self._observing.set(mode is not Mode.CORRECT)

    def set_indexes(self, report: IndexReport) -> None:
        """How many of the wanted indexes are missing; the unique one counts only where it was there before."""
        self._indexes_missing.set(sum(not one.serves and not one.on_a_yes for one in report.standings))

    def set_store_up(self, up: bool) -> None:  # noqa: FBT001 - the value is the point
        """Whether the database answered when it was last asked."""
        self._store_up.set(up)

    def job_missed(self, name: str) -> None:
        """A scheduled run did not happen."""
        self._missed.labels(name if name in self._jobs else OTHER).inc()

    def job_overlapped(self, name: str) -> None:
        """A scheduled run was skipped because the one before was still running."""
        self._overlapped.labels(name if name in self._jobs else OTHER).inc()

    def loop_restarted(self, name: str) -> None:
        """A supervised loop crashed and was started again."""
        self._restarts.labels(name if name in self._loops else OTHER).inc()

    def webhook_delivered(self, *, ok: bool) -> None:
        """One delivery was tried: taken, or not (it may be tried again)."""
        self._webhooks.labels("ok" if ok else "error").inc()

    def render(self) -> tuple[bytes, str]:
        """The exposition in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE
