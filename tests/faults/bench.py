"""One user of one case: their ecash, their invoices, and the client that pays and retries as a service would."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tests.faults import client
from tests.faults.client import Gone
from tests.support.store import insert_token, insert_wallet, npub

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import ObjectId

    from tests.faults.client import Reply
    from tests.faults.lab import Slot, Station
    from tests.support.mint import Invoice
    from tests.support.proxy import MintProxy

T = TypeVar("T")

ENDS: Final = frozenset({"SETTLED", "RELEASED", "HELD"})
PATIENT_S: Final = 60.0


class NotInTime(AssertionError):
    """Something that had to happen did not."""


def until(condition: Callable[[], T], what: str, within_s: float = PATIENT_S, pause_s: float = 0.05) -> T:
    """Poll until ``condition`` is true; its value."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {within_s:.0f} s: {what}")
        time.sleep(pause_s)


@dataclass(frozen=True, kw_only=True)
class Bill:
    """An invoice with what it asks for and the Lightning fee that it costs."""

    invoice: str
    payment_hash: str
    amount: int
    fee: int
    key: str


@dataclass(kw_only=True)
class Bench:
    """
    What a case works with. ``funded`` is what the mint has signed for the user, ``taken`` what others spent of it.

    ``seen`` collects what the judge can't know: the codes that refused the user's requests.
    """

    station: Station
    slot: Slot
    owner: str = field(default_factory=npub)
    wallet_id: ObjectId = field(init=False)
    bills: list[Bill] = field(default_factory=list)
    funded: int = 0
    taken: int = 0
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: list[Bench] = field(default_factory=list)
    """Further users of the case, judged like the first."""

    def __post_init__(self) -> None:
        self.wallet_id = insert_wallet(self.station.db, self.owner, self.slot.proxy.url)

    @property
    def proxy(self) -> MintProxy:
        return self.slot.proxy

    # --- arranging ---

    def proofs(self, amount: int, *, amounts: list[int] | None = None) -> list[dict[str, Any]]:
        """Real ecash that is in no document yet."""
        return asyncio.run(self.station.wallet.mint(amount, amounts=amounts))

    def fund(self, amount: int, *, amounts: list[int] | None = None) -> str:
        """Real ecash in one document; its id."""
        return self.insert(self.proofs(amount, amounts=amounts))

    def insert(self, proofs: list[dict[str, Any]], **more: Any) -> str:
        self.funded += sum(int(proof["amount"]) for proof in proofs)
        more.setdefault("mint_url", self.proxy.url)
        return insert_token(self.station.db, self.owner, proofs, wallet_id=self.wallet_id, **more)

    def take(self, proofs: list[dict[str, Any]]) -> None:
        """Somebody else spends these proofs."""
        asyncio.run(self.station.wallet.spend(proofs))
        self.taken += sum(int(proof["amount"]) for proof in proofs)

    def bill(self, amount: int, **script: Any) -> Bill:
        """An invoice; ``script`` is what the mint's node does with it."""
        made: Invoice = asyncio.run(self.station.mint.invoice(amount, **script))
        fee = script.get("fee_sat")
        one = Bill(
            invoice=made.invoice,
            payment_hash=made.payment_hash,
            amount=amount,
            fee=1 if fee is None else fee,
            key=f"fault-{secrets.token_hex(8)}",
        )
        self.bills.append(one)
        return one

    def script(self, bill: Bill, **script: Any) -> None:
        asyncio.run(self.station.mint.script(bill.payment_hash, **script))

    def resolve(self, bill: Bill, status: str) -> None:
        """End a pending payment."""
        asyncio.run(self.station.mint.resolve(bill.payment_hash, status))

    # --- paying ---

    def ask(self, bill: Bill, *, wait: float = 5.0, key: str | None = None) -> Reply:
        """One request. Raises Gone where the daemon is not there."""
        socket = self.station.daemon.socket
        return client.melt(socket, self.owner, self.slot.alias, bill.invoice, key=key or bill.key, wait=wait)

    def pay(self, bill: Bill, *, wait: float = 5.0, within_s: float = PATIENT_S) -> dict[str, Any]:
        """
        As a careful service does: the same key until there is an answer that names a melt.

        What was refused on the way is noted in ``refusals``.
        """
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(Gone):
                answer = self.ask(bill, wait=wait)
                body = answer.body
                if answer.status in {200, 202} or body.get("melt_id"):
                    return body
                self.refusals.append(body["code"])
                if answer.status in {400, 404, 422} or body["code"] in {"INSUFFICIENT_FUNDS", "FEE_TOO_HIGH"}:
                    return body
            if time.monotonic() > deadline:
                raise NotInTime(f"the payment is not admitted: {self.refusals}")
            time.sleep(0.2)

    def pay_in_background(self, bill: Bill, *, wait: float = 5.0) -> Future[dict[str, Any]]:
        """As :meth:`pay`, in a thread."""
        done: Future[dict[str, Any]] = Future()

        def work() -> None:
            try:
                done.set_result(self.pay(bill, wait=wait))
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                done.set_exception(error)

        threading.Thread(target=work, name="client", daemon=True).start()
        return done

    # --- looking, past meltd's own eyes ---

    def entries(self) -> list[dict[str, Any]]:
        """The user's journal entries, newest first."""
        return list(self.station.db["meltd_melts"].find({"npub": self.owner}).sort("created_at", -1))

    def entry(self, bill: Bill | None = None) -> dict[str, Any] | None:
        """The newest entry, of this invoice where one is given."""
        chosen: dict[str, Any] = {"npub": self.owner, "kind": "melt"}
        if bill is not None:
            chosen["payment_hash"] = bill.payment_hash
        found = list(self.station.db["meltd_melts"].find(chosen).sort("created_at", -1))
        return found[0] if found else None

    def state(self, bill: Bill | None = None) -> str:
        entry = self.entry(bill)
        return "none" if entry is None else str(entry["state"])

    def wait_state(self, *states: str, bill: Bill | None = None, within_s: float = PATIENT_S) -> str:
        """Until the newest melt is in one of these."""
        wanted = frozenset(states) or ENDS
        try:
            return until(
                lambda: found if (found := self.state(bill)) in wanted else "", f"state in {sorted(wanted)}", within_s
            )
        except NotInTime as error:
            raise NotInTime(f"{error}; it is {self.state(bill)}") from None

    def paid(self, bill: Bill) -> int:
        """How often money has left the mint's node for this invoice."""
        payment = asyncio.run(self.station.mint.payments()).get(bill.payment_hash)
        return 0 if payment is None else payment.paid
