"""
What a real cdk-mintd asks of a wallet that Nutshell does not: its limits, its rounding, a keyset that changed overnight.

Each of these is a payment that must be made, or a refusal that must say at once what it is; the money is judged at the mint.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cdk_mint import CdkMint, description

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System

pytestmark = pytest.mark.cdk


def spendable(system: System, owner: str) -> int:
    return sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")


def paid(system: System, owner: str, before: int, body: dict[str, Any]) -> None:
    """It was paid, and what is left is all there and free."""
    assert body.get("state") == "SETTLED", body
    cost = body["paid_amount"] + body["fees_paid"] + body["input_fee"] + body["swap_fee"] + body["shortfall"]
    # Ecash that had to be swapped together first has paid input fees of its own.
    assert before - cost - 10 <= system.truth(owner) <= before - cost
    assert spendable(system, owner) == system.truth(owner)


def refused_at_once(system: System, owner: str, before: int, invoice: str) -> Any:
    """A refusal, within the few seconds that its caller waits, that touched no money; the answer."""
    answer = system.daemon.melt(owner, "main", invoice, wait=3)
    assert 400 <= answer.status_code < 500, answer.text
    assert spendable(system, owner) == system.truth(owner) == before
    return answer


def test_a_keyset_that_was_rotated_while_meltd_ran_pays_with_the_new_one(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint()
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 300)
    assert system.daemon.melt(owner, "main", system.invoice(10).invoice).json()["state"] == "SETTLED"
    before = system.truth(owner)
    asyncio.run(mint.rotate_keyset(fee_ppk=100))
    invoice = system.invoice(100)
    paid(system, owner, before, system.daemon.melt(owner, "main", invoice.invoice).json())
    assert system.payments(invoice.payment_hash) == 1


def test_a_mint_with_no_keyset_that_signs_is_refused_by_that_name_and_at_once(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint()
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 300)
    asyncio.run(mint.rotate_keyset(expired=True))
    answer = refused_at_once(system, owner, 300, system.invoice(100).invoice)
    assert "Lightning payment failed" not in answer.json()["detail"]
    assert "keyset" in answer.json()["detail"]


def test_more_small_proofs_than_the_mint_takes_at_a_time_are_swapped_together_first(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    system = make_system(own_cdk_mint(max_inputs=20, max_outputs=20, fee_ppk=0))
    owner = system.user()
    for _ in range(4):
        system.fund(owner, 20, amounts=[1] * 20)
    invoice = system.invoice(40)
    paid(system, owner, 80, system.daemon.melt(owner, "main", invoice.invoice, wait=60).json())
    assert system.payments(invoice.payment_hash) == 1


@pytest.mark.parametrize("amount", [9, 1001])
def test_an_amount_outside_of_the_mints_limits_is_the_callers_and_named_with_both(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint], amount: int
) -> None:
    system = make_system(own_cdk_mint(min_melt=10, max_melt=1000))
    owner = system.user()
    system.fund(owner, 2000)
    answer = refused_at_once(system, owner, 2000, system.invoice(amount).invoice)
    assert answer.status_code == 422
    assert "10" in answer.json()["detail"]
    assert "1000" in answer.json()["detail"].replace(",", "")


@pytest.mark.parametrize("msat", [5001, 5999])
def test_an_invoice_of_parts_of_a_sat_is_paid_at_a_mint_that_rounds_down(
    make_system: Callable[..., System], cdk_mint: CdkMint, msat: int
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    system.fund(owner, 64)
    invoice = cdk_mint.invoice_msat(msat, description())
    body = system.daemon.melt(owner, "main", invoice.invoice).json()
    paid(system, owner, 64, body)
    assert (body["paid_amount"], system.payments(invoice.payment_hash)) == (5, 1)


def test_stored_proofs_with_an_empty_witness_pay_like_any_others(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    proofs = asyncio.run(system.wallet.mint(128))
    system.insert(owner, [{**proof, "witness": ""} for proof in proofs])
    invoice = system.invoice(100)
    paid(system, owner, 128, system.daemon.melt(owner, "main", invoice.invoice).json())


def test_an_invoice_that_somebody_else_has_paid_is_told_at_once_and_costs_no_swap(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100)
    asyncio.run(system.wallet.melt(asyncio.run(system.wallet.mint(128)), invoice.invoice))
    refused_at_once(system, owner, 300, invoice.invoice)
    assert system.payments(invoice.payment_hash) == 1
    assert not [d for d in system.documents(owner) if d["transaction_id"].endswith("_fenced")]


def test_a_payment_that_somebody_else_is_making_is_not_made_twice(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="PENDING")
    asyncio.run(system.wallet.hold(asyncio.run(system.wallet.mint(128)), invoice.invoice))
    system.daemon.melt(owner, "main", invoice.invoice, wait=2)
    payments = asyncio.run(cdk_mint.payments())[invoice.payment_hash]
    assert (payments.attempts, payments.paid) == (1, 0)
    assert system.truth(owner) >= 299
