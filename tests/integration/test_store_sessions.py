"""A killed process leaves its transactions open at the server: its next life ends them (melt.store.sessions)."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from melt.model import EventType, Fence, MintAlias, TakenBecause, sweep_shard
from melt.store.sessions import SessionBook
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.embedded import EmbeddedStore
    from melt.store import MongoStore

KILLED = """
import sys
from pathlib import Path
from melt import failpoints
from melt.model import EventType, Fence, MintAlias, TakenBecause, sweep_shard
from melt.store import MongoStore
from tests.support.store import SystemClock
store = MongoStore(sys.argv[1], sys.argv[2], clock=SystemClock(), retry_writes=False, sessions_file=Path(sys.argv[3]))
failpoints.arm("store.raise_event.before_commit")
store.raise_event(EventType.DRILL, "mint:m", mint=None, detail="x", requires_manual_intervention=False, evidence={})
"""


def test_a_transaction_that_was_open_at_a_kill_blocks_nobody_after_the_restart(
    make_store: Callable[..., MongoStore], store_process: EmbeddedStore, database_name: str, tmp_path: Path
) -> None:
    make_store().raise_event(
        EventType.DRILL, "mint:m", mint=None, detail="x", requires_manual_intervention=False, evidence={}
    )
    book = tmp_path / "sessions"
    arguments = [sys.executable, "-c", KILLED, store_process.uri, database_name, str(book)]
    killed = subprocess.run(arguments, cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -9
    assert oct(book.stat().st_mode & 0o777) == "0o600"

    again = make_store(sessions_file=book, transaction_deadline_s=5.0)

    event, opened = again.raise_event(
        EventType.DRILL, "mint:m", mint=None, detail="x", requires_manual_intervention=False, evidence={}
    )
    assert not opened
    assert event.sightings == 2, "the killed process's sighting was not committed"


def test_junk_in_the_book_is_passed_over(tmp_path: Path) -> None:
    book = tmp_path / "sessions"
    book.write_bytes(b"\xff\xfe\nnothing\n" + b"ab" * 15 + b"\n")
    asked: list[Any] = []

    class Client:
        class admin:  # noqa: N801 - the driver's name
            command = asked.append

    assert SessionBook(book).end_left_behind(Client()) == 0
    assert asked == []


HOLDER = """
import sys
from melt import failpoints
from melt.model import MintAlias, TakenBecause, sweep_shard
from melt.store import MongoStore
from tests.support.store import SystemClock
store = MongoStore(sys.argv[1], sys.argv[2], clock=SystemClock(), retry_writes=False)
shard = sweep_shard(MintAlias("m"))
fence = store.take_lease(shard, "gone", seen=None, why=TakenBecause.FIRST)
store.announce("gone", [shard])
failpoints.arm("store.renew_lease.before_commit")
store.renew_lease(fence)
"""


def test_the_first_announcement_names_its_own_session(make_store: Callable[..., MongoStore], db: Any) -> None:
    """A driver uses a session again: one that was left out could hold a lease that nobody can free."""
    make_store().announce("new", [sweep_shard(MintAlias("m"))])
    record = db["meltd_leases"].find_one({"_id": "member:new"})
    assert len(record["sessions"]) == 1


def test_a_holder_that_died_in_a_transaction_on_its_lease_does_not_keep_it(
    make_store: Callable[..., MongoStore], store_process: EmbeddedStore, database_name: str
) -> None:
    """A server keeps the dead client's transaction for a minute; whoever takes the lease over does not wait for that."""
    store = make_store(transaction_deadline_s=3.0)
    arguments = [sys.executable, "-c", HOLDER, store_process.uri, database_name]
    killed = subprocess.run(arguments, cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -9
    shard = sweep_shard(MintAlias("m"))
    seen = store.lease_book().leases[shard]

    fence = store.take_lease(shard, "next", seen=seen, why=TakenBecause.LAPSED)

    assert fence == Fence(shard=shard, holder="next", epoch=2)
    assert store.renew_lease(fence)
