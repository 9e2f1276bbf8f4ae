"""
What the overview shows, as data: rows of panels and their queries. :mod:`grafana.build` turns it into JSON.

Three habits hold all over. Each selector is bound to the dashboard's job and instance. Counters are seen through
``rate`` or ``increase`` alone. Gauges that mirror the database are the same in each daemon that shares it, so they
are folded with ``max`` over instances before anything is summed, and amounts are never summed over units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCOPE: Final = 'job=~"$job", instance=~"$instance"'
RATE: Final = "[$__rate_interval]"
QUANTILES: Final = (("p50", "0.50"), ("p95", "0.95"), ("p99", "0.99"))

Kind = Literal["stat", "lines", "bars", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression and how its series are named."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """
    One panel. ``steps`` are thresholds (value, colour) above green; ``words`` replaces values by words.

    ``unit`` is Grafana's unit id; amounts use ``short`` because their unit is in the legend.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    words: tuple[tuple[str, str, str], ...] = ()
    bottom: float | None = 0
    top: float | None = None


def one(expr: str, legend: str) -> tuple[Query, ...]:
    """A panel with one query."""
    return (Query(expr=expr, legend=legend),)


def quantiles(metric: str, extra: str = "") -> tuple[Query, ...]:
    """Median, 95th and 99th percentile of a histogram."""
    return tuple(
        Query(
            expr=f"histogram_quantile({value}, sum by (le) (rate({metric}_bucket{{{SCOPE}{extra}}}{RATE})))",
            legend=name,
        )
        for name, value in QUANTILES
    )


def p95(metric: str, label: str) -> tuple[Query, ...]:
    """The 95th percentile of a histogram by one label."""
    return one(
        f"histogram_quantile(0.95, sum by (le, {label}) (rate({metric}_bucket{{{SCOPE}}}{RATE})))", f"{{{{{label}}}}}"
    )


def rate(metric: str, by: str, legend: str, extra: str = "") -> tuple[Query, ...]:
    """A counter per second by labels."""
    return one(f"sum by ({by}) (rate({metric}{{{SCOPE}{extra}}}{RATE}))", legend)


def increase(metric: str, by: str, legend: str, extra: str = "") -> tuple[Query, ...]:
    """A counter's growth per step by labels."""
    return one(f"sum by ({by}) (increase({metric}{{{SCOPE}{extra}}}{RATE}))", legend)


YES_NO: Final = (("0", "no", "red"), ("1", "yes", "green"))
RED_ABOVE_ZERO: Final = ((1.0, "red"),)
AMOUNTS: Final = "Each unit is a series of its own; a sum over units has no meaning."

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "What needs a person",
        (
            Panel(
                title="CRITICAL events open",
                description="Open until resolved in the database; a restart does not clear it. Runbook: CriticalEventOpen.",
                unit="short",
                kind="stat",
                width=4,
                height=5,
                steps=RED_ABOVE_ZERO,
                queries=one(f"sum(max by (type) (meltd_open_critical_events{{{SCOPE}}}))", "open"),
            ),
            Panel(
                title="HIGH discrepancies open",
                description="Found and not yet corrected; they block melts of the proofs that they touch.",
                unit="short",
                kind="stat",
                width=4,
                height=5,
                steps=RED_ABOVE_ZERO,
                queries=one(
                    f'sum(max by (type, mint) (meltd_open_discrepancies{{{SCOPE}, severity=~"HIGH|CRITICAL"}}))',
                    "open",
                ),
            ),
            Panel(
                title="Oldest sweep",
                description="Time since the last tour that ended well, of the mint that waits longest.",
                unit="s",
                kind="stat",
                width=4,
                height=5,
                queries=one(
                    f"max(time() - max by (mint) (meltd_sweep_last_success_timestamp_seconds{{{SCOPE}}}))", "age"
                ),
            ),
            Panel(
                title="Oldest open melt",
                description="Age of the oldest journal entry that still holds inputs. Runbook: MeltStuck.",
                unit="s",
                kind="stat",
                width=4,
                height=5,
                steps=((300, "orange"), (900, "red")),
                queries=one(f"max(meltd_open_melt_oldest_age_seconds{{{SCOPE}}})", "age"),
            ),
            Panel(
                title="All mints up",
                description="Whether each configured mint answered when last asked. Runbook: MintDown.",
                unit="short",
                kind="stat",
                width=3,
                height=5,
                words=YES_NO,
                queries=one(f"min(max by (mint) (meltd_mint_up{{{SCOPE}}}))", "up"),
            ),
            Panel(
                title="Store up",
                description="Whether the database answered every daemon when last asked. Runbook: StoreDown.",
                unit="short",
                kind="stat",
                width=3,
                height=5,
                words=YES_NO,
                queries=one(f"min(meltd_store_up{{{SCOPE}}})", "up"),
            ),
            Panel(
                title="Paused",
                description="Whether melts and corrections are paused, as a whole or for any mint, or meltd only observes; and "
                "how many of its indexes are missing in the wallet's collections.",
                unit="short",
                kind="stat",
                width=2,
                height=5,
                words=(("0", "no", "green"), ("1", "yes", "orange")),
                queries=(
                    Query(expr=f"max(meltd_paused{{{SCOPE}}})", legend="paused"),
                    Query(expr=f"max(meltd_observing{{{SCOPE}}})", legend="observing"),
                    Query(expr=f"max(meltd_wallet_indexes_missing{{{SCOPE}}})", legend="indexes missing"),
                ),
            ),
            Panel(
                title="CRITICAL events open by type",
                description="What each type means and what to do: runbook CriticalEventOpen.",
                unit="short",
                kind="bars",
                width=12,
                steps=RED_ABOVE_ZERO,
                queries=one(f"max by (type) (meltd_open_critical_events{{{SCOPE}}})", "{{type}}"),
            ),
            Panel(
                title="CRITICAL events opened",
                description="Growth of the counter: also events that were opened and resolved between two scrapes.",
                unit="short",
                width=12,
                queries=increase("meltd_critical_events_total", "type", "{{type}}"),
            ),
        ),
    ),
    (
        "Drift",
        (
            Panel(
                title="Drift found and corrected",
                description="All types together. Found counts each sighting, so it may exceed corrected.",
                unit="short",
                queries=(
                    Query(expr=f"sum(increase(meltd_discrepancies_found_total{{{SCOPE}}}{RATE}))", legend="found"),
                    Query(
                        expr=f"sum(increase(meltd_discrepancies_corrected_total{{{SCOPE}}}{RATE}))",
                        legend="corrected",
                    ),
                ),
            ),
            Panel(
                title="Drift found by type",
                description="Sightings per step. Each type has a runbook page (drift-TYPE).",
                unit="short",
                queries=increase("meltd_discrepancies_found_total", "type", "{{type}}"),
            ),
            Panel(
                title="Drift corrected by type",
                description="Corrections by rule per step; some types are only recorded.",
                unit="short",
                queries=increase("meltd_discrepancies_corrected_total", "type", "{{type}}"),
            ),
            Panel(
                title="Open discrepancies by severity",
                description="Records open now, read from the database.",
                unit="short",
                width=12,
                queries=one(
                    f"sum by (severity) (max by (type, severity, mint) (meltd_open_discrepancies{{{SCOPE}}}))",
                    "{{severity}}",
                ),
            ),
            Panel(
                title="Open discrepancies by type and mint",
                description="Only what is open now. `meltd discrepancies` lists the records with their evidence.",
                unit="short",
                kind="table",
                width=12,
                queries=one(
                    f"max by (type, severity, mint) (meltd_open_discrepancies{{{SCOPE}}}) > 0",
                    "{{type}} {{mint}}",
                ),
            ),
            Panel(
                title="Age of the oldest open discrepancy",
                description="By severity. An acknowledged one is not open.",
                unit="s",
                queries=one(
                    f"max by (severity) (meltd_open_discrepancy_oldest_age_seconds{{{SCOPE}}})", "{{severity}}"
                ),
            ),
            Panel(
                title="Value of open discrepancies",
                description=f"What the proofs in question are worth. {AMOUNTS}",
                unit="short",
                queries=one(
                    f"max by (severity, unit) (meltd_open_discrepancies_amount{{{SCOPE}}})", "{{severity}}, {{unit}}"
                ),
            ),
            Panel(
                title="Plans that wait",
                description="Corrections that people have to approve and apply, by state. Runbook: PlanWaiting.",
                unit="short",
                width=4,
                queries=one(f"max by (state) (meltd_open_plans{{{SCOPE}}})", "{{state}}"),
            ),
            Panel(
                title="Oldest plan",
                description="Age of the oldest plan that is not applied, withdrawn or over.",
                unit="s",
                kind="stat",
                width=4,
                steps=((4 * 3600, "orange"),),
                queries=one(f"max(meltd_open_plan_oldest_age_seconds{{{SCOPE}}})", "age"),
            ),
        ),
    ),
    (
        "Settling",
        (
            Panel(
                title="Settling, waiting, due",
                description="Open records by phase: younger than alert_after_s; watched until their document has stood still for "
                "correct_after_s; waiting for nothing.",
                unit="short",
                queries=one(
                    f"sum by (phase) (max by (type, severity, mint, phase) (meltd_open_discrepancies_by_phase{{{SCOPE}}}))",
                    "{{phase}}",
                ),
            ),
            Panel(
                title="Phases by type",
                description="Only what is open now. Payments of a wallet service beside meltd come and go as settling.",
                unit="short",
                kind="table",
                queries=one(
                    f"sum by (type, phase) (max by (type, severity, mint, phase) (meltd_open_discrepancies_by_phase{{{SCOPE}}})) > 0",
                    "{{type}} {{phase}}",
                ),
            ),
            Panel(
                title="Value settling",
                description="Counted ecash that the mint calls SPENT and that settles: as like as not the payments of others that "
                f"are under way. {AMOUNTS}",
                unit="short",
                queries=one(f"max by (mint, unit) (meltd_settling_amount{{{SCOPE}}})", "{{mint}} ({{unit}})"),
            ),
            Panel(
                title="Does not come to rest",
                description="Records open for three times correct_after_s, because their document keeps changing. Runbook: DriftUnsettled.",
                unit="short",
                kind="stat",
                width=4,
                steps=RED_ABOVE_ZERO,
                queries=one(f"sum(max by (mint) (meltd_unsettled_discrepancies{{{SCOPE}}}))", "unsettled"),
            ),
            Panel(
                title="Last look at what settles",
                description="Time since the documents of open records were last looked at, by mint. Runbook: SettlingStale.",
                unit="s",
                width=10,
                queries=one(
                    f"time() - max by (mint) (meltd_settle_last_success_timestamp_seconds{{{SCOPE}}})", "{{mint}}"
                ),
            ),
            Panel(
                title="Drift that alerts at once",
                description="Found for the first time and not settling first: CRITICAL, or where nobody else spends.",
                unit="short",
                width=10,
                queries=increase("meltd_discrepancies_alerting_total", "type", "{{type}}"),
            ),
        ),
    ),
    (
        "Sweep",
        (
            Panel(
                title="Time since the last good tour",
                description="By mint. SweepStale fires after two missed rounds.",
                unit="s",
                queries=one(
                    f"time() - max by (mint) (meltd_sweep_last_success_timestamp_seconds{{{SCOPE}}})", "{{mint}}"
                ),
            ),
            Panel(
                title="Tour progress",
                description="Share of the present tour that is done; 1 between tours.",
                unit="percentunit",
                top=1,
                queries=one(f"max by (mint) (meltd_sweep_progress_ratio{{{SCOPE}}})", "{{mint}}"),
            ),
            Panel(
                title="Time to the end of the tour",
                description="Estimated from the pace so far; no line where nothing is known or no tour runs.",
                unit="s",
                queries=one(f"min by (mint) (meltd_sweep_eta_seconds{{{SCOPE}}})", "{{mint}}"),
            ),
            Panel(
                title="Detection lag",
                description="By mint: how old the oldest verification of an unspent sat is. DetectionLagHigh fires at twice "
                "the target.",
                unit="s",
                queries=(
                    *one(f"max by (mint) (meltd_detection_lag_seconds{{{SCOPE}}})", "{{mint}}"),
                    *one(f"max by (mint) (meltd_detection_lag_target_seconds{{{SCOPE}}})", "{{mint}} target"),
                ),
            ),
            Panel(
                title="Duty of the sweep",
                description="Share of a mint's time that its tour takes: up on drift and lag, halved on 429 and slow answers.",
                unit="percentunit",
                top=1,
                queries=one(f"max by (mint) (meltd_sweep_duty_ratio{{{SCOPE}}})", "{{mint}}"),
            ),
            Panel(
                title="Documents per second by lane",
                description="Cold is the tour, warm new and large documents, asked what a person requested.",
                unit="ops",
                queries=rate("meltd_lane_documents_total", "mint, lane", "{{mint}} {{lane}}"),
            ),
            Panel(
                title="Proofs verified per second",
                description="Proofs whose state was asked of the mint.",
                unit="ops",
                queries=rate("meltd_sweep_proofs_total", "mint", "{{mint}}"),
            ),
            Panel(
                title="Batch duration",
                description="One page of documents: read, mint states, verdicts, corrections.",
                unit="s",
                queries=quantiles("meltd_sweep_batch_duration_seconds"),
            ),
            Panel(
                title="Tours ended",
                description="By outcome; an error leaves the position, and the next tour goes on from there.",
                unit="short",
                queries=increase("meltd_sweeps_total", "mint, outcome", "{{mint}} {{outcome}}"),
            ),
            Panel(
                title="Instances that sweep a mint",
                description="By mint: 1 in quiet times, 0 for a moment while a lease changes hands. 0 for long: nobody sweeps it.",
                unit="short",
                queries=one(f"sum by (shard) (meltd_lease_held{{{SCOPE}}})", "{{shard}}"),
            ),
            Panel(
                title="Epoch of the lease",
                description="Rises with each change of the holder; a staircase means that a lease goes to and fro.",
                unit="short",
                queries=one(f"max by (shard) (meltd_lease_epoch{{{SCOPE}}})", "{{shard}}"),
            ),
            Panel(
                title="Leases taken and lost",
                description="Taken, by why they could be: lapsed and lost mean that an instance died, hung or stood still.",
                unit="short",
                queries=increase("meltd_lease_takeovers_total", "why", "taken: {{why}}")
                + increase("meltd_lease_losses_total", "shard", "lost: {{shard}}"),
            ),
        ),
    ),
    (
        "Restore",
        (
            Panel(
                title="Value restored",
                description=f"Lacked in the database and imported from the mint; of it what had been booked as missing. {AMOUNTS}",
                unit="short",
                queries=(
                    *increase("meltd_restored_amount_total", "mint, unit", "{{mint}} ({{unit}})"),
                    *increase(
                        "meltd_restored_late_change_amount_total", "mint, unit", "{{mint}} late change ({{unit}})"
                    ),
                ),
            ),
            Panel(
                title="Outputs asked about per second",
                description="Planned outputs, and counters that no melt planned, by NUT-09.",
                unit="ops",
                queries=rate("meltd_restore_outputs_total", "mint", "{{mint}}"),
            ),
            Panel(
                title="Restore rounds ended",
                description="By outcome; after an error the next round goes on from there. Unsupported: the mint can't restore.",
                unit="short",
                queries=increase("meltd_restore_rounds_total", "mint, outcome", "{{mint}} {{outcome}}"),
            ),
        ),
    ),
    (
        "Melts",
        (
            Panel(
                title="Melts by outcome",
                description="What the caller was told: pending means that the wait ended first and the melt goes on.",
                unit="ops",
                queries=rate("meltd_melts_ended_total", "outcome", "{{outcome}}"),
            ),
            Panel(
                title="Melt duration",
                description="From the request to its answer, settled melts.",
                unit="s",
                queries=quantiles("meltd_melt_duration_seconds", ', outcome="settled"'),
            ),
            Panel(
                title="Phases, 95th percentile",
                description="Where the time of a melt goes.",
                unit="s",
                queries=p95("meltd_melt_phase_duration_seconds", "phase"),
            ),
            Panel(
                title="Refusals by code",
                description="Requests refused before anything was written or sent.",
                unit="ops",
                queries=rate("meltd_melt_refusals_total", "code", "{{code}}"),
            ),
            Panel(
                title="Open melts by state",
                description="Journal entries that hold inputs. HELD waits for a person.",
                unit="short",
                queries=one(f"max by (state) (meltd_open_melts{{{SCOPE}}})", "{{state}}"),
            ),
            Panel(
                title="Recoveries",
                description="Journal moves that the watcher or a start made, not the forward path.",
                unit="short",
                queries=increase(
                    "meltd_melt_recoveries_total", "from_state, to_state", "{{from_state}} to {{to_state}}"
                ),
            ),
        ),
    ),
    (
        "Money",
        (
            Panel(
                title="Owed and not honoured",
                description="What counts as somebody's money and the mint calls SPENT, by the last whole tour. "
                + AMOUNTS,
                unit="short",
                queries=one(
                    f"max by (mint, unit) (meltd_solvency_owed_amount{{{SCOPE}}}) "
                    f"- max by (mint, unit) (meltd_solvency_honoured_amount{{{SCOPE}}})",
                    "{{mint}} {{unit}}",
                ),
            ),
            Panel(
                title="Summary made",
                description="Time since the day's summary was last brought up to date.",
                unit="s",
                queries=one(f"time() - max(meltd_day_summaries_last_success_timestamp_seconds{{{SCOPE}}} > 0)", "age"),
            ),
            Panel(
                title="Liabilities by status",
                description=f"What the database owes to users, by mint, unit and status. {AMOUNTS}",
                unit="short",
                queries=one(
                    f"max by (mint, unit, status) (meltd_liabilities_amount{{{SCOPE}}})",
                    "{{mint}} {{status}} ({{unit}})",
                ),
            ),
            Panel(
                title="Paid",
                description=f"Paid to invoices per step. {AMOUNTS}",
                unit="short",
                queries=increase("meltd_melt_paid_amount_total", "mint, unit", "{{mint}} ({{unit}})"),
            ),
            Panel(
                title="Lightning fees and shortfall",
                description=f"Fees paid, and change that a mint owed and did not return. {AMOUNTS}",
                unit="short",
                queries=(
                    *increase("meltd_melt_fees_amount_total", "mint, unit", "fees {{mint}} ({{unit}})"),
                    *increase("meltd_melt_shortfall_amount_total", "mint, unit", "shortfall {{mint}} ({{unit}})"),
                ),
            ),
        ),
    ),
    (
        "Mints",
        (
            Panel(
                title="Mint up",
                description="Up: 1 while the mint answers any daemon. Circuit open: 1 while a daemon refuses new melts there. Frozen: 1 while its word is not believed.",
                unit="short",
                top=1,
                width=6,
                queries=(
                    Query(expr=f"max by (mint) (meltd_mint_up{{{SCOPE}}})", legend="{{mint}} up"),
                    Query(expr=f"max by (mint) (meltd_mint_circuit_open{{{SCOPE}}})", legend="{{mint}} circuit open"),
                    Query(expr=f"max by (mint) (meltd_mint_frozen{{{SCOPE}}})", legend="{{mint}} frozen"),
                ),
            ),
            Panel(
                title="Requests by outcome",
                description="ok; rejected: a definite no; error: no usable answer.",
                unit="reqps",
                width=6,
                queries=rate("meltd_mint_requests_total", "mint, outcome", "{{mint}} {{outcome}}"),
            ),
            Panel(
                title="Request latency by endpoint, 95th percentile",
                description="All mints that the filters leave.",
                unit="s",
                width=6,
                queries=p95("meltd_mint_request_duration_seconds", "endpoint"),
            ),
            Panel(
                title="Request errors",
                description="Share of requests without a usable answer, by mint.",
                unit="percentunit",
                top=1,
                width=6,
                queries=one(
                    f'sum by (mint) (rate(meltd_mint_requests_total{{{SCOPE}, outcome="error"}}{RATE})) / '
                    f"(sum by (mint) (rate(meltd_mint_requests_total{{{SCOPE}}}{RATE})) > 0)",
                    "{{mint}}",
                ),
            ),
            Panel(
                title="Hints connected",
                description="1 while the mint's subscriptions (NUT-17) are connected. Without them it is polled as ever.",
                unit="short",
                top=1,
                queries=one(f"max by (mint) (meltd_hints_connected{{{SCOPE}}})", "{{mint}}"),
            ),
            Panel(
                title="Hints",
                description="Changes that subscriptions told, by kind. Each makes meltd look sooner and decides nothing.",
                unit="ops",
                queries=rate("meltd_hints_total", "mint, kind", "{{mint}} {{kind}}"),
            ),
            Panel(
                title="Trouble with hints",
                description="Connections made again, and messages dropped because they can't be read or were not asked for.",
                unit="short",
                kind="bars",
                queries=(
                    *increase("meltd_hints_reconnects_total", "mint", "{{mint}} connected again"),
                    *increase("meltd_hints_dropped_total", "mint, reason", "{{mint}} {{reason}}"),
                ),
            ),
        ),
    ),
    (
        "Store",
        (
            Panel(
                title="Calls by outcome",
                description="refused: a lost race or a duplicate, which are answers; error: the store failed.",
                unit="ops",
                queries=rate("meltd_store_calls_total", "outcome", "{{outcome}}"),
            ),
            Panel(
                title="Call duration",
                description="All methods together.",
                unit="s",
                queries=quantiles("meltd_store_call_duration_seconds"),
            ),
            Panel(
                title="Call duration by method, 95th percentile",
                description="Methods are those of the store's port.",
                unit="s",
                queries=p95("meltd_store_call_duration_seconds", "method"),
            ),
        ),
    ),
    (
        "Process",
        (
            Panel(
                title="Memory",
                description="Resident set of each daemon.",
                unit="bytes",
                width=6,
                queries=one(f"process_resident_memory_bytes{{{SCOPE}}}", "{{instance}}"),
            ),
            Panel(
                title="CPU",
                description="Cores used by each daemon.",
                unit="short",
                width=6,
                queries=rate("process_cpu_seconds_total", "instance", "{{instance}}"),
            ),
            Panel(
                title="Open files",
                description="File descriptors of each daemon.",
                unit="short",
                width=6,
                queries=one(f"process_open_fds{{{SCOPE}}}", "{{instance}}"),
            ),
            Panel(
                title="Up for",
                description="Time since each daemon started.",
                unit="s",
                width=6,
                queries=one(f"time() - process_start_time_seconds{{{SCOPE}}}", "{{instance}}"),
            ),
            Panel(
                title="Loops restarted, runs missed or skipped",
                description="A supervised loop crashed; a scheduled run did not happen or found the last one running.",
                unit="short",
                width=12,
                queries=(
                    *increase("meltd_loop_restarts_total", "loop", "restarted {{loop}}"),
                    *increase("meltd_schedule_runs_missed_total", "job_name", "missed {{job_name}}"),
                    *increase("meltd_schedule_runs_overlapped_total", "job_name", "skipped {{job_name}}"),
                ),
            ),
            Panel(
                title="Webhook deliveries",
                description="By outcome; a failed delivery loses no event, they stay open in the database.",
                unit="short",
                width=6,
                queries=increase("meltd_webhook_deliveries_total", "outcome", "{{outcome}}"),
            ),
            Panel(
                title="Versions",
                description="What runs where.",
                unit="short",
                kind="table",
                width=6,
                queries=one(f"max by (instance, version, python) (meltd_build_info{{{SCOPE}}})", "{{version}}"),
            ),
        ),
    ),
)
