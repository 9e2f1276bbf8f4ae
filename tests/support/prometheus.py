"""
A real Prometheus on a loopback port, scraping one target every half second with the repository's rules.

The rules are those of ``grafana/prometheus/rules.yml`` with their times shortened, since no test can wait for
half an hour; thresholds and label sets stay. What the long times mean is tested by promtool.
"""

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import yaml

from tests.support.promql import VARIABLES

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES = GRAFANA / "prometheus" / "rules.yml"
DASHBOARD = GRAFANA / "dashboards" / "meltd-overview.json"
WINDOW = "6s"
"""Every range of the shortened rules and queries: twelve scrapes."""
DEADLINE_S = 60.0

T = TypeVar("T")


def eventually(look: Callable[[], T], *, deadline_s: float = DEADLINE_S, what: str) -> T:
    """The first truthy answer of ``look``; AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.1)


def shortened(rules: str) -> str:
    """The rules with every range and every ``for`` brought down to seconds."""
    data = yaml.safe_load(rules)
    for group in data["groups"]:
        group["interval"] = "500ms"
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[\d+[smhd]\]", f"[{WINDOW}]", rule["expr"])
            if "for" in rule:
                rule["for"] = "1s"
    return yaml.safe_dump(data)


def panel_queries() -> list[tuple[str, str, bool]]:
    """(panel's title, expression with everything selected, whether it is drawn over time) of the dashboard."""
    found = []
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"]
            for name, text in {**VARIABLES, "$__rate_interval": WINDOW}.items():
                expr = expr.replace(name, text)
            found.append((panel["title"], expr, bool(target.get("range"))))
    return found


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class PrometheusProcess:
    """
    Starts Prometheus against ``target`` (the URL of a ``/metrics``) as job ``meltd``; a context manager.

    Raises FileNotFoundError where the program is not installed: tests skip by name before that.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self.folder = folder
        self.target = urlsplit(target)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.folder / "rules.yml").write_text(shortened(RULES.read_text(encoding="utf-8")), encoding="utf-8")
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {
                    "job_name": "meltd",
                    "metrics_path": self.target.path or "/metrics",
                    "static_configs": [{"targets": [self.target.netloc]}],
                }
            ],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        log = (self.folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={urlsplit(self.url).netloc}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            cwd=self.folder,
        )
        log.close()
        try:
            eventually(self._ready, what="Prometheus is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
            self._process = None

    def _ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError((self.folder / "prometheus.log").read_text(encoding="utf-8"))
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _api(self, path: str, **params: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=20).json()
        if answer["status"] != "success":
            raise AssertionError(f"{path} {params}: {answer.get('error')}")
        return answer["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Instant vector: (labels, value) of each series. AssertionError where Prometheus refuses the expression."""
        data = self._api("query", query=expr)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def query_range(self, expr: str, *, seconds: int = 30) -> list[dict[str, Any]]:
        """The series of the last ``seconds``, at a step of a second."""
        now = time.time()
        data = self._api("query_range", query=expr, start=f"{now - seconds}", end=f"{now}", step="1")
        return list(data["result"])

    def scraped(self, times: int = 2) -> None:
        """Wait until the target has been scraped well ``times`` more times."""
        seen: set[str] = set()

        def look() -> bool:
            for one in self._api("targets")["activeTargets"]:
                if one["health"] == "up":
                    seen.add(one["lastScrape"])
            return len(seen) > times

        eventually(look, what="the target is scraped")

    def rule_errors(self) -> list[str]:
        """What went wrong in evaluating the rules."""
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in self._api("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] == "err"
        ]

    def alerts(self) -> set[tuple[str, str]]:
        """(name, type or mint or scope or "") of each alert that fires now."""
        return {
            (
                one["labels"]["alertname"],
                one["labels"].get("type") or one["labels"].get("mint") or one["labels"].get("scope") or "",
            )
            for one in self._api("alerts")["alerts"]
            if one["state"] == "firing"
        }

    def wait_firing(self, name: str, about: str = "") -> None:
        """Wait until the alert fires."""
        eventually(lambda: (name, about) in self.alerts(), what=f"{name} {about} fires")

    def wait_quiet(self, name: str, about: str = "") -> None:
        """Wait until the alert does not fire any more."""
        eventually(lambda: (name, about) not in self.alerts(), what=f"{name} {about} stops")

    def unanswered_panels(self) -> list[str]:
        """Ask every panel's query; the titles of those that gave no series at all. Refused ones raise."""
        answered: dict[str, bool] = {}
        for title, expr, over_time in panel_queries():
            found = self.query_range(expr) if over_time else self.query(expr)
            answered[title] = answered.get(title, False) or bool(found)
        return sorted(title for title, any_series in answered.items() if not any_series)
