"""
The ground: three mints, a store, a daemon, and a database of real ecash for many users with drift in it.

One mint answers slowly, behind a proxy; one dies before the daemon looks. Documents are written as a Mongoose service
writes them, past meltd's own eyes. Everything is drawn from one seed but the secrets of the proofs.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from daemon.embedded import EmbeddedStore
from tests.drift.cases import AMOUNTS, DEAD, PLANTED, SOUND, Case, Document
from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, ProofDict, TestWallet
from tests.support.proxy import Act, Fault, MintProxy, ProxyThread
from tests.support.store import insert_wallet, npub

LIVE: Final = ("alpha", "slow")
MINTS: Final = (*LIVE, "dead")
SLOW_S: Final = 0.15
PROOFS_A_REQUEST: Final = 400
DOCUMENTS_A_WRITE: Final = 100
SETTINGS: Final = {
    "sweep.interval_s": 2,
    "sweep.confirm_after_s": 1,
    "sweep.pending_grace_s": 3600,
    "sweep.spent_confirm_s": 0.2,
    "sweep.signature_sample_share": 1.0,
    "restore.interval_s": 86_400,
    "sweep.spent_sample_share": 1.0,
    "sweep.corrections_max_count_per_cycle": 100_000,
    "sweep.corrections_max_count_per_hour": 1_000_000,
    "sweep.corrections_max_value_per_cycle": 1_000_000_000,
    "sweep.corrections_max_share_per_cycle": 1.0,
    "melt.release_confirm_s": 1,
    "melt.post_grace_s": 3,
}


@dataclass(kw_only=True)
class Planted:
    """A document, where it came from, and what it was when the daemon first saw it."""

    case: Case
    mint: str
    owner: str
    id: Any
    raw: Document = field(default_factory=dict)


@dataclass(kw_only=True)
class Ground:
    """Everything that runs, and what was planted."""

    folder: Path
    store: EmbeddedStore
    mints: dict[str, MintProcess]
    proxies: ProxyThread
    proxy: MintProxy
    daemon: DaemonProcess
    db: Database[dict[str, Any]]
    client: MongoClient[dict[str, Any]]
    dice: random.Random
    users: list[str] = field(default_factory=list)
    wallet_ids: dict[tuple[str, str], ObjectId] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    say: Callable[[str], None] = print

    @classmethod
    def start(cls, *, seed: int, cache: str, settings: Mapping[str, Any], say: Callable[[str], None]) -> Self:
        """All processes but the daemon."""
        folder = Path(tempfile.mkdtemp(prefix="meltd-drift-"))
        store = EmbeddedStore(folder / "store", cache_size=cache)
        store.start()
        mints = {name: MintProcess(folder / name, private_key=f"drift {name}", name=f"{name} mint") for name in MINTS}
        for mint in mints.values():
            mint.start_blocking()
        thread = ProxyThread()
        proxy = MintProxy(thread, mints["slow"].port)
        urls = {"alpha": mints["alpha"].url, "slow": proxy.url, "dead": mints["dead"].url}
        client: MongoClient[dict[str, Any]] = MongoClient(store.uri, tz_aware=True, serverSelectionTimeoutMS=10_000)
        daemon = DaemonProcess(
            folder / "daemon", mints=urls, mongo_uri=store.uri, database="drift", settings={**SETTINGS, **settings}
        )
        return cls(
            folder=folder,
            store=store,
            mints=mints,
            proxies=thread,
            proxy=proxy,
            daemon=daemon,
            db=client["drift"],
            client=client,
            dice=random.Random(seed),
            say=say,
        )

    def end(self, *, keep: bool = False) -> None:
        """Stop what was started; the folder goes unless it is to be kept."""
        self.daemon.__exit__()
        self.proxy.close()
        self.proxies.close()
        for mint in self.mints.values():
            mint.stop_blocking()
        self.client.close()
        self.store.stop()
        if keep:
            self.say(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- names ---

    def url(self, mint: str) -> str:
        """As documents and configuration have it: the slow mint is known by its proxy."""
        return self.proxy.url if mint == "slow" else self.mints[mint].url

    def wallet(self, mint: str) -> TestWallet:
        """A wallet that talks to the mint itself, whatever stands before it."""
        return TestWallet(self.mints[mint].url)

    def slow_down(self) -> None:
        """From now on each answer about proof states takes a while."""
        self.proxy.add(Fault(endpoint="checkstate", act=Act.DELAY_ANSWER, times=1_000_000, seconds=SLOW_S))

    def pause_at_start(self) -> None:
        """The daemon's next start finds everything paused, as an operator left it."""
        self.daemon.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.daemon.data / "pauses.json").write_text(json.dumps({"*": "look before you leap"}))

    # --- planting ---

    def add_users(self, number: int) -> None:
        for _ in range(number):
            owner = npub()
            self.users.append(owner)
            for mint in MINTS:
                self.wallet_ids[owner, mint] = insert_wallet(self.db, owner, self.url(mint))

    def found_wallet_service(self) -> None:
        """A collection that others write, so that meltd makes no unique index in it: old code may store proofs twice."""
        proofs = asyncio.run(self.wallet("alpha").mint(sum(AMOUNTS), amounts=AMOUNTS))
        self.db["cashu_tokens"].insert_one(self.make_document(self.users[0], "alpha", proofs))

    def plant(self, documents: int, each: int) -> None:
        """``each`` documents of every case at the live mints, some at the dead one, and sound ones up to ``documents``."""
        plan: list[tuple[Case, str]] = []
        for case in PLANTED:
            plan += [(case, LIVE[number % 2]) for number in range(each * case.share)]
        for case in DEAD:
            plan += [(case, "dead") for _ in range(each * case.share)]
        while len(plan) < documents:
            plan.append((self.dice.choice(SOUND), self.dice.choice(MINTS)))
        self.dice.shuffle(plan)
        for mint in MINTS:
            asyncio.run(self._plant_at(mint, [case for case, where in plan if where == mint]))

    async def _plant_at(self, mint: str, cases: Sequence[Case]) -> None:
        wallet = self.wallet(mint)
        spent: list[ProofDict] = []
        pending: list[ProofDict] = []
        written: list[Planted] = []
        for chunk in chunks(cases, PROOFS_A_REQUEST // len(AMOUNTS)):
            amounts = AMOUNTS * len(chunk)
            purse: dict[int, list[ProofDict]] = defaultdict(list)
            for proof in await wallet.mint(sum(amounts), amounts=amounts):
                purse[proof["amount"]].append(proof)
            for case in chunk:
                proofs = [purse[amount].pop() for amount in AMOUNTS]
                for proof, state in zip(proofs, case.states(), strict=True):
                    spent += [proof] if state == "SPENT" else []
                    pending += [proof] if state == "PENDING" else []
                written.append(self._document(case, mint, proofs))
        for part in chunks(spent, PROOFS_A_REQUEST):
            await wallet.spend(part)
        for part in chunks(pending, PROOFS_A_REQUEST // 2):
            await self._hold(mint, part)
        for batch in chunks(written, DOCUMENTS_A_WRITE):
            self.db["cashu_tokens"].insert_many([one.raw for one in batch])
        self.planted += written
        self.say(f"{mint}: {len(written)} documents, {len(spent)} proofs spent elsewhere, {len(pending)} in payments")

    def _document(self, case: Case, mint: str, proofs: Sequence[ProofDict]) -> Planted:
        owner = self.dice.choice(self.users)
        raw = self.make_document(owner, mint, proofs, status=case.status, kind=case.kind)
        if case.spoil is not None:
            case.spoil(raw)
        return Planted(case=case, mint=mint, owner=owner, id=raw["_id"], raw=raw)

    def make_document(
        self, owner: str, mint: str, proofs: Sequence[ProofDict], *, status: str = "unspent", kind: str = "minted"
    ) -> Document:
        """As a Mongoose service writes it, one to sixty days ago."""
        at = datetime.now(UTC) - timedelta(days=self.dice.randint(1, 60), seconds=self.dice.randint(0, 80_000))
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        name = f"tx_{kind}_{secrets.token_hex(8)}"
        metadata: Document = {"source": "change" if kind == "change" else "lightning"}
        if kind == "change":
            metadata["parent_transaction_id"] = f"tx_melt_{secrets.token_hex(6)}"
        return {
            "_id": ObjectId(),
            "npub": owner,
            "wallet_id": self.wallet_ids[owner, mint],
            "proofs": [{**proof, "_id": ObjectId()} for proof in proofs],
            "mint_url": self.url(mint),
            "status": status,
            "transaction_type": kind,
            "transaction_id": name,
            "metadata": metadata,
            "spent_at": at if status == "spent" else None,
            "createdAt": at,
            "updatedAt": at,
            "total_amount": sum(int(proof["amount"]) for proof in proofs),
            "__v": 0,
        }

    async def _hold(self, mint: str, proofs: Sequence[ProofDict]) -> None:
        """Payments with these proofs that never end."""
        worth = sum(int(proof["amount"]) for proof in proofs)
        invoice = await self.mints[mint].invoice(worth * 3 // 4, pay="PENDING", status="PENDING", expiry_s=86_400)
        answer = await self.wallet(mint).melt(proofs, invoice.invoice)
        assert answer.get("state") == "PENDING", answer

    # --- the mints' word ---

    def states(self, mint: str, ys: Iterable[str]) -> dict[str, str]:
        asked = sorted(set(ys))
        return dict(zip(asked, asyncio.run(self.wallet(mint).states_of(asked)), strict=True)) if asked else {}


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
