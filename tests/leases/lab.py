"""
Two daemons over one database and one mint under two names, drift planted all the time, and a recorder of who held what.

The mint's two names are two mints to meltd, so there are two shards to share. Everything is real; what is planted is real
ecash of that mint: spent behind meltd's back, left pending, or recorded as spent while the mint still honours it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, TestWallet
from tests.support.store import fake_proof, insert_token, insert_wallet, npub

ALIASES: Final = ("main", "other")
SEED: Final = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
OLD: Final = timedelta(days=2)
KINDS: Final = ("spent", "spent", "spent", "partly", "partly", "released", "reclaimed")
"""What is planted, by turns at random."""
BATCH: Final = 60
"""Proofs that are minted, or spent, at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One document that is wrong, and since when."""

    kind: str
    alias: str
    token_id: str
    transaction_id: str
    ys_amount: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """A holder of a lease, from when the recorder saw it."""

    shard: str
    holder: str | None
    epoch: int
    at: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """A whole tour, as its record said."""

    alias: str
    number: int
    started_at: datetime
    finished_at: datetime
    documents: int


@dataclass
class Recorder:
    """Looks at leases and tours all the time, with a client of its own."""

    uri: str
    database: str
    reigns: list[Reign] = field(default_factory=list)
    tours: list[Tour] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)

    def now_holding(self) -> dict[str, Reign]:
        """The last reign of each shard."""
        return {reign.shard: reign for reign in list(self.reigns)}

    def _run(self) -> None:
        last: dict[str, tuple[str | None, int]] = {}
        ended: set[tuple[str, int]] = set()
        with MongoClient(self.uri, tz_aware=True, retryWrites=False) as client:
            db = client[self.database]
            while not self._stop.wait(0.02):
                with contextlib.suppress(PyMongoError):
                    self._look(db, last, ended)

    def _look(self, db: Any, last: dict[str, tuple[str | None, int]], ended: set[tuple[str, int]]) -> None:
        for raw in db["meltd_leases"].find({}, {"holder": 1, "epoch": 1}):
            shard = raw["_id"]
            if shard.startswith("sweep:") and last.get(shard) != (raw["holder"], raw["epoch"]):
                last[shard] = (raw["holder"], raw["epoch"])
                reign = Reign(shard=shard, holder=raw["holder"], epoch=raw["epoch"], at=time.monotonic())
                self.reigns.append(reign)
        for raw in db["meltd_sweeps"].find({}):
            key = (raw["_id"], raw["tour"])
            if raw["finished_at"] is not None and raw["error"] is None and key not in ended:
                ended.add(key)
                tour = Tour(
                    alias=raw["_id"],
                    number=raw["tour"],
                    started_at=raw["started_at"],
                    finished_at=raw["finished_at"],
                    documents=raw["documents"],
                )
                self.tours.append(tour)


class Planter:
    """Inserts wrong documents anywhere in the order of the tour, one after the other, until told to stop."""

    def __init__(self, lab: Lab, pause_s: float, chance: random.Random) -> None:
        self._lab = lab
        self._pause_s = pause_s
        self._chance = chance
        self._spent: list[dict[str, Any]] = []
        self._live: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.planted: list[Planted] = []
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._refill()
        self._thread = threading.Thread(target=self._run, name="planter")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause_s):
                self._plant(self._chance.choice(KINDS), self._chance.choice(ALIASES))
        except Exception as error:  # noqa: BLE001 - raised by stop()
            self.failure = error

    def _refill(self) -> None:
        wallet = self._lab.wallet
        minted = asyncio.run(wallet.mint(8 * 2 * BATCH, amounts=[8] * 2 * BATCH))
        asyncio.run(wallet.spend(minted[:BATCH]))
        self._spent += minted[:BATCH]
        self._live += minted[BATCH:]

    def _plant(self, kind: str, alias: str) -> None:
        if min(len(self._spent), len(self._live)) < 2:
            self._refill()
        statuses = {"released": "pending", "reclaimed": "spent"}
        proofs = {
            "spent": lambda: [self._spent.pop()],
            "partly": lambda: [self._spent.pop(), self._live.pop()],
            "released": lambda: [self._live.pop()],
            "reclaimed": lambda: [self._live.pop()],
        }[kind]()
        transaction_id = f"tx_{kind}_{secrets.token_hex(8)}"
        token_id = self._lab.insert(
            alias,
            proofs,
            status=statuses.get(kind, "unspent"),
            transaction_id=transaction_id,
            _id=self._lab.place(self._chance.random()),
        )
        planted = Planted(
            kind=kind,
            alias=alias,
            token_id=token_id,
            transaction_id=transaction_id,
            ys_amount=8,
            at=datetime.now(UTC),
        )
        self.planted.append(planted)


class Lab:
    """The whole; as a context manager. The store at ``uri`` and the mint are the caller's."""

    def __init__(
        self,
        folder: Path,
        *,
        uri: str,
        mint: MintProcess,
        lease_s: float = 2.0,
        documents: int = 200,
        plant_pause_s: float = 0.15,
        seed: int = 1,
    ) -> None:
        self.lease_s = lease_s
        self.documents = documents
        self.mint = mint
        self.database = f"leases_{secrets.token_hex(6)}"
        self.chance = random.Random(seed)
        self.recorder = Recorder(uri, self.database)
        self.planter = Planter(self, plant_pause_s, random.Random(seed + 1))
        self.urls = dict(zip(ALIASES, (mint.url, mint.url.replace("127.0.0.1", "localhost")), strict=True))
        self.client: MongoClient[dict[str, Any]] = MongoClient(uri, tz_aware=True, retryWrites=False)
        self.db = self.client[self.database]
        settings = {
            "seed": SEED,
            "lease_s": lease_s,
            "drain_s": 5,
            "melt.release_confirm_s": 1,
            "melt.post_grace_s": 3,
            "sweep.interval_s": 1,
            "sweep.confirm_after_s": 0.5,
            # Whoever takes over counts a record once its time has stood still for two looks.
            "sweep.look_s": 0.5,
            "sweep.pending_grace_s": 1,
            "sweep.spent_confirm_s": 0,
            "sweep.signature_sample_share": 0,
            "sweep.page_documents": 20,
            "sweep.spent_sample_share": 1.0,
            "sweep.corrections_max_share_per_cycle": 1.0,
            "sweep.corrections_max_count_per_hour": 100_000,
        }
        self.daemons = {
            name: DaemonProcess(
                folder / name, mints=self.urls, mongo_uri=uri, database=self.database, settings=settings
            )
            for name in ("one", "two")
        }
        self.stopped: set[str] = set()
        self._owners: dict[str, tuple[str, ObjectId]] = {}
        self.filled_at = datetime.now(UTC)
        self._born = datetime(2024, 1, 1, tzinfo=UTC)

    @property
    def wallet(self) -> TestWallet:
        return TestWallet(self.mint.url)

    def place(self, share: float) -> ObjectId:
        """An id so far into the order of ids: documents lie over a year."""
        stamp = ObjectId.from_datetime(self._born + timedelta(days=365 * share)).binary[:4]
        return ObjectId(stamp + secrets.token_bytes(8))

    def insert(self, alias: str, proofs: list[Any], **more: Any) -> str:
        owner, wallet_id = self._owners[alias]
        return insert_token(
            self.db,
            owner,
            proofs,
            mint_url=self.urls[alias],
            wallet_id=wallet_id,
            created_at=datetime.now(UTC) - OLD,
            **more,
        )

    def __enter__(self) -> Self:
        for daemon in self.daemons.values():
            daemon.start()
        keyset = asyncio.run(self.wallet.active_keyset())
        for alias in ALIASES:
            owner = npub()
            self._owners[alias] = (owner, insert_wallet(self.db, owner, self.urls[alias]))
            for number in range(self.documents):
                proofs = [fake_proof(1, keyset_id=keyset)]  # never issued, so UNSPENT: nothing is wrong with it
                self.insert(alias, proofs, _id=self.place(number / self.documents))
        self.filled_at = datetime.now(UTC)
        self.recorder.start()
        self.planter.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self.stopped):
            self.go_on(name)
        with contextlib.suppress(Exception):
            self.planter.stop()
        self.recorder.stop()
        for daemon in self.daemons.values():
            with contextlib.suppress(Exception):
                daemon.__exit__()
        self.client.close()

    # --- the daemons ---

    def holder_of(self, name: str) -> str:
        """A daemon's instance id."""
        return (self.daemons[name].data / "instance-id").read_text().strip()

    def held_by(self, name: str) -> dict[str, Reign]:
        """The shards that a daemon holds now."""
        holder = self.holder_of(name)
        return {shard: reign for shard, reign in self.recorder.now_holding().items() if reign.holder == holder}

    def stop(self, name: str) -> None:
        self.daemons[name].process.send_signal(signal.SIGSTOP)
        self.stopped.add(name)

    def go_on(self, name: str) -> None:
        self.daemons[name].process.send_signal(signal.SIGCONT)
        self.stopped.discard(name)

    def refused(self) -> int:
        """Writes that the store refused because the lease was another's."""
        return sum(self._said("a write was refused: the lease is another's"))

    def losses(self) -> int:
        return sum(self._said("lease lost"))

    def _said(self, event: str) -> Iterator[int]:
        for daemon in self.daemons.values():
            yield sum(1 for line in daemon.log_path.read_text().splitlines() if f'"{event}"' in line)


def until(condition: Any, what: Any, within_s: float) -> Any:
    """Poll; fails with ``what()``."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(what() if callable(what) else what)
