"""
The parts that the fault cases share: one real mint, one real store, daemons, and a proxy in front of every mint alias.

A daemon is given many aliases that all lead to the same mint, each through a proxy of its own. A case takes an alias and
makes a fresh user there, so that its faults touch nobody else and many cases run at once in one daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, NutshellMint, TestWallet
from tests.support.proxy import Fault, MintProxy, ProxyThread, StoreProxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymongo.database import Database

SHORT: Final[dict[str, Any]] = {
    "melt.quote_timeout_s": 3,
    "melt.post_timeout_s": 3,
    "melt.post_grace_s": 4,
    "melt.swap_timeout_s": 3,
    "melt.release_confirm_s": 0.6,
    "melt.reserve_wait_s": 3,
    "store.transaction_deadline_s": 4,
    "sweep.interval_s": 3600,
    "sweep.confirm_after_s": 0.3,
    "sweep.spent_confirm_s": 0,
    "sweep.pending_grace_s": 1,
    "sweep.spent_sample_share": 1.0,
    "sweep.corrections_max_share_per_cycle": 1.0,
}
"""Budgets of seconds where production has minutes. A POST may run longer than its caller waits, and the grace time is
longer than both, as the defaults have it."""
POOL: Final = 8
"""Aliases of the shared daemon that cases take in turn."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """An alias of a daemon and the proxy that it leads to."""

    alias: str
    proxy: MintProxy


@dataclass(kw_only=True)
class Station:
    """A daemon over a database of its own, with its aliases."""

    folder: Path
    mint: MintProcess
    store: EmbeddedStore
    store_uri: str
    db: Database[dict[str, Any]]
    slots: list[Slot]
    settings: dict[str, Any]
    starter: ThreadPoolExecutor
    pooled: int = 1
    daemon: DaemonProcess = field(init=False)
    free: queue.Queue[Slot] = field(init=False)
    store_proxy: StoreProxy | None = None

    def __post_init__(self) -> None:
        self.free = queue.Queue()
        for slot in self.slots[: self.pooled]:
            self.free.put(slot)
        self.renew()

    def renew(self, *, failpoint: str | None = None) -> DaemonProcess:
        """A daemon process that is not started yet, over what the one before left behind."""
        env = {}
        if failpoint is not None:
            env = {"MELTD_DEBUG__FAILPOINT": failpoint, "MELTD_DEBUG__BREAK_PAYMENTS_ON_PURPOSE": "true"}
        timeouts = {f"mints.{slot.alias}.request_timeout_s": 2 for slot in self.slots}
        self.daemon = DaemonProcess(
            self.folder,
            mints={slot.alias: slot.proxy.url for slot in self.slots},
            mongo_uri=self.store_uri,
            database=self.db.name,
            settings={**SHORT, **timeouts, **self.settings},
            env=env,
        )
        return self.daemon

    def end(self) -> None:
        """Kill the daemon where it lives; what it would do on a clean stop has tests of its own."""
        if self.daemon._process is not None and self.daemon.process.poll() is None:
            self.daemon.kill()

    def start_store(self) -> None:
        """Again, after it was killed."""
        self.starter.submit(self.store.start).result()

    @contextlib.contextmanager
    def slot(self) -> Iterator[Slot]:
        """An alias for one case alone."""
        taken = self.free.get()
        taken.proxy.clear()
        try:
            yield taken
        finally:
            taken.proxy.clear()
            self.free.put(taken)

    @property
    def wallet(self) -> TestWallet:
        return TestWallet(self.mint.url)


class Lab:
    """Starts what cases ask for on first use, and ends it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meltd-faults-"))
        self.proxies = ProxyThread()
        self.stations: dict[str, Station] = {}
        self._lock = threading.RLock()
        self._ending = contextlib.ExitStack()
        # The kernel kills a store with the thread that started it, and the threads of cases come and go.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="stores")
        self._mint: MintProcess | None = None
        self._store: EmbeddedStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for station in self.stations.values():
            station.end()
        self._ending.close()
        self._starter.shutdown()
        self.proxies.close()
        if not os.environ.get("MELTD_FAULTS_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def mint(self) -> MintProcess:
        """The mint that cases share."""
        with self._lock:
            if self._mint is None:
                self._mint = self.new_mint("mint")
            return self._mint

    @property
    def store(self) -> EmbeddedStore:
        """The store that cases share."""
        with self._lock:
            if self._store is None:
                self._store = self.new_store("store")
            return self._store

    def new_mint(self, name: str) -> MintProcess:
        # Cases share a mint, so that none may start it anew.
        mint = MintProcess(self.folder / name, **({} if MintProcess is NutshellMint else {"anew": False}))
        asyncio.run(mint.start())
        self._ending.callback(mint.kill_blocking)
        return mint

    def new_store(self, name: str) -> EmbeddedStore:
        store = EmbeddedStore(self.folder / name, cache_size="256M")
        self._starter.submit(store.start).result()
        self._ending.callback(store.kill)
        return store

    def client(self, uri: str) -> MongoClient[dict[str, Any]]:
        """A client for arranging and looking, past every proxy."""
        client: MongoClient[dict[str, Any]] = MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=15_000)
        self._ending.callback(client.close)
        return client

    def station(
        self,
        name: str,
        *,
        settings: dict[str, Any] | None = None,
        aliases: int = 1,
        armed: Sequence[Sequence[Fault]] = (),
        mint: MintProcess | None = None,
        store: EmbeddedStore | None = None,
        store_uri: str | None = None,
        start: bool = True,
    ) -> Station:
        """
        The daemon of this name, made and started on first use.

        ``armed``: further aliases, each with faults that wait for the daemon's very first requests.
        """
        with self._lock:
            if name in self.stations:
                return self.stations[name]
            mint, store = mint or self.mint, store or self.store
            slots = [
                Slot(alias=f"s{index}", proxy=MintProxy(self.proxies, mint.port))
                for index in range(aliases + len(armed))
            ]
            for slot in slots:
                self._ending.callback(slot.proxy.close)
            station = Station(
                folder=self.folder / f"daemon-{name.replace('/', '-').replace('@', '-')}",
                mint=mint,
                store=store,
                store_uri=store_uri or store.uri,
                db=self.client(store.uri)[f"faults_{secrets.token_hex(6)}"],
                slots=slots,
                starter=self._starter,
                pooled=aliases,
                settings=settings or {},
            )
            for slot, faults in zip(slots[aliases:], armed, strict=True):
                slot.proxy.add(*faults)
            if start:
                station.daemon.start()
            self.stations[name] = station
        return station

    def drop(self, name: str) -> None:
        """Stop a daemon that only one case used."""
        with self._lock:
            station = self.stations.get(name)
        if station is not None:
            station.end()
            station.db.client.close()  # while its store lives: to end its sessions, a client waits for a dead one
