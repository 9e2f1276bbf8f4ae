"""Five invoices, paid through the daemon's socket as a wallet service would, and the node's word on each."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.cli.client import Client, Reply
    from daemon.demo.mint_child import DemoMint, Invoice, Payment
    from daemon.demo.scenario import InvoicePlan

ALIAS: Final = "main"
HANG_S: Final = 2.0
"""How long the caller of the payment that hangs waits before it is told to ask again."""
WAIT_S: Final = 30.0
END_S_MAX: Final = 40.0
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What became of one invoice: the melt as the daemon answers it, and how often money left the node."""

    plan: InvoicePlan
    npub: str
    melt: dict[str, Any]
    times_left: int
    repeated: bool

    @property
    def expected_times(self) -> int:
        """How often money must have left."""
        return 1 if self.plan.expected == "SETTLED" else 0

    @property
    def ok(self) -> bool:
        """The state that was expected, money that left as often as it must, and a daemon that says the same."""
        plan, melt = self.plan, self.melt
        said = (melt.get("paid_amount"), melt.get("fees_paid"), melt.get("shortfall"))
        right = said == ((plan.amount, plan.fee, 0) if self.expected_times else (0, 0, 0))
        return melt.get("state") == plan.expected and self.times_left == self.expected_times and right and self.repeated

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "invoice": self.plan.name,
            "npub": self.npub,
            "melt": self.melt.get("id"),
            "amount": self.plan.amount,
            "lightning_fee": self.plan.fee if self.times_left else 0,
            "state": self.melt.get("state"),
            "expected": self.plan.expected,
            "payments_at_mint": self.times_left,
            "expected_payments": self.expected_times,
            "ok": self.ok,
        }


class Payer:
    """Pays the planned invoices: those that hang first, so that the others are paid while they hang."""

    def __init__(self, client: Client, mint: DemoMint) -> None:
        self._client = client
        self._mint = mint

    async def pay_all(self, plans: Sequence[InvoicePlan], npubs: Sequence[str]) -> list[Paid]:
        """Pay, wait until every melt has ended, and ask the node. Raises what the client raises."""
        invoices = [await self._invoice(plan) for plan in plans]
        keys = [f"demo-{secrets.token_hex(8)}" for _ in plans]
        first = [index for index, plan in enumerate(plans) if plan.hangs]
        replies: dict[int, Reply] = {}
        for index in first:
            replies[index] = await self._post(npubs[plans[index].user], invoices[index], keys[index], HANG_S)
        others = [index for index in range(len(plans)) if index not in first]
        answers = await asyncio.gather(
            *(self._post(npubs[plans[index].user], invoices[index], keys[index], WAIT_S) for index in others)
        )
        replies |= dict(zip(others, answers, strict=True))
        for index in (index for index in first if plans[index].pay == "PENDING"):
            await self._mint.resolve(invoices[index].payment_hash, "SETTLED", fee_sat=plans[index].fee)
        melts = [await self._ended(replies[index]) for index in range(len(plans))]
        # The same request once more: the same melt, and no second payment.
        again = await asyncio.gather(
            *(
                self._post(npubs[plan.user], invoice, key, WAIT_S)
                for plan, invoice, key in zip(plans, invoices, keys, strict=True)
            )
        )
        known = await self._mint.payments()
        return [
            Paid(
                plan=plan,
                npub=npubs[plan.user],
                melt=melt,
                times_left=_times(known.get(invoice.payment_hash)),
                repeated=melt.get("id") is not None and _melt_id(reply) == melt.get("id"),
            )
            for plan, invoice, melt, reply in zip(plans, invoices, melts, again, strict=True)
        ]

    async def _invoice(self, plan: InvoicePlan) -> Invoice:
        return await self._mint.invoice(
            plan.amount,
            pay=plan.pay,
            status=None if plan.pay == "SETTLED" else plan.pay,
            fee_sat=plan.fee,
            delay_s=plan.delay_s,
        )

    async def _post(self, npub: str, invoice: Invoice, key: str, wait_s: float) -> Reply:
        return await asyncio.to_thread(
            self._client.post,
            "/v1/melts",
            {"npub": npub, "mint": ALIAS, "invoice": invoice.invoice},
            headers={"Idempotency-Key": key},
            timeout_s=wait_s + 15,
            wait=wait_s,
        )

    async def _ended(self, reply: Reply) -> dict[str, Any]:
        """
        The melt once it has ended, or as it is when END_S_MAX is over.

        A refusal that made none has its code for a state.
        """
        melt_id = _melt_id(reply)
        if melt_id is None:
            return {"state": reply.body.get("code")}
        deadline = time.monotonic() + END_S_MAX
        while True:
            melt = (await asyncio.to_thread(self._client.get, f"/v1/melts/{melt_id}")).body
            if melt.get("state") in {"SETTLED", "RELEASED", "HELD"} or time.monotonic() > deadline:
                return melt
            await asyncio.sleep(_POLL_S)


def _melt_id(reply: Reply) -> str | None:
    found = reply.body.get("melt_id" if not reply.ok else "id")
    return None if found is None else str(found)


def _times(payment: Payment | None) -> int:
    return 0 if payment is None else payment.paid
