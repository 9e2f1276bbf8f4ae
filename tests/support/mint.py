"""The real mint as a child process, a wallet that fills it, as every test may use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.demo import mint_child
from daemon.demo.mint_child import HttpRefusal, Invoice, Payment, free_port, request
from daemon.demo.wallet import DemoWallet as TestWallet
from daemon.demo.wallet import ProofDict, split
from tests.support.cdk_mint import CdkMint

PYTHON_ENV = "MELTD_TEST_MINT_PYTHON"
"""The interpreter of the environment whose cashu the tests' mints run; ``python -m tests.generations`` sets it."""
VERSION_ENV = "MELTD_TEST_MINT_VERSION"
"""The version that such a mint must be of, so that no run is counted for a mint that it did not meet."""
KIND_ENV = "MELTD_TEST_MINT"
"""Which implementation the tests' mints are: Nutshell, or ``cdk``."""
CDK = "cdk"

__all__ = [
    "CDK",
    "KIND_ENV",
    "PYTHON_ENV",
    "VERSION_ENV",
    "HttpRefusal",
    "Invoice",
    "MintProcess",
    "NutshellMint",
    "Payment",
    "ProofDict",
    "TestWallet",
    "free_port",
    "mint_process",
    "split",
]

# pytest would collect a class of this name.
TestWallet.__test__ = False  # type: ignore[attr-defined]


class NutshellMint(mint_child.MintProcess):
    """The demo's mint, of the generation that the environment asks for."""

    counts_posts = True

    def plays(self, **script: Any) -> bool:
        """Whether its node can do what the script says, to the end."""
        return True

    def __init__(self, folder: Path, *, python: str | None = None, **options: Any) -> None:
        super().__init__(folder, python=python or os.environ.get(PYTHON_ENV), **options)

    def start_blocking(self) -> None:
        """Start it, and make sure that it is the mint that was asked for."""
        super().start_blocking()
        wanted = os.environ.get(VERSION_ENV)
        found = request(self.port, "GET", "/v1/info")["version"]
        if wanted and found != f"Nutshell/{wanted}":
            self.kill_blocking()
            raise RuntimeError(f"asked for Nutshell {wanted}, and {found} came up")


MintProcess: type[Any] = CdkMint if os.environ.get(KIND_ENV) == CDK else NutshellMint
"""The mint of this run. What one implementation can't play skips the test with the reason (tests/support/cdk_mint.py)."""


@pytest.fixture
def mint_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MintProcess]:
    """A mint of the test's own."""
    with MintProcess(tmp_path_factory.mktemp("mint")) as mint:
        yield mint
