"""
Every failpoint twice: the real daemon kills itself there in a melt, again while it recovers, and is then let be.

The boundaries come from :data:`melt.failpoints.BOUNDARIES`; one without a case here has its reason in :data:`NO_CASE`, or the
tests fail. In each round the client does what a careful service does: it sends the same request with the same key until a
melt has an answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId

from melt.failpoints import BOUNDARIES, COMMITTING, ENDPOINTS
from tests.faults.bench import ENDS, NotInTime, until
from tests.faults.cases import OWN, OWN_EXACT, OWN_SETTLING, Case, Place, Skipped
from tests.faults.client import Gone, Reply, call
from tests.faults.judge import Expect
from tests.support.proxy import Act, Fault

if TYPE_CHECKING:
    from tests.faults.bench import Bench, Bill

ROUND_S: Final = 60.0
AFTER_S: Final = 8.0
CI_BOUNDARIES: Final = frozenset(
    {
        "store.reserve.after_commit",
        "store.advance.after_commit",
        "mint.melt.before_request",
        "mint.melt.after_answer",
        "store.settle.before_commit",
        "store.settle.after_commit",
        "store.finish_fence.before_commit",
        "store.release.after_commit",
    }
)
NO_CASE: Final[dict[str, str]] = {
    "store.execute_atomic_melt": "the daemon settles through store.settle, whose boundary it is; nothing calls it directly",
    "store.apply_repairs": "a person orders a repair; no melt or sweep passes it, tests/e2e/test_repair_flow.py kills there",
    "store.wish_unique_proofs": "a person says yes to the unique index; one document, written once",
    "store.ensure_schema": "settles the mode at the start; killed there, the next start settles it again",
    "store.finish_ending": "ends a switch of the mode; tests/e2e/test_switch.py kills the daemons in the middle of one",
    "store.switch_to_correct": "a person's word; gates that were not set by then stay shut until the next start sets them",
    "store.switch_to_observe": "a person's word; tests/e2e/test_switch.py kills the daemons in the middle of one",
    "store.acknowledge": "a person's word about a record, which moves no money; tests/integration/test_cases.py repeats it",
    "store.reopen": "a person's word about a record, which moves no money; tests/integration/test_cases.py repeats it",
    "store.save_plan": "writes a plan down, which moves no money; half a plan has no head and is not there",
    "store.move_plan": "tests/e2e/test_plans_flow.py kills the daemon there while it applies a plan",
    "store.drop_plan_items": "forgets the items of a plan that nobody approved; left lying they do no harm",
    "store.expire_plans": "closes plans whose time is over, which the next look does as well",
    "store.holders": "it reads, in one snapshot, and changes nothing",
    "store.save_restore": "where a round of restores has come to; repeated, it asks the mint the same again",
    "store.import_restored": "no melt passes it; tests/integration/test_restore.py repeats it, and it equals once",
    "store.clear_not_in_db": "closes records that are not seen any more, which the next round does as well",
    "store.leave": "a clean stop alone passes it, after the melts have ended and the leases were given up",
    "store.release_lease": "a clean stop passes it, and an instance with a surplus; tests/leases kills daemons all around it",
    "store.mark_tokens_spent": "a person orders it; no melt or sweep passes it, and repeated it equals once",
    "store.finish_together": "takes more proofs than the mint allows; tests/mints/test_many_inputs.py loses the swap's answer there",
    "store.finish_gone": "a person's decision about a HELD melt, one transaction; tests/contract/test_store_contract.py repeats it",
}
"""Why a store method has no case: a melt and a sweep can't pass it."""


class Killed(Exception):
    """The daemon ended itself at its failpoint."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """
    What brings a daemon to a boundary. ``prepare`` runs before the first round on a daemon that is armed with nothing;
    ``act`` is what the client does in each round, until it returns or the daemon is dead.
    """

    act: Callable[[Bench, Bill | None], None]
    prepare: Callable[[Bench], Bill | None]
    place: Place = OWN
    expect: Expect = Expect(state=("SETTLED", "RELEASED"))  # noqa: RUF009 - frozen


# --- what the client does ---


def _ask(bench: Bench, ask: Callable[[], Reply]) -> Reply:
    """One request; Killed where the daemon is gone."""
    try:
        return ask()
    except Gone:
        _until_dead(bench, 5)
        raise Killed from None


def _until_dead(bench: Bench, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while bench.station.daemon.process.poll() is None:
        if time.monotonic() > deadline:
            raise NotInTime("the daemon neither answers nor is dead")
        time.sleep(0.02)


def _watch(bench: Bench, condition: Callable[[], bool], what: str) -> None:
    """Wait for it; Killed where the daemon dies first."""
    deadline = time.monotonic() + ROUND_S
    while not condition():
        if bench.station.daemon.process.poll() is not None:
            raise Killed
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {ROUND_S:.0f} s: {what}; {bench.state()}")
        time.sleep(0.03)


def _melt(bench: Bench, bill: Bill | None) -> None:
    """Ask with the same key until there is a melt that has ended."""
    assert bill is not None
    deadline = time.monotonic() + ROUND_S
    while bench.state(bill) not in ENDS:
        answer = _ask(bench, lambda: bench.ask(bill, wait=1))
        if answer.status not in {200, 202, 402}:
            bench.refusals.append(answer.body["code"])
            time.sleep(0.1)
        if time.monotonic() > deadline:
            raise NotInTime(f"the melt does not end: {bench.state(bill)}, {answer.body}")


def _die(bench: Bench, within_s: float) -> None:
    """What comes after the end, events and the lease, has its boundaries too. Killed, or nothing."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if bench.station.daemon.process.poll() is not None:
            raise Killed
        time.sleep(0.03)


def _melt_and_look(bench: Bench, bill: Bill | None) -> None:
    """A hanging payment; its owner looks at the balances, then it settles."""
    assert bill is not None
    _watch(bench, lambda: bench.state(bill) != "none", "the melt")
    for _ in range(2):
        _ask(bench, lambda: call(bench.station.daemon.socket, "GET", f"/v1/wallets/{bench.owner}"))
    _settle(bench, bill)


def _settle(bench: Bench, bill: Bill | None) -> None:
    """A hanging payment settles."""
    assert bill is not None
    bench.resolve(bill, "SETTLED")
    _watch(bench, lambda: bench.state(bill) in ENDS, "the end")


def _sweep(bench: Bench, bill: Bill | None) -> None:
    """Rounds of reconciliation while a payment hangs, and a tour when the daemon starts."""
    for _ in range(3):
        answer = _reconcile(bench, {"npub": bench.owner})
        assert answer.status == 200, answer.body
        _die(bench, 0.5)
    _settle(bench, bill)


def _reconcile(bench: Bench, body: dict[str, Any]) -> Reply:
    return _ask(bench, lambda: call(bench.station.daemon.socket, "POST", "/v1/reconcile", body))


def _reclaim(bench: Bench, bill: Bill | None) -> None:
    """A spent document that the mint still honours comes back after two sightings."""
    body = {"npub": bench.owner, "statuses": ["spent", "unspent"]}
    deadline = time.monotonic() + ROUND_S
    while not any(e["kind"] == "reclaim" and e["state"] == "SETTLED" for e in bench.entries()):
        answer = _reconcile(bench, body)
        assert answer.status == 200, answer.body
        if time.monotonic() > deadline:
            raise NotInTime(f"nothing is reclaimed: {bench.entries()}; the last look: {answer.body}")
        time.sleep(0.3)


def _settle_down(bench: Bench, bill: Bill | None) -> None:
    """Until what somebody else has spent is marked, which it is once its document has stood still for long enough."""
    assert bill is None
    tokens, chosen = bench.station.db["cashu_tokens"], {"npub": bench.owner, "status": "spent"}
    _watch(bench, lambda: tokens.count_documents(chosen) == 1, "what was stolen to be marked spent")


# --- what there is before ---


def _funded(amount: int, *, amounts: list[int] | None = None, **script: Any) -> Callable[[Bench], Bill]:
    def prepare(bench: Bench) -> Bill:
        bench.fund(amount, amounts=amounts)
        return bench.bill(100, **script)

    return prepare


def _post_lost(bench: Bench) -> Bill:
    bench.proxy.add(Fault(endpoint="melt", act=Act.LOSE_REQUEST, times=3))
    return _funded(500)(bench)


def _swap_lost(bench: Bench) -> Bill:
    bench.proxy.add(Fault(endpoint="swap", act=Act.LOSE_ANSWER, times=2))
    return _funded(4096, amounts=[4096])(bench)


def _hanging(bench: Bench) -> Bill:
    """A payment under way, made by a daemon that was killed."""
    bill = _funded(500, pay="PENDING", status="PENDING")(bench)
    bench.station.daemon.start()
    bench.pay(bill, wait=1)
    bench.wait_state("PENDING")
    bench.station.daemon.kill()
    return bill


def _stolen(bench: Bench) -> Bill:
    """A document whose proofs somebody else has spent, beside one that is good."""
    bad = bench.proofs(128, amounts=[128])
    bench.insert(bad)
    bench.take(bad)
    bench.fund(116, amounts=[64, 32, 16, 4])
    return bench.bill(100)


def _only_stolen(bench: Bench) -> None:
    """A document whose proofs somebody else has spent, and one that is good."""
    bad = bench.proofs(128)
    bench.insert(bad)
    bench.take(bad)
    bench.fund(64)


def _spent_and_honoured(bench: Bench) -> None:
    """
    What an old service has called spent although the mint honours it, beside what is spent in truth.

    A mint that calls nothing SPENT of what is recorded as spent may have forgotten it: it gets nothing reclaimed.
    """
    gone = bench.proofs(4, amounts=[4])
    bench.take(gone)
    tokens = bench.station.db["cashu_tokens"]
    changes = {"status": "spent", "spent_at": datetime.now(UTC), "metadata.inserted_as": "spent"}
    for document in (bench.insert(gone), bench.fund(256)):
        tokens.update_one({"_id": ObjectId(document)}, {"$set": changes})


def _database_restored(bench: Bench) -> Bill:
    """The counters are behind what the mint has signed, as after a backup was put back."""
    bench.fund(500)
    first = bench.bill(50)
    bench.station.daemon.start()
    bench.pay(first)
    bench.wait_state("SETTLED", bill=first)
    bench.station.daemon.stop()
    bench.station.db["meltd_counters"].update_many({}, {"$set": {"next": 0}})
    return bench.bill(100)


PLAIN: Final = Story(prepare=_funded(500), act=_melt)
FAILING: Final = Story(prepare=_funded(500, pay="FAILED", status="FAILED"), act=_melt)
FENCED: Final = Story(prepare=_post_lost, act=_melt, expect=Expect(state="RELEASED", payments=0))
SWAPPED: Final = Story(prepare=_funded(4096, amounts=[4096]), act=_melt, place=OWN_EXACT)
SWAP_LOST: Final = Story(prepare=_swap_lost, act=_melt, place=OWN_EXACT)
HANGING: Final = Story(prepare=_hanging, act=_settle, expect=Expect(state="SETTLED", payments=1))
LOOKED_AT: Final = Story(prepare=_hanging, act=_melt_and_look, expect=Expect(state="SETTLED", payments=1))
SWEPT: Final = Story(prepare=_hanging, act=_sweep, expect=Expect(state="SETTLED", payments=1))
STOLEN: Final = Story(prepare=_stolen, act=_melt)
RECLAIMED: Final = Story(prepare=_spent_and_honoured, act=_reclaim, expect=Expect(state="none", payments=None))
SETTLING: Final = Story(
    prepare=_only_stolen,
    act=_settle_down,
    place=OWN_SETTLING,
    expect=Expect(state="none", payments=None),
)
RESTORED: Final = Story(prepare=_database_restored, act=_melt)
WRONG_PREIMAGE: Final = Story(
    prepare=_funded(500, preimage="wrong"),
    act=_melt,
    expect=Expect(state="SETTLED", payments=1, events=("WRONG_PREIMAGE",)),
)


@dataclass(frozen=True, kw_only=True)
class Crash:
    """Where the daemon is killed, where again by another start, and the story that passes both."""

    story: Story
    first: str
    second: str
    company: bool = False
    """While the daemon is dead, a service beside it fails what has been pending."""


def _ends(what: str) -> tuple[str, str]:
    return ("before_commit", "after_commit") if what.startswith("store.") else ("before_request", "after_answer")


def _crashes() -> dict[str, Crash]:
    """
    By boundary. Each method and endpoint with its story, and what the second start passes where that is not the same
    again: one for both ends, or one each. A start always renews its lease.
    """
    released, started = "store.release", "store.renew_instance"
    table: dict[str, tuple[Story, str | tuple[str, str]]] = {
        "store.reserve": (PLAIN, ("store.reserve", released)),
        "store.advance": (PLAIN, (released, "store.advance")),
        "store.settle": (PLAIN, ("store.settle", started)),
        "store.release": (FAILING, (released, started)),
        "store.plan_swap": (FENCED, ("store.plan_swap", "mint.swap")),
        "store.finish_fence": (FENCED, ("store.finish_fence", started)),
        "store.finish_swap": (SWAPPED, released),
        "store.finish_reclaim": (RECLAIMED, ("store.finish_reclaim", started)),
        "store.raise_counter": (RESTORED, ("store.raise_counter", "store.reserve")),
        "store.correct": (STOLEN, ("store.correct", "store.announce")),
        "store.record": (STOLEN, "store.record"),
        "store.raise_event": (WRONG_PREIMAGE, "store.raise_event"),
        "store.resolve_event": (PLAIN, started),
        "store.renew_instance": (HANGING, "store.renew_instance"),
        "store.announce": (HANGING, "store.announce"),
        "store.take_lease": (HANGING, "store.take_lease"),
        "store.renew_lease": (HANGING, "store.renew_lease"),
        "store.balances": (LOOKED_AT, "store.balances"),
        "store.clear_unseen": (SWEPT, "store.clear_unseen"),
        "store.save_sweep": (SWEPT, "store.save_sweep"),
        "store.watch": (SETTLING, ("store.watch", "store.correct")),
        "mint.melt_quote": (PLAIN, "mint.melt_quote"),
        "mint.info": (PLAIN, "mint.info"),
        "mint.keysets": (PLAIN, "mint.keysets"),
        "mint.keys": (PLAIN, "mint.keys"),
        "mint.melt": (PLAIN, "mint.checkstate"),
        "mint.melt_quote_state": (HANGING, "mint.melt_quote_state"),
        "mint.checkstate": (PLAIN, "mint.checkstate"),
        "mint.swap": (SWAPPED, "mint.swap"),
        "mint.restore": (SWAP_LOST, "mint.restore"),
    }
    crashes: dict[str, Crash] = {}
    for what, (story, second) in table.items():
        seconds = (second, second) if isinstance(second, str) else second
        for index, end in enumerate(_ends(what)):
            name = f"{what}.{end}"
            crashes[name] = Crash(story=story, first=name, second=f"{seconds[index]}.{_ends(seconds[index])[index]}")
    return crashes


CRASHES: Final = _crashes()


def _in_recovery() -> dict[str, Crash]:
    """Killed where much is at stake, and then at each boundary that recovery passes from there."""
    settling = ("store.renew_instance", "mint.checkstate", "mint.melt_quote_state", "mint.keys", "store.settle")
    fencing = ("mint.swap", "mint.restore", "mint.keys", "store.finish_fence")
    swapping = ("mint.swap", "mint.restore", "mint.keys", "store.finish_swap", "store.release")
    unpaid = ("mint.checkstate", "mint.melt_quote_state", "store.advance", "store.plan_swap", "mint.swap")
    starts = (
        ("mint.melt.after_answer", PLAIN, settling),
        ("mint.melt.before_request", PLAIN, unpaid),
        ("mint.swap.after_answer", FENCED, fencing),
        ("mint.swap.after_answer", SWAPPED, swapping),
    )
    return {
        f"{first}/{'exact' if story is SWAPPED else 'fence' if story is FENCED else 'plain'}/{second}.{end}": Crash(
            story=story, first=first, second=f"{second}.{end}"
        )
        for first, story, seconds in starts
        for second in seconds
        for end in _ends(second)
    }


def _body(crash: Crash) -> Callable[[Bench], None]:
    def body(bench: Bench) -> None:
        bill = crash.story.prepare(bench)
        deaths = []
        for failpoint in (crash.first, crash.second):
            if not _round(bench, bill, crash, failpoint):
                break
            deaths.append(failpoint)
        _round(bench, bill, crash, None)
        if deaths != [crash.first, crash.second]:
            raise AssertionError(f"killed only at {deaths} of {[crash.first, crash.second]}")

    return body


def _round(bench: Bench, bill: Bill | None, crash: Crash, failpoint: str | None) -> bool:
    """One life of the daemon; whether it was killed at its failpoint."""
    daemon = bench.station.renew(failpoint=failpoint)
    started = datetime.now(UTC)
    daemon.start(wait=False)
    try:
        _watch(bench, daemon._listens, "the daemon to listen")
        crash.story.act(bench, bill)
        if failpoint is not None:
            _die(bench, AFTER_S)
    except Killed:
        code = daemon.process.wait(5)
        if failpoint is None or code != -9:
            raise AssertionError(f"the daemon ended with {code}:\n{daemon.log_tail(15)}") from None
        if crash.company:
            _fail_pending(bench)
        return True
    if failpoint is not None:
        daemon.kill()
    else:
        with contextlib.suppress(NotInTime):
            until(lambda: not _anything_open(bench, started), "everything to be closed", within_s=15)
    return False


def _fail_pending(bench: Bench) -> None:
    """The poller of a wallet service, which fails pending documents by age, whoever has reserved them."""
    changes = {"status": "failed", "updatedAt": datetime.now(UTC)}
    bench.station.db["cashu_tokens"].update_many({"npub": bench.owner, "status": "pending"}, {"$set": changes})


IN_COMPANY: Final = (
    "store.reserve.after_commit",
    "store.advance.after_commit",
    "store.settle.before_commit",
    "store.plan_swap.after_commit",
    "store.finish_fence.before_commit",
    "store.finish_swap.before_commit",
    "store.finish_swap.after_commit",
    "store.release.before_commit",
    "mint.melt.before_request",
    "mint.melt.after_answer",
    "mint.swap.before_request",
    "mint.swap.after_answer",
    "mint.melt_quote_state.after_answer",
    "mint.checkstate.after_answer",
)
"""Where documents are reserved when the daemon dies."""


def _anything_open(bench: Bench, started: datetime) -> bool:
    """Journal entries that are still open, reclaims too, or the tour that each start begins with."""
    toured = bench.station.db["meltd_sweeps"].find_one({"finished_at": {"$gte": started}})
    return toured is None or any(entry["state"] not in ENDS for entry in bench.entries())


def covered() -> frozenset[str]:
    """The boundaries that have a case, or a reason for having none."""
    without = {b for b in BOUNDARIES if b.rpartition(".")[0] in NO_CASE}
    return frozenset(CRASHES) | without


def cases() -> list[Case]:
    """Every row."""
    return (
        [
            Case(
                name=f"crash/{name}",
                fault=f"killed at {name}, and again at {'the same' if crash.second == name else crash.second}",
                body=_body(crash),
                expect=crash.story.expect,
                place=crash.story.place,
                ci=name in CI_BOUNDARIES,
            )
            for name, crash in CRASHES.items()
        ]
        + [
            Case(
                name=f"crash-in-company/{name}",
                fault=f"killed at {name}, and again; each time another service fails what is pending",
                body=_body(replace(CRASHES[name], company=True)),
                expect=replace(CRASHES[name].story.expect, company=True),
                place=CRASHES[name].story.place,
                ci=name in {"store.settle.before_commit", "mint.melt.after_answer"},
            )
            for name in IN_COMPANY
        ]
        + [
            Case(
                name=f"crash-again/{name}",
                fault=f"killed at {crash.first}, and in recovery at {crash.second}",
                body=_body(crash),
                expect=crash.story.expect,
                place=crash.story.place,
            )
            for name, crash in _in_recovery().items()
        ]
    )


def skipped() -> list[Skipped]:
    """Boundaries without a case."""
    return [
        Skipped(name=f"crash/{what}.*", fault="killed at its boundaries", reason=reason)
        for what, reason in NO_CASE.items()
    ]


def unlisted() -> tuple[frozenset[str], frozenset[str]]:
    """Boundaries of the code without a case, and cases without a boundary."""
    known = {f"store.{method}" for method in COMMITTING} | {f"mint.{endpoint}" for endpoint in ENDPOINTS}
    strange = {what for what in NO_CASE if what not in known}
    return BOUNDARIES - covered(), (frozenset(CRASHES) - BOUNDARIES) | strange
