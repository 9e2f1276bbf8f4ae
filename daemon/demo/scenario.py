"""
What the demo plays: three users, forty documents, each kind of drift of the state matrix, five invoices. Pure.

A document's drift is what the wallet service wrote down (``status``) against what was then done at the mint to all or
some of its proofs (``at_mint``): left alone, spent by a second wallet, or held by a payment that doesn't end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from melt.model import DriftType

AtMint: TypeAlias = Literal["UNSPENT", "SPENT", "PENDING"]
Outcome: TypeAlias = Literal["corrected", "recorded", "watched"]

USERS: Final = ("Alice", "Bob", "Carol")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """
    A disagreement to plant. ``touched`` is how many of the document's proofs show it (the first ones); None: all.

    ``others`` is what the mint calls the document's other proofs.
    """

    name: str
    type: DriftType
    at_mint: AtMint
    outcome: Outcome
    touched: int | None = None
    others: AtMint = "UNSPENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPlan:
    """A document as the wallet service left it, ``age_days`` ago. ``slash``: its mint_url has one at the end."""

    user: int
    amounts: tuple[int, ...]
    status: str = "unspent"
    kind: str = "minted"
    source: str = "lightning"
    age_days: int = 9
    drift: Drift | None = None
    slash: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePlan:
    """
    An invoice to pay from one user's ecash. ``pay`` and ``delay_s`` script the Lightning node; what ``hangs`` is not
    waited for, and ended by the demo where the node does not do it by itself. ``expected`` is the melt's last state.
    """

    name: str
    user: int
    amount: int
    fee: int
    expected: Literal["SETTLED", "RELEASED"]
    pay: Literal["SETTLED", "FAILED", "PENDING"] = "SETTLED"
    delay_s: float = 0.0
    hangs: bool = False


INVOICES: Final = (
    InvoicePlan(name="paid at once", user=0, amount=210, fee=1, expected="SETTLED"),
    InvoicePlan(name="without a Lightning fee", user=1, amount=345, fee=0, expected="SETTLED"),
    InvoicePlan(name="hangs, then settles", user=2, amount=150, fee=1, expected="SETTLED", pay="PENDING", hangs=True),
    InvoicePlan(name="has no route", user=0, amount=99, fee=0, expected="RELEASED", pay="FAILED"),
    InvoicePlan(name="takes a while", user=2, amount=64, fee=2, expected="SETTLED", delay_s=1.5),
)


def at_one_fee(plans: Sequence[InvoicePlan], fee: int) -> tuple[InvoicePlan, ...]:
    """The same at a node that charges ``fee`` for each payment, and that takes its time and then ends each by itself."""
    return tuple(
        replace(
            plan,
            name=plan.name if plan.fee or plan.expected != "SETTLED" else "paid beside it",
            fee=fee if plan.expected == "SETTLED" else 0,
            pay="SETTLED" if plan.hangs else plan.pay,
            delay_s=0.0,
        )
        for plan in plans
    )


_UNSPENT_SPENT = DriftType.DB_UNSPENT_MINT_SPENT
_DRIFT: Final = (
    DocumentPlan(
        user=0,
        amounts=(64, 32, 16, 8),
        drift=Drift(name="counted, but all spent", type=_UNSPENT_SPENT, at_mint="SPENT", outcome="corrected"),
    ),
    DocumentPlan(
        user=1,
        amounts=(64, 32, 16, 8, 4, 2),
        drift=Drift(
            name="counted, but half spent", type=_UNSPENT_SPENT, at_mint="SPENT", outcome="corrected", touched=3
        ),
    ),
    DocumentPlan(
        user=2,
        amounts=(32, 16, 8, 4, 1),
        kind="received",
        source="p2p",
        slash=True,
        drift=Drift(name="counted, spent by sender", type=_UNSPENT_SPENT, at_mint="SPENT", outcome="corrected"),
    ),
    DocumentPlan(
        user=0,
        amounts=(64, 16, 4, 2),
        drift=Drift(
            name="counted, but being spent",
            type=DriftType.DB_UNSPENT_MINT_PENDING,
            at_mint="PENDING",
            outcome="watched",
        ),
    ),
    DocumentPlan(
        user=1,
        amounts=(128, 32, 8, 2, 1),
        status="pending",
        kind="received",
        source="p2p",
        drift=Drift(
            name="left pending, never spent",
            type=DriftType.DB_PENDING_MINT_UNSPENT,
            at_mint="UNSPENT",
            outcome="corrected",
        ),
    ),
    DocumentPlan(
        user=2,
        amounts=(64, 32, 8, 1),
        status="pending",
        kind="change",
        source="change",
        drift=Drift(
            name="pending on both sides",
            type=DriftType.DB_PENDING_MINT_PENDING,
            at_mint="PENDING",
            outcome="watched",
        ),
    ),
    DocumentPlan(
        user=1,
        amounts=(32, 16, 4, 2, 1),
        status="pending",
        drift=Drift(
            name="left pending, long spent",
            type=DriftType.DB_PENDING_MINT_SPENT,
            at_mint="SPENT",
            outcome="corrected",
        ),
    ),
    DocumentPlan(
        user=0,
        amounts=(32, 8, 2),
        status="spent",
        kind="sent",
        source="p2p",
        drift=Drift(
            name="sent, not yet redeemed",
            type=DriftType.DB_SPENT_MINT_UNSPENT,
            at_mint="UNSPENT",
            outcome="recorded",
        ),
    ),
    DocumentPlan(
        user=1,
        amounts=(64, 32, 16, 4, 1),
        status="spent",
        drift=Drift(
            name="written off, still good",
            type=DriftType.DB_SPENT_MINT_UNSPENT,
            at_mint="UNSPENT",
            outcome="corrected",
        ),
    ),
    DocumentPlan(
        user=2,
        amounts=(32, 16, 8, 4, 2, 1),
        status="spent",
        kind="change",
        source="change",
        drift=Drift(
            name="written off, half is good",
            type=DriftType.DB_SPENT_MINT_UNSPENT,
            at_mint="UNSPENT",
            outcome="corrected",
            touched=3,
            others="SPENT",
        ),
    ),
    DocumentPlan(
        user=2,
        amounts=(64, 16, 2),
        status="spent",
        kind="sent",
        source="p2p",
        drift=Drift(
            name="sent, being redeemed",
            type=DriftType.DB_SPENT_MINT_PENDING,
            at_mint="PENDING",
            outcome="watched",
        ),
    ),
    DocumentPlan(
        user=0,
        amounts=(32, 16, 8, 4),
        status="failed",
        kind="received",
        source="p2p",
        drift=Drift(
            name="failed, but still good",
            type=DriftType.DB_FAILED_MINT_UNSPENT,
            at_mint="UNSPENT",
            outcome="corrected",
        ),
    ),
)
"""Each cell of the state matrix in which the two disagree, or agree that something is under way."""

_SOUND: Final = tuple(
    plan
    for user in range(len(USERS))
    for plan in (
        DocumentPlan(user=user, amounts=(128, 32, 16, 8, 4, 2), age_days=40),
        DocumentPlan(user=user, amounts=(64, 64, 16, 8, 2, 1), age_days=31),
        DocumentPlan(user=user, amounts=(32, 16, 16, 8, 4, 2), kind="received", source="p2p", age_days=20),
        DocumentPlan(user=user, amounts=(128, 64, 8, 4, 1, 1), kind="received", source="p2p", age_days=12),
        DocumentPlan(user=user, amounts=(16, 8, 4, 2, 1), kind="change", source="change", age_days=5),
        DocumentPlan(user=user, amounts=(64, 32, 4, 2, 1, 1), kind="change", source="change", age_days=3),
        DocumentPlan(user=user, amounts=(64, 32, 8, 4, 2, 1), status="spent", age_days=25),
        DocumentPlan(user=user, amounts=(16, 8, 2, 1), status="spent", kind="sent", source="p2p", age_days=15),
        DocumentPlan(user=user, amounts=(32, 4, 2, 1), status="spent", kind="change", source="change", age_days=8),
    )
)
"""What nobody has to mend: money, and history that the mint agrees with."""

_AWAITING: Final = DocumentPlan(user=1, amounts=(), status="pending", age_days=0)
"""A mint that the user has not paid yet: no proofs."""

DOCUMENTS: Final = (*_SOUND, *_DRIFT, _AWAITING)


def at_mint(plan: DocumentPlan) -> tuple[AtMint, ...]:
    """What the mint is made to call each proof of a document."""
    drift = plan.drift
    if drift is None:
        return ("SPENT" if plan.status == "spent" else "UNSPENT",) * len(plan.amounts)
    touched = len(plan.amounts) if drift.touched is None else drift.touched
    return (drift.at_mint,) * touched + (drift.others,) * (len(plan.amounts) - touched)
