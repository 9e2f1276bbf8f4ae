"""The embedded store: started, stopped, killed, and never left behind (DESIGN section 3)."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pymongo import MongoClient

import daemon.embedded
from daemon.embedded import EmbeddedStore
from melt.errors import ConfigError
from melt.store import MongoStore
from tests.support.store import MINT_URL, SystemClock, insert_token, make_melt, npub, sums_by_status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def wait_until(condition, deadline_s=20.0):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_everything_of_it_is_its_owners_alone(folder):
    """Folders 0700, files 0600: the proofs lie in them."""
    with EmbeddedStore(folder, "256M") as embedded:
        with MongoClient(embedded.uri) as client:
            client["x"]["y"].insert_one({})
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        pid = embedded.pid
        assert alive(pid)
    assert not alive(pid)
    assert not embedded.running


def test_a_reservation_survives_a_killed_store(folder):
    """What was answered is there after SIGKILL and a new start on another port."""
    embedded = EmbeddedStore(folder, "256M")
    embedded.start()
    try:
        user = npub()
        store = MongoStore(embedded.uri, "x", clock=SystemClock(), retry_writes=False)
        store.ensure_schema()
        with MongoClient(embedded.uri, tz_aware=True) as client:
            insert_token(client["x"], user, [8, 4])
        tokens = store.spendable(user, [MINT_URL], "sat")
        melt = store.reserve(make_melt(tokens, [tokens[0].proofs[0].y]), blanks=None, seed_id="s")
        store.close()
        embedded.kill()
        embedded.start()
        store = MongoStore(embedded.uri, "x", clock=SystemClock(), retry_writes=False)
        assert store.open_melts() == (melt,)
        with MongoClient(embedded.uri, tz_aware=True) as client:
            assert sums_by_status(client["x"], user) == {"pending": 8, "unspent": 4}
        store.close()
    finally:
        embedded.stop()


def test_a_killed_daemon_leaves_no_store_behind(folder):
    """The kernel ends the child with its parent, and a new daemon starts on the folder at once."""
    script = (
        "import sys, time, pathlib; from daemon.embedded import EmbeddedStore\n"
        "store = EmbeddedStore(pathlib.Path(sys.argv[1]), '256M'); store.start()\n"
        "print(store.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        child = int(parent.stdout.readline())
        assert alive(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: not alive(child))
    with EmbeddedStore(folder, "256M") as embedded:
        assert embedded.running


def test_a_folder_in_use_is_refused_with_its_name(folder, monkeypatch):
    """A second daemon on the same data says what is wrong; the first goes on."""
    with EmbeddedStore(folder, "256M") as first:
        monkeypatch.setattr(daemon.embedded, "READY_S_MAX", 1.5)
        with pytest.raises(ConfigError, match="another process still holds"):
            EmbeddedStore(folder, "256M").start()
        assert first.running


def test_a_missing_program_tells_what_to_install(folder, monkeypatch):
    """The extra, or a MongoDB of one's own."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"meltd\[embedded\].*--mongo-uri"):
        EmbeddedStore(folder).start()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """A file in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be used"):
        EmbeddedStore(tmp_path / "file" / "store").start()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
