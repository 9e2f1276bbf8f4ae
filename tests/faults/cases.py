"""What a case is, where it runs, and how it becomes a row of the table."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.bench import Bench
from tests.faults.judge import Expect, judge, leaks
from tests.faults.lab import POOL, Station
from tests.support.proxy import Fault, StoreProxy

if TYPE_CHECKING:
    from tests.faults.lab import Lab

Body = Callable[[Bench], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """
    Where a case runs. A shared daemon has many users; one of its own may be killed, and so may its mint and store.

    An own daemon is not started: the case does that.
    """

    name: str
    own: bool = False
    own_mint: bool = False
    own_store: bool = False
    store_proxy: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


MAIN: Final = Place(name="main")
EXACT_SETTINGS: Final = {"melt.swap_when_overpay_exceeds": 100}
EXACT: Final = Place(name="exact", settings=EXACT_SETTINGS)
OWN: Final = Place(name="own", own=True)
OWN_EXACT: Final = Place(name="own", own=True, settings=EXACT_SETTINGS)
OWN_SETTLING: Final = Place(name="own", own=True, settings={"sweep.correct_after_s": 3, "sweep.look_s": 0.5})


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    One row. ``armed`` faults wait on an alias of the case's own for the shared daemon's very first requests.

    ``ci``: part of the representative selection that the tests run. ``note``: what a reader of the row should know.
    """

    name: str
    fault: str
    body: Body
    expect: Expect = field(default_factory=Expect)
    place: Place = MAIN
    armed: Callable[[], tuple[Fault, ...]] | None = None
    ci: bool = False
    alone: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of a case."""

    name: str
    fault: str
    payments: str
    state: str
    conserved: bool
    seconds: float
    problems: tuple[str, ...]
    note: str = ""
    skipped: str = ""
    """Why this mint's Lightning can't play it."""

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that has no case, with the reason in words."""

    name: str
    fault: str
    reason: str


class Runner:
    """Performs cases in one lab; safe to use from several threads."""

    def __init__(self, lab: Lab, cases: tuple[Case, ...]) -> None:
        self.lab = lab
        self._cases = cases
        self._armed: dict[str, int] = {}
        self._lock = threading.Lock()

    def perform(self, case: Case) -> Row:
        """Run and judge it; whatever goes wrong is a problem of the row."""
        started = time.monotonic()
        problems: tuple[str, ...] = ()
        skipped = ""
        payments, state, conserved, notes = "?", "?", False, [case.note] if case.note else []
        try:
            with self._bench(case) as bench:
                try:
                    case.body(bench)
                except AssertionError as error:
                    problems += (str(error) or "an assertion failed",)
                notes += bench.notes
                found = [judge(one, case.expect) for one in (bench, *bench.others)]
                problems += tuple(problem for one in found for problem in one.problems)
                payments = _summary(tuple(count for one in found for count in one.payments))
                state = ", ".join(sorted({state for one in found for state in one.states}))
                conserved = all(one.difference == 0 for one in found)
                if case.place.own:
                    problems += tuple(leaks(bench.station))
        except pytest.skip.Exception as why:
            skipped, payments, state, conserved = str(why), "-", "skipped", True
        except Exception as error:  # noqa: BLE001 - a broken case is a failed row, not the end of the table
            problems += (f"{type(error).__name__}: {error}", traceback.format_exc(limit=-3))
        return Row(
            name=case.name,
            fault=case.fault,
            payments=payments,
            state=state,
            conserved=conserved,
            seconds=time.monotonic() - started,
            problems=problems,
            note="; ".join(notes),
            skipped=skipped,
        )

    def close_shared(self) -> list[Row]:
        """The rows about what the shared daemons have written over all their cases."""
        rows = []
        for place in (MAIN, EXACT):
            station = self.lab.stations.get(place.name)
            if station is None:
                continue
            started = time.monotonic()
            found = leaks(station)
            row = Row(
                name=f"secrets/{place.name}",
                fault="log, audit, events, journal and discrepancies of all the cases of this daemon",
                payments="-",
                state="-",
                conserved=True,
                seconds=time.monotonic() - started,
                problems=tuple(found),
            )
            rows.append(row)
        return rows

    @contextmanager
    def _bench(self, case: Case) -> Iterator[Bench]:
        place = case.place
        if not place.own:
            station = self._shared(place)
            if case.armed is not None:
                slot = station.slots[POOL + self._armed[case.name]]
                yield Bench(station=station, slot=slot)
            else:
                with station.slot() as slot:
                    yield Bench(station=station, slot=slot)
            return
        name = case.name
        store = self.lab.new_store(f"store-{_plain(name)}") if place.own_store else self.lab.store
        proxy = StoreProxy(self.lab.proxies, store.port) if place.store_proxy else None
        try:
            station = self.lab.station(
                name,
                settings=place.settings,
                mint=self.lab.new_mint(f"mint-{_plain(name)}") if place.own_mint else None,
                store=store,
                store_uri=None if proxy is None else proxy.uri,
                start=False,
            )
            station.store_proxy = proxy
            yield Bench(station=station, slot=station.slots[0])
        finally:
            self.lab.drop(name)
            if proxy is not None:
                proxy.close()
            if place.own_store:
                store.kill()
            if place.own_mint:
                station.mint.kill_blocking()

    def _shared(self, place: Place) -> Station:
        """The shared daemon; its armed aliases are those of all the cases that were given to this runner."""
        with self._lock:
            armed = [case for case in self._cases if case.place.name == place.name and case.armed is not None]
            if place.name == MAIN.name:
                self._armed = {case.name: index for index, case in enumerate(armed)}
            return self.lab.station(
                place.name,
                settings=place.settings,
                aliases=POOL,
                armed=[case.armed() for case in armed if case.armed is not None],
            )


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _summary(payments: tuple[int, ...]) -> str:
    if len(payments) <= 3:
        return ", ".join(str(count) for count in payments) or "-"
    return f"{sum(payments)} of {len(payments)}, at most {max(payments)} each"
