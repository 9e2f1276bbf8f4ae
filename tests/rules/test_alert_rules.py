"""Alerts and recording rules: names, annotations, metrics that exist, rule tests, and the runbooks behind them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from daemon.metrics import Metrics
from melt.model import DriftType, EventType
from tests.support.promql import bare_counters, selectors

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES_FILE = GRAFANA / "prometheus" / "rules.yml"
TESTS = sorted((GRAFANA / "prometheus" / "tests").glob("*.yml"))
RUNBOOKS = GRAFANA / "runbooks"
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def known_names() -> set[str]:
    names = set(RECORDED) | {"up"}
    for family in Metrics(version="0").registry.collect():
        names |= {family.name, family.name + "_total", family.name + "_bucket", family.name + "_info"}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_expression_parses_and_names_metrics_that_exist(rule: dict):
    assert {name for name, _ in selectors(rule["expr"])} <= known_names()
    assert bare_counters(rule["expr"]) == []


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_how_bad_what_and_where_to_read(name: str):
    alert = ALERTS[name]
    assert re.fullmatch(r"([A-Z][a-z]+)+", name)
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(alert["annotations"]["summary"]) < 100
    assert alert["annotations"]["runbook_url"] == f"https://runbooks.example/meltd/{name}.md"
    assert (RUNBOOKS / f"{name}.md").is_file()


@pytest.mark.parametrize("name", RECORDED)
def test_each_recording_rule_is_named_level_metric_operations(name: str):
    level, metric, operations = name.split(":")
    assert re.fullmatch(r"[a-z_]+", level)
    assert metric.startswith("meltd_")
    assert operations
    for label in level.split("_"):
        assert re.search(rf"by \([^)]*\b{label}\b", RECORDED[name]["expr"]), label


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_firing_and_a_quiet_case(name: str):
    cases = [
        case
        for file in TESTS
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("page", ["What it means", "How to see it", "What to do", "When to wake somebody"])
@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_runbook_that_answers(name: str, page: str):
    assert f"## {page}\n" in (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("drift", DriftType)
def test_each_drift_type_has_a_page(drift: DriftType):
    text = (RUNBOOKS / f"drift-{drift}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {drift}\n")
    for part in ("**Means:**", "**meltd does:**", "**See it:**", "**You do:**"):
        assert part in text


@pytest.mark.parametrize("event", EventType)
def test_each_event_type_is_explained(event: EventType):
    assert f"### {event}\n" in (RUNBOOKS / "CriticalEventOpen.md").read_text(encoding="utf-8")


def test_there_is_no_page_for_what_does_not_exist():
    expected = {*ALERTS, *(f"drift-{drift}" for drift in DriftType), "README"}
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == expected


@needs_promtool
def test_promtool_accepts_the_rules_and_the_sample_configuration():
    assert run("promtool", "check", "rules", str(RULES_FILE)).returncode == 0
    done = run("promtool", "check", "config", str(GRAFANA / "prometheus" / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rule_tests_pass(file: Path):
    done = run("promtool", "test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {
    "a melt may hang ten times as long": ("> 900", "> 9000"),
    "LOW drift alerts too": ('{severity=~"HIGH|CRITICAL"}[10m]', "[10m]"),
    "refusals count as failures": ('"released|held"}', '"released|held|refused"}'),
    "an event stays on after its end": ("[2m])) > 0", "[9m])) > 0"),
    "a mint is down when one daemon says so": ("max by (job, mint) (meltd_mint_up)", "min by (job, mint) (meltd_mint_up)"),
    "an election of the database alerts": ("expr: meltd_store_up == 0\n        for: 1m", "expr: meltd_store_up == 0"),
    "a restart alerts": ('absent(up{job="meltd"})\n        for: 2m', 'absent(up{job="meltd"})'),
    "a mint may not pause for breath": ("(meltd_mint_up) == 0\n        for: 5m", "(meltd_mint_up) == 0"),
    "the lag may be ten times its target": ("> 2 * max by (job, mint) (meltd_detection_lag_target_seconds)", "> 10 * max by (job, mint) (meltd_detection_lag_target_seconds)"),
    "the worst daemon's lag counts": ("min by (job, mint) (meltd_detection_lag_seconds)", "max by (job, mint) (meltd_detection_lag_seconds)"),
    "an hour of pause alerts": ("for: 4h", "for: 30m"),
    "what settles pages": ('phase=~"waiting|due"', 'phase=~"settling|waiting|due"'),
    "what is older than alert_after_s pages nobody": ('phase=~"waiting|due"', 'phase=~"due"'),
    "what waits for its time is called uncorrected": ('phase="due"', 'phase=~"waiting|due"'),
    "somebody else's payment is called a loss": ("(max by (job, mint, unit) (meltd_settling_amount) or", "(0 * max by (job, mint, unit) (meltd_settling_amount) or"),
    "two daemons count what settles twice": ("(max by (job, mint, unit) (meltd_settling_amount)", "(sum by (job, mint, unit) (meltd_settling_amount)"),
    "one that has never looked is not missed": ("unless on (job, mint)\n          time()", "and on (job, mint)\n          0 - time()"),
    "nobody needs to hold the lease": ('"(.+)")) == 1', '"(.+)")) >= 0'),
    "a handover of the lease alerts": ("time() - max by (job, mint) (meltd_settle", "time() - min by (job, mint) (meltd_settle"),
    "nothing scraped goes unnoticed": (' or absent(up{job="meltd"})', ""),
}  # fmt: skip


@needs_promtool
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_in_the_rules_fails_the_rule_tests(bug: str, tmp_path: Path):
    old, new = PLANTED[bug]
    text = RULES_FILE.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "rules.yml").write_text(text.replace(old, new), encoding="utf-8")
    (tmp_path / "tests").mkdir()
    for file in TESTS:
        shutil.copy(file, tmp_path / "tests")
    done = run("promtool", "test", "rules", *(str(tmp_path / "tests" / file.name) for file in TESTS))
    assert done.returncode == 1


@needs_amtool
def test_amtool_accepts_the_sample_configuration():
    done = run("amtool", "check-config", str(GRAFANA / "alertmanager" / "alertmanager.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_amtool
@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_reaches_the_receiver_of_its_severity(name: str):
    severity = ALERTS[name]["labels"]["severity"]
    config = str(GRAFANA / "alertmanager" / "alertmanager.yml")
    done = run(
        "amtool", "config", "routes", "test", f"--config.file={config}", f"alertname={name}", f"severity={severity}"
    )
    assert done.stdout.strip() == {"critical": "pager", "warning": "channel"}[severity]
