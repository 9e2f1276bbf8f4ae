"""
What a mint answers to what it can't do, past meltd's client: status and code, held to docs/mints-measured.md's table.

Case by case the same request on each mint of ``python -m tests.generations``; ``None`` for a body without a code.
"""

from __future__ import annotations

import http.client
import json
import secrets
from typing import Any

import pytest

from daemon.demo.lightning import encode_invoice
from melt.ecash import Seed, y_of
from melt.model import KeysetId, OutputPlan
from tests.support.cdk_mint import description
from tests.support.mint import TestWallet

UNKNOWN = "00ffffffffffffff"
BY_MINT = ("Nutshell/0.16.5", "Nutshell/0.20.2", "Nutshell/0.21.0", "cdk-mintd/0.18.3")
OK, NOT_READ = (200, None), (422, None)
ANSWERS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "unit that is none": ((400, 0), (400, 0), (400, 0), (400, 11013)),
    "unit that it does not have": ((400, 10000), (400, 10000), (400, 11013), (400, 11013)),
    "invoice without an amount": ((400, 0), (400, 0), (400, 0), (400, 50000)),
    "unknown quote": ((400, 0), (400, 0), (400, 0), (400, 50000)),
    "no Ys": (OK, OK, OK, (400, 50000)),
    "1,001 Ys": (NOT_READ, NOT_READ, NOT_READ, (400, 11014)),
    "a Y that is none": (OK, OK, OK, NOT_READ),
    "1,001 inputs": (NOT_READ, NOT_READ, NOT_READ, (400, 11014)),
    "swap for too little": ((400, 11000), (400, 11000), (400, 11000), (400, 11005)),
    "swap for too much": ((400, 11000), (400, 11000), (400, 11000), (400, 11005)),
    "input of an unknown keyset": ((400, 0), (400, 0), (400, 0), (400, 12001)),
    "output of an unknown keyset": ((400, 0), (400, 11000), (400, 11000), (400, 12001)),
    "an output twice": ((400, 11000), (400, 11008), (400, 11008), (400, 11008)),
    "an empty witness": (OK, (400, 11000), OK, NOT_READ),
}


def say(mint: Any, method: str, path: str, body: Any = None) -> tuple[int, int | None, Any]:
    """One exchange: status, code, body."""
    connection = http.client.HTTPConnection("127.0.0.1", mint.port, timeout=20)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, f"/v1/{path}", sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        status, text = answer.status, answer.read()
    finally:
        connection.close()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return status, value.get("code") if isinstance(value, dict) else None, value


def quote(mint: Any, msat: int, unit: str = "sat") -> tuple[int, int | None, Any]:
    """A melt quote for an invoice of so many msat."""
    invoice, _, _ = encode_invoice(msat, expiry_s=3600, description=description())
    return say(mint, "POST", "melt/quote/bolt11", {"request": invoice, "unit": unit})


@pytest.fixture
async def swap(mint):
    """9 sat of inputs (fee 1), and outputs of any amounts, as a swap sends them."""
    wallet, seed = TestWallet(mint.url), Seed.from_mnemonic(Seed.generate_mnemonic())
    keyset = KeysetId(await wallet.active_keyset())
    inputs = [{key: proof[key] for key in ("id", "amount", "secret", "C")} for proof in await wallet.mint(9)]

    def outputs(*amounts: int) -> list[dict[str, Any]]:
        plan = OutputPlan(keyset_id=keyset, counter=0, amounts=amounts, seed_id=seed.seed_id)
        return [{"id": one.keyset_id, "amount": one.amount, "B_": one.b_} for one in seed.blinded(plan)]

    return inputs, outputs


@pytest.mark.parametrize("case", list(ANSWERS))
def test_what_is_asked_for_in_vain_is_answered_as_measured(mint, generation, swap, case):
    inputs, outputs = swap
    y = y_of(secrets.token_hex(32))
    ask = {
        "unit that is none": lambda: quote(mint, 10_000, "doge"),
        "unit that it does not have": lambda: quote(mint, 10_000, "usd"),
        "invoice without an amount": lambda: quote(mint, 0),
        "unknown quote": lambda: say(mint, "GET", "melt/quote/bolt11/nope"),
        "no Ys": lambda: say(mint, "POST", "checkstate", {"Ys": []}),
        "1,001 Ys": lambda: say(mint, "POST", "checkstate", {"Ys": [y] * 1001}),
        "a Y that is none": lambda: say(mint, "POST", "checkstate", {"Ys": [y, "zz"]}),
        "1,001 inputs": lambda: swapped(inputs[:1] * 1001, outputs(8)),
        "swap for too little": lambda: swapped(inputs, outputs(4, 2)),
        "swap for too much": lambda: swapped(inputs, outputs(16)),
        "input of an unknown keyset": lambda: swapped([{**one, "id": UNKNOWN} for one in inputs], outputs(8)),
        "output of an unknown keyset": lambda: swapped(inputs, [{**one, "id": UNKNOWN} for one in outputs(8)]),
        "an output twice": lambda: swapped(inputs, outputs(4) * 2),
        "an empty witness": lambda: swapped([{**one, "witness": ""} for one in inputs], outputs(8)),
    }

    def swapped(given: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> tuple[int, int | None, Any]:
        return say(mint, "POST", "swap", {"inputs": given, "outputs": wanted})

    status, code, _ = ask[case]()
    expected = dict(zip(BY_MINT, ANSWERS[case], strict=True))[f"{generation.implementation}/{generation.version}"]
    assert (status, code) == expected


@pytest.mark.parametrize(
    ("msat", "up", "down"), [(5000, 5, 5), (5001, 6, 5), (5999, 6, 5), (1999, 2, 1), (999, 1, None), (1, 1, None)]
)
def test_a_sub_sat_invoice_is_rounded_by_each_in_its_own_way(mint, generation, msat, up, down):
    status, code, body = quote(mint, msat)
    wanted = up if generation.implementation == "Nutshell" else down
    if wanted is None:
        assert (status, code) == (400, 11006)
    else:
        assert (status, body["amount"]) == (200, wanted)


async def test_equal_ys_are_answered_alike_and_upper_case_in_two_ways(mint, generation):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(2, amounts=[1, 1])
    await wallet.spend(proofs)
    y = y_of(proofs[0]["secret"])
    _, _, body = say(mint, "POST", "checkstate", {"Ys": [y, y, y.upper()]})
    upper = "UNSPENT" if generation.implementation == "Nutshell" else "SPENT"
    assert [one["state"] for one in body["states"]] == ["SPENT", "SPENT", upper]
