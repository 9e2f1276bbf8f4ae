"""The demo's result, as tables for a person and as JSON for a program; and what a person can try afterwards."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from daemon.demo.screen import STYLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.demo.accounts import Ledger
    from daemon.demo.mending import Judgement
    from daemon.demo.payments import Paid
    from daemon.demo.screen import Screen

UNIT: Final = "sat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    All that the demo has found out. ``names`` are the users' by npub.

    ``strays`` are records of drift that nobody planted, ``faults`` contradictions between journal and mint, ``left``
    how many corrections the daemon would still make: none of the three may be.
    """

    ok: bool
    names: Mapping[str, str]
    ledgers: Sequence[Ledger]
    judgements: Sequence[Judgement]
    strays: Sequence[Mapping[str, Any]]
    paid: Sequence[Paid]
    faults: Sequence[str]
    left: int
    seconds: float
    urls: Mapping[str, str]


def as_json(result: Result) -> dict[str, Any]:
    """The result of ``--json``. Amounts are in sat."""
    return {
        "ok": result.ok,
        "unit": UNIT,
        "users": [_user_json(result.names[ledger.npub], ledger) for ledger in result.ledgers],
        "drift": [judgement.as_json() for judgement in result.judgements],
        "unplanted_drift": [{"type": stray["type"], "subject": stray["subject"]} for stray in result.strays],
        "left_to_mend": result.left,
        "melts": [one.as_json() for one in result.paid],
        "faults": list(result.faults),
        "seconds": round(result.seconds, 1),
        "urls": dict(result.urls),
    }


def _user_json(name: str, ledger: Ledger) -> dict[str, Any]:
    return {
        "name": name,
        "npub": ledger.npub,
        "before": ledger.before.honoured,
        "paid": ledger.paid,
        "lightning_fees": ledger.lightning_fees,
        "input_fees": ledger.input_fees,
        "shortfall": ledger.shortfall,
        "after": ledger.after.honoured,
        "conserved": ledger.conserved,
        "database_before": ledger.before.counted,
        "already_gone": ledger.before.gone,
        "not_counted": ledger.before.missed,
        "database_after": ledger.after.counted,
        "agreed": ledger.agreed,
        "faults": [*ledger.before.faults, *ledger.after.faults],
    }


def show(screen: Screen, result: Result) -> None:
    """The tables."""
    screen.table(
        "Drift: planted, found, mended",
        ("user", "planted", "found", "#sat", "outcome", "ok"),
        [
            (
                judgement.planted.user,
                judgement.planted.drift.name,
                Text(judgement.planted.drift.type.value, style=STYLES.get(judgement.severity, ""))
                if judgement.found
                else "missing",
                judgement.planted.value,
                judgement.outcome,
                judgement.ok,
            )
            for judgement in result.judgements
        ],
    )
    screen.table(
        "Invoices paid through the socket",
        ("user", "invoice", "#sat", "#Lightning fee", "melt", "#left the node", "ok"),
        [
            (
                result.names[one.npub],
                one.plan.name,
                one.plan.amount,
                one.plan.fee if one.times_left else 0,
                one.melt.get("state") or "none",
                f"{one.times_left}x",
                one.ok,
            )
            for one in result.paid
        ],
    )
    _show_books(screen, result)
    for ledger in result.ledgers:
        if ledger.difference:
            word = "missing" if ledger.difference > 0 else "too much"
            screen.print(f"✗ {result.names[ledger.npub]}: {abs(ledger.difference)} {UNIT} {word}", style="red")
    for judgement in result.judgements:
        if not judgement.ok:
            name = judgement.planted.drift.name
            screen.print(f"✗ {judgement.planted.user}, {name}: {judgement.why or judgement.outcome}", style="red")
    for stray in result.strays:
        screen.print(f"✗ found, but never planted: {stray['type']} {stray['subject']}", style="red")
    for fault in (
        *result.faults,
        *(f for ledger in result.ledgers for f in (*ledger.before.faults, *ledger.after.faults)),
    ):
        screen.print(f"✗ {fault}", style="red")
    if result.left:
        screen.print(f"✗ {result.left} corrections are still to be made", style="red")
    screen.print()
    if result.ok:
        words = "Every sat is accounted for, and database and mint agree"
        screen.print(f"✓ {words} ({result.seconds:.0f} s).", style="bold green")
    else:
        screen.print("✗ Not everything came out as it must.", style="bold red")


def _show_books(screen: Screen, result: Result) -> None:
    books = result.ledgers
    screen.table(
        "The database's balances: what it counted, and what it counts now",
        ("user", "#counted", "#- already gone", "#+ not counted", "#= before", "#counted now", "agrees"),
        [
            (
                result.names[ledger.npub],
                ledger.before.counted,
                ledger.before.gone,
                ledger.before.missed,
                ledger.before.honoured,
                ledger.after.counted,
                ledger.agreed,
            )
            for ledger in books
        ],
    )
    screen.table(
        "Ledger: every proof asked at the mint, before and after",
        ("user", "#before", "#- paid", "#- Lightning fees", "#- input fees", "#- shortfall", "#= after", "conserved"),
        [
            (
                result.names[ledger.npub],
                ledger.before.honoured,
                ledger.paid,
                ledger.lightning_fees,
                ledger.input_fees,
                ledger.shortfall,
                ledger.after.honoured,
                ledger.conserved,
            )
            for ledger in books
        ],
    )


def invite(screen: Screen, urls: Mapping[str, str], npub: str, mint: str, invoices: Sequence[str]) -> None:
    """Where everything is, and commands to try, on standard error (so that ``--json`` stays JSON)."""
    curl, local = "curl -s --unix-socket $S", "http://localhost/v1"
    body = f'{{"npub": "\'$U\'", "mint": "{mint}", "invoice": "{invoices[0]}"}}'
    meltd = _command()
    lines = [
        ("", ""),
        *((f"  {name:<9}{where}", "") for name, where in urls.items()),
        ("", ""),
        ("meltd goes on watching. Try, in another terminal:", "bold"),
        ("", ""),
        (f"  S={urls['socket']}", "cyan"),
        (f"  U={npub}", "cyan"),
        (f"  {curl} {local}/wallets/$U", "cyan"),
        (f"  {curl} '{local}/discrepancies?state=open'", "cyan"),
        (f"  {curl} {local}/melts -H 'Idempotency-Key: try-1' -d '{body}'", "cyan"),
        (f"  {meltd} melt --socket $S --npub $U --mint {mint} --invoice {invoices[1]}", "cyan"),
        (f"  {meltd} status --socket $S", "cyan"),
        (f"  curl -s {urls['metrics']}", "cyan"),
        ("", ""),
        ("Ctrl-C ends it and removes everything.", "bold"),
    ]
    for text, style in lines:
        screen.say(text, style=style)


def _command() -> str:
    """How this installation's command is called from a shell."""
    beside = Path(sys.executable).with_name("meltd")
    if shutil.which("meltd") == str(beside):
        return "meltd"
    return str(beside) if beside.exists() else f"{sys.executable} -m daemon"
