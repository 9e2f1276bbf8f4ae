"""The real daemon as a child process, driven over its socket as an operator would."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parents[2]
"""The checkout that is tested, whatever meltd is installed beside it."""
START_S = 30.0
STOP_S = 40.0
PATIENT_S = 45.0


class DaemonProcess:
    """``meltd run`` with settings for tests; the log is kept beside the data."""

    def __init__(
        self,
        folder: Path,
        *,
        mints: dict[str, str],
        mongo_uri: str | None,
        database: str = "cashu",
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        # sun_path is short, and pytest's folders are not.
        self.socket = f"/tmp/meltd-{secrets.token_hex(6)}.sock"
        self.log_path = folder / "daemon.log"
        self._mints = mints
        self._mongo_uri = mongo_uri
        self._database = database
        self._settings = settings or {}
        self.environment_changes = dict(env or {})
        self.left_out: set[str] = set()
        """Variables that are not set at all: whatever the default is."""
        self.module = "daemon"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def mints(self) -> dict[str, str]:
        """Alias to URL."""
        return self._mints

    def url_of(self, alias: str, url: str) -> None:
        """The mint is reached there from the next start on."""
        self._mints = {**self._mints, alias: url}

    # --- life ---

    def environment(self) -> dict[str, str]:
        """What an operator's unit file would set."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MELTD_DATA_DIR": str(self.data),
            "MELTD_SOCKET__PATH": self.socket,
            "MELTD_HTTP__PORT": "0",
            **{f"MELTD_MINTS__{alias.upper()}__URL": url for alias, url in self._mints.items()},
            "MELTD_LOG__FORMAT": "json",
            "MELTD_LOG__LEVEL": "DEBUG",
            "MELTD_DRAIN_S": "10",
            # Tests plant drift and look at it before it is mended: a hint would mend it at once. Those of hints switch it on.
            "MELTD_SUBSCRIPTIONS__ENABLED": "false",
            # Most tests insert their documents before the first start, and want them corrected.
            "MELTD_MODE": "correct",
            # Nobody else spends from most tests' databases. Those of the neighbour set the times themselves.
            "MELTD_SWEEP__CORRECT_AFTER_S": "0",
            "MELTD_SWEEP__ALERT_AFTER_S": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
        }
        if self._mongo_uri is None:
            env["MELTD_EMBEDDED"] = "true"
        else:
            env["MELTD_MONGO__URI"] = self._mongo_uri
            env["MELTD_MONGO__RETRY_WRITES"] = "false"
            env["MELTD_MONGO__DATABASE"] = self._database
        for name, value in self._settings.items():
            env["MELTD_" + name.upper().replace(".", "__")] = str(value)
        changed = env | self.environment_changes
        return {name: value for name, value in changed.items() if name not in self.left_out}

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with ``wait`` return once it is ready."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, "run"],
                env=self.environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Until the socket answers; fails with the log's end."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log_tail()}")
            if self._listens() and self.get("/v1/status").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"the daemon is not ready:\n{self.log_tail()}")

    def _listens(self) -> bool:
        """httpx leaks the socket of a failed connection, so the first one is our own."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
        return True

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self._process is None or self._process.poll() is not None:
            return 0 if self._process is None else int(self._process.returncode)
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the daemon does not stop:\n{self.log_tail()}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    # --- talking ---

    def client(self, timeout_s: float = 60.0) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=self.socket), base_url="http://localhost", timeout=timeout_s
        )

    def get(self, path: str, **params: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, params=params)

    def post(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json={} if body is None else body, headers=headers)

    def melt(
        self, npub: str, mint: str, invoice: str, *, key: str | None = None, wait: float = 30, **more: Any
    ) -> httpx.Response:
        """Pay an invoice."""
        with self.client(wait + 60) as client:
            return client.post(
                "/v1/melts",
                params={"wait": wait},
                json={"npub": npub, "mint": mint, "invoice": invoice, **more},
                headers={"Idempotency-Key": key or secrets.token_hex(8)},
            )

    def reconcile(self, **body: Any) -> dict[str, Any]:
        """One round now."""
        answer = self.post("/v1/reconcile", body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def balances(self, npub: str) -> dict[str, Any]:
        answer = self.get(f"/v1/wallets/{npub}")
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def metrics_url(self) -> str:
        url: str = self.get("/v1/status").json()["metrics_url"]
        return url

    def metrics(self) -> str:
        return httpx.get(self.metrics_url(), timeout=10, trust_env=False).text

    def wait_state(self, melt_id: str, *states: str, within_s: float = PATIENT_S) -> dict[str, Any]:
        """Poll a melt until it is in one of ``states``."""
        deadline = time.monotonic() + within_s
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            found = self.get(f"/v1/melts/{melt_id}").json()
            if found.get("state") in states:
                return found
            time.sleep(0.1)
        raise AssertionError(f"melt is {found.get('state')}, not {states}:\n{self.log_tail()}")

    # --- its log ---

    def log_tail(self, lines: int = 40) -> str:
        try:
            told = self.log_path.read_text(errors="replace").splitlines()
            return "\n".join([line for line in told if '"method": "GET"' not in line][-lines:])
        except FileNotFoundError:
            return "(no log)"

    def log_lines(self) -> list[dict[str, Any]]:
        """Every line, which must be JSON."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.strip()]
