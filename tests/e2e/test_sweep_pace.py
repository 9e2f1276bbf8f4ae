"""The sweep's lanes and pace in a running daemon: each mint on its own, warm before cold, gentle to who limits, resumed."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from tests.support.daemon import ROOT
from tests.support.front_mint import STATES, FrontMint
from tests.support.mint import MintProcess
from tests.support.scripted_mint import Asked, Say
from tests.support.store import insert_token, token
from tests.sweeps.long import PROOFS_OF_DOCUMENT, judge, live, plant

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System

WITHIN_S = 40.0
LONG_AGO = datetime.now(UTC) - timedelta(days=9)


def until(what: Callable[[], Any], describe: Callable[[], object], within_s: float = WITHIN_S) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(describe())


def sweep_of(system: System, alias: str = "main") -> dict[str, Any]:
    return system.db["meltd_sweeps"].find_one({"_id": alias}) or {}


def ended(system: System, tour: int, alias: str = "main") -> dict[str, Any]:
    """The record once that tour has ended, or a later one has begun."""

    def done() -> bool:
        record = sweep_of(system, alias)
        return record.get("tour", 0) > tour or (record.get("tour") == tour and record["finished_at"] is not None)

    until(done, lambda: f"{sweep_of(system, alias)}\n{system.daemon.log_tail()}")
    return sweep_of(system, alias)


def mint_status(system: System, alias: str = "main") -> dict[str, Any]:
    (found,) = [one for one in system.daemon.get("/v1/status").json()["mints"] if one["alias"] == alias]
    return dict(found)


def sample(system: System, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", system.daemon.metrics(), re.MULTILINE)
    assert found is not None, series
    return float(found[1])


def spend(system: System, token_id: str) -> None:
    asyncio.run(system.wallet.spend(token(system.db, token_id)["proofs"]))


# --- each mint on its own ---


def test_a_mint_that_hangs_slows_no_other_and_its_own_lag_grows(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    hanging_now, most = 0, 0

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal hanging_now, most
        hanging_now += 1
        most = max(most, hanging_now)
        await reader.read()  # until the daemon gives up
        hanging_now -= 1

    with FrontMint(upstream=mint.url) as hanging:
        system = make_system(
            mint,
            start=False,
            settings={"sweep.interval_s": 1, "sweep.warm_interval_s": 1, "mints.ahanging.request_timeout_s": 2},
        )
        system.daemon._mints["ahanging"] = hanging.url
        owner = system.user()
        source = system.fund(owner, 8)
        insert_token(system.db, owner, asyncio.run(system.wallet.mint(8)), mint_url=hanging.url)
        system.daemon.start()
        ended(system, 1, "ahanging")
        hanging.server.rules[STATES] = hang  # in the middle of its life, with a tour that was complete
        until(lambda: hanging_now, system.daemon.log_tail)

        tour, hung_since = sweep_of(system)["tour"], time.monotonic()
        lag = mint_status(system, "ahanging")["pace"]["detection_lag_s"]
        spend(system, source)
        ended(system, tour + 3)
        assert token(system.db, source)["status"] == "spent"
        until(lambda: time.monotonic() > hung_since + 6, system.daemon.log_tail)
        stuck, well = mint_status(system, "ahanging")["pace"], mint_status(system)["pace"]
        assert most == 1, "one request of the sweep at a time, whichever lane asks"
        assert stuck["lane"] in {"cold", "warm"}
        assert stuck["detection_lag_s"] >= lag + 5 > well["detection_lag_s"]
        shown = sample(system, 'meltd_detection_lag_seconds{mint="ahanging"}')
        assert shown >= stuck["detection_lag_s"], "it grows between two scrapes, with nobody doing anything"
        assert sample(system, 'meltd_detection_lag_target_seconds{mint="main"}') == 2
        system.daemon.kill()  # a stop would wait for the mint


def test_the_lag_outlives_a_restart(make_system: Callable[..., System], mint: MintProcess) -> None:
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        owner = system.user()
        insert_token(system.db, owner, asyncio.run(system.wallet.mint(8)), mint_url=front.url)
        system.daemon.start()
        ended(system, 1)
        began = sweep_of(system)["passing"]["marks"][0]["at"]
        system.daemon.stop()
        front.server.rules[STATES] = Say(status=503)
        system.daemon.start()
        until(lambda: sweep_of(system)["error"], system.daemon.log_tail)
        (passed,) = sweep_of(system)["passed"]["marks"]
        assert passed["at"] == began
        lag = mint_status(system)["pace"]["detection_lag_s"]
        assert lag >= (sweep_of(system)["updated_at"] - began).total_seconds() - 0.1


# --- warm before cold ---


def test_new_and_large_documents_do_not_wait_for_the_tour(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"sweep.warm_interval_s": 1, "sweep.large_amount": 500})
    ended(system, 1)
    owner = system.user()
    made_long_ago = {"_id": ObjectId.from_datetime(LONG_AGO), "created_at": LONG_AGO}
    later = {**made_long_ago, "_id": ObjectId.from_datetime(LONG_AGO + timedelta(hours=1))}
    found = {
        "new": system.fund(owner, 8),
        "large": system.fund(owner, 512, **made_long_ago),
        "old and small": system.fund(owner, 16, **later),
    }
    for token_id in found.values():
        spend(system, token_id)

    until(
        lambda: token(system.db, found["new"])["status"] == token(system.db, found["large"])["status"] == "spent",
        system.daemon.log_tail,
    )
    rounds = sample(system, 'meltd_lane_documents_total{lane="warm",mint="main"}')
    assert rounds >= 2
    assert token(system.db, found["old and small"])["status"] == "unspent", "that one is the tour's"
    assert sweep_of(system)["tour"] == 1
    until(lambda: mint_status(system)["pace"]["warm_documents"] == 0, lambda: mint_status(system))
    (entry,) = system.db["meltd_audit"].find({"token_id": found["large"]})
    assert entry["actor"]["name"] == "warm"


def test_a_round_is_bounded_and_the_next_goes_on_from_there(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    settings = {
        "sweep.warm_interval_s": 1,
        "sweep.warm_documents": 3,
        "sweep.page_documents": 2,
        "sweep.large_amount": 64,
    }
    system = make_system(mint, settings=settings)
    ended(system, 1)
    owner = system.user()
    old = [ObjectId.from_datetime(LONG_AGO + timedelta(minutes=number)) for number in range(8)]
    large = [system.fund(owner, 64, _id=one) for one in old]
    new = [system.fund(owner, 8) for _ in range(8)]
    for token_id in (large[-1], new[-1]):
        spend(system, token_id)
    until(
        lambda: token(system.db, large[-1])["status"] == token(system.db, new[-1])["status"] == "spent",
        system.daemon.log_tail,
    )
    assert mint_status(system)["pace"]["warm_documents"] <= 6


# --- a mint that limits ---


def test_a_mint_that_limits_is_asked_again_later_in_the_same_tour(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(upstream=mint.url) as front:
        refused = 0

        def limited(asked: Asked) -> Say:
            nonlocal refused
            if refused < 2:
                refused += 1
                return Say(status=429, body={"detail": "Rate limit exceeded."})
            return front._forward(asked)

        front.server.rules[STATES] = limited
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        owner = system.user()
        source = system.fund(owner, 8, mint_url=front.url)
        spend(system, source)
        system.daemon.start()
        record = ended(system, 1)
        assert (record["error"], record["found"]) == (None, {"DB_UNSPENT_MINT_SPENT": 1})
        assert (refused, token(system.db, source)["status"]) == (2, "spent")
        assert mint_status(system)["pace"]["duty"] < 0.5


# --- killed in the middle ---


def test_a_long_tour_that_is_killed_repeats_no_more_than_a_page_and_keeps_its_counts(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    documents, page = 400, 20
    with FrontMint(upstream=mint.url) as front:
        settings = {"sweep.page_documents": page, "sweep.duty_min": 1, "sweep.duty_max": 1}
        system = make_system(mint, start=False, settings=settings)
        system.daemon._mints["main"] = front.url
        owner = system.user()
        first = system.fund(owner, 8, mint_url=front.url)
        planted = plant(system.db, documents, front.url, asyncio.run(system.wallet.active_keyset()))
        last = system.fund(owner, 8, mint_url=front.url)
        for token_id in (first, last):
            spend(system, token_id)
        ids = [str(raw["_id"]) for raw in system.db["cashu_tokens"].find({}, {"_id": 1}).sort("_id", 1)]
        every = documents + 2

        before = live(system.daemon, front, system.db, lambda record: record.get("documents", 0) >= 160)
        assert (before.record["found"], before.record["corrected"]) == ({"DB_UNSPENT_MINT_SPENT": 1},) * 2
        after = live(system.daemon, front, system.db, lambda record: record.get("finished_at") is not None)
        result = judge(planted, before, after, [one for one in ids if one not in {first, last}], page)
        assert (result.repeated <= page, result.left_out, result.misplaced) == (True, 0, 0)
        ended_as = {name: after.record[name] for name in ("tour", "documents", "total_documents", "error")}
        # One of them is spent by now, so it is counted among the documents of the tour, and not in its new total.
        assert ended_as == {
            "tour": before.record["tour"],
            "documents": every,
            "total_documents": every - 1,
            "error": None,
        }
        assert after.record["proofs"] == documents * PROOFS_OF_DOCUMENT + 2
        assert (after.record["found"], after.record["corrected"]) == ({"DB_UNSPENT_MINT_SPENT": 2},) * 2
        assert {token(system.db, one)["status"] for one in (first, last)} == {"spent"}


def test_a_tour_that_its_mint_breaks_off_goes_on_where_it_was(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(upstream=mint.url) as front:
        answered = 0
        broken = True

        def at_first(asked: Asked) -> Say:
            nonlocal answered
            if answered >= 5 and broken:
                return Say(status=500, body={"detail": "no database"})
            answered += 1
            return front._forward(asked)

        front.server.rules[STATES] = at_first
        settings = {"sweep.page_documents": 5, "sweep.duty_min": 1, "sweep.duty_max": 1}
        system = make_system(mint, start=False, settings=settings)
        system.daemon._mints["main"] = front.url
        plant(system.db, 60, front.url, asyncio.run(system.wallet.active_keyset()))
        system.daemon.start()
        until(lambda: sweep_of(system).get("error"), lambda: sweep_of(system))
        stopped = sweep_of(system)
        assert stopped["position"] is not None
        assert 0 < stopped["documents"] < 60
        broken = False

        record = ended(system, stopped["tour"])

        assert (record["tour"], record["documents"], record["error"]) == (stopped["tour"], 60, None)


# --- on the terminal ---


def test_the_sweeps_are_redrawn_on_a_terminal_until_somebody_has_seen_enough(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        owner = system.user()
        system.fund(owner, 8, mint_url=front.url)
        system.daemon.start()
        ended(system, 1)
        watched, code = on_a_terminal(system, ["status", "--watch"], frames=3)
        assert (code, watched.count("100%") >= 3) == (0, True), watched
        front.states_delay_s = 4.0
        shown, code = on_a_terminal(system, ["reconcile"], frames=1)
        assert (code, "1 documents" in shown) == (0, True), shown
        assert re.search(r"main.*asked", shown), shown


def on_a_terminal(system: System, arguments: list[str], *, frames: int) -> tuple[str, int]:
    """What a command shows on a terminal until it has drawn the sweeps so often (or has ended), and its exit code."""
    main, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(system.daemon.folder),
            "MELTD_SOCKET": system.daemon.socket,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "160",
            "TERM": "xterm",
        },
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=ROOT,
        # A shell starts what runs in its background with SIGINT ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads in the test
    )
    os.close(child)
    shown = b""
    deadline = time.monotonic() + WITHIN_S
    try:
        while time.monotonic() < deadline:
            shown += os.read(main, 65536)
            if "--watch" in arguments and shown.count(b"Sweeps") >= frames:
                process.send_signal(signal.SIGINT)
                break
        # What is still written must be read, or the other side could not end.
        while time.monotonic() < deadline:
            shown += os.read(main, 65536)
    except OSError:
        pass  # the other side has closed the terminal
    finally:
        os.close(main)
    try:
        code = process.wait(WITHIN_S)
    finally:
        process.kill()
    assert shown.count(b"Sweeps") >= frames, shown.decode()
    return shown.decode(), code
