"""
meltd and the neighbour at work on one database: what every test and measurement of the two starts, drives and judges.

``python -m tests.neighbour`` runs the large ones.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.neighbour.ledger import holdings, lost, outstanding, twice_counted
from tests.neighbour.load import Order, Outcome, fund, run_payments, users_of
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.neighbour.ledger import Holding
    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

ALL: Final = ["unspent", "pending", "spent", "failed"]
BUSY: Final = {
    "sweep.interval_s": 1,
    "sweep.warm_interval_s": 1,
    "sweep.confirm_after_s": 0.5,
    "sweep.spent_confirm_s": 0,
    "sweep.pending_grace_s": 1,
    "sweep.spent_sample_share": 1.0,
    "sweep.corrections_max_share_per_cycle": 1.0,
    "sweep.duty_max": 1,
    "subscriptions.enabled": "true",
    "subscriptions.refresh_s": 1,
    "subscriptions.settle_s": 0,
    "melt.release_confirm_s": 1,
    "melt.post_grace_s": 3,
}
"""Tours every second, every document in them, hints at once: as much in the way as meltd can be."""


def meltd(
    folder: Path,
    *,
    mint: MintProcess,
    mongo_uri: str,
    database: str,
    correct_after_s: float | None,
    alert_after_s: float | None = None,
    **settings: Any,
) -> DaemonProcess:
    """A daemon on the neighbour's database. ``correct_after_s`` None: whatever the default is."""
    env = {"MELTD_SUBSCRIPTIONS__ENABLED": "true"}
    daemon = DaemonProcess(
        folder, mints={"main": mint.url}, mongo_uri=mongo_uri, database=database, settings={**BUSY, **settings}, env=env
    )
    for name, value in (("CORRECT", correct_after_s), ("ALERT", alert_after_s)):
        key = f"MELTD_SWEEP__{name}_AFTER_S"
        daemon.environment_changes[key] = "" if value is None else str(value)
    daemon.left_out = {key for key, value in daemon.environment_changes.items() if value == ""}
    return daemon


def wait_until(condition: Callable[[], Any], told: Callable[[], str], *, within_s: float = 45.0) -> Any:
    """Poll until it holds; what it came to."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s:\n{told()}"
        time.sleep(0.05)


def settle_records(db: Database[dict[str, Any]], token_id: str) -> dict[str, dict[str, Any]]:
    """The records about a document, by type."""
    return {record["type"]: record for record in db["meltd_discrepancies"].find({"token_id": token_id})}


def by_rule(db: Database[dict[str, Any]], users: Sequence[str]) -> list[dict[str, Any]]:
    """What meltd has written into these users' documents without a melt of its own: audit entries."""
    return list(db["meltd_audit"].find({"npub": {"$in": list(users)}, "melt_id": None}))


# --- a load, with and without meltd ---


@dataclass(slots=True)
class Noise:
    """Reconciliations by request, and payments of meltd's own from other wallets, until :meth:`stop`."""

    daemon: DaemonProcess
    mint: MintProcess
    payers: Sequence[str]
    paid: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    reconciled: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._reconcile, name="reconciling"),
            threading.Thread(target=self._pay, name="paying"),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def _reconcile(self) -> None:
        while not self._stop.is_set():
            with suppress(httpx.HTTPError):
                self.daemon.post("/v1/reconcile", {"statuses": ALL})
                self.reconciled += 1
            self._stop.wait(0.05)

    def _pay(self) -> None:
        number = 0
        while not self._stop.is_set() and self.payers:
            payer = self.payers[number % len(self.payers)]
            number += 1
            invoice = asyncio.run(self.mint.invoice(3 + number % 5, delay_s=(0, 0.5, 2)[number % 3]))
            with suppress(httpx.HTTPError):
                answer = self.daemon.melt(payer, "main", invoice.invoice, key=secrets.token_hex(8))
                if answer.status_code == 200 and answer.json()["state"] == "SETTLED":
                    body = answer.json()
                    self.paid[payer] = self.paid.get(payer, 0) + body["paid_amount"] + body["fees_paid"]
                elif answer.status_code >= 400 and answer.json()["code"] != "INSUFFICIENT_FUNDS":
                    self.errors.append(answer.text)
            self._stop.wait(0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a load came to."""

    outcomes: tuple[Outcome, ...]
    holdings: dict[str, Holding]
    lost: int
    invalid: list[dict[str, Any]]
    twice: list[tuple[str, str]]
    by_rule: list[dict[str, Any]]
    told: str = ""

    @property
    def comparable(self) -> tuple[Any, ...]:
        """What has to be the same with meltd and without it."""
        return ([one.comparable for one in self.outcomes], self.holdings)


def load(
    neighbour: Neighbour,
    db: Database[dict[str, Any]],
    mint: MintProcess,
    *,
    seed: int,
    users: int,
    orders: Callable[[Sequence[str]], Sequence[Order]],
    parallel: int,
    daemon: DaemonProcess | None = None,
    settle: Callable[[], None] = lambda: None,
) -> Run:
    """
    Users who pay through the neighbour; with ``daemon`` beside it, which tours, is asked to reconcile, and pays from wallets of
    its own users all the while. ``settle`` is called at the end, before the books are read.
    """
    before = outstanding(mint)
    payers = users_of(seed, users)
    fund(neighbour, payers)
    others = users_of(seed + 1000, 2) if daemon is not None else ()
    fund(neighbour, others, shapes=[(512, 256), (1000,)])
    noise = None
    if daemon is not None:
        daemon.start()
        noise = Noise(daemon, mint, others)
        noise.start()
    try:
        outcomes = run_payments(neighbour, mint, orders(payers), parallel=parallel)
    finally:
        if noise is not None:
            noise.stop()
    settle()
    told = ""
    if daemon is not None and noise is not None:
        wait_until(lambda: not open_melts(db), daemon.log_tail)
        told = (
            f"{noise.reconciled} reconciliations, meltd paid for {len(noise.paid)} of its users, errors {noise.errors}"
        )
        assert noise.reconciled > 0, told
        assert noise.paid, told
        assert not noise.errors, told
    held = holdings(db, mint, (*payers, *others))
    return Run(
        outcomes=outcomes,
        holdings={user: held[user] for user in payers},
        lost=lost(mint, held, before=before),
        invalid=neighbour.invalid(),
        twice=twice_counted(db),
        by_rule=by_rule(db, payers),
        told=told,
    )


def open_melts(db: Database[dict[str, Any]]) -> int:
    """Journal entries that have not ended."""
    return db["meltd_melts"].count_documents({"state": {"$nin": ["SETTLED", "RELEASED"]}})
