"""
The same payments again and again: for a run of the neighbour alone, and for one beside meltd that has to come out the same.

Everything follows from the seed: users, amounts, delays, who pays when. One user's payments go one after another, so what
they choose and what is left does not depend on how users interleave; ``tests.neighbour.ledger`` compares what is left.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.neighbour.process import CALL_S, Gone, Refused

if TYPE_CHECKING:
    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
SHAPES: Final = ((4096,), (4095,), (2, 30, 97, 256, 1, 511, 640, 1000, 1500))
"""What users get in turn: one document of one proof, one of many, many documents of few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One payment to make: sat, and the seconds that Lightning takes."""

    npub: str
    amount: int
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of an order. ``error`` is the service's word, None where it paid; ``told`` what it answered or said beside.

    ``left`` is how often money left the mint's node for it: the only honest witness of a payment.
    """

    order: Order
    payment_hash: str
    error: str | None
    told: dict[str, Any]
    left: int

    @property
    def comparable(self) -> tuple[Order, str | None, int]:
        """What is the same in two runs of the same seed; ids and hashes are not."""
        return (self.order, self.error, self.left)


def users_of(seed: int, count: int) -> tuple[str, ...]:
    """The same users for the same seed."""
    rng = random.Random(f"users {seed}")
    return tuple("npub1" + "".join(rng.choice(_BECH32) for _ in range(58)) for _ in range(count))


def fund(
    neighbour: Neighbour, users: Sequence[str], *, shapes: Sequence[Sequence[int]] = SHAPES
) -> dict[str, tuple[str, ...]]:
    """A wallet and minted ecash for each user, of the shapes in turn; the ids of their documents."""
    made = {}
    for at, user in enumerate(users):
        neighbour.create_wallet(user)
        made[user] = tuple(neighbour.mint(user, amount)["id"] for amount in shapes[at % len(shapes)])
    return made


def plan(
    users: Sequence[str], count: int, *, seed: int, delays: tuple[float, float], amounts: tuple[int, int] = (1, 120)
) -> tuple[Order, ...]:
    """``count`` payments of these users in turn, with delays and amounts between the bounds, the longest delay among them."""
    rng = random.Random(f"payments {seed}")
    shortest, longest = delays
    orders = []
    for at in range(count):
        delay = longest if at == count // 2 else round(rng.uniform(shortest, longest), 1)
        orders.append(Order(npub=users[at % len(users)], amount=rng.randint(*amounts), delay_s=delay))
    return tuple(orders)


def run_payments(
    neighbour: Neighbour,
    mint: MintProcess,
    orders: Sequence[Order],
    *,
    parallel: int = 8,
    stop: threading.Event | None = None,
) -> tuple[Outcome, ...]:
    """
    Pay all of them, up to ``parallel`` users at once and each user's in order; the outcomes in the order of ``orders``.

    ``stop``, when set, leaves out the orders that have not begun. Blocks: belongs in a thread where a loop runs.
    """
    queues: dict[str, list[int]] = {}
    for at, order in enumerate(orders):
        queues.setdefault(order.npub, []).append(at)
    done: dict[int, Outcome] = {}

    def pay_all(ats: Sequence[int]) -> None:
        for at in ats:
            if stop is not None and stop.is_set():
                return
            done[at] = _pay(neighbour, mint, orders[at])

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="payer") as pool:
        for finished in [pool.submit(pay_all, ats) for ats in queues.values()]:
            finished.result()
    return tuple(done[at] for at in sorted(done))


def _pay(neighbour: Neighbour, mint: MintProcess, order: Order) -> Outcome:
    invoice = asyncio.run(mint.invoice(order.amount, delay_s=order.delay_s))
    error, told = None, {}
    try:
        told = neighbour.melt(order.npub, invoice.invoice).result(within_s=order.delay_s + CALL_S)
    except Refused as refused:
        error, told = refused.name, refused.details
    except Gone:
        error = "GONE"
    payment = asyncio.run(mint.payments()).get(invoice.payment_hash)
    left = 0 if payment is None else payment.paid
    return Outcome(order=order, payment_hash=invoice.payment_hash, error=error, told=dict(told), left=left)
