"""``meltd demo`` as a person or a program starts it: its whole answer, and that nothing of it is left however it ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.demo.cdk_child import BINARY_ENV
from tests.generations import cdk

pytestmark = pytest.mark.timeout(170)

DRIFT = {
    ("counted, but all spent", "DB_UNSPENT_MINT_SPENT", "corrected"),
    ("counted, but half spent", "DB_UNSPENT_MINT_SPENT", "corrected"),
    ("counted, spent by sender", "DB_UNSPENT_MINT_SPENT", "corrected"),
    ("counted, but being spent", "DB_UNSPENT_MINT_PENDING", "watched"),
    ("left pending, never spent", "DB_PENDING_MINT_UNSPENT", "corrected"),
    ("pending on both sides", "DB_PENDING_MINT_PENDING", "watched"),
    ("left pending, long spent", "DB_PENDING_MINT_SPENT", "corrected"),
    ("sent, not yet redeemed", "DB_SPENT_MINT_UNSPENT", "recorded"),
    ("written off, still good", "DB_SPENT_MINT_UNSPENT", "corrected"),
    ("written off, half is good", "DB_SPENT_MINT_UNSPENT", "corrected"),
    ("sent, being redeemed", "DB_SPENT_MINT_PENDING", "watched"),
    ("failed, but still good", "DB_FAILED_MINT_UNSPENT", "corrected"),
}


class Demo:
    """The demo as a child, with a temporary folder of its own by which its children are told."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.errors = folder / "stderr"
        self.answer = folder / "stdout"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        keep = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        with self.errors.open("wb") as stderr, self.answer.open("wb") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "demo", *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**keep, "HOME": str(folder), "TMPDIR": str(self.scratch), **(environment or {})},
            )

    def wait(self, seconds: float = 90) -> int:
        return self.process.wait(seconds)

    def wait_for(self, words: str, seconds: float = 90) -> None:
        """Until standard error says so."""
        deadline = time.monotonic() + seconds
        while words not in self.errors.read_text(encoding="utf-8"):
            assert self.process.poll() is None, self.errors.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, self.errors.read_text(encoding="utf-8")
            time.sleep(0.05)

    def parts(self) -> dict[int, str]:
        """The processes, other than the demo itself, that run in its temporary folder."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if os.fsencode(self.scratch) in command + (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def nothing_is_left(self, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while left := self.parts():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def end(self) -> None:
        """Whatever a failed test left running."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.parts():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Any]:
    """Starts demos, one a test."""
    started: list[Demo] = []

    def start(*options: str, **more: Any) -> Demo:
        started.append(Demo(tmp_path, *options, **more))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("mint", ["nutshell", pytest.param("cdk", marks=pytest.mark.cdk)])
def test_the_demo_finds_and_mends_what_it_planted_and_loses_no_sat(demo: Any, mint: str):
    # A setting of the operator's own shell must not reach the demo's daemon.
    environment = {"MELTD_SWEEP__INTERVAL_S": "86400", "MELTD_DATA_DIR": "/nowhere"}
    if mint == "cdk":
        environment[BINARY_ENV] = str(cdk.built())
    running = demo("--once", "--json", "--mint", mint, environment=environment)
    assert running.wait() == 0, running.errors.read_text()
    result = json.loads(running.answer.read_text())

    assert set(result) == {
        "ok", "unit", "users", "drift", "unplanted_drift", "left_to_mend", "melts", "faults", "seconds", "urls"
    }  # fmt: skip
    assert result["ok"] is True
    assert (result["unplanted_drift"], result["left_to_mend"], result["faults"]) == ([], 0, [])
    assert 0 < result["seconds"] < 90

    users = {user["npub"]: user for user in result["users"]}
    assert len(users) == 3
    for user in users.values():
        assert user["conserved"] is True
        assert user["agreed"] is True
        assert user["faults"] == []
        spent = user["paid"] + user["lightning_fees"] + user["input_fees"] + user["shortfall"]
        assert user["before"] == user["after"] + spent
        assert user["database_before"] - user["already_gone"] + user["not_counted"] == user["before"]
        assert user["database_after"] == user["after"] > 0
        assert user["input_fees"] > 0
        assert user["shortfall"] == 0

    drift = result["drift"]
    assert {(one["planted"], one["type"], one["outcome"]) for one in drift} == DRIFT
    assert all(one["found"] and one["ok"] and one["outcome"] == one["expected_outcome"] for one in drift)
    assert len({one["document"] for one in drift}) == len(DRIFT)
    assert {one["npub"] for one in drift} == set(users)
    assert all(one["value"] > 0 for one in drift)

    melts = result["melts"]
    assert sorted(one["state"] for one in melts) == ["RELEASED", *["SETTLED"] * 4]
    for one in melts:
        assert one["ok"] is True
        assert one["state"] == one["expected"]
        assert one["payments_at_mint"] == one["expected_payments"] == (one["state"] == "SETTLED")
    for npub, user in users.items():
        paid = [one for one in melts if one["npub"] == npub and one["state"] == "SETTLED"]
        assert user["paid"] == sum(one["amount"] for one in paid) > 0
        assert user["lightning_fees"] == sum(one["lightning_fee"] for one in paid)

    assert set(result["urls"]) == {"socket", "metrics", "health", "mint", "log"}
    # Secrets, blinding factors, preimages and keys are 64 hex digits; nothing else that is printed is.
    assert re.findall(r"\b[0-9a-f]{64}\b", running.answer.read_text() + running.errors.read_text()) == []
    running.nothing_is_left(0)
    assert list(running.scratch.iterdir()) == []


def test_the_demo_stays_up_for_whoever_wants_to_look_and_ends_on_a_signal(demo: Any):
    running = demo("--json")
    running.wait_for("Ctrl-C ends it")
    result = json.loads(running.answer.read_text())
    with httpx.Client(transport=httpx.HTTPTransport(uds=result["urls"]["socket"]), base_url="http://meltd") as client:
        assert client.get("/v1/status").json()["open_melts"] == {}
        wallets = client.get(f"/v1/wallets/{result['users'][0]['npub']}").json()["wallets"]
        assert wallets[0]["spendable"] > 0
    assert "meltd_" in httpx.get(result["urls"]["metrics"], timeout=10, trust_env=False).text
    assert httpx.get(result["urls"]["health"], timeout=10, trust_env=False).status_code == 200
    told = running.errors.read_text()
    assert result["urls"]["socket"] in told
    assert "lnbc" in told

    running.process.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    running.nothing_is_left(0)
    assert list(running.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("moment", "parts"),
    [("meltd demo:", 0), ("start a database and a mint", 2), ("start the daemon", 3)],
    ids=["at the start", "while it plants", "while the daemon sweeps"],
)
def test_a_demo_that_is_stopped_in_the_middle_leaves_nothing(demo: Any, moment: str, parts: int):
    running = demo("--once", "--json")
    running.wait_for(moment)
    assert len(running.parts()) >= parts
    running.process.send_signal(signal.SIGTERM)
    assert running.wait(30) == 128 + signal.SIGTERM, running.errors.read_text()
    running.nothing_is_left(0)
    assert list(running.scratch.iterdir()) == []
    assert running.answer.read_text() == ""


def test_a_demo_that_is_killed_takes_its_children_with_it(demo: Any):
    running = demo("--once", "--json")
    running.wait_for("start the daemon")
    assert len(running.parts()) >= 3
    running.process.kill()
    running.wait(10)
    running.nothing_is_left()


def test_without_the_embedded_store_it_says_what_to_install(demo: Any, tmp_path: Path):
    # Another interpreter's folder stands for an environment without the extra.
    empty = tmp_path / "bin"
    empty.mkdir()
    python = empty / "python"
    python.symlink_to(sys.executable)
    running = subprocess.run(
        [str(python), "-m", "daemon", "demo", "--once", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": str(empty), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (running.returncode, running.stdout) == (78, "")
    assert "pip install 'meltd[embedded]'" in running.stderr


@pytest.mark.parametrize(("named", "told"), [(None, "not on the PATH"), ("/nowhere/cdk-mintd", "/nowhere/cdk-mintd")])
def test_without_cdk_mintd_it_says_how_to_get_it_and_leaves_nothing(
    demo: Any, tmp_path: Path, named: str | None, told: str
):
    environment = {"PATH": str(tmp_path)} | ({BINARY_ENV: named} if named else {})
    running = demo("--once", "--json", "--mint", "cdk", environment=environment)
    assert (running.wait(), running.answer.read_text()) == (78, "")
    message = running.errors.read_text()
    assert told in message
    assert "cargo install cdk-mintd" in message
    assert BINARY_ENV in message
    assert list(running.scratch.iterdir()) == []
