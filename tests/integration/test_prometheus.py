"""A real Prometheus scrapes a real exposition: each panel's query answers, alerts fire and stop."""

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from daemon.metrics import Metrics
from daemon.ports import Lane
from melt.errors import Severity
from melt.model import DriftType, EventType, MeltState, MintAlias, Solvency, TokenStatus
from melt.ports.cases import OpenFigures
from tests.support.prometheus import PrometheusProcess

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")

MAIN = MintAlias("main")
SPENT = "DB_UNSPENT_MINT_SPENT"


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """A daemon's metrics as they are while it is at work and all is well."""
    made = Metrics(version="0.0.0")
    made.declare(["main"], jobs=["sweep"], loops=["watcher"])
    made.set_open_events({})
    made.set_open_discrepancies({})
    made.set_open_melts({}, oldest_age_s=0)
    made.set_mint_up(MAIN, up=True)
    made.set_store_up(up=True)
    made.set_sweep_schedule(MAIN, interval_s=300, last_success=datetime.now(UTC))
    made.set_sweep_progress(MAIN, done=10, total=100, eta_s=9)
    made.watch_detection_lag(MAIN, lambda: 200.0, target_s=600)
    made.set_sweep_duty(MAIN, 0.5)
    made.lane_documents(MAIN, Lane.COLD, 10)
    made.set_liabilities(MAIN, "sat", TokenStatus.UNSPENT, 1000)
    made.set_solvency(MAIN, [Solvency(mint=MAIN, unit="sat", owed=1000, honoured=1000, at=datetime.now(UTC))])
    made.set_lease(MAIN, held=True, epoch=3)
    made.settle_looked(MAIN)
    made.set_liabilities(MAIN, "sat", TokenStatus.UNSPENT, 1000)
    made.set_open_cases(oldest_age_s={}, value={("LOW", "sat"): 8})
    made.set_settling(OpenFigures())
    made.set_plans({}, oldest_age_s=0)
    made.set_mint_frozen(MAIN, frozen=False)
    made.hints_connected(MAIN, connected=True)
    made.summary_made()
    return made


@pytest.fixture(scope="module")
def prometheus(metrics: Metrics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """Prometheus, scraping ``metrics`` over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = metrics.render()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with PrometheusProcess(tmp_path_factory.mktemp("prometheus"), url) as process:
            process.scraped(4)
            yield process
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_nothing_fires_while_all_is_well(prometheus: PrometheusProcess):
    prometheus.scraped(4)
    assert prometheus.rule_errors() == []
    assert prometheus.alerts() == set()


def test_each_panel_has_an_answer(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.set_open_discrepancies({("DB_PENDING_MINT_PENDING", "LOW", "main"): 1})
    metrics.set_settling(OpenFigures(phases={("DB_PENDING_MINT_PENDING", "LOW", "main", "settling"): 1}))
    for _ in range(3):
        metrics.melt_ended(MAIN, "settled", 0.3)
        metrics.melt_phase(MAIN, "pay", 0.1)
        metrics.mint_request(MAIN, "checkstate", "ok", 0.02)
        metrics.mint_request(MAIN, "melt", "error", 0.02)
        metrics.store_call("reserve", "ok", 0.01)
        metrics.swept_batch(MAIN, 10, 80, 0.2)
        prometheus.scraped(1)
    assert prometheus.unanswered_panels() == []
    metrics.set_open_discrepancies({})
    metrics.set_settling(OpenFigures())


def test_an_open_critical_event_fires_and_its_end_is_seen(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.critical_event(EventType.DRILL)
    metrics.set_open_events({EventType.DRILL: 1})
    prometheus.wait_firing("CriticalEventOpen", "DRILL")
    metrics.set_open_events({})
    prometheus.wait_quiet("CriticalEventOpen", "DRILL")


def test_the_first_high_drift_ever_fires_and_stops(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.drift_found(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH, MAIN)
    metrics.drift_alerting(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH, MAIN)
    metrics.drift_corrected(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH, MAIN)
    prometheus.wait_firing("DriftHigh", "DB_UNSPENT_MINT_SPENT")
    prometheus.wait_quiet("DriftHigh", "DB_UNSPENT_MINT_SPENT")


def test_drift_that_settles_alerts_once_it_is_old_and_is_called_uncorrected_once_it_is_due(
    prometheus: PrometheusProcess, metrics: Metrics
):
    metrics.set_open_discrepancies({(SPENT, "HIGH", "main"): 1})
    metrics.set_settling(OpenFigures(phases={(SPENT, "HIGH", "main", "settling"): 1}))
    metrics.drift_found(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH, MAIN)
    prometheus.scraped(6)
    assert ("DriftHigh", SPENT) not in prometheus.alerts()
    metrics.set_settling(OpenFigures(phases={(SPENT, "HIGH", "main", "waiting"): 1}))
    prometheus.wait_firing("DriftHigh", SPENT)
    assert ("DriftNotCorrected", SPENT) not in prometheus.alerts()
    metrics.set_settling(OpenFigures(phases={(SPENT, "HIGH", "main", "due"): 1}))
    prometheus.wait_firing("DriftNotCorrected", SPENT)
    metrics.set_settling(OpenFigures())
    metrics.set_open_discrepancies({})
    prometheus.wait_quiet("DriftNotCorrected", SPENT)
    prometheus.wait_quiet("DriftHigh", SPENT)


def test_drift_that_does_not_come_to_rest_fires_and_stops(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.set_settling(OpenFigures(unsettled={"main": 2}))
    prometheus.wait_firing("DriftUnsettled", "main")
    metrics.set_settling(OpenFigures())
    prometheus.wait_quiet("DriftUnsettled", "main")


def test_a_mint_and_a_store_that_are_down_fire_and_stop(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.set_mint_up(MAIN, up=False)
    metrics.set_store_up(up=False)
    prometheus.wait_firing("MintDown", "main")
    prometheus.wait_firing("StoreDown")
    metrics.set_mint_up(MAIN, up=True)
    metrics.set_store_up(up=True)
    prometheus.wait_quiet("MintDown", "main")
    prometheus.wait_quiet("StoreDown")


def test_a_stuck_melt_fires_and_stops(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.set_open_melts({MeltState.PENDING: 1}, oldest_age_s=1000)
    prometheus.wait_firing("MeltStuck")
    metrics.set_open_melts({}, oldest_age_s=0)
    prometheus.wait_quiet("MeltStuck")


def test_a_stale_sweep_fires_only_for_a_daemon_that_had_time(prometheus: PrometheusProcess, metrics: Metrics):
    metrics.set_sweep_schedule(MAIN, interval_s=3600, last_success=datetime(2020, 1, 1, tzinfo=UTC))
    prometheus.scraped(6)
    assert ("SweepStale", "main") not in prometheus.alerts()
    metrics.set_sweep_schedule(MAIN, interval_s=0.5, last_success=None)
    prometheus.wait_firing("SweepStale", "main")
    metrics.set_sweep_schedule(MAIN, interval_s=300, last_success=datetime.now(UTC))
    prometheus.wait_quiet("SweepStale", "main")
