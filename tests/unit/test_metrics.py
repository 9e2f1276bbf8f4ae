"""Every metric of meltd: names, labels, zeros at the start, and what can't become a label."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.metrics import ALL_MINTS, MINTS_MAX, SEVERITIES_OF, UNCONFIGURED, UNITS_MAX, Metrics
from daemon.ports import Lane
from melt.drift import SEVERITIES
from melt.errors import Code, ConfigError, Severity
from melt.model import (
    DriftType,
    EventType,
    HintDrop,
    HintKind,
    MeltState,
    MintAlias,
    PlanState,
    Solvency,
    TakenBecause,
    TokenStatus,
)
from melt.ports import HintTelemetry, Telemetry

MAIN = MintAlias("main")
BOUNDED_LABELS = {
    "shard",
    "why",
    "mint",
    "lane",
    "type",
    "severity",
    "state",
    "from_state",
    "to_state",
    "outcome",
    "code",
    "phase",
    "unit",
    "status",
    "endpoint",
    "method",
    "scope",
    "job_name",
    "loop",
    "kind",
    "reason",
}
NPUB = "npub1" + "q" * 58
URL = "https://mint.example/Bitcoin"


def made(*mints: str) -> Metrics:
    metrics = Metrics(version="1.2.3", now=lambda: 1_700_000_000.0)
    metrics.declare(mints or ("main",), jobs=("sweep",), loops=("watcher",))
    return metrics


def text(metrics: Metrics) -> str:
    return metrics.render()[0].decode()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def exercised() -> Metrics:
    """Each observation made once, with values as they come and with values that no label may carry."""
    metrics = made()
    telemetry: Telemetry = metrics
    for mint in (MAIN, MintAlias(URL)):
        for drift in DriftType:
            telemetry.drift_found(drift, Severity.HIGH, mint)
            telemetry.drift_corrected(drift, Severity.LOW, mint)
        telemetry.melt_started(mint)
        telemetry.melt_ended(mint, "settled", 0.3)
        telemetry.melt_ended(mint, NPUB, 0.3)
        telemetry.melt_phase(mint, "pay", 0.1)
        telemetry.melt_phase(mint, URL, 0.1)
        telemetry.recovered(mint, MeltState.MELTING, MeltState.SETTLED)
        telemetry.amount_paid(mint, "sat", 100, 1, 0)
        telemetry.amount_paid(mint, URL, 100, 1, 0)
        telemetry.swept_batch(mint, 10, 80, 0.2)
        telemetry.sweep_finished(mint, ok=True, seconds=3.0)
        telemetry.mint_request(mint, "checkstate", "ok", 0.02)
        telemetry.mint_request(mint, f"/v1/melt/quote/{NPUB}", NPUB, 0.02)
        metrics.set_mint_up(mint, up=True)
        metrics.set_lease(mint, held=True, epoch=3)
        metrics.lease_taken(mint, TakenBecause.LAPSED)
        metrics.lease_lost(mint)
        metrics.set_sweep_progress(mint, done=5, total=10, eta_s=12.0)
        metrics.set_sweep_schedule(mint, interval_s=60, last_success=datetime(2024, 1, 1, tzinfo=UTC))
        metrics.watch_detection_lag(mint, lambda: 12.0, target_s=600)
        metrics.set_sweep_duty(mint, 0.5)
        metrics.lane_documents(mint, Lane.WARM, 3)
        metrics.set_liabilities(mint, "sat", TokenStatus.UNSPENT, 1000)
        metrics.set_liabilities(mint, URL, TokenStatus.UNSPENT, 1000)
        metrics.set_solvency(
            mint, [Solvency(mint=MAIN, unit="sat", owed=5, honoured=4, at=datetime(2024, 1, 1, tzinfo=UTC))]
        )
        metrics.set_paused(mint, paused=True)
        metrics.hints_connected(mint, connected=True)
        metrics.hints_reconnected(mint)
        metrics.hint_received(mint, HintKind.PROOF_STATE)
        metrics.hint_dropped(mint, HintDrop.MALFORMED)
    telemetry.melt_refused("INSUFFICIENT_FUNDS")
    telemetry.melt_refused(NPUB)
    telemetry.store_call("reserve", "ok", 0.01)
    telemetry.store_call(URL, NPUB, 0.01)
    telemetry.critical_event(EventType.DRILL)
    metrics.set_open_events({EventType.DRILL: 1})
    metrics.set_open_discrepancies({("DB_UNSPENT_MINT_SPENT", "HIGH", "main"): 2, (URL, NPUB, URL): 3})
    metrics.set_open_melts({MeltState.PENDING: 1}, oldest_age_s=3.0)
    metrics.set_open_cases(oldest_age_s={"HIGH": 3.0, URL: 4.0}, value={("HIGH", "sat"): 5})
    metrics.set_plans({PlanState.OPEN: 1}, oldest_age_s=5.0)
    metrics.set_store_up(up=True)
    metrics.job_missed("sweep")
    metrics.job_overlapped(URL)
    metrics.loop_restarted(NPUB)
    metrics.webhook_delivered(ok=False)
    return metrics


def test_each_name_has_the_prefix_and_the_suffix_of_its_kind():
    seen = 0
    for family in exercised().registry.collect():
        if family.name.startswith("process_"):
            continue
        seen += 1
        assert family.name.startswith("meltd_")
        assert family.documentation.endswith(".")
        names = {sample.name for sample in family.samples}
        assert not any(name.endswith("_created") for name in names)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", family.name)
        if family.type == "counter":
            assert names == {f"{family.name}_total"}
        elif family.type == "histogram":
            assert family.name.endswith("_seconds")
        elif family.type == "info":
            assert names == {f"{family.name}_info"}
        else:
            assert family.type == "gauge"
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert seen > 30


def test_each_label_is_of_a_bounded_kind():
    for family in exercised().registry.collect():
        if family.name.startswith("process_") or family.type == "info":
            continue
        for sample in family.samples:
            assert set(sample.labels) - {"le"} <= BOUNDED_LABELS, sample.name


def test_no_url_npub_or_id_becomes_a_label():
    exposition = text(exercised())
    assert URL not in exposition
    assert NPUB not in exposition
    assert value(exercised(), "meltd_telemetry_rejections_total") == 4


def test_the_number_of_series_stays_the_same_whatever_is_observed():
    metrics = exercised()
    before = text(metrics).count("\n")
    for number in range(1000):
        metrics.drift_found(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH, MintAlias(f"mint{number}"))
        metrics.mint_request(MintAlias(f"mint{number}"), f"endpoint{number}", f"outcome{number}", 0.1)
        metrics.store_call(f"method{number}", "ok", 0.1)
        metrics.melt_refused(f"code{number}")
        metrics.loop_restarted(f"loop{number}")
    assert text(metrics).count("\n") - before < 25


def test_counters_of_discrepancies_and_events_exist_at_zero_from_the_start():
    metrics = made("main", "other-mint")
    for mint in ("main", "other-mint", UNCONFIGURED):
        for drift in DriftType:
            for severity in SEVERITIES_OF.get(drift, (Severity.LOW,)):
                labels = {"type": drift, "severity": severity, "mint": mint}
                assert value(metrics, "meltd_discrepancies_found_total", **labels) == 0
                assert value(metrics, "meltd_discrepancies_corrected_total", **labels) == 0
    for event_type in EventType:
        assert value(metrics, "meltd_critical_events_total", type=event_type) == 0
    for code in Code:
        assert value(metrics, "meltd_melt_refusals_total", code=code) == 0
    for outcome in ("settled", "released", "held", "pending", "refused"):
        assert value(metrics, "meltd_melts_ended_total", mint="main", outcome=outcome) == 0
    assert value(metrics, "meltd_melt_paid_amount_total", mint="main", unit="sat") == 0
    assert value(metrics, "meltd_loop_restarts_total", loop="watcher") == 0
    assert value(metrics, "meltd_paused", scope=ALL_MINTS) == 0


def test_gauges_of_the_database_are_absent_until_it_was_read():
    metrics = made()
    assert value(metrics, "meltd_open_critical_events", type="DRILL") is None
    metrics.set_open_events({})
    assert value(metrics, "meltd_open_critical_events", type="DRILL") == 0
    metrics.set_open_events({EventType.DRILL: 2})
    assert value(metrics, "meltd_open_critical_events", type="DRILL") == 2
    assert value(metrics, "meltd_open_critical_events", type="MELT_HELD") == 0


def test_a_mint_that_was_not_asked_yet_is_neither_up_nor_down():
    metrics = made()
    assert value(metrics, "meltd_mint_up", mint="main") is None
    metrics.set_mint_up(MAIN, up=False)
    assert value(metrics, "meltd_mint_up", mint="main") == 0


def test_discrepancies_that_were_closed_fall_back_to_zero():
    metrics = made()
    key = {"type": "DB_UNSPENT_MINT_SPENT", "severity": "HIGH", "mint": "main"}
    metrics.set_open_discrepancies({("DB_UNSPENT_MINT_SPENT", "HIGH", "main"): 2})
    assert value(metrics, "meltd_open_discrepancies", **key) == 2
    metrics.set_open_discrepancies({})
    assert value(metrics, "meltd_open_discrepancies", **key) == 0


def test_what_belongs_to_no_configured_mint_is_counted_together():
    metrics = made()
    metrics.drift_found(DriftType.MINT_UNCONFIGURED, Severity.LOW, None)
    metrics.set_open_discrepancies({("MINT_UNCONFIGURED", "LOW", ""): 2, ("MINT_UNCONFIGURED", "LOW", "gone"): 1})
    labels = {"type": "MINT_UNCONFIGURED", "severity": "LOW", "mint": UNCONFIGURED}
    assert value(metrics, "meltd_discrepancies_found_total", **labels) == 1
    assert value(metrics, "meltd_open_discrepancies", **labels) == 3


def test_amounts_of_different_units_never_share_a_series():
    metrics = made()
    metrics.amount_paid(MAIN, "sat", 100, 2, 1)
    metrics.amount_paid(MAIN, "msat", 5000, 0, 0)
    assert value(metrics, "meltd_melt_paid_amount_total", mint="main", unit="sat") == 100
    assert value(metrics, "meltd_melt_paid_amount_total", mint="main", unit="msat") == 5000
    assert value(metrics, "meltd_melt_fees_amount_total", mint="main", unit="sat") == 2
    assert value(metrics, "meltd_melt_shortfall_amount_total", mint="main", unit="sat") == 1
    for number in range(UNITS_MAX + 5):
        metrics.amount_paid(MAIN, f"unit{number}", 1, 0, 0)
    assert value(metrics, "meltd_telemetry_rejections_total") == 7


def test_a_negative_amount_is_dropped_and_counted():
    metrics = made()
    metrics.amount_paid(MAIN, "sat", -1, 0, 0)
    assert value(metrics, "meltd_melt_paid_amount_total", mint="main", unit="sat") == 0
    assert value(metrics, "meltd_telemetry_rejections_total") == 1


def test_a_melt_whose_caller_stopped_waiting_is_pending_in_whatever_open_state_it_is():
    metrics = made()
    for state in (MeltState.MELTING, MeltState.FENCING, MeltState.PENDING):
        metrics.melt_ended(MAIN, state.lower(), 30)
    assert value(metrics, "meltd_melts_ended_total", mint="main", outcome="pending") == 3
    assert value(metrics, "meltd_melts_ended_total", mint="main", outcome="other") is None


def test_each_severity_that_a_verdict_may_have_is_counted_from_zero():
    for drift, severity in SEVERITIES.items():
        assert severity in SEVERITIES_OF.get(drift, (Severity.LOW,)), drift


def test_only_a_good_tour_moves_the_last_success():
    metrics = made()
    metrics.set_sweep_schedule(MAIN, interval_s=60, last_success=datetime(2023, 1, 1, tzinfo=UTC))
    metrics.sweep_finished(MAIN, ok=False, seconds=1)
    assert value(metrics, "meltd_sweep_last_success_timestamp_seconds", mint="main") == 1_672_531_200
    metrics.sweep_finished(MAIN, ok=True, seconds=1)
    assert value(metrics, "meltd_sweep_last_success_timestamp_seconds", mint="main") == 1_700_000_000


@pytest.mark.parametrize("alias", ["", "a" * 65, URL, "two words", 'quo"te', "zeile\n", UNCONFIGURED, ALL_MINTS])
def test_an_alias_that_can_not_be_a_label_is_refused(alias: str):
    with pytest.raises(ConfigError):
        made(alias)


def test_too_many_mints_are_refused():
    with pytest.raises(ConfigError):
        made(*(f"m{number}" for number in range(MINTS_MAX + 1)))


def test_two_registries_do_not_meet():
    one, two = made(), made()
    one.melt_started(MAIN)
    assert value(one, "meltd_melts_started_total", mint="main") == 1
    assert value(two, "meltd_melts_started_total", mint="main") == 0


def test_the_exposition_parses_and_names_the_version():
    body, content_type = exercised().render()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["meltd_build_info"].samples[0].labels["version"] == "1.2.3"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_object_to(tmp_path: Path):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exercised().render()[0], capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_hints_are_counted_from_zero_and_the_connection_appears_with_its_first_reading():
    metrics = made()
    assert value(metrics, "meltd_hints_total", mint="main", kind="proof_state") == 0
    assert value(metrics, "meltd_hints_dropped_total", mint="main", reason="unasked") == 0
    assert value(metrics, "meltd_hints_reconnects_total", mint="main") == 0
    assert value(metrics, "meltd_hints_connected", mint="main") is None
    telemetry: HintTelemetry = metrics
    telemetry.hints_connected(MAIN, connected=True)
    telemetry.hint_received(MAIN, HintKind.MELT_QUOTE)
    telemetry.hint_dropped(MAIN, HintDrop.UNASKED)
    telemetry.hints_reconnected(MAIN)
    assert value(metrics, "meltd_hints_total", mint="main", kind="bolt11_melt_quote") == 1
    assert value(metrics, "meltd_hints_dropped_total", mint="main", reason="unasked") == 1
    assert value(metrics, "meltd_hints_reconnects_total", mint="main") == 1
    assert value(metrics, "meltd_hints_connected", mint="main") == 1
