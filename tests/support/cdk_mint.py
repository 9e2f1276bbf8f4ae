"""
The real cdk-mintd as a child process, as tests may use it in the place of Nutshell's.

What its fake wallet can't play skips the test that asks for it, by name and with the reason: those reasons stand in the
table of ``python -m tests.generations``. Tests that are about cdk-mintd alone carry the mark ``cdk`` and are left out
where it is not built (tests/conftest.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NoReturn

import pytest

from daemon.demo import cdk_child
from daemon.demo.cdk_child import Unplayable, description
from daemon.demo.mint_child import Invoice, request
from tests.generations import cdk

__all__ = ["CdkMint", "description"]


class CdkMint(cdk_child.CdkMint):
    """The demo's cdk-mintd, of the version that is measured, with what other mints' tests ask of it."""

    counts_posts = False

    def plays(self, **script: Any) -> bool:
        """Whether its fake wallet can do what the script says, to the end."""
        try:
            told = cdk_child.played(script, delay_s=self.delay_s)
        except Unplayable:
            return False
        return "PENDING" not in told and "UNKNOWN" not in told

    def __init__(self, folder: Path, *, max_request_length: int = 0, anew: bool = True, **options: Any) -> None:
        """``anew``: an invoice that asks for another delay starts the mint anew with it, which others must not mind."""
        self._anew = anew
        if max_request_length:
            options |= {"max_inputs": max_request_length, "max_outputs": max_request_length}
        super().__init__(folder, binary=options.pop("binary", None) or self._built(), **options)

    @staticmethod
    def _built() -> Path:
        found = cdk.built()
        if found is None:
            raise RuntimeError(cdk.NOT_BUILT)
        return found

    def start_blocking(self) -> None:
        """Start it, and make sure that it is the mint that was asked for."""
        super().start_blocking()
        found = request(self.port, "GET", "/v1/info")["version"]
        if found != f"cdk-mintd/{cdk.VERSION}":
            self.kill_blocking()
            raise RuntimeError(f"asked for {cdk.NAME}, and {found} came up")

    async def invoice(self, amount_sat: int, *, expiry_s: int = 3600, **script: Any) -> Invoice:
        """As in the demo; the mint is started anew with the delay that the script asks for."""
        delay_s = math.ceil(script.get("delay_s", 0))
        if delay_s != self.delay_s and self._anew:
            self.configure(delay_s=delay_s)
            await self.restart()
        try:
            return await super().invoice(amount_sat, expiry_s=expiry_s, **script)
        except Unplayable as error:
            _skip(str(error))

    async def script(self, payment_hash: str, **script: Any) -> None:
        """What an invoice does is written in it."""
        _skip("what an invoice does can't be changed")

    async def resolve(self, payment_hash: str, status: str, *, fee_sat: int | None = None) -> None:
        """Its fake wallet keeps a payment as it is."""
        _skip("a pending payment never ends")

    async def posts(self) -> NoReturn:
        """It counts none."""
        _skip("melt requests are not counted")

    async def rotate_keyset(self, *, fee_ppk: int = 0, final_expiry: int | None = None, **more: Any) -> str:
        """As in the demo, without an expiry of one's own."""
        if final_expiry is not None:
            _skip("a keyset's expiry can't be chosen")
        return await super().rotate_keyset(fee_ppk=fee_ppk, **more)


def _skip(why: str) -> NoReturn:
    pytest.skip(f"cdk-mintd's fake wallet: {why}")
