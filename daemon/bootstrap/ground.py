"""What all parts of a daemon stand on: time and chance, metrics, the database, the mints, and the events about them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from daemon.bootstrap import names
from daemon.mode import ModeKeeper
from daemon.pauses import Pauses
from daemon.spool import Spool
from daemon.system import SystemClock, SystemEntropy
from daemon.watching import WatchingMetrics
from daemon.webhook import Webhook
from melt.breaker import Breaker, BreakerPolicy
from melt.events import CriticalEvents
from melt.mint import HttpMint, MintLimits
from melt.model import MintAlias
from melt.store import MongoStore, Threads

if TYPE_CHECKING:
    from daemon.settings import Settings
    from daemon.settings.model import MintSettings
    from melt.ecash import Seed
    from melt.ports import Clock, Entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The adapters of one process, and what every other part is given of them."""

    settings: Settings
    seed: Seed
    holder: str
    """This instance: who holds a lease, who wrote an entry."""
    clock: Clock
    entropy: Entropy
    metrics: WatchingMetrics
    threads: Threads
    work: Threads
    """For signatures: on a thread of their own, so that the store's are free."""
    store: MongoStore
    mints: dict[MintAlias, HttpMint]
    pauses: Pauses
    mode: ModeKeeper
    webhook: Webhook | None
    events: CriticalEvents
    gauges_now: asyncio.Event
    """Set by whoever changed what the gauges show."""

    @property
    def aliases(self) -> tuple[MintAlias, ...]:
        """Every configured mint."""
        return tuple(self.mints)

    def why_unchanged(self, mint: MintAlias) -> str | None:
        """Why nothing of this mint's is changed now: meltd observes, or it is paused; None: it may be."""
        return self.mode.observing() or self.pauses.reason(mint)

    def look_at_gauges(self) -> None:
        """They are read anew now."""
        self.gauges_now.set()

    def show_pauses(self) -> None:
        """Everything's pause and each mint's, as metrics."""
        self.metrics.set_paused(None, self.pauses.reason(None) is not None)
        for alias in self.mints:
            self.metrics.set_paused(alias, self.pauses.reason(alias) is not None)


def lay_ground(settings: Settings, *, seed: Seed, uri: str, holder: str, version: str) -> Ground:
    """Make the adapters. Nothing is asked of the database or of a mint yet."""
    clock, entropy = SystemClock(), SystemEntropy()
    metrics = _metrics(settings, version, clock, entropy)
    threads = Threads(settings.store.workers)
    work = Threads(1)
    store = MongoStore(
        uri,
        settings.mongo.database,
        clock=clock,
        telemetry=metrics,
        retry_writes=settings.retry_writes,
        transaction_deadline_s=settings.store.transaction_deadline_s,
        sessions_file=settings.data_dir / "sessions",
        holder=holder,
        settle=settings.settle_policy,
    )
    mints = {
        MintAlias(alias): HttpMint(
            MintAlias(alias),
            mint.url,
            telemetry=metrics,
            clock=clock,
            entropy=entropy,
            limits=_mint_limits(mint, settings.melt.in_flight_per_mint_max),
        )
        for alias, mint in settings.mints.items()
    }
    pauses = Pauses(settings.data_dir / "pauses.json")
    webhook = _webhook(settings, holder, metrics, entropy)
    spool = Spool(settings.data_dir / "spool")
    return Ground(
        settings=settings,
        seed=seed,
        holder=holder,
        clock=clock,
        entropy=entropy,
        metrics=metrics,
        threads=threads,
        work=work,
        store=store,
        mints=mints,
        pauses=pauses,
        mode=ModeKeeper(
            store=store,
            threads=threads,
            clock=clock,
            setting=settings.mode_setting,
            indexes_every_s=settings.sweep.interval_s,
            on_change=metrics.set_mode,
            on_look=metrics.set_indexes,
        ),
        webhook=webhook,
        events=CriticalEvents(store, threads, metrics, clock=clock, spool=spool, notices=webhook),
        gauges_now=asyncio.Event(),
    )


def _metrics(settings: Settings, version: str, clock: Clock, entropy: Entropy) -> WatchingMetrics:
    """All metrics, declared, with a circuit breaker for each mint that feeds on them."""
    aliases = [MintAlias(alias) for alias in settings.mints]
    metrics = WatchingMetrics(version=version, clock=clock, mints=aliases)
    metrics.declare(
        aliases,
        units=("sat", "msat"),
        jobs=names.all_jobs(aliases),
        loops=names.all_loops(aliases, subscriptions=settings.subscriptions.enabled),
    )
    melt = settings.melt
    policy = BreakerPolicy(
        failures_max=melt.breaker_failures,
        pause_s=melt.breaker_pause_s,
        pause_s_max=max(melt.breaker_pause_s, melt.breaker_pause_s_max),
        probe_s=melt.quote_timeout_s,
    )
    metrics.breakers = {
        alias: Breaker(policy, clock=clock, entropy=entropy, on_change=partial(metrics.circuit_changed, alias))
        for alias in aliases
    }
    return metrics


def _mint_limits(mint: MintSettings, melts_max: int) -> MintLimits:
    return MintLimits(
        connect_timeout_s=mint.connect_timeout_s,
        request_timeout_s=mint.request_timeout_s,
        states_batch=mint.checkstate_batch,
        # Each melt under way may have a payment and, before or after it, a swap.
        money_in_flight_max=max(32, 2 * (mint.max_in_flight_melts or melts_max)),
    )


def _webhook(settings: Settings, holder: str, metrics: WatchingMetrics, entropy: Entropy) -> Webhook | None:
    url = settings.webhook.url
    if url is None:
        return None
    return Webhook(
        url.get_secret_value(),
        timeout_s=settings.webhook.timeout_s,
        instance_id=holder,
        metrics=metrics,
        entropy=entropy,
    )


__all__ = ["Ground", "lay_ground"]
