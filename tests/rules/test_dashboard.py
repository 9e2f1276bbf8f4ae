"""The overview dashboard: generated, and as Grafana's dashboard linter would have it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from daemon.metrics import Metrics
from grafana.build import TARGET, main, rendered
from tests.support.promql import bare_counters, interpolated, selectors

BOARD = json.loads(TARGET.read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
UNITS = {"short", "s", "ops", "reqps", "bytes", "percentunit"}


def exported_names() -> set[str]:
    metrics = Metrics(version="0")
    names = set()
    for family in metrics.registry.collect():
        suffixes = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_count", "_sum"),
            "info": ("_info",),
        }.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_the_committed_dashboard_is_the_generated_one():
    assert TARGET.read_text(encoding="utf-8") == rendered()
    assert main(["--check"]) == 0


def test_the_model_of_grafana_reads_it_back_unchanged():
    again = json.loads(json.dumps(Dashboard.from_json(BOARD), cls=JSONEncoder))
    assert {panel["title"] for panel in again["panels"]} == {panel["title"] for panel in BOARD["panels"]}
    assert again["schemaVersion"] == BOARD["schemaVersion"] == 41


def test_data_source_job_and_instance_are_templated():
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        variable = VARIABLES[name]
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["multi"] is True
        assert variable["includeAll"] is True
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2  # reloads when the time range changes
        assert variable["label"]


def test_it_is_not_editable_and_has_an_address_of_its_own():
    assert BOARD["editable"] is False
    assert BOARD["uid"] == "meltd-overview"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows(panel: dict):
    assert panel["title"]
    assert len(panel["description"]) > 10
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"]


def test_titles_and_numbers_are_unique_and_no_panel_covers_another():
    for field in ("id", "title"):
        values = [panel[field] for panel in BOARD["panels"]]
        assert len(values) == len(set(values))
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= 24, panel["title"]
        covered = {
            (column, row)
            for column in range(where["x"], where["x"] + where["w"])
            for row in range(where["y"], where["y"] + where["h"])
        }
        assert not cells & covered, panel["title"]
        cells |= covered


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_each_query_is_bound_to_job_and_instance(title: str, expr: str):
    found = selectors(interpolated(expr))
    assert found, title
    assert expr.count('job=~"$job"') == len(found)
    assert expr.count('instance=~"$instance"') == len(found)


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_each_query_names_metrics_that_exist(title: str, expr: str):
    exported = exported_names()
    assert {name for name, _ in selectors(interpolated(expr))} <= exported, title


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_counters_are_seen_by_rate_or_increase_over_the_rate_interval(title: str, expr: str):
    assert bare_counters(interpolated(expr)) == [], title
    assert expr.count("[") == expr.count("[$__rate_interval]"), title


@pytest.mark.parametrize(("title", "expr"), QUERIES)
def test_amounts_are_never_summed_over_units(title: str, expr: str):
    if "_amount" in expr:
        kept = [labels.split(", ") for labels in re.findall(r"by \(([^)]*)\)", expr)]
        assert kept, title
        assert all("unit" in labels for labels in kept), title


@pytest.mark.parametrize(
    "metric",
    [
        "meltd_open_critical_events",
        "meltd_open_discrepancies",
        "meltd_open_discrepancies_by_phase",
        "meltd_unsettled_discrepancies",
        "meltd_liabilities_amount",
        "meltd_open_melts",
    ],
)
def test_gauges_of_the_database_are_folded_over_daemons_before_anything_is_summed(metric: str):
    for title, expr in QUERIES:
        before, found, _ = expr.partition(metric + "{")
        if found:
            innermost = before.rstrip("( ").rsplit(" (", 1)[0]
            assert "max by" in innermost.rsplit("sum", 1)[-1], title


def test_a_bare_counter_would_be_noticed():
    assert bare_counters("sum(meltd_melts_ended_total)") == ["meltd_melts_ended_total"]
    assert bare_counters("sum(rate(meltd_melts_ended_total[5m])) + meltd_melts_ended_total") != []


def test_each_metric_of_its_own_is_on_the_dashboard_or_known_not_to_be():
    shown = {name for _, expr in QUERIES for name, _ in selectors(interpolated(expr))}
    hidden = {
        name
        for name in exported_names() - shown
        if name.startswith("meltd_") and not name.endswith(("_sum", "_count", "_bucket"))
    }
    assert hidden == {
        "meltd_melts_started_total",  # ended melts by outcome say more
        "meltd_sweep_documents_total",  # proofs are the measure of the work
        "meltd_sweep_interval_seconds",  # for SweepStale
        "meltd_telemetry_rejections_total",  # a bug of ours, seen in tests
    }


def test_provisioning_names_the_folder_of_the_dashboards():
    root = Path(__file__).parents[2] / "grafana" / "provisioning"
    providers = yaml.safe_load((root / "dashboards" / "meltd.yml").read_text(encoding="utf-8"))
    sources = yaml.safe_load((root / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    assert providers["apiVersion"] == sources["apiVersion"] == 1
    assert providers["providers"][0]["options"]["path"].endswith("/grafana/dashboards")
    assert sources["datasources"][0]["type"] == "prometheus"
