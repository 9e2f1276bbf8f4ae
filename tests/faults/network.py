"""Every fault of the proxy on every endpoint that a melt touches."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.faults.backend import RELEASED, SETTLED
from tests.faults.bench import until
from tests.faults.cases import EXACT, MAIN, Case
from tests.support.proxy import Act, Fault

if TYPE_CHECKING:
    from tests.faults.bench import Bench
    from tests.faults.cases import Body, Place
    from tests.faults.judge import Expect

ACTS: Final = tuple(act for act in Act if act not in {Act.REWRITE, Act.REFUSE, Act.EDIT})
"""What a network does; other answers have their own rows."""
HELD_S: Final = 2.6
"""Longer than any read waits, so that what is held arrives after its caller has gone."""


def _release_later(fault: Fault, seconds: float = HELD_S) -> None:
    """Let go of what is held, some time after it was caught."""

    def work() -> None:
        if fault.seen.wait(60):
            threading.Event().wait(seconds)
        fault.release.set()

    threading.Thread(target=work, daemon=True).start()


def _met(fault: Fault) -> None:
    assert fault.seen.is_set(), "the fault was not met"


def plain(fault: Fault) -> Body:
    """A melt of 100 of 500."""

    def body(bench: Bench) -> None:
        bench.proxy.add(fault)
        _release_later(fault)
        bench.fund(500)
        bench.pay(bench.bill(100), wait=2)
        bench.wait_state()
        _met(fault)

    return body


def armed(faults: tuple[Fault, ...]) -> Body:
    """As :func:`plain`, where the fault was there before the daemon."""

    def body(bench: Bench) -> None:
        for fault in faults:
            _release_later(fault)
        if faults[0].endpoint == "keysets":
            until(faults[0].seen.is_set, "the tour at the start to ask for the keysets")
        bench.fund(500)
        bench.pay(bench.bill(100), wait=2)
        bench.wait_state()
        for fault in faults:
            _met(fault)

    return body


def followed(fault: Fault) -> Body:
    """A payment that hangs, and settles while it is being followed."""

    def body(bench: Bench) -> None:
        bench.proxy.add(fault)
        _release_later(fault)
        bench.fund(500)
        bill = bench.bill(100, pay="PENDING", status="PENDING")
        bench.pay(bill, wait=1)
        until(fault.seen.is_set, "the fault")
        bench.resolve(bill, "SETTLED")
        bench.wait_state()

    return body


def fenced(*faults: Fault) -> Body:
    """The POST is lost, and the fence that follows meets the faults."""

    def body(bench: Bench) -> None:
        bench.proxy.add(Fault(endpoint="melt", act=Act.LOSE_REQUEST), *faults)
        _release_later(faults[-1])
        bench.fund(500)
        bench.pay(bench.bill(100), wait=1)
        bench.wait_state()
        for fault in faults:
            _met(fault)

    return body


def swapped(*faults: Fault) -> Body:
    """A melt that is swapped to exact amounts first."""

    def body(bench: Bench) -> None:
        bench.proxy.add(*faults)
        _release_later(faults[-1])
        bench.fund(4096, amounts=[4096])
        bench.pay(bench.bill(100), wait=2)
        bench.wait_state()
        for fault in faults:
            _met(fault)
        entry = bench.entry()
        assert entry is not None
        assert entry["swap"] is not None, "it was not swapped"

    return body


def _late_post(bench: Bench) -> None:
    """The POST arrives when its inputs have long been fenced off and released."""
    fault = Fault(endpoint="melt", act=Act.HOLD_REQUEST)
    bench.proxy.add(fault)
    bench.fund(500)
    bill = bench.bill(100)
    bench.pay(bill, wait=1)
    bench.wait_state("RELEASED")
    fault.release.set()
    passed = next(one for one in bench.proxy.passed if one.endpoint == "melt")
    until(lambda: passed.ended_at is not None, "the late request")
    assert passed.status == 400, f"the mint took it: {passed.status}"


def _late_swap(bench: Bench) -> None:
    """The fencing swap is held, repeated by a second request, and arrives at last."""
    held = Fault(endpoint="swap", act=Act.HOLD_REQUEST)
    bench.proxy.add(Fault(endpoint="melt", act=Act.LOSE_REQUEST), held)
    bench.fund(500)
    bench.pay(bench.bill(100), wait=1)
    bench.wait_state("RELEASED")
    _met(held)
    held.release.set()
    passed = next(one for one in bench.proxy.passed if one.endpoint == "swap")
    until(lambda: passed.ended_at is not None, "the late request")


def _after_timeout(bench: Bench) -> None:
    """The POST arrives after its caller has gone, and before the grace time is over."""
    fault = Fault(endpoint="melt", act=Act.DELAY_REQUEST, seconds=3.4)
    plain(fault)(bench)


def _of(endpoint: str, act: Act, *, nth: int = 1, times: int = 1) -> Fault:
    return Fault(endpoint=endpoint, act=act, nth=nth, times=times, seconds=1.0)


def _restore(act: Act) -> tuple[Fault, Fault]:
    """A swap whose answer is lost, and the restore of its signatures."""
    lost = _of("swap", Act.LOSE_ANSWER)
    return lost, Fault(endpoint="restore", act=act, seconds=1.0, after=lost)


_HARMLESS: Final = frozenset({Act.DELAY_REQUEST, Act.DELAY_ANSWER, Act.DUPLICATE, Act.REPEAT})
"""With these the restore succeeds at once. Otherwise the swap is finished by recovery, which pays nothing any more."""


def cases() -> list[Case]:
    """Every row."""
    rows: list[Case] = []

    def row(
        where: str,
        act: Act,
        body: Body,
        expect: Expect,
        *,
        place: Place = MAIN,
        armed_with: tuple[Fault, ...] | None = None,
        ci: bool = False,
    ) -> None:
        rows.append(
            Case(
                name=f"proxy/{where}/{act.name.lower().replace('_', '-')}",
                fault=f"{where}: {act.value}",
                body=body,
                expect=replace(expect, doubled=act in {Act.DUPLICATE, Act.REPEAT} and where == "melt"),
                place=place,
                armed=None if armed_with is None else (lambda: armed_with),
                ci=ci,
            )
        )

    for act in ACTS:
        lost = act is Act.LOSE_REQUEST
        row("melt", act, plain(_of("melt", act)), RELEASED if lost else SETTLED, ci=act in _CI_ACTS)
        row("melt_quote", act, plain(_of("melt_quote", act)), SETTLED, ci=lost)
        row("checkstate-preflight", act, plain(_of("checkstate", act)), SETTLED)
        row("checkstate-following", act, followed(_of("checkstate", act, nth=2)), SETTLED, ci=lost)
        row("melt_quote_state", act, followed(_of("melt_quote_state", act)), SETTLED, ci=act is Act.LOSE_ANSWER)
        row("swap-fence", act, fenced(_of("swap", act)), RELEASED, ci=act is Act.LOSE_ANSWER)
        row("restore-fence", act, fenced(*_restore(act)), RELEASED)
        row("swap-exact", act, swapped(_of("swap", act)), SETTLED, place=EXACT, ci=act is Act.LOSE_ANSWER)
        row(
            "restore-exact",
            act,
            swapped(*_restore(act)),
            SETTLED if act in _HARMLESS else RELEASED,
            place=EXACT,
        )
        # The first restore at a mint asks whether the counters are behind it.
        for endpoint, times in (("keysets", 2), ("info", 1), ("keys", 1), ("restore", 1)):
            faults = (_of(endpoint, act, times=times),)
            row(endpoint, act, armed(faults), SETTLED, armed_with=faults, ci=lost)
    rows += [
        Case(
            name="proxy/melt/arrives-after-the-release",
            fault="the request is held until the melt was released",
            body=_late_post,
            expect=replace(RELEASED, asked_in_flight=True),
            ci=True,
        ),
        Case(
            name="proxy/melt/arrives-after-the-timeout",
            fault="the request is delayed beyond its time-out, not beyond the grace time",
            body=_after_timeout,
            expect=SETTLED,
        ),
        Case(
            name="proxy/swap-fence/arrives-after-the-release",
            fault="the fencing swap is held until its repetition has released the melt",
            body=_late_swap,
            expect=RELEASED,
        ),
    ]
    return rows


_CI_ACTS: Final = frozenset({Act.LOSE_REQUEST, Act.LOSE_ANSWER, Act.RESET, Act.TRUNCATE, Act.DUPLICATE})
