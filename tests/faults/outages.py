"""The store killed or cut off in each phase of a melt, and the mint killed and started again in the middle of one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.faults.backend import RELEASED, SETTLED
from tests.faults.bench import until
from tests.faults.cases import EXACT_SETTINGS, Case, Place
from tests.faults.judge import Expect
from tests.support.proxy import Act, CommitFault, Fault

if TYPE_CHECKING:
    from tests.faults.bench import Bench
    from tests.faults.cases import Body

STORE: Final = Place(name="own", own=True, own_store=True)
STORE_EXACT: Final = replace(STORE, settings=EXACT_SETTINGS)
VIA_PROXY: Final = Place(name="own", own=True, store_proxy=True)
VIA_PROXY_EXACT: Final = replace(VIA_PROXY, settings=EXACT_SETTINGS)
MINT: Final = Place(name="own", own=True, own_mint=True)
EITHER: Final = Expect(state=("SETTLED", "RELEASED"))
GONE_S: Final = 1.5


def _restart_store(bench: Bench, gone_s: float = GONE_S) -> None:
    """SIGKILL, a pause, and the same store again on the same port."""
    store = bench.station.store
    port = store.port
    store.kill()
    time.sleep(gone_s)
    store._wanted_port = port
    bench.station.start_store()


# --- the store in each phase ---


def _store_killed_while(fault: Fault, *, amounts: list[int] | None = None, first: Fault | None = None) -> Body:
    """The mint's answer is held back in one phase, and the store is killed and started again meanwhile."""

    def body(bench: Bench) -> None:
        bench.station.daemon.start()
        bench.proxy.add(*([first] if first is not None else []), fault)
        bench.fund(500 if amounts is None else sum(amounts), amounts=amounts)
        bill = bench.bill(100)
        paying = bench.pay_in_background(bill, wait=1)
        until(fault.seen.is_set, "the phase")
        _restart_store(bench)
        fault.release.set()
        paying.result(60)
        bench.wait_state(bill=bill)

    return body


def _store_killed_while_followed(bench: Bench) -> None:
    bench.station.daemon.start()
    bench.fund(500)
    bill = bench.bill(100, pay="PENDING", status="PENDING")
    bench.pay(bill, wait=1)
    bench.wait_state("PENDING")
    _restart_store(bench)
    bench.resolve(bill, "SETTLED")
    bench.wait_state("SETTLED")


def _gone_before_the_post(bench: Bench) -> None:
    """The store goes while the preflight runs: refused, and nothing reaches the mint."""
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="checkstate", act=Act.HOLD_ANSWER)
    bench.proxy.add(fault)
    bench.fund(500)
    bill = bench.bill(100)
    paying = bench.pay_in_background(bill, wait=1)
    until(fault.seen.is_set, "the preflight")
    port = station.store.port
    station.store.kill()
    fault.release.set()
    until(lambda: "STORE_UNAVAILABLE" in bench.refusals, "the refusal")
    assert bench.proxy.count("melt") == 0, "a POST was sent without a journal"
    station.store._wanted_port = port
    station.start_store()
    paying.result(60)
    bench.wait_state("SETTLED")
    assert bench.proxy.count("melt") == 1


def _gone_after_the_payment(bench: Bench) -> None:
    """The mint has paid and T3 can't be committed: a CRITICAL event at once, settled and closed by itself later."""
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="melt", act=Act.HOLD_ANSWER)
    bench.proxy.add(fault)
    bench.fund(500)
    bill = bench.bill(100)
    paying = bench.pay_in_background(bill, wait=15)
    until(fault.seen.is_set, "the POST")
    until(lambda: bench.paid(bill) == 1, "the payment")
    port = station.store.port
    station.store.kill()
    fault.release.set()
    body = paying.result(60)
    assert body.get("code") == "CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS", body
    assert body["requires_manual_intervention"] is False
    assert body["quote_id"], "the caller is told what it is about"
    assert body["transaction_id"], "the caller is told what it is about"
    assert "DB_FAILURE_AFTER_MINT_SUCCESS" in station.daemon.log_path.read_text(), "it is in the log at once"
    station.store._wanted_port = port
    station.start_store()
    bench.wait_state("SETTLED")
    events = station.db["meltd_events"]
    found = until(
        lambda: events.find_one({"type": "DB_FAILURE_AFTER_MINT_SUCCESS", "open": False}), "the event to close", 30
    )
    assert found["subject"] == f"melt:{body['melt_id']}"


def _gone_and_killed_after_the_payment(bench: Bench) -> None:
    """As before, and the daemon dies before the store is back."""
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="melt", act=Act.HOLD_ANSWER)
    bench.proxy.add(fault)
    bench.fund(500)
    bill = bench.bill(100)
    bench.pay_in_background(bill, wait=15)
    until(fault.seen.is_set, "the POST")
    until(lambda: bench.paid(bill) == 1, "the payment")
    port = station.store.port
    station.store.kill()
    fault.release.set()
    until(lambda: "DB_FAILURE_AFTER_MINT_SUCCESS" in station.daemon.log_path.read_text(), "the event")
    station.daemon.kill()
    station.store._wanted_port = port
    station.start_store()
    station.renew().start()
    bench.wait_state("SETTLED")
    until(lambda: not list(station.db["meltd_events"].find({"open": True})), "the event to close", 30)


# --- the connection to the store ---


def _commit_broken(
    marker: str, *, forward: bool, amounts: list[int] | None = None, lost: bool = False, **script: str
) -> Body:
    """The commit that writes ``marker`` into the journal, or its answer, is lost once."""

    def body(bench: Bench) -> None:
        station = bench.station
        station.daemon.start()
        assert station.store_proxy is not None
        fault = CommitFault(marker=marker, forward=forward)
        station.store_proxy.add(fault)
        if lost:
            bench.proxy.add(Fault(endpoint="melt", act=Act.LOSE_REQUEST))
        bench.fund(500 if amounts is None else sum(amounts), amounts=amounts)
        bill = bench.bill(100, **script)
        bench.pay(bill, wait=2)
        bench.wait_state(bill=bill)
        assert fault.seen.is_set(), "the commit was not met"
        _events_close(bench)

    return body


def _events_close(bench: Bench) -> None:
    events = bench.station.db["meltd_events"]
    until(lambda: not list(events.find({"open": True})), "every event to close", 20)


def _store_cut_off(how: Callable[[Bench], None]) -> Body:
    """While a payment runs."""

    def body(bench: Bench) -> None:
        bench.station.daemon.start()
        bench.fund(500)
        bill = bench.bill(100, delay_s=1.0)
        paying = bench.pay_in_background(bill, wait=2)
        until(lambda: bench.state(bill) == "MELTING", "the POST")
        how(bench)
        paying.result(60)
        bench.wait_state("SETTLED", bill=bill)
        _events_close(bench)

    return body


def _drop_connections(bench: Bench) -> None:
    assert bench.station.store_proxy is not None
    for _ in range(8):
        bench.station.store_proxy.drop_all()
        time.sleep(0.2)


def _refuse_connections(bench: Bench) -> None:
    proxy = bench.station.store_proxy
    assert proxy is not None
    proxy.accepting = False
    proxy.drop_all()
    time.sleep(3)
    proxy.accepting = True


def _slow_down(bench: Bench) -> None:
    proxy = bench.station.store_proxy
    assert proxy is not None
    proxy.delay_s = 0.15
    time.sleep(4)
    proxy.delay_s = 0.0


def _cut_answers(bench: Bench) -> None:
    """Answers break off after some bytes, again and again."""
    proxy = bench.station.store_proxy
    assert proxy is not None
    for bytes_left in (10, 100, 300, 900, 50, 20, 200, 400):
        proxy.cut_after = bytes_left
        time.sleep(0.2)
    proxy.cut_after = None


# --- the mint ---


def _mint_killed(*, delay_s: float = 1.5, gone_s: float = 2.0, **script: str) -> Body:
    """Killed while it pays, started again when its node has come to an end."""

    def body(bench: Bench) -> None:
        station = bench.station
        station.daemon.start()
        bench.fund(500)
        bill = bench.bill(100, delay_s=delay_s, **script)
        bench.pay_in_background(bill, wait=1)
        until(lambda: _attempts(bench, bill.payment_hash) > 0, "the payment to start")
        station.mint.kill_blocking()
        time.sleep(gone_s)
        station.mint.start_blocking()
        bench.wait_state(bill=bill)

    return body


def _attempts(bench: Bench, payment_hash: str) -> int:
    payment = asyncio.run(bench.station.mint.payments()).get(payment_hash)
    return 0 if payment is None else payment.attempts


def _mint_killed_before_the_post(bench: Bench) -> None:
    """It is gone when the POST leaves: nothing arrives, and nothing is paid."""
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="melt", act=Act.HOLD_REQUEST)
    bench.proxy.add(fault)
    bench.fund(500)
    bench.pay_in_background(bench.bill(100), wait=1)
    until(fault.seen.is_set, "the POST")
    station.mint.kill_blocking()
    fault.release.set()
    time.sleep(1)
    station.mint.start_blocking()
    bench.wait_state()


def _mint_killed_after_paying(bench: Bench) -> None:
    """It has paid and answered, and the answer is lost with it."""
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="melt", act=Act.HOLD_ANSWER)
    bench.proxy.add(fault)
    bench.fund(500)
    bill = bench.bill(100)
    bench.pay_in_background(bill, wait=1)
    until(fault.seen.is_set, "the POST")
    until(lambda: bench.paid(bill) == 1, "the payment")
    station.mint.kill_blocking()
    time.sleep(1)
    station.mint.start_blocking()
    bench.wait_state()
    fault.release.set()


def _mint_killed_in_the_fence(bench: Bench) -> None:
    station = bench.station
    station.daemon.start()
    fault = Fault(endpoint="swap", act=Act.HOLD_ANSWER)
    bench.proxy.add(Fault(endpoint="melt", act=Act.LOSE_REQUEST), fault)
    bench.fund(500)
    bench.pay(bench.bill(100), wait=1)
    # Killed in the middle of a swap, this mint calls its inputs PENDING for good, and nobody can tell more: so, after it.
    until(lambda: any(p.endpoint == "swap" and p.status is not None for p in bench.proxy.passed), "the fence")
    station.mint.kill_blocking()
    time.sleep(1)
    station.mint.start_blocking()
    bench.wait_state()
    fault.release.set()


def cases() -> list[Case]:
    """Every row."""

    def store(name: str, fault: str, body: Body, expect: Expect, place: Place = STORE, *, ci: bool = False) -> Case:
        return Case(name=f"store/{name}", fault=fault, body=body, expect=expect, place=place, ci=ci)

    def held(endpoint: str, act: Act = Act.HOLD_ANSWER) -> Fault:
        return Fault(endpoint=endpoint, act=act)

    lost = Act.LOSE_REQUEST
    rows = [
        store(
            "killed/quote",
            "killed and restarted while the quote is made",
            _store_killed_while(held("melt_quote")),
            SETTLED,
        ),
        store(
            "killed/preflight",
            "killed and restarted in the preflight",
            _store_killed_while(held("checkstate")),
            SETTLED,
        ),
        store(
            "killed/post",
            "killed and restarted while the mint pays",
            _store_killed_while(held("melt")),
            SETTLED,
            ci=True,
        ),
        store("killed/followed", "killed and restarted while a payment hangs", _store_killed_while_followed, SETTLED),
        store(
            "killed/fence",
            "killed and restarted during the fencing swap",
            _store_killed_while(held("swap"), first=Fault(endpoint="melt", act=lost)),
            RELEASED,
        ),
        store(
            "killed/exact-swap",
            "killed and restarted during the swap before the payment",
            _store_killed_while(held("swap"), amounts=[4096]),
            EITHER,
            STORE_EXACT,
        ),
        store("gone-before-the-post", "gone before the POST", _gone_before_the_post, SETTLED, ci=True),
        store("gone-after-the-payment", "gone between PAID and T3", _gone_after_the_payment, SETTLED, ci=True),
        store(
            "gone-and-killed",
            "gone between PAID and T3, and the daemon killed",
            _gone_and_killed_after_the_payment,
            SETTLED,
        ),
    ]
    for forward in (True, False):
        what = "answer" if forward else "commit"
        for marker, phase, expect, more in _commits():
            place = VIA_PROXY_EXACT if marker == "READY" else VIA_PROXY
            rows.append(
                store(
                    f"commit/{marker.lower()}/{what}-lost",
                    f"the {what if not forward else 'answer of the commit'} of {phase} is lost",
                    _commit_broken(marker, forward=forward, **more),
                    expect,
                    place,
                    ci=marker == "SETTLED" and forward,
                )
            )
    for name, what, how in (
        ("dropped", "every connection reset, eight times", _drop_connections),
        ("refused", "no connection for 3 s", _refuse_connections),
        ("slow", "150 ms for every message, for 4 s", _slow_down),
        ("cut", "answers cut after some bytes, eight times", _cut_answers),
    ):
        rows.append(store(f"connection/{name}", what, _store_cut_off(how), SETTLED, VIA_PROXY))
    return rows + _mint_rows()


def _commits() -> list[tuple[str, str, Expect, dict[str, object]]]:
    """What the commit writes, which transaction that is, how such a melt ends, and what brings it about."""
    return [
        ("RESERVED", "T1", EITHER, {}),
        ("MELTING", "the move before the POST", EITHER, {}),
        ("SETTLED", "T3", SETTLED, {}),
        ("RELEASED", "the release", RELEASED, {"pay": "FAILED", "status": "FAILED"}),
        ("FENCING", "the plan of the fence", RELEASED, {"lost": True}),
        ("READY", "T2", EITHER, {"amounts": [4096]}),
    ]


def _mint_rows() -> list[Case]:
    def row(name: str, fault: str, body: Body, expect: Expect, *, ci: bool = False) -> Case:
        return Case(name=f"mint/{name}", fault=fault, body=body, expect=expect, place=MINT, ci=ci)

    return [
        row("killed/settles", "killed while it pays; the payment settles", _mint_killed(), SETTLED, ci=True),
        row(
            "killed/fails",
            "killed while it pays; the payment fails",
            _mint_killed(pay="FAILED", status="FAILED"),
            RELEASED,
        ),
        row("killed/late", "killed while it pays, back before the payment ends", _mint_killed(delay_s=5.0), SETTLED),
        row("killed/before-the-post", "killed just before the POST arrives", _mint_killed_before_the_post, RELEASED),
        row("killed/after-paying", "killed after it paid, its answer lost", _mint_killed_after_paying, SETTLED),
        row("killed/fence", "killed after the fencing swap, its answer lost", _mint_killed_in_the_fence, RELEASED),
    ]
