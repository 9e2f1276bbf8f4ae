"""Summaries and solvency over the real mint, store and daemon: on the socket, in the database, as metrics, on the terminal."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.support.daemon import ROOT
from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

WITHIN_S = 30.0


def _until(what: Callable[[], Any], system: System) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := what()):
        assert time.monotonic() < deadline, system.daemon.log_tail()
        time.sleep(0.1)
    return found


def test_a_day_is_told_by_mint_and_by_user_and_what_is_gone_shows_until_it_is_mended(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    settings = {"summary.interval_s": 1, "sweep.interval_s": 1, "sweep.corrections_max_count_per_cycle": 0}
    system = make_system(mint, start=False, settings=settings)
    owner, other = system.user(), system.user()
    system.fund(owner, 500)
    gone = system.fund(other, 96)
    asyncio.run(system.wallet.spend(token(system.db, gone)["proofs"]))
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    system.daemon.start()
    settled = system.daemon.melt(owner, "main", system.invoice(100).invoice).json()
    assert settled["state"] == "SETTLED", settled

    def told() -> dict[str, Any] | None:
        rows = system.daemon.get("/v1/summaries", mint="main").json()["summaries"]
        return next((row for row in rows if not row["is_final"] and row["melts"] and row["verified"]), None)

    row = _until(told, system)
    fees = settled["fees_paid"] + settled["input_fee"]
    assert (row["paid"], row["lightning_fees"] + row["input_fees"], row["shortfall"]) == (100, fees, 0)
    assert row["owed"] == 500 - 100 - fees + 96
    assert row["in_question"] == 96
    assert row["found"] == {"DB_UNSPENT_MINT_SPENT": 1}
    assert _until(lambda: (r := told()) and r["owed"] - r["verified"] == 96, system)
    mine = system.daemon.get("/v1/summaries", npub=owner).json()["summaries"]
    his = system.daemon.get("/v1/summaries", npub=other, day=row["day"]).json()["summaries"]
    assert (mine[0]["owed"], mine[0]["verified"]) == (system.truth(owner), system.truth(owner))
    assert (his[0]["owed"], his[0]["in_question"], his[0]["verified"]) == (96, 96, 0)
    closed = system.daemon.get("/v1/summaries", day=yesterday).json()["summaries"]
    assert [one["is_final"] for one in closed] == [True]
    assert system.db["meltd_summaries"].count_documents({"day": yesterday, "npub": owner}) == 1

    def owed_and_honoured() -> tuple[str, ...]:
        names = ("meltd_solvency_owed_amount", "meltd_solvency_honoured_amount")
        return tuple(line.rsplit(" ", 1)[1] for line in system.daemon.metrics().splitlines() if line.startswith(names))

    assert float(owed_and_honoured()[0]) - float(owed_and_honoured()[1]) == 96
    shown = subprocess.run(
        [sys.executable, "-m", "daemon", "summary", "--socket", system.daemon.socket],
        capture_output=True,
        text=True,
        check=True,
        cwd=system.daemon.folder,
        env={"PATH": os.environ["PATH"], "HOME": str(system.daemon.folder), "PYTHONPATH": str(ROOT)},
    ).stdout
    assert f"{row['day']} *" in shown
    assert "in question" in shown

    system.daemon.stop()
    system.daemon.environment_changes["MELTD_SWEEP__CORRECTIONS_MAX_COUNT_PER_CYCLE"] = "10"
    system.daemon.start()
    _until(lambda: token(system.db, gone)["status"] == "spent", system)
    _until(lambda: (r := told()) and r["owed"] == r["verified"] == system.truth(owner), system)
    assert told()["mended"] == {"DB_UNSPENT_MINT_SPENT": 1}  # type: ignore[index]
