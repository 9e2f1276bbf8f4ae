"""Whole systems for the end-to-end tests: the real mint, the real store, the real daemon, and an oracle beside them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cdk_mint import CdkMint
from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, TestWallet
from tests.support.store import insert_token, insert_wallet, npub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bson import ObjectId
    from pymongo import MongoClient
    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore

QUICK = {
    "melt.release_confirm_s": 1,
    "melt.post_grace_s": 3,
    "sweep.interval_s": 3600,
    "sweep.confirm_after_s": 0.5,
    "sweep.spent_confirm_s": 0,
    "sweep.pending_grace_s": 1,
    "sweep.spent_sample_share": 1.0,
    "sweep.corrections_max_share_per_cycle": 1.0,
    # Many proofs of the tests are made up; whose signature is looked at would be a matter of chance.
    "sweep.signature_sample_share": 0,
}


@dataclass
class System:
    """One daemon over one database and one mint, with what a test needs to arrange and to judge."""

    mint: MintProcess
    db: Database[dict[str, Any]]
    daemon: DaemonProcess
    wallets: dict[str, ObjectId] = field(default_factory=dict)
    settles: bool = False
    """Whether drift has to settle before a rule writes a document."""

    @property
    def wallet(self) -> TestWallet:
        return TestWallet(self.mint.url)

    def user(self) -> str:
        """A new user with a wallet document."""
        owner = npub()
        self.wallets[owner] = insert_wallet(self.db, owner, self.mint.url)
        return owner

    def fund(self, owner: str, amount: int, *, amounts: list[int] | None = None, **more: Any) -> str:
        """Real ecash in one document; its id."""
        proofs = asyncio.run(self.wallet.mint(amount, amounts=amounts))
        return self.insert(owner, proofs, **more)

    def insert(self, owner: str, proofs: list[Any], **more: Any) -> str:
        more.setdefault("mint_url", self.mint.url)
        return insert_token(self.db, owner, proofs, wallet_id=self.wallets[owner], **more)

    def invoice(self, amount: int, **script: Any) -> Any:
        """An invoice of an external payee; ``script`` tells the mint's Lightning node what to do with it."""
        return asyncio.run(self.mint.invoice(amount, **script))

    def payments(self, payment_hash: str) -> int:
        """How often money left the mint for this hash: the only honest oracle."""
        payment = asyncio.run(self.mint.payments()).get(payment_hash)
        return 0 if payment is None else payment.paid

    def paying(self, payment_hash: str, *, within_s: float = 20.0) -> None:
        """
        Wait until the mint's node has been asked to pay.

        The journal says MELTING before the first byte of the POST leaves, so a kill on seeing that may come before it.
        """
        deadline = time.monotonic() + within_s
        while (payment := asyncio.run(self.mint.payments()).get(payment_hash)) is None or payment.attempts == 0:
            assert time.monotonic() < deadline, f"the mint was not asked to pay:\n{self.daemon.log_tail()}"
            time.sleep(0.02)

    def truth(self, owner: str) -> int:
        """What the mint still honours of a user's documents, each proof once, pending ones too."""
        proofs: dict[str, Any] = {}
        for document in self.db["cashu_tokens"].find({"npub": owner}):
            proofs.update({proof["secret"]: proof for proof in document["proofs"]})
        held = list(proofs.values())
        if not held:
            return 0
        states = asyncio.run(self.wallet.states(held))
        return sum(int(p["amount"]) for p, state in zip(held, states, strict=True) if state != "SPENT")

    def documents(self, owner: str) -> list[dict[str, Any]]:
        return list(self.db["cashu_tokens"].find({"npub": owner}))

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """All that a refused request must not change."""
        return {
            name: sorted(self.db[name].find({}), key=lambda document: str(document["_id"]))
            for name in ("cashu_tokens", "cashu_wallets", "meltd_melts", "meltd_audit", "meltd_counters")
        }


@pytest.fixture
def make_system(
    store_process: EmbeddedStore, mongo_client: MongoClient[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., System]]:
    """Makes systems; the daemons stop at the end of the test."""
    daemons: list[DaemonProcess] = []

    def make(mint: MintProcess, *, settings: dict[str, Any] | None = None, start: bool = True) -> System:
        system = _system(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), settings or {})
        daemons.append(system.daemon)
        if start:
            system.daemon.start()
        return system

    yield make
    for daemon in daemons:
        daemon.__exit__()


def _system(
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    folder: Path,
    settings: dict[str, Any],
) -> System:
    name = f"e2e_{secrets.token_hex(6)}"
    daemon = DaemonProcess(
        folder,
        mints={"main": mint.url},
        mongo_uri=store_process.uri,
        database=name,
        settings={**QUICK, **settings},
    )
    return System(mint=mint, db=mongo_client[name], daemon=daemon)


@pytest.fixture
def own_cdk_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., CdkMint]]:
    """Makes mints of the test's own; they end with it."""
    with contextlib.ExitStack() as mints:

        def make(**options: Any) -> CdkMint:
            return mints.enter_context(CdkMint(tmp_path_factory.mktemp("cdk"), **options))

        yield make


@pytest.fixture(scope="module")
def system(
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """One daemon for all tests of a module; each test has users of its own."""
    system = _system(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), {})
    with system.daemon:
        yield system


@pytest.fixture(scope="module", params=["alone", "in company"])
def paying_system(
    request: pytest.FixtureRequest,
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """As ``system``; once where nobody else spends from the database, and once at the default times of settling."""
    settings = {} if request.param == "alone" else {"sweep.correct_after_s": 86_400, "sweep.alert_after_s": 3600}
    system = _system(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), settings)
    system.settles = bool(settings)
    with system.daemon:
        yield system
