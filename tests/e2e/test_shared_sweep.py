"""Two daemons that share the sweeps: one holder a shard, taken over from whoever dies or stands still, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.leases.faults import Fault, inflict
from tests.leases.judge import judge, wait_until_corrected
from tests.leases.lab import ALIASES, Lab, until
from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.embedded import EmbeddedStore
    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def lab(store_process: EmbeddedStore, mint: MintProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("leases"), uri=store_process.uri, mint=mint, documents=40) as lab:
        yield lab


def shared(lab: Lab) -> bool:
    return all(len(lab.held_by(name)) == 1 for name in lab.daemons)


def lease_answers(lab: Lab, name: str) -> dict[str, dict[str, Any]]:
    mints = lab.daemons[name].get("/v1/status").json()["mints"]
    return {mint["alias"]: mint for mint in mints}


def gauge(lab: Lab, name: str, metric: str, alias: str) -> float | None:
    for line in lab.daemons[name].metrics().splitlines():
        if line.startswith(f"meltd_{metric}{{") and f'"{alias}"' in line:
            return float(line.rsplit(" ", 1)[1])
    return None


def test_each_daemon_sweeps_its_share_and_both_say_who_sweeps_what(lab: Lab) -> None:
    until(lambda: shared(lab), lambda: lab.recorder.reigns, WITHIN_S)

    def agreed() -> bool:
        here = {name: {a for a, m in lease_answers(lab, name).items() if m["lease"]["here"]} for name in lab.daemons}
        held = {name: {a for a in ALIASES if gauge(lab, name, "lease_held", a) == 1} for name in lab.daemons}
        return here == held and here["one"] | here["two"] == set(ALIASES) and not here["one"] & here["two"]

    until(agreed, lambda: [lease_answers(lab, name) for name in lab.daemons], WITHIN_S)
    for name in lab.daemons:
        for alias, answer in lease_answers(lab, name).items():
            lease = lab.db["meltd_leases"].find_one({"_id": f"sweep:{alias}"})
            assert lease is not None
            assert answer["lease"]["holder"] == lease["holder"]
            assert answer["lease"]["epoch"] == lease["epoch"]


def test_the_one_that_waits_shows_the_tours_of_the_one_that_sweeps(lab: Lab) -> None:
    until(lambda: shared(lab), lambda: lab.recorder.reigns, WITHIN_S)

    def follows() -> bool:
        waits = [(n, a) for n in lab.daemons for a, m in lease_answers(lab, n).items() if not m["lease"]["here"]]
        shown = {alias: lease_answers(lab, name)[alias]["sweep"] for name, alias in waits}
        fresh = [gauge(lab, name, "sweep_last_success_timestamp_seconds", alias) or 0 for name, alias in waits]
        return set(shown) == set(ALIASES) and all(s and s["tour"] >= 2 for s in shown.values()) and min(fresh) > 0

    until(follows, lambda: [lease_answers(lab, name) for name in lab.daemons], WITHIN_S)


def test_a_daemon_that_is_asked_to_stop_hands_over_without_a_lease_to_wait_for(lab: Lab) -> None:
    until(lambda: shared(lab), lambda: lab.recorder.reigns, WITHIN_S)
    (shard,) = lab.held_by("one")

    assert lab.daemons["one"].stop() == 0

    until(lambda: len(lab.held_by("two")) == 2, lambda: lab.recorder.reigns, WITHIN_S)
    turns = (lab.db["meltd_leases"].find_one({"_id": shard}) or {})["turns"]
    assert turns[-1]["why"] == "released"
    assert turns[-1]["holder"] == lab.holder_of("two")
    assert not lab.db["meltd_leases"].find_one({"_id": f"member:{lab.holder_of('one')}"})
    lab.daemons["one"].start()
    until(lambda: shared(lab), lambda: lab.recorder.reigns, WITHIN_S)


def test_killed_and_stopped_holders_are_followed_by_others_and_nothing_is_done_twice_or_passed_over(lab: Lab) -> None:
    """The whole of it, thirty times, is ``python -m tests.leases``."""
    faults = [
        Fault(kind="SIGSTOP", away_leases=2.0),
        Fault(kind="kill -9", away_leases=0.0),
        Fault(kind="kill -9", away_leases=2.0),
        Fault(kind="SIGSTOP", away_leases=0.4),
    ]

    done = inflict(lab, faults, rest_s=(0.1, 0.5))

    lab.planter.stop()
    wait_until_corrected(lab)
    verdict = judge(lab)
    assert verdict.wrong == []
    assert set(verdict.planted) == {"spent", "partly", "released", "reclaimed"}
    assert verdict.judged_in_tour > 10
    for one in done:
        if one.fault.long:
            assert one.by_other == len(one.seconds) > 0, "the other one took over while the victim was away"


def test_a_reclaim_that_was_cut_short_before_its_swap_is_begun_again(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """Its entry is released, as nothing was sent; that is no refusal of the mint's, which would hold for a day."""
    system = make_system(mint, start=False)
    kill = {"FAILPOINT": "store.plan_swap.before_commit", "BREAK_PAYMENTS_ON_PURPOSE": "true"}
    system.daemon.environment_changes.update({f"MELTD_DEBUG__{name}": value for name, value in kill.items()})
    system.daemon.start()
    owner = system.user()
    system.fund(owner, 64, amounts=[64], status="spent")
    asyncio.run(system.wallet.spend(token(system.db, system.fund(system.user(), 8, status="spent"))["proofs"]))
    with contextlib.suppress(httpx.TransportError):
        for _ in range(20):
            system.daemon.reconcile(statuses=["spent"])
            time.sleep(0.3)
    assert system.daemon.process.wait(WITHIN_S) == -9
    for name in kill:
        del system.daemon.environment_changes[f"MELTD_DEBUG__{name}"]
    system.daemon.start()

    def reclaimed() -> bool:
        system.daemon.reconcile(statuses=["spent"])
        return any(document["status"] == "unspent" for document in system.documents(owner))

    until(reclaimed, lambda: list(system.db["meltd_melts"].find({"npub": owner})), WITHIN_S)
    assert sorted(entry["state"] for entry in system.db["meltd_melts"].find({"npub": owner})) == ["RELEASED", "SETTLED"]
    fees = sum(entry["swap"]["fee"] for entry in system.db["meltd_melts"].find({"npub": owner, "state": "SETTLED"}))
    assert system.truth(owner) == 64 - fees


def test_a_stale_holders_writes_are_refused(lab: Lab) -> None:
    """Stopped in the middle of a tour, it wakes up believing that it still holds the lease."""
    before = lab.refused() + lab.losses()
    until(lambda: lab.held_by("one"), lambda: lab.recorder.reigns, WITHIN_S)
    held = set(lab.held_by("one"))
    lab.daemons["one"].process.send_signal(signal.SIGSTOP)
    lab.stopped.add("one")
    until(lambda: set(lab.held_by("two")) >= held, lambda: lab.recorder.reigns, WITHIN_S)
    lab.go_on("one")

    until(lambda: lab.refused() + lab.losses() > before, lab.daemons["one"].log_tail, WITHIN_S)
    assert judge(lab).wrong == []
