"""
The seeds: what a real mint answers to each request of meltd, written to ``tests/fuzz/seeds``.

``MELTD_TEST_MINT=cdk python -m tests.fuzz.record``, and for each release of Nutshell with its own environment
(docs/testing.md). The mints are thrown away, so nothing in an answer is worth anything.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from melt.ecash import Seed, y_of
from melt.model import KeysetId, OutputPlan
from tests.contract.test_mint_answers import say
from tests.support.mint import MintProcess, TestWallet

SEEDS = Path(__file__).with_name("seeds")


async def main() -> None:
    """Record one mint."""
    with tempfile.TemporaryDirectory() as folder, MintProcess(Path(folder)) as mint:
        info = say(mint, "GET", "info")
        seeds = await recorded(mint)
    name = str(info[2]["version"]).lower().replace("/", "-")
    text = json.dumps(seeds, indent=1, sort_keys=True) + "\n"
    (SEEDS / f"{name}.json").write_text(text, encoding="utf-8")
    print(name, {kind: len(answers) for kind, answers in seeds.items()})


async def recorded(mint: Any) -> dict[str, list[dict[str, Any]]]:
    """By kind of request, answers as ``{"status", "body"}``."""
    wallet, seed = TestWallet(mint.url), Seed.from_mnemonic(Seed.generate_mnemonic())
    keyset = KeysetId(await wallet.active_keyset())
    found: dict[str, list[dict[str, Any]]] = {}

    def ask(kind: str, method: str, path: str, body: Any = None) -> Any:
        status, _, answer = say(mint, method, path, body)
        found.setdefault(kind, []).append({"status": status, "body": answer})
        return answer

    def outputs(counter: int, *amounts: int) -> list[dict[str, Any]]:
        plan = OutputPlan(keyset_id=keyset, counter=counter, amounts=amounts, seed_id=seed.seed_id)
        return [{"id": one.keyset_id, "amount": one.amount, "B_": one.b_} for one in seed.blinded(plan)]

    async def inputs(amount: int) -> list[dict[str, Any]]:
        return [{key: p[key] for key in ("id", "amount", "secret", "C")} for p in await wallet.mint(amount)]

    ask("info", "GET", "info")
    ask("keysets", "GET", "keysets")
    ask("keys", "GET", f"keys/{keyset}")
    for script in ({}, {"pay": "FAILED", "status": "FAILED"}):
        made = await mint.invoice(100, **script)
        quote = ask("melt_quote", "POST", "melt/quote/bolt11", {"request": made.invoice, "unit": "sat"})
        ask("melt_quote_state", "GET", f"melt/quote/bolt11/{quote['quote']}")
        blanks = outputs(100 if script else 0, 0, 0, 0, 0, 0)
        ask("melt", "POST", "melt/bolt11", {"quote": quote["quote"], "inputs": await inputs(128), "outputs": blanks})
        ask("melt_quote_state", "GET", f"melt/quote/bolt11/{quote['quote']}")
    ask("melt_quote", "POST", "melt/quote/bolt11", {"request": "lnbc1none", "unit": "sat"})
    ask("melt_quote_state", "GET", "melt/quote/bolt11/nope")
    given, wanted = await inputs(64), outputs(200, 1, 2, 4, 8, 16, 32)
    ask("swap", "POST", "swap", {"inputs": given, "outputs": wanted})
    ask("swap", "POST", "swap", {"inputs": given, "outputs": outputs(300, 8)})
    ask("checkstate", "POST", "checkstate", {"Ys": [y_of(p["secret"]) for p in (*given, *await inputs(7))]})
    ask("restore", "POST", "restore", {"outputs": [*wanted, *outputs(400, 1)]})
    return found


if __name__ == "__main__":
    asyncio.run(main())
