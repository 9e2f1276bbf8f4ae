"""The daemon killed at random, again and again, under a load of concurrent melts of several users."""

from __future__ import annotations

import random
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from tests.faults.bench import ENDS, Bench, NotInTime, until
from tests.faults.cases import OWN, Case
from tests.faults.judge import Expect

if TYPE_CHECKING:
    from tests.faults.cases import Body

USERS: Final = 8
LIFE_S: Final = (0.1, 3.0)
"""How long the daemon lives, from its start or from when it is ready."""
SCRIPTS: Final[tuple[tuple[int, dict[str, Any]], ...]] = (
    (10, {}),
    (4, {"delay_s": 0.8}),
    (2, {"delay_s": 2.5}),
    (3, {"pay": "FAILED", "status": "FAILED"}),
    (1, {"pay": "FAILED", "status": "FAILED", "delay_s": 1.0}),
    (2, {"pay": "PENDING", "status": "PENDING"}),
    (1, {"fee_sat": 0}),
)
"""What payments do, with their weights."""


class User:
    """A client that pays one invoice after another and never gives one up without an answer."""

    def __init__(self, bench: Bench, seed: int, stop: threading.Event) -> None:
        self.bench = bench
        self._random = random.Random(seed)
        self._stop = stop
        self.problem: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"user-{seed}", daemon=True)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._pay_once()
                self._stop.wait(self._random.uniform(0.1, 0.8))
        except BaseException as error:  # noqa: BLE001 - the case raises it
            self.problem = error

    def _pay_once(self) -> None:
        played = [(weight, script) for weight, script in SCRIPTS if self.bench.station.mint.plays(**script)]
        script = self._random.choices([script for _, script in played], [weight for weight, _ in played])[0]
        bill = self.bench.bill(self._random.randint(3, 90), **script)
        timer = None
        if script.get("pay") == "PENDING":
            timer = threading.Timer(self._random.uniform(0.5, 4), self._resolve, (bill,))
            timer.start()
        while True:
            body = self.bench.pay(bill, wait=2, within_s=180)
            if body.get("code") != "INSUFFICIENT_FUNDS":
                break
            if self.bench.state(bill) != "none":
                raise NotInTime(f"refused, and in the journal as {self.bench.state(bill)}")
            self.bench.fund(2000)
        if timer is not None:
            timer.join()

    def _resolve(self, bill: Any) -> None:
        self.bench.resolve(bill, self._random.choice(["SETTLED", "FAILED"]))


def _killed(kills: int) -> Body:
    def body(bench: Bench) -> None:
        seed = secrets.randbelow(1 << 30)
        chance = random.Random(seed)
        station = bench.station
        station.daemon.start()
        bench.others = [Bench(station=station, slot=bench.slot) for _ in range(USERS - 1)]
        stop = threading.Event()
        users = [User(one, seed + index, stop) for index, one in enumerate((bench, *bench.others))]
        for user in users:
            user.bench.fund(2000)
            user.thread.start()
        lives = 0
        for _ in range(kills):
            if chance.random() < 0.6:  # else it may die while it starts
                station.daemon.wait_ready()
            time.sleep(chance.uniform(*LIFE_S))
            station.daemon.kill()
            lives += 1
            station.renew().start(wait=False)
            if any(user.problem for user in users):
                break
        station.daemon.wait_ready()
        stop.set()
        for user in users:
            user.thread.join(240)
            if user.problem is not None:
                raise AssertionError(f"{type(user.problem).__name__}: {user.problem}")
            assert not user.thread.is_alive(), "a client waits for ever"
        _resolve_all(bench)
        journal = station.db["meltd_melts"]
        until(lambda: journal.count_documents({"state": {"$nin": sorted(ENDS)}}) == 0, "every melt to end", 120)
        ended = {state: journal.count_documents({"state": state}) for state in sorted(ENDS)}
        bench.notes.append(f"{lives} kills, seed {seed}: {ended}")

    return body


def _resolve_all(bench: Bench) -> None:
    """A payment that started after its timer had run out hangs still."""
    for one in (bench, *bench.others):
        for entry in one.entries():
            if entry["state"] == "PENDING":
                bill = next(bill for bill in one.bills if bill.payment_hash == entry["payment_hash"])
                one.resolve(bill, "SETTLED")


def cases(*, kills: int) -> list[Case]:
    """One row."""
    return [
        Case(
            name="load/killed",
            fault=f"killed {kills} times at random, {USERS} users paying all the time",
            body=_killed(kills),
            expect=Expect(state=("SETTLED", "RELEASED", "HELD", "none")),
            place=OWN,
            alone=True,
            ci=True,
        )
    ]
