"""
A small wallet: real ecash with random secrets at a local mint, as another service's wallet would hold it.

The demo and the tests fill the store with it and spend proofs behind meltd's back. It speaks to the mint by
itself, so that what it does doesn't depend on the engine's mint client.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from daemon.demo.mint_child import request
from melt.ecash import blind, dleq_holds, unblind, y_of

ProofDict: TypeAlias = dict[str, Any]
"""A proof as ``cashu_tokens.proofs[]`` has it: id, amount, secret, C, dleq {e, s, r}."""

PAID_S: Final = 20.0
POLL_S: Final = 0.05
YS_MAX: Final = 500
"""How many states are asked about at a time, where the mint does not take less."""


def split(amount: int) -> list[int]:
    """The powers of two that add up to ``amount``, ascending."""
    return [1 << bit for bit in range(amount.bit_length()) if amount >> bit & 1]


class DemoWallet:
    """Ecash of one unit at one mint. It keeps nothing: proofs are what its methods return."""

    def __init__(self, url: str, *, unit: str = "sat") -> None:
        self.url = url
        self.unit = unit
        self._port = urlsplit(url).port or 80
        self._keys: dict[str, dict[int, str]] = {}

    # --- making and spending ---

    async def mint(self, amount: int, *, amounts: Sequence[int] | None = None) -> list[ProofDict]:
        """Mint new ecash (NUT-04): ``amounts`` are the proofs' amounts, by default the powers of two."""
        wanted = list(amounts) if amounts is not None else split(amount)
        if sum(wanted) != amount:
            raise ValueError("the amounts don't add up")
        quote = await self._ask("POST", "mint/quote/bolt11", {"amount": amount, "unit": self.unit})
        deadline = time.monotonic() + PAID_S
        while quote.get("state") != "PAID":
            if time.monotonic() > deadline:
                raise TimeoutError("the mint quote was not paid")
            await asyncio.sleep(POLL_S)
            quote = await self._ask("GET", f"mint/quote/bolt11/{quote['quote']}")
        outputs, blanks = await self._outputs(wanted)
        answer = await self._ask("POST", "mint/bolt11", {"quote": quote["quote"], "outputs": outputs})
        return await self._proofs(answer["signatures"], blanks)

    async def swap(
        self, proofs: Sequence[Mapping[str, Any]], *, amounts: Sequence[int] | None = None
    ) -> list[ProofDict]:
        """Swap proofs for new ones of the same value less the input fee (NUT-03); the old ones are SPENT after it."""
        worth = sum(proof["amount"] for proof in proofs) - await self.fee(proofs)
        outputs, blanks = await self._outputs(amounts if amounts is not None else split(worth))
        answer = await self._ask("POST", "swap", {"inputs": _inputs(proofs), "outputs": outputs})
        return await self._proofs(answer["signatures"], blanks)

    async def spend(self, proofs: Sequence[Mapping[str, Any]]) -> None:
        """Make the mint call these proofs SPENT."""
        await self.swap(proofs)

    async def melt(self, proofs: Sequence[Mapping[str, Any]], invoice: str) -> dict[str, Any]:
        """Pay an invoice without asking for change (NUT-05); the mint's answer."""
        quote = await self._ask("POST", "melt/quote/bolt11", {"request": invoice, "unit": self.unit})
        answer = await self._ask("POST", "melt/bolt11", {"quote": quote["quote"], "inputs": _inputs(proofs)})
        return dict(answer)

    async def hold(self, proofs: Sequence[Mapping[str, Any]], invoice: str) -> str:
        """
        Begin to pay an invoice whose payment doesn't end; the state that the mint answers.

        Some mints answer such a request only after a minute, unless they are asked not to wait; others ignore that.
        """
        quote = await self._ask("POST", "melt/quote/bolt11", {"request": invoice, "unit": self.unit})
        body = {"quote": quote["quote"], "inputs": _inputs(proofs)}
        answer = await self._ask("POST", "melt/bolt11", body, headers={"Prefer": "respond-async"})
        return str(answer.get("state"))

    async def own_invoice(self, amount: int) -> str:
        """An invoice of the mint itself: paying it is an internal melt."""
        quote = await self._ask("POST", "mint/quote/bolt11", {"amount": amount, "unit": self.unit})
        return str(quote["request"])

    # --- asking ---

    async def states(self, proofs: Sequence[Mapping[str, Any]]) -> list[str]:
        """NUT-07 state of each proof, in order."""
        return await self.states_of([y_of(proof["secret"]) for proof in proofs])

    async def states_of(self, ys: Sequence[str]) -> list[str]:
        """As :meth:`states`, by Y. Raises ValueError where the mint leaves one out."""
        found: list[str] = []
        limit = (await self._ask("GET", "info")).get("max_array_length")
        size = min(limit or YS_MAX, YS_MAX)
        for start in range(0, len(ys), size):
            answer = await self._ask("POST", "checkstate", {"Ys": list(ys[start : start + size])})
            found += [state["state"] for state in answer["states"]]
        if len(found) != len(ys):
            raise ValueError("the mint did not answer for each proof")
        return found

    async def fee(self, proofs: Sequence[Mapping[str, Any]]) -> int:
        """Input fee of spending these proofs (NUT-02)."""
        ppk = {keyset["id"]: keyset.get("input_fee_ppk") or 0 for keyset in await self.keysets()}
        return (sum(ppk[proof["id"]] for proof in proofs) + 999) // 1000

    async def keysets(self) -> list[dict[str, Any]]:
        """NUT-02."""
        return list((await self._ask("GET", "keysets"))["keysets"])

    async def active_keyset(self) -> str:
        """The id of an active keyset of the unit."""
        return next(str(k["id"]) for k in await self.keysets() if k["active"] and k["unit"] == self.unit)

    async def keys(self, keyset_id: str) -> dict[int, str]:
        """NUT-01: amount to public key."""
        if keyset_id not in self._keys:
            answer = await self._ask("GET", f"keys/{keyset_id}")
            self._keys[keyset_id] = {int(amount): key for amount, key in answer["keysets"][0]["keys"].items()}
        return self._keys[keyset_id]

    # --- inside ---

    async def _outputs(self, amounts: Sequence[int]) -> tuple[list[dict[str, Any]], list[tuple[str, bytes, str]]]:
        keyset_id = await self.active_keyset()
        outputs, blanks = [], []
        for amount in sorted(amounts):
            secret, r = secrets.token_hex(32), secrets.token_bytes(32)
            b_ = blind(secret, r)
            outputs.append({"id": keyset_id, "amount": amount, "B_": b_})
            blanks.append((secret, r, b_))
        return outputs, blanks

    async def _proofs(
        self, signatures: Sequence[Mapping[str, Any]], blanks: Sequence[tuple[str, bytes, str]]
    ) -> list[ProofDict]:
        proofs = []
        for signature, (secret, r, b_) in zip(signatures, blanks, strict=True):
            key = (await self.keys(signature["id"]))[signature["amount"]]
            dleq = signature["dleq"]
            if not dleq_holds(b_, signature["C_"], dleq["e"], dleq["s"], key):
                raise ValueError("the mint's DLEQ proof doesn't hold")
            proofs.append(
                {
                    "id": signature["id"],
                    "amount": signature["amount"],
                    "secret": secret,
                    "C": unblind(signature["C_"], r, key),
                    "dleq": {"e": dleq["e"], "s": dleq["s"], "r": r.hex()},
                }
            )
        return proofs

    async def _ask(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        return await asyncio.to_thread(request, self._port, method, f"/v1/{path}", body, headers=headers)


def _inputs(proofs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: proof[name] for name in ("id", "amount", "secret", "C")} for proof in proofs]
