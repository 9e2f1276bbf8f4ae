"""The life of the process, with real signals where a signal is the point."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import supervisor as module
from daemon.notify import Notifier
from daemon.supervisor import LoopContext, Phase, Supervisor
from tests.support.running_api import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


class Counters:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.restarted: list[str] = []

    def job_missed(self, name: str) -> None: ...
    def job_overlapped(self, name: str) -> None: ...

    def loop_restarted(self, name: str) -> None:
        self.restarted.append(name)


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.told: list[str] = []

    def messages(self) -> list[str]:
        while True:
            try:
                self.told.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.told


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory(prefix="meltd-") as folder:
        made = Systemd(f"{folder}/notify")
        yield made
        made.socket.close()


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.01)
    return Counters()


def supervise(counters: Counters, *, drain_s: float = 5.0, notifier: Notifier | None = None) -> Supervisor:
    return Supervisor(drain_s=drain_s, counters=counters, notifier=notifier or Notifier({}))


async def idle(context: LoopContext) -> None:
    """A loop that does its duty."""
    while not await context.pause(0.01):
        pass


async def test_components_start_in_order_and_stop_in_reverse_after_the_loops(counters: Counters) -> None:
    seen: list[str] = []
    made = supervise(counters)

    def component(name: str) -> None:
        async def start() -> None:
            seen.append(f"start {name}")

        async def stop() -> None:
            seen.append(f"stop {name}")

        made.add(name, start, stop)

    async def loop(context: LoopContext) -> None:
        seen.append("loop begins")
        await context.stopping.wait()
        seen.append("loop ends")

    async def drain(_: float) -> None:
        seen.append("drain")

    component("store")
    component("api")
    made.add_loop("sweep", loop)
    made.on_drain("melts", drain)
    running = asyncio.create_task(made.run())
    await eventually(lambda: "loop begins" in seen)
    assert made.phase is Phase.READY
    assert not made.draining()
    made.request_stop("test")
    assert made.draining()
    assert await running == 0
    assert seen[:3] == ["start store", "start api", "loop begins"]
    assert sorted(seen[3:5]) == ["drain", "loop ends"]
    assert seen[5:] == ["stop api", "stop store"]


async def test_a_start_that_fails_stops_what_was_started_and_is_raised(counters: Counters) -> None:
    seen: list[str] = []
    made = supervise(counters)

    async def good() -> None:
        seen.append("good")

    async def bad() -> None:
        raise RuntimeError("no store")

    async def stop() -> None:
        seen.append("stopped")

    made.add("one", good, stop)
    made.add("two", bad, stop)
    made.add("three", good, stop)
    with pytest.raises(RuntimeError, match="no store"):
        await made.run()
    assert seen == ["good", "stopped", "stopped"]
    assert made.phase is Phase.STOPPED


async def test_a_crashing_loop_is_restarted_and_disturbs_no_other(counters: Counters) -> None:
    turns = {"good": 0, "bad": 0}
    made = supervise(counters)

    async def good(context: LoopContext) -> None:
        while not await context.pause(0.01):
            turns["good"] += 1

    async def bad(context: LoopContext) -> None:
        turns["bad"] += 1
        kind = turns["bad"] % 3
        if kind == 0:
            raise asyncio.CancelledError  # as a library's leaking cancel scope would
        if kind == 1:
            raise RuntimeError("crash")

    made.add_loop("good", good)
    made.add_loop("bad", bad)
    running = asyncio.create_task(made.run())
    await eventually(lambda: len(counters.restarted) >= 4)
    assert set(counters.restarted) == {"bad"}
    statuses = {status.name: status for status in made.loops()}
    assert statuses["bad"].restarts >= 4
    assert statuses["good"].restarts == 0
    assert statuses["good"].running
    made.request_stop("test")
    assert await running == 0
    assert turns["good"] > 0


async def test_a_loop_that_does_not_turn_is_stalled_and_the_watchdog_hungry(
    counters: Counters, systemd: Systemd
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "30000"})
    made = supervise(counters, notifier=notifier)
    stuck = asyncio.Event()

    async def loop(context: LoopContext) -> None:
        while not stuck.is_set():
            context.beat()
            await asyncio.sleep(0.005)
        await asyncio.Event().wait()

    made.add_loop("sweep", loop, stall_after_s=0.3)
    running = asyncio.create_task(made.run())
    await eventually(lambda: systemd.messages().count("WATCHDOG=1") >= 3)
    assert systemd.told[0].startswith("READY=1\n")
    assert made.stalled() == ()
    stuck.set()
    await eventually(lambda: made.stalled() == ("sweep",))
    await asyncio.sleep(0.05)
    fed = systemd.messages().count("WATCHDOG=1")
    await asyncio.sleep(0.1)
    assert systemd.messages().count("WATCHDOG=1") == fed
    made._drain_s = 0.05
    made.request_stop("test")
    assert await running == 0
    assert any(message.startswith("STOPPING=1") for message in systemd.messages())


async def test_a_drain_that_takes_too_long_is_cut_and_the_rest_stops(counters: Counters) -> None:
    seen: list[str] = []
    made = supervise(counters, drain_s=0.1)

    async def endless(_: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cut")

    async def failing(_: float) -> None:
        raise RuntimeError("drain bug")

    async def nothing() -> None: ...

    async def stop() -> None:
        seen.append("stop")
        raise RuntimeError("stop bug")

    made.add("one", nothing, stop)
    made.add("two", nothing, stop)
    made.on_drain("melts", endless)
    made.on_drain("other", failing)
    running = asyncio.create_task(made.run())
    await eventually(lambda: made.phase is Phase.READY)
    made.request_stop("test")
    assert await running == 0
    assert seen == ["cut", "stop", "stop"]


async def test_sigterm_drains_and_sighup_reloads_or_is_ignored(counters: Counters) -> None:
    reloads: list[int] = []
    made = supervise(counters)
    made.add_loop("idle", idle)
    running = asyncio.create_task(made.run())
    await eventually(lambda: made.phase is Phase.READY)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.02)
    made.on_reload(lambda: reloads.append(1))
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: reloads == [1])

    def broken() -> None:
        raise ValueError("broken file")

    made.on_reload(broken)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.02)
    assert made.phase is Phase.READY
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_a_stop_during_the_start_interrupts_a_component_that_waits(counters: Counters) -> None:
    seen: list[str] = []
    made = supervise(counters)

    async def waits() -> None:
        seen.append("waits")
        await asyncio.Event().wait()

    async def stop() -> None:
        seen.append("stop")

    async def never() -> None:
        seen.append("never")

    made.add("store", waits, stop)
    made.add("api", never, stop)
    running = asyncio.create_task(made.run())
    await eventually(lambda: seen == ["waits"])
    made.request_stop("test")
    assert await running == 0
    assert seen == ["waits", "stop"]


SCRIPT = """
import asyncio, sys
from daemon.notify import Notifier
from daemon.supervisor import Supervisor
class Counters:
    def __getattr__(self, name): return lambda *_: None
async def endless(_): await asyncio.Event().wait()
async def main():
    made = Supervisor(drain_s=300, counters=Counters(), notifier=Notifier({}))
    made.on_drain("melts", endless)
    async def say(context):
        print("ready", flush=True)
        await context.stopping.wait()
        print("draining", flush=True)
        await asyncio.Event().wait()
    made.add_loop("say", say)
    return await made.run()
sys.exit(asyncio.run(main()))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        process.send_signal(number)
        assert any(line == "draining\n" for line in lines)
        process.send_signal(number)
        assert process.wait(30) == 128 + number


def test_notification_does_nothing_without_systemd_and_survives_a_dead_one() -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"}).alive()
    Notifier({"NOTIFY_SOCKET": "not a path"}).alive()
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 2.0
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_s is None
