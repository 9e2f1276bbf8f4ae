"""
Both pay from the same wallets: what that costs, held against the neighbour with a second copy of itself.

Neither knows of the other's payments, so they take each other's proofs like two copies of the neighbour do. meltd can't mend that.
It must not make it worse, must name each such loss, and its own books must be exact all the same.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.neighbour.beside import meltd, open_melts, wait_until
from tests.neighbour.ledger import holdings, lost, outstanding, twice_counted
from tests.neighbour.load import fund, users_of
from tests.neighbour.process import Neighbour, Refused
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pymongo import MongoClient
    from pymongo.database import Database

    from tests.support.mint import MintProcess

SHAPES: Final = ((64,) * 12, (400, 300, 200), (1000,))
NAMING: Final = ("DB_UNSPENT_MINT_SPENT", "DB_PENDING_MINT_SPENT", "RESERVATION_ORPHANED")


@dataclass(slots=True)
class Payer:
    """What one of the two has done. ``thrown_away`` is by payment what it lost by its own word, in sat."""

    paid: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    thrown_away: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """
    What the two runs came to.

    ``copies_lost`` is what the neighbour and its copy lost, ``lost`` what the neighbour and meltd did; ``named`` counts records and
    events of meltd about proofs that somebody else took; ``twice`` are proofs that two documents count, each of them on record;
    ``books`` are complaints about meltd's own books.
    """

    copies_lost: int
    copies_paid: int
    lost: int
    paid: int
    paid_by_meltd: int
    losses: int
    named: int
    twice: int
    books: list[str]

    @property
    def holds(self) -> bool:
        """Whether it is as it has to be. Per payment, since no two runs pay the same number of times."""
        share, copies = self.lost / max(1, self.paid + self.paid_by_meltd), self.copies_lost / max(1, self.copies_paid)
        return not self.books and self.named >= self.losses and share <= copies

    def told(self) -> dict[str, Any]:
        """For people."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"holds": self.holds}


def same_wallets(
    folder: Path, uri: str, client: MongoClient[dict[str, Any]], mint: MintProcess, *, seconds: float, seed: int
) -> Shared:
    """The neighbour beside a copy of itself, and then beside meltd, each for so many seconds."""
    users = users_of(seed, 3)
    before = outstanding(mint)
    with ExitStack() as stack:
        copies = [
            stack.enter_context(
                Neighbour(mongo_uri=uri, database="copies", mint_url=mint.url, log=folder / f"copy{n}.log")
            )
            for n in range(2)
        ]
        fund(copies[0], users, shapes=SHAPES)
        done = _pay_together([_paying(copy, mint) for copy in copies], users, seconds=seconds, seed=seed)
    copies_lost = lost(mint, holdings(client["copies"], mint, users), before=before)

    before = outstanding(mint)
    db = client["company"]
    with Neighbour(mongo_uri=uri, database="company", mint_url=mint.url, log=folder / "company.log") as neighbour:
        fund(neighbour, users, shapes=SHAPES)
        daemon = meltd(folder / "meltd", mint=mint, mongo_uri=uri, database="company", correct_after_s=None)
        try:
            daemon.start()
            own, theirs = _pay_together(
                [_paying(neighbour, mint), _asking(daemon, mint)], users, seconds=seconds, seed=seed
            )
            wait_until(lambda: not _undecided(db), daemon.log_tail, within_s=120)
            named = _named(db)
            books = _books(db, mint)
            wait_until(lambda: not _unnamed_twice(db), daemon.log_tail)
            twice = len(twice_counted(db))
        finally:
            daemon.__exit__()
    held = holdings(db, mint, users)
    return Shared(
        copies_lost=copies_lost,
        copies_paid=sum(payer.paid for payer in done),
        lost=lost(mint, held, before=before),
        paid=own.paid,
        paid_by_meltd=theirs.paid,
        losses=len(own.thrown_away),
        named=named,
        twice=twice,
        books=books,
    )


def _undecided(db: Database[dict[str, Any]]) -> int:
    """Entries that neither ended nor wait for a person."""
    return open_melts(db) - db["meltd_melts"].count_documents({"state": "HELD"})


def _named(db: Database[dict[str, Any]]) -> int:
    """Records and events that say that somebody else took proofs which a document still counted, or a melt of ours held."""
    records = db["meltd_discrepancies"].count_documents({"type": {"$in": list(NAMING)}})
    events = db["meltd_events"].count_documents({"subject": {"$regex": "^melt:"}})
    return records + events


def _books(db: Database[dict[str, Any]], mint: MintProcess) -> list[str]:
    """What does not add up in the journal, by the mint's own count of payments."""
    payments = asyncio.run(mint.payments())
    wrong: list[str] = []
    for entry in db["meltd_melts"].find({"kind": "melt"}):
        payment = payments.get(entry["payment_hash"])
        left = 0 if payment is None else payment.paid
        settled = entry["state"] == "SETTLED"
        if left > 1 or (settled and left != 1) or (entry["state"] == "RELEASED" and left):
            wrong.append(f"{entry['_id']} is {entry['state']} and was paid {left} times")
        if settled:
            value = sum(int(ref["amount"]) for ref in entry["inputs"])
            spent = entry["amount"] + entry["input_fee"] + (entry["fees_paid"] or 0)
            if value != spent + entry["change_amount"] + entry["shortfall"]:
                wrong.append(f"{entry['_id']} does not add up")
    broken = db["meltd_events"].find({"type": "INVARIANT_BROKEN"})
    wrong += [f"INVARIANT_BROKEN: {event['detail']}" for event in broken]
    return wrong


def _unnamed_twice(db: Database[dict[str, Any]]) -> list[str]:
    """
    Documents that count a proof which another counts too, and of which no record tells.

    The neighbour looks at its sources and writes them without a transaction: a melt of ours may come in between and split one.
    """
    told = {record["token_id"] for record in db["meltd_discrepancies"].find({"type": "DUPLICATE_PROOF"})}
    return [" and ".join(pair) for pair in twice_counted(db) if not set(pair) & told]


def _pay_together(
    payers: Sequence[Callable[[Payer, str, int, float], None]], users: Sequence[str], *, seconds: float, seed: int
) -> list[Payer]:
    """All of them pay from the same users at the same time."""
    done = [Payer() for _ in payers]
    until = time.monotonic() + seconds

    def work(at: int, user: str) -> None:
        dice = random.Random(f"{seed} {at} {user}")
        while time.monotonic() < until:
            payers[at](done[at], user, dice.randint(1, 6), dice.choice((0.0, 0.2, 1.0)))
            time.sleep(dice.uniform(0.2, 1.0))

    with ThreadPoolExecutor(max_workers=len(payers) * len(users), thread_name_prefix="payer") as pool:
        for finished in [pool.submit(work, at, user) for at in range(len(payers)) for user in users]:
            finished.result()
    return done


_LOCK: Final = threading.Lock()


def _paying(neighbour: Neighbour, mint: MintProcess) -> Callable[[Payer, str, int, float], None]:
    """The neighbour's own payments."""

    def pay(done: Payer, user: str, amount: int, delay_s: float) -> None:
        invoice = asyncio.run(mint.invoice(amount, delay_s=delay_s))
        try:
            neighbour.melt(user, invoice.invoice).result()
        except Refused as refused:
            with _LOCK:
                done.refused[refused.name] = done.refused.get(refused.name, 0) + 1
                if refused.details.get("lost"):
                    done.thrown_away.append(int(refused.details["lost"]))
        else:
            with _LOCK:
                done.paid += 1

    return pay


def _asking(daemon: DaemonProcess, mint: MintProcess) -> Callable[[Payer, str, int, float], None]:
    """Payments asked of meltd."""

    def pay(done: Payer, user: str, amount: int, delay_s: float) -> None:
        invoice = asyncio.run(mint.invoice(amount, delay_s=delay_s))
        try:
            answer = daemon.melt(user, "main", invoice.invoice, key=secrets.token_hex(8), wait=10)
        except httpx.HTTPError as error:
            with _LOCK:
                done.refused[type(error).__name__] = done.refused.get(type(error).__name__, 0) + 1
            return
        with _LOCK:
            if answer.status_code == 200 and answer.json()["state"] == "SETTLED":
                done.paid += 1
            else:
                code = answer.json().get("code") or answer.json().get("state")
                done.refused[code] = done.refused.get(code, 0) + 1

    return pay
