"""What a mint may do to the change of a melt, in the POST's answer, in the quote and in a restore (NUT-08, 09, 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.faults.backend import SETTLED
from tests.faults.cases import Case
from tests.faults.judge import Expect
from tests.support.proxy import Act, Fault

if TYPE_CHECKING:
    from tests.faults.bench import Bench
    from tests.faults.cases import Body

Edit = Callable[[Any], Any]
INPUT: Final = 128
"""One proof: 27 more than 100 and its input fee of 1, so 26 come back in three signatures at a Lightning fee of 1."""
EXACT: Final = (64, 32, 4, 2, 1)
"""Amount, fee reserve and input fee, and no more: change is owed only because the Lightning fee is below its reserve."""


def _change(edit: Callable[[list[dict[str, Any]]], Any]) -> Edit:
    def run(answer: Any) -> Any:
        return {**answer, "change": edit(answer.get("change") or [])}

    return run


def _other_dleq(signatures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each with the DLEQ proof of another."""
    proofs = [one["dleq"] for one in signatures]
    return [{**one, "dleq": dleq} for one, dleq in zip(signatures, proofs[1:] + proofs[:1], strict=True)]


def _without(name: str, signatures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != name} for one in signatures]


EDITS: Final[dict[str, tuple[str, Edit]]] = {
    "permuted": ("in reverse order", _change(lambda change: change[::-1])),
    "no-dleq": ("without DLEQ proofs", _change(lambda change: _without("dleq", change))),
    "wrong-dleq": ("with the DLEQ proofs of one another", _change(_other_dleq)),
    "short": ("without its last signature", _change(lambda change: change[:-1])),
    "empty": ("an empty list", _change(lambda _: [])),
    "null": ("null", _change(lambda _: None)),
    "absent": ("left out", lambda answer: {k: v for k, v in answer.items() if k != "change"}),
    "foreign-keyset": (
        "of another keyset",
        _change(lambda change: [{**one, "id": "00ffffffffffffff"} for one in change]),
    ),
    "other-amounts": (
        "with amounts twice as large",
        _change(lambda change: [{**one, "amount": one["amount"] * 2} for one in change]),
    ),
}


def _body(*faults: Fault, amounts: tuple[int, ...] = (INPUT,)) -> Body:
    def body(bench: Bench) -> None:
        bench.proxy.add(*faults)
        bench.fund(sum(amounts), amounts=list(amounts))
        bench.pay(bench.bill(100), wait=2)
        bench.wait_state()
        assert all(fault.seen.is_set() for fault in faults), "a fault was not met"

    return body


def _edit(endpoint: str, edit: Edit, *, times: int = 1) -> Fault:
    return Fault(endpoint=endpoint, act=Act.EDIT, edit=edit, times=times)


def _lost() -> Fault:
    return Fault(endpoint="melt", act=Act.LOSE_ANSWER)


def cases() -> list[Case]:
    """Every row."""
    rows: list[Case] = []
    for name, (what, edit) in EDITS.items():
        rows += [
            Case(
                name=f"change/{name}/answer",
                fault=f"the POST's change comes {what}",
                body=_body(_edit("melt", edit)),
                expect=SETTLED,
                ci=name in {"permuted", "no-dleq"},
            ),
            Case(
                name=f"change/{name}/quote",
                fault=f"the POST's answer is lost, the quote's change comes {what}",
                body=_body(_lost(), _edit("melt_quote_state", edit)),
                expect=SETTLED,
                ci=name == "empty",
            ),
        ]
    kept = EDITS["empty"][1]
    nothing = {"outputs": [], "signatures": []}
    stolen = (
        _edit("melt", kept),
        Fault(endpoint="restore", act=Act.REWRITE, status=200, body=nothing, times=99),
    )
    rows.append(
        Case(
            name="change/not-yet-signed",
            fault="the POST's answer is lost; the quote is PAID before its change, all within the fee reserve, is signed",
            body=_body(_lost(), _edit("melt_quote_state", kept), amounts=EXACT),
            expect=SETTLED,
            ci=True,
        )
    )
    rows.append(
        Case(
            name="change/kept",
            fault="the mint keeps the change, and says that it signed none",
            body=_body(*stolen),
            expect=Expect(state="SETTLED", payments=1, lost_to_mint=26),
            note="booked as a shortfall of what is owed at the highest fee, 25, and as fees",
        )
    )
    return rows
