"""The rows of "backend pays / its status check", and what else a Lightning payment can come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.faults.bench import until
from tests.faults.cases import Case
from tests.faults.judge import Expect
from tests.support.proxy import Act, Fault

if TYPE_CHECKING:
    from typing import Any

    from tests.faults.bench import Bench
    from tests.faults.cases import Body

SETTLED: Final = Expect(state="SETTLED", payments=1)
RELEASED: Final = Expect(state="RELEASED", payments=0)


def melt(*, then: str | None = None, amounts: list[int] | None = None, **script: Any) -> Body:
    """A melt of 100 of 500 sat whose payment does what ``script`` says; ``then`` resolves it once it hangs."""

    def body(bench: Bench) -> None:
        bench.fund(500 if amounts is None else sum(amounts), amounts=amounts)
        bill = bench.bill(100, **script)
        bench.pay(bill, wait=2)
        if then is not None:
            bench.wait_state("PENDING")
            held = [d for d in bench.station.db["cashu_tokens"].find({"npub": bench.owner}) if d["status"] == "pending"]
            assert held, "nothing is held while the payment hangs"
            bench.resolve(bill, then)
        bench.wait_state()

    return body


def _check_raises(bench: Bench) -> None:
    bench.fund(500)
    bill = bench.bill(100, pay="UNKNOWN", status="raise")
    bench.pay(bill, wait=2)
    bench.wait_state("PENDING")
    looks = bench.proxy.count("melt_quote_state")
    until(lambda: bench.proxy.count("melt_quote_state") >= looks + 2, "two more looks at a quote that can't be told")
    assert bench.state() == "PENDING", "held, as long as the mint can't tell"
    bench.script(bill, pay="UNKNOWN", status="SETTLED")
    bench.resolve(bill, "SETTLED")
    bench.wait_state()


def _stale_failed(bench: Bench) -> None:
    """The answer is lost while the payment runs; the mint's backend calls it FAILED until it has ended."""
    bench.proxy.add(Fault(endpoint="melt", act=Act.RESET))
    bench.fund(500)
    bill = bench.bill(100, delay_s=2.5, status="FAILED", pay="SETTLED")
    bench.pay(bill, wait=1)
    until(lambda: bench.paid(bill) == 1, "the payment")
    bench.wait_state()


def _slow(delay_s: float) -> Body:
    def body(bench: Bench) -> None:
        bench.proxy.add(Fault(endpoint="melt", act=Act.RESET))
        bench.fund(500)
        bench.pay(bench.bill(100, delay_s=delay_s), wait=1)
        bench.wait_state()

    return body


def _hodl(bench: Bench) -> None:
    """A payment that hangs holds its inputs alone: another melt of the same user goes through meanwhile."""
    bench.fund(500, amounts=[128, 128, 128, 64, 32, 16, 4])
    hanging = bench.bill(100, pay="PENDING", status="PENDING")
    bench.pay(hanging, wait=2)
    bench.wait_state("PENDING", bill=hanging)
    other = bench.bill(100)
    bench.pay(other)
    bench.wait_state("SETTLED", bill=other)
    bench.resolve(hanging, "SETTLED")
    bench.wait_state("SETTLED", bill=hanging)


def cases() -> list[Case]:
    """Every row."""

    def row(name: str, fault: str, body: Body, expect: Expect = SETTLED, *, ci: bool = False, note: str = "") -> Case:
        return Case(name=f"backend/{name}", fault=fault, body=body, expect=expect, ci=ci, note=note)

    rows = [
        row("settled", "settled", melt(), ci=True),
        row("settled-slowly", "settled after 1.5 s", melt(delay_s=1.5)),
        row("fee-above-reserve", "settled, fee 9 above the reserve of 2", melt(fee_sat=9, amounts=[256, 128]), ci=True),
        row("fee-zero", "settled, no fee", melt(fee_sat=0)),
        row(
            "wrong-preimage",
            "settled with a wrong preimage",
            melt(preimage="wrong"),
            Expect(state="SETTLED", payments=1, events=("WRONG_PREIMAGE",)),
            ci=True,
        ),
        row("no-preimage", "settled without a preimage", melt(preimage="none")),
        row(
            "pending-then-settled",
            "pending / pending, settles later",
            melt(pay="PENDING", status="PENDING", then="SETTLED"),
            ci=True,
        ),
        row(
            "pending-then-failed",
            "pending / pending, fails later",
            melt(pay="PENDING", status="PENDING", then="FAILED"),
            RELEASED,
            ci=True,
        ),
        row("pending-settled", "pending / settled", melt(pay="PENDING", status="SETTLED")),
        row("failed", "failed / failed", melt(pay="FAILED", status="FAILED"), RELEASED, ci=True),
        row("unknown", "unknown / unknown", melt(pay="UNKNOWN", status="UNKNOWN"), RELEASED),
        row("raises-before", "raises before paying / failed", melt(raises="before", status="FAILED"), RELEASED),
        row(
            "raises-after",
            "raises after paying / unknown",
            melt(raises="after", status="UNKNOWN"),
            Expect(state="RELEASED", payments=1, mint_pays=True),
            note="the money has left and the mint says UNPAID, UNSPENT: the mint is wrong and bears it",
        ),
        row("check-raises", "unknown / its check raises, settles later", _check_raises, ci=True),
        row("slow-answer-lost", "settled after 2.5 s, the answer lost at once", _slow(2.5), ci=True),
        row("slow-past-post-timeout", "settled after 3.5 s, the client waits 3 s", melt(delay_s=3.5)),
        row(
            "stale-failed-in-payment",
            "settled after 2.5 s, its check says FAILED meanwhile, the answer lost at once",
            _stale_failed,
            note="the quote is not asked while the POST may run, so the stale word does no harm",
        ),
        row(
            "slower-than-grace",
            "settled after 6 s, the answer lost at once, grace time 4 s",
            _slow(6.0),
            Expect(state="SETTLED", payments=1, asked_in_flight=True),
        ),
        row("hodl", "pending for long; another melt of the user meanwhile", _hodl),
    ]
    for pay in ("FAILED", "UNKNOWN"):
        rows += [
            row(f"{pay.lower()}-settled", f"{pay.lower()} / settled", melt(pay=pay, status="SETTLED")),
            row(
                f"{pay.lower()}-pending-settled",
                f"{pay.lower()} / pending, settles later",
                melt(pay=pay, status="PENDING", then="SETTLED"),
            ),
            row(
                f"{pay.lower()}-pending-failed",
                f"{pay.lower()} / pending, fails later",
                melt(pay=pay, status="PENDING", then="FAILED"),
                RELEASED,
            ),
        ]
    return rows
