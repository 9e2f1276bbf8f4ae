"""
The rows of "Answers": each code of each generation of mints, as the answer to a melt POST.

A code alone says little, so each is given twice: by a proxy that never asks the mint, and by one that lets it pay first. What
the installed mint can be brought to answer by itself comes from the mint.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from melt.ecash import y_of
from melt.mint.sorting import BEFORE_PAYMENT, PAYMENT_FAILED
from melt.refusals import ANOTHERS
from tests.faults.backend import RELEASED, SETTLED
from tests.faults.bench import until
from tests.faults.cases import Case, Place
from tests.faults.judge import Expect
from tests.support.mint import HttpRefusal
from tests.support.proxy import Act, Fault

if TYPE_CHECKING:
    from tests.faults.bench import Bench
    from tests.faults.cases import Body

GENERATIONS: Final = ("0.16.5", "0.18.2", "0.20.2", "0.21.0")
CODES: Final[dict[str, tuple[int | None, int | None, int | None, int | None]]] = {
    "token spent": (11001, 11001, 11001, 11001),
    "proofs pending": (11000, 11000, 11002, 11002),
    "outputs already signed": (10002, 10002, 11003, 11003),
    "outputs pending": (None, 10002, 11004, 11004),
    "melt quote pending": (11000, 11000, 11000, 20005),
    "melt quote paid": (11000, 11000, 11000, 20006),
    "payment failed": (20000, 20004, 20004, 20004),
    "keyset inactive": (None, 11000, 11000, 12002),
    "bad signature": (10003, 10003, 10001, 10001),
}
"""MINTS.md, "Answers": the code of each generation; None where it has no such refusal."""
OTHERS: Final[dict[str, tuple[int, Any]]] = {
    "code 0": (400, {"detail": "unknown", "code": 0}),
    "code 10000": (400, {"detail": "unknown", "code": 10000}),
    "code 20007": (400, {"detail": "expired", "code": 20007}),
    "rate limited": (429, {"detail": "Rate limit exceeded."}),
    "HTTP 500": (500, {"detail": "Internal Server Error", "code": 0}),
    "HTTP 502": (502, b"<html>bad gateway</html>"),
    "HTTP 504": (504, b""),
    "200 and no JSON": (200, b"<html>welcome</html>"),
    "200 and an empty object": (200, {}),
    "HTTP 302": (302, b""),
    "a validation error": (422, {"detail": [{"loc": ["body", "inputs"], "msg": "bad", "type": "value_error"}]}),
}
"""What else may come back, with and without a code."""


def _say(status: int, body: Any, act: Act) -> Body:
    """The melt POST is answered so, whatever happened."""

    def run(bench: Bench) -> None:
        fault = Fault(endpoint="melt", act=act, status=status, body=body)
        bench.proxy.add(fault)
        bench.fund(500)
        bench.pay(bench.bill(100), wait=1)
        assert bench.wait_state() in {"SETTLED", "RELEASED"}
        assert fault.seen.is_set(), "the fault was not met"
        if bench.state() == "RELEASED":
            code = body.get("code") if isinstance(body, dict) else None
            # "Paid" and "being paid" beside an UNPAID quote and UNSPENT inputs is said about another quote: a no to ours.
            definite = code in BEFORE_PAYMENT | PAYMENT_FAILED | ANOTHERS or status == 422
            entry = bench.entry()
            assert entry is not None
            assert (entry["fence"] is None) == definite, "a fence is for what is not definite, and for all of that"

    return run


def _rows_of(name: str, what: str, status: int, body: Any, *, ci: bool = False) -> list[Case]:
    return [
        Case(
            name=f"answers/{name}/not-asked",
            fault=f"melt answered {what}; the mint was never asked",
            body=_say(status, body, Act.REFUSE),
            expect=RELEASED,
            ci=ci,
        ),
        Case(
            name=f"answers/{name}/paid",
            fault=f"melt answered {what}; the mint has paid",
            body=_say(status, body, Act.REWRITE),
            expect=SETTLED,
            ci=ci,
        ),
    ]


# --- situations that bring the real mint to refuse ---


def _held_post(bench: Bench, amounts: list[int]) -> tuple[Fault, list[dict[str, Any]]]:
    """A melt whose POST has not arrived yet, and the proofs that it will bring."""
    fault = Fault(endpoint="melt", act=Act.HOLD_REQUEST)
    bench.proxy.add(fault)
    bench.fund(sum(amounts), amounts=amounts)
    bench.pay_in_background(bench.bill(100), wait=1)
    until(fault.seen.is_set, "the POST")
    entry = bench.entry()
    assert entry is not None
    wanted = {ref["y"] for ref in entry["inputs"]}
    documents = bench.station.db["cashu_tokens"].find({"npub": bench.owner})
    return fault, [p for d in documents for p in d["proofs"] if y_of(p["secret"]) in wanted]


def _some_spent(bench: Bench) -> None:
    fault, inputs = _held_post(bench, [64, 32, 16])
    bench.take(inputs[:1])
    fault.release.set()
    bench.wait_state()


def _all_spent(bench: Bench) -> None:
    fault, inputs = _held_post(bench, [64, 32, 16])
    bench.take(inputs)
    fault.release.set()
    bench.wait_state()


def _proofs_pending(bench: Bench) -> None:
    """Somebody else tries to pay with the same proofs, a moment before; that payment fails in the end."""
    fault, inputs = _held_post(bench, [64, 32, 16])
    theirs = asyncio.run(bench.station.mint.invoice(50, delay_s=1.5, pay="FAILED", status="FAILED"))

    def melt() -> None:
        with contextlib.suppress(HttpRefusal):
            asyncio.run(bench.station.wallet.melt(inputs, theirs.invoice))

    other = threading.Thread(target=melt)
    other.start()
    until(lambda: "PENDING" in asyncio.run(bench.station.wallet.states(inputs)), "their payment")
    fault.release.set()
    other.join()
    bench.wait_state()


def _keyset_inactive(bench: Bench) -> None:
    bench.station.daemon.start()
    fault, _ = _held_post(bench, [64, 32, 16])
    asyncio.run(bench.station.mint.rotate_keyset(fee_ppk=100))
    fault.release.set()
    bench.wait_state()


def _bad_signature(bench: Bench) -> None:
    proofs = bench.proofs(112, amounts=[64, 32, 16])
    proofs[0]["C"], proofs[1]["C"] = proofs[1]["C"], proofs[0]["C"]
    bench.insert(proofs)
    bench.pay(bench.bill(100), wait=2)
    bench.wait_state()
    entry = bench.entry()
    assert entry is not None
    assert entry["post"] == "refused", "a bad signature is a definite no"


def _failed_and_again(bench: Bench) -> None:
    """After a release the same invoice may be paid by a new request."""
    bench.fund(500)
    bill = bench.bill(100, pay="FAILED", status="FAILED")
    bench.pay(bill)
    bench.wait_state("RELEASED")
    bench.script(bill, pay="SETTLED", status="SETTLED")
    answer = bench.ask(bill, key=bill.key + "-again")
    assert answer.body.get("state") == "SETTLED", answer.body
    time.sleep(0.1)


def cases() -> list[Case]:
    """Every row."""
    rows: list[Case] = []
    done: set[tuple[str, int]] = set()
    for what, codes in CODES.items():
        for code in codes:
            if code is None or (what, code) in done:
                continue
            done.add((what, code))
            versions = ", ".join(v for v, c in zip(GENERATIONS, codes, strict=True) if c == code)
            rows += _rows_of(
                f"{what.replace(' ', '-')}-{code}",
                f"{code} ({what}: {versions})",
                400,
                {"detail": what, "code": code},
                ci=code in {11000, 11001, 20005} and what in {"token spent", "melt quote pending"},
            )
    for what, (status, body) in OTHERS.items():
        rows += _rows_of(what.replace(" ", "-"), what, status, body)
    return rows + _real()


def _real() -> list[Case]:
    return [
        Case(
            name="answers/real/some-inputs-spent",
            fault="somebody spends one input just before the POST",
            body=_some_spent,
            expect=RELEASED,
            ci=True,
        ),
        Case(
            name="answers/real/all-inputs-spent",
            fault="somebody spends all inputs just before the POST",
            body=_all_spent,
            expect=Expect(state="HELD", payments=0, events=("QUOTE_UNPAID_INPUTS_SPENT",)),
            note="unpaid and all inputs spent could be a payment that the mint hides: a person looks",
        ),
        Case(
            name="answers/real/proofs-pending",
            fault="somebody else pays with the same proofs at once, and fails",
            body=_proofs_pending,
            expect=RELEASED,
        ),
        Case(
            name="answers/real/keyset-inactive",
            fault="the keyset of the blanks is retired just before the POST",
            body=_keyset_inactive,
            expect=RELEASED,
            place=Place(name="own", own=True, own_mint=True),
        ),
        Case(
            name="answers/real/bad-signature",
            fault="the signatures of two proofs are swapped",
            body=_bad_signature,
            expect=RELEASED,
        ),
        Case(
            name="answers/real/failed-then-paid",
            fault="failed, released, then paid by a new request",
            body=_failed_and_again,
            expect=Expect(state=("SETTLED", "RELEASED"), payments=1),
        ),
    ]
