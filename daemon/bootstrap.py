"""
The composition root: the only module that names concrete adapters (DESIGN section 2).

Read it from :func:`run` down to see what a daemon is made of and in which order it starts.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon import logs
from daemon.api import ApiOptions, UnixServer, bind, build_api
from daemon.api.peers import AllowList
from daemon.cases import Cases
from daemon.embedded import EmbeddedStore
from daemon.health import Health, HealthServer
from daemon.hints import HintDesk, HintPolicy
from daemon.instance import DataFolder, load_seed
from daemon.lanes import FRESH_MELT_S, Lanes
from daemon.lease import LeaseKeeper, LeasePolicy, SweepWork, sweep_loop
from daemon.notify import Notifier
from daemon.operations import DaemonOperations, Process
from daemon.pace import Pace, PacePolicy
from daemon.pauses import Pauses
from daemon.ports import Check, Lane
from daemon.repairs import DaemonRepairs
from daemon.restore import Restores, RoundPolicy
from daemon.schedule import Schedule
from daemon.spool import Spool
from daemon.summary import Summaries
from daemon.supervisor import Supervisor
from daemon.sweep import Sweeper, SweepPolicy
from daemon.system import SystemClock, SystemEntropy
from daemon.warm import WarmLane, WarmPolicy, WarmStore
from daemon.watching import WatchingMetrics
from daemon.webhook import Webhook
from melt import failpoints
from melt.beyond import Beyond, BeyondPolicy
from melt.breaker import Breaker, BreakerPolicy
from melt.caps import CapPolicy, Caps
from melt.corrections import Corrections
from melt.errors import InvariantBroken, StoreError, StoreUnavailable
from melt.events import CriticalEvents
from melt.mint import HttpMint, MintLimits, Subscriber
from melt.model import LIVE_PLAN, MintAlias
from melt.planner import Planner, PlanPolicy
from melt.preflight import Preflight
from melt.reconcile import ReconcilePolicy, Reconciler
from melt.recovery import Patience, Recovery, RecoveryPolicy
from melt.repair import Repairer
from melt.restore import RestorePolicy, Restorer
from melt.saga import Engine, Forward, MeltPolicy, Watcher, WatchPolicy
from melt.sentinels import Sentinels
from melt.store import MongoStore, Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from daemon.schedule import Tick
    from daemon.settings import Settings
    from daemon.supervisor import LoopContext
    from melt.ecash import Seed
    from melt.model import HintStatus, Melt
    from melt.reconcile import Outcome

_log = structlog.get_logger("meltd")

GAUGES_S: Final = 5.0
WATCH_STEP_S_MAX: Final = 5.0
SWEEP_BEAT_S: Final = 5.0
"""How often a sweep's loop looks up; a mint that is not believed is asked anew each time."""
STORE_RETRY_S_MAX: Final = 15.0


def run(settings: Settings) -> int:
    """
    Run the daemon until it is asked to stop; the exit code.

    Raises ConfigError for what can't work as it is configured (exit 78).
    """
    logs.setup(settings.log)
    version = importlib.metadata.version("meltd")
    _log.info("meltd starts", version=version, settings=settings.masked_dump())
    if not settings.mints:
        _log.warning("no mint is configured: nothing can be checked or paid", next_step="add [mints.NAME] url = ...")
    if settings.debug.failpoint is not None:
        _log.critical("a failpoint is armed: this process will kill itself", failpoint=settings.debug.failpoint)
        failpoints.arm(settings.debug.failpoint)
    folder = DataFolder.open(settings.data_dir)
    try:
        seed = load_seed(settings)
        if not settings.embedded:
            if settings.mongo.uri is None:
                raise AssertionError("require_runnable was not called")
            return asyncio.run(_main(settings, folder, seed, settings.mongo.uri.get_secret_value(), version))
        with EmbeddedStore(settings.data_dir / "store") as embedded:
            return asyncio.run(_main(settings, folder, seed, embedded.uri, version))
    finally:
        folder.close()


async def _main(settings: Settings, folder: DataFolder, seed: Seed, uri: str, version: str) -> int:
    daemon = Daemon(settings, folder, seed, uri, version)
    return await daemon.supervisor.run()


class Daemon:
    """Everything that runs in one process, put together."""

    def __init__(self, settings: Settings, folder: DataFolder, seed: Seed, uri: str, version: str) -> None:
        self.settings = settings
        self.clock = clock = SystemClock()
        entropy = SystemEntropy()
        holder = folder.instance_id(settings.instance_id_path)
        aliases = [MintAlias(alias) for alias in settings.mints]
        self.metrics = metrics = WatchingMetrics(version=version, clock=clock, mints=aliases)
        sweeps = [sweep_loop(alias) for alias in aliases]
        jobs = [*sweeps, *(f"warm-{alias}" for alias in aliases), "summary", "restore"]
        hints = [f"hints-{alias}" for alias in aliases if settings.subscriptions.enabled]
        loops = ["watch", "gauges", "webhook", "lease", *jobs, *hints]
        metrics.declare(aliases, units=("sat", "msat"), jobs=jobs, loops=loops)
        breakers = metrics.breakers = {
            alias: Breaker(
                BreakerPolicy(
                    failures_max=settings.melt.breaker_failures,
                    pause_s=settings.melt.breaker_pause_s,
                    pause_s_max=max(settings.melt.breaker_pause_s, settings.melt.breaker_pause_s_max),
                    probe_s=settings.melt.quote_timeout_s,
                ),
                clock=clock,
                entropy=entropy,
                on_change=partial(metrics.circuit_changed, alias),
            )
            for alias in aliases
        }
        self.threads = threads = Threads(settings.store.workers)
        self.work = Threads(1)  # signatures: on a thread of their own, so that the store's are free
        self.store = store = MongoStore(
            uri,
            settings.mongo.database,
            clock=clock,
            telemetry=metrics,
            retry_writes=settings.retry_writes,
            transaction_deadline_s=settings.store.transaction_deadline_s,
            sessions_file=settings.data_dir / "sessions",
        )
        self.mints = mints = {
            MintAlias(alias): HttpMint(
                MintAlias(alias),
                mint.url,
                telemetry=metrics,
                clock=clock,
                entropy=entropy,
                limits=MintLimits(
                    connect_timeout_s=mint.connect_timeout_s,
                    request_timeout_s=mint.request_timeout_s,
                    states_batch=mint.checkstate_batch,
                    # Each melt under way may have a payment and, before or after it, a swap.
                    money_in_flight_max=max(32, 2 * (mint.max_in_flight_melts or settings.melt.in_flight_per_mint_max)),
                ),
            )
            for alias, mint in settings.mints.items()
        }
        self.pauses = Pauses(settings.data_dir / "pauses.json")
        webhook = settings.webhook.url
        self.webhook = (
            None
            if webhook is None
            else Webhook(
                webhook.get_secret_value(),
                timeout_s=settings.webhook.timeout_s,
                instance_id=holder,
                metrics=metrics,
                entropy=entropy,
            )
        )
        self.events = events = CriticalEvents(
            store,
            threads,
            metrics,
            clock=clock,
            spool=Spool(settings.data_dir / "spool"),
            notices=self.webhook,
        )
        self.sentinels = sentinels = Sentinels(
            records=store, store=store, threads=threads, events=events, clock=clock, entropy=entropy
        )
        corrections = Corrections(store, threads, metrics)
        melt, sweep = settings.melt, settings.sweep
        recovery = Recovery(
            store=store,
            threads=threads,
            mints=mints,
            outputs=seed,
            clock=clock,
            telemetry=metrics,
            events=events,
            policy=RecoveryPolicy(
                patience=Patience(post_grace_s=melt.post_grace_s, confirm_s=melt.release_confirm_s),
                swap_timeout_s=melt.swap_timeout_s,
            ),
        )
        policy = MeltPolicy(
            post_timeout_s=melt.post_timeout_s,
            reserve_wait_s=melt.reserve_wait_s,
            swap_when_overpay_exceeds=melt.swap_when_overpay_exceeds,
            max_fee_percent=melt.max_fee_percent,
            max_fee_floor=melt.max_fee_floor,
            in_flight_max=melt.in_flight_max,
            in_flight_per_mint_max=melt.in_flight_per_mint_max,
            in_flight_of_mint={
                MintAlias(alias): mint.max_in_flight_melts
                for alias, mint in settings.mints.items()
                if mint.max_in_flight_melts is not None
            },
            quote_timeout_s=melt.quote_timeout_s,
            preflight_timeout_s=melt.preflight_timeout_s,
        )
        self.engine = engine = Engine(
            store=store,
            threads=threads,
            mints=mints,
            forward=Forward(
                store=store,
                threads=threads,
                outputs=seed,
                clock=clock,
                entropy=entropy,
                telemetry=metrics,
                preflight=Preflight(corrections=corrections, sentinels=sentinels, clock=clock),
                recovery=recovery,
                policy=policy,
                holder=holder,
            ),
            clock=clock,
            entropy=entropy,
            telemetry=metrics,
            policy=policy,
            is_paused=self.pauses.reason,
            breakers=breakers,
        )
        self.watcher = Watcher(
            engine=engine,
            recovery=recovery,
            store=store,
            threads=threads,
            clock=clock,
            entropy=entropy,
            policy=WatchPolicy(confirm_s=melt.release_confirm_s, lease_s=settings.lease_s),
            holder=holder,
            breakers=breakers,
            on_open=self._melts_open,
        )
        caps = Caps(
            CapPolicy(
                count_per_run=sweep.corrections_max_count_per_cycle,
                count_per_hour=sweep.corrections_max_count_per_hour,
                value_per_run=sweep.corrections_max_value_per_cycle,
                share_per_run=sweep.corrections_max_share_per_cycle,
            )
        )
        caps = Caps(
            CapPolicy(
                count_per_run=sweep.corrections_max_count_per_cycle,
                count_per_hour=sweep.corrections_max_count_per_hour,
                value_per_run=sweep.corrections_max_value_per_cycle,
                share_per_run=sweep.corrections_max_share_per_cycle,
            )
        )
        reconciler = Reconciler(
            store=store,
            threads=threads,
            corrections=corrections,
            recovery=recovery,
            events=events,
            sentinels=sentinels,
            clock=clock,
            entropy=entropy,
            telemetry=metrics,
            policy=ReconcilePolicy(
                pending_grace_s=sweep.pending_grace_s,
                confirm_after_s=sweep.confirm_after_s,
                spent_confirm_s=sweep.spent_confirm_s,
            ),
            caps=caps,
            holder=holder,
            beyond=Beyond(
                holdings=store,
                threads=threads,
                work=self.work,
                clock=clock,
                entropy=entropy,
                policy=BeyondPolicy(signature_share=sweep.signature_sample_share),
            ),
        )
        self.lanes = {alias: self._new_lanes(alias, entropy) for alias in aliases}
        self.planner = Planner(
            store=store,
            plans=store,
            threads=threads,
            mints=mints,
            reconciler=reconciler,
            corrections=corrections,
            events=events,
            clock=clock,
            entropy=entropy,
            policy=PlanPolicy(four_eyes=sweep.four_eyes, expires_s=sweep.plan_expires_s),
            is_paused=self.pauses.reason,
            on_change=self._look_at_gauges,
        )
        self.cases = Cases(store=store, cases=store, threads=threads, on_change=self._look_at_gauges)
        self.sweeper = Sweeper(
            store=store,
            threads=threads,
            mints=mints,
            reconciler=reconciler,
            metrics=metrics,
            lanes=self.lanes,
            clock=clock,
            policy=SweepPolicy(page_documents=sweep.page_documents, spent_sample_share=sweep.spent_sample_share),
            is_paused=self.pauses.reason,
            holdings=store,
            planner=self.planner,
        )
        self.summaries = Summaries(
            store=store,
            summaries=store,
            threads=threads,
            mints=mints,
            sweeps=lambda: self.sweeper.records,
            metrics=metrics,
            clock=clock,
        )
        self.warm = WarmLane(
            store=WarmStore(store, store),
            threads=threads,
            mints=mints,
            reconciler=reconciler,
            lanes=self.lanes,
            clock=clock,
            policy=WarmPolicy(
                page_documents=sweep.page_documents,
                new_s=sweep.warm_new_s,
                large_amount=sweep.large_amount,
                documents_max=sweep.warm_documents,
            ),
            is_paused=self.pauses.reason,
            expected_documents=self.sweeper.documents_of,
        )
        self.hints = {
            alias: self._hint_desk(mint, reconciler, entropy)
            for alias, mint in mints.items()
            if settings.subscriptions.enabled
        }
        self._gauges_now = asyncio.Event()
        restore = settings.restore
        self.restores = Restores(
            store=store,
            restores=store,
            threads=threads,
            mints=mints,
            restorer=Restorer(
                store=store,
                restores=store,
                threads=threads,
                outputs=seed,
                states=reconciler.states,
                events=events,
                clock=clock,
                telemetry=metrics,
                caps=caps,
                policy=RestorePolicy(
                    batch_outputs=restore.batch_outputs,
                    operator_npub=restore.operator_npub,
                ),
                is_paused=self.pauses.reason,
            ),
            events=events,
            metrics=metrics,
            clock=clock,
            policy=RoundPolicy(
                interval_s=restore.interval_s,
                window_s=restore.window_s,
                requests_max_per_round=restore.requests_max_per_round,
                requests_max_on_request=restore.requests_max_on_request,
                pause_s=restore.pause_s,
            ),
            on_found=self._gauges_now.set,
        )
        self._http: HealthServer | None = None
        self.supervisor = Supervisor(drain_s=settings.drain_s, counters=metrics, notifier=Notifier())
        self._schedule = Schedule(metrics)
        self._ticks: dict[MintAlias, Tick] = {}
        self._other_ticks: list[Tick] = []
        self.leases = LeaseKeeper(
            leases=store,
            threads=threads,
            clock=clock,
            policy=LeasePolicy(lease_s=settings.lease_s),
            holder=holder,
            mints=aliases,
            work=SweepWork(
                sweeper=self.sweeper,
                caps=caps,
                leases=store,
                threads=threads,
                clock=clock,
                metrics=metrics,
                interval_s=sweep.interval_s,
                ticks=self._ticks,
                stalled_loops=self.supervisor.stalled,
            ),
            metrics=metrics,
        )
        self.operations = DaemonOperations(
            store=store,
            threads=threads,
            mints=mints,
            reconciler=reconciler,
            sweeper=self.sweeper,
            lanes=self.lanes,
            warm=self.warm,
            pauses=self.pauses,
            clock=clock,
            process=Process(
                version=version,
                instance_id=holder,
                started_at=clock.now(),
                data_dir=settings.data_dir,
                embedded=settings.embedded,
                seed_id=seed.seed_id,
                metrics_url=lambda: None if self._http is None else f"{self._http.url}/metrics",
                loops=self.supervisor.loops,
                draining=self.supervisor.draining,
            ),
            health=metrics.health,
            critical=events,
            on_pause=self._show_pauses,
            on_event=self._gauges_now.set,
            recovery=recovery,
            on_resolved=self._resolved,
            hint_status=self._hint_status,
            holdings=store,
            plans=self.planner,
            lease_of=self.leases.status,
        )
        self.repairs = DaemonRepairs(
            store=store,
            threads=threads,
            repairer=Repairer(
                store=store,
                repairs=store,
                threads=threads,
                mints=mints,
                reconciler=reconciler,
                events=events,
                telemetry=metrics,
            ),
            is_paused=self.pauses.reason,
            knows=mints.__contains__,
            draining=self.supervisor.draining,
            clock=clock,
            setting=settings.mongo.unique_proofs,
            on_change=self._gauges_now.set,
        )
        self._api: UnixServer | None = None
        self._schema_ok = False
        self._compose(version)

    def _new_lanes(self, alias: MintAlias, entropy: SystemEntropy) -> Lanes:
        sweep = self.settings.sweep
        policy = PacePolicy(duty_min=sweep.duty_min, duty_max=sweep.duty_max, lag_target_s=sweep.lag_target)
        pace = self.metrics.paces[alias] = Pace(policy, entropy)
        self.metrics.set_sweep_duty(alias, pace.duty)

        def lag_s() -> float:
            return self.sweeper.detection_lag_s(alias)

        self.metrics.watch_detection_lag(alias, lag_s, target_s=sweep.lag_target)
        return Lanes(
            alias,
            pace=pace,
            clock=self.clock,
            metrics=self.metrics,
            yield_s=sweep.yield_s,
            melts_under_way=partial(self.engine.under_way, alias, younger_than_s=FRESH_MELT_S),
            lag_s=lag_s,
        )

    def _compose(self, version: str) -> None:
        """Components in the order in which they start, then loops."""
        supervisor = self.supervisor
        supervisor.add("http", self._start_http, self._stop_http)
        supervisor.add("store", self._start_store, self._stop_store)
        supervisor.add("mints", _nothing, self._stop_mints)
        supervisor.add("watcher", _nothing, self.watcher.stop)
        supervisor.add("schedule", self._schedule.start, self._schedule.stop)
        supervisor.add("leases", _nothing, self.leases.close)
        supervisor.add("api", partial(self._start_api, version), self._stop_api)
        supervisor.add_loop("watch", self._watch)
        supervisor.add_loop("gauges", self._gauges)
        supervisor.add_loop("lease", self._lease)
        if self.webhook is not None:
            supervisor.add_loop("webhook", self.webhook.run, stall_after_s=600.0)
        sweep = self.settings.sweep
        for alias in self.mints:
            tick = self._schedule.every(sweep_loop(alias), sweep.interval_s, jitter_s=sweep.interval_s * 0.05)
            self._ticks[alias] = tick
            supervisor.add_loop(sweep_loop(alias), partial(self._sweep, alias, tick))
            warm_s = sweep.warm_interval_s
            tick = self._schedule.every(f"warm-{alias}", warm_s, jitter_s=warm_s * 0.1, at_once=False)
            self._other_ticks.append(tick)
            supervisor.add_loop(f"warm-{alias}", partial(self._warm, alias, tick))
        tick = self._schedule.every("summary", self.settings.summary.interval_s, jitter_s=60.0)
        self._other_ticks.append(tick)
        supervisor.add_loop("summary", partial(self._summarise, tick), stall_after_s=1800.0)
        restore = self.settings.restore
        tick = self._schedule.every("restore", restore.interval_s, jitter_s=restore.interval_s * 0.05, at_once=False)
        self._other_ticks.append(tick)
        supervisor.add_loop("restore", partial(self._restore, tick))
        for alias, desk in self.hints.items():
            supervisor.add_loop(f"hints-{alias}", desk.run)
        supervisor.on_drain("melts", self._drain_melts)
        supervisor.on_drain("leases", self.leases.hand_over)

    def _hint_desk(self, mint: HttpMint, reconciler: Reconciler, entropy: SystemEntropy) -> HintDesk:
        settings, alias = self.settings.subscriptions, mint.alias
        records = self.sweeper.records
        return HintDesk(
            mint=mint,
            source=Subscriber(mint, clock=self.clock, entropy=entropy, telemetry=self.metrics),
            store=self.store,
            watch_store=self.store,
            threads=self.threads,
            reconciler=reconciler,
            in_turn=partial(self._hint_page, alias),
            clock=self.clock,
            entropy=entropy,
            policy=HintPolicy(
                proofs_max=settings.proofs_max,
                refresh_s=settings.refresh_s,
                settle_s=settings.settle_s,
                checks_per_s=settings.checks_per_s,
                run_s=self.settings.sweep.interval_s,
            ),
            nudge=self.watcher.nudge,
            is_paused=partial(self.pauses.reason, alias),
            expected_documents=lambda: records[alias].total_documents if alias in records else 0,
        )

    async def _hint_page(self, alias: MintAlias, work: Callable[[], Awaitable[None]], outcome: Outcome) -> None:
        """A hint is followed by whoever sweeps the mint, in its turn there; the others get the same hint and leave it."""
        with self.leases.tenure(alias) as tenure:
            if tenure is not None:
                await self.lanes[alias].prompt_page(Lane.HINT, work, outcome)

    def _hint_status(self, alias: MintAlias) -> HintStatus | None:
        desk = self.hints.get(alias)
        return None if desk is None else desk.status()

    def _melts_open(self, melts: Sequence[Melt]) -> None:
        for desk in self.hints.values():
            desk.melts_open(melts)

    # --- components ---

    async def _start_http(self) -> None:
        health = Health(self.metrics, self.supervisor.stalled, self._readiness)
        self._http = HealthServer(health, self.settings.http.host, self.settings.http.port)
        await self._http.start()
        _log.info("metrics and health", url=self._http.url)

    async def _stop_http(self) -> None:
        if self._http is not None:
            await self._http.stop(2)

    async def _start_store(self) -> None:
        """Make what is missing in the database; wait for a database that is not there yet."""
        await self.events.load()
        delay = 0.5
        while True:
            try:
                await self.threads(partial(self.store.ensure_schema, self.settings.mongo.unique_proofs))
                break
            except StoreUnavailable as error:
                self.metrics.set_store_up(False)
                _log.warning("the database does not answer yet", detail=error.detail, retry_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(STORE_RETRY_S_MAX, delay * 2)
        self._schema_ok = True
        self.metrics.set_store_up(True)
        await self.events.flush()
        await self.sweeper.load()
        await self.restores.load()
        self._show_pauses()
        now = self.settings.sweep.interval_s
        for alias in self.mints:
            record = self.sweeper.records.get(alias)
            success = record.finished_at if record is not None and record.error is None else None
            self.metrics.set_sweep_schedule(alias, interval_s=now, last_success=success)
            if record is not None:
                self.metrics.set_solvency(alias, record.solvency)

    async def _stop_store(self) -> None:
        await self.work.aclose()
        await self.threads.aclose()
        self.store.close()

    async def _stop_mints(self) -> None:
        for mint in self.mints.values():
            await mint.aclose()

    async def _start_api(self, version: str) -> None:
        settings = self.settings
        bound = bind(
            settings.socket_path, mode=settings.socket.mode, owner=settings.socket.owner, group=settings.socket.group
        )
        app = build_api(
            self.engine,
            self.operations,
            ApiOptions(
                mints={alias: mint.url for alias, mint in self.mints.items()},
                wait_s_default=settings.melt.wait_s_default,
                wait_s_max=settings.melt.wait_s_max,
                body_bytes_max=settings.socket.body_bytes_max,
                allow=AllowList(uids=frozenset(settings.socket.allow_uids), gids=frozenset(settings.socket.allow_gids)),
                draining=self.supervisor.draining,
                version=version,
                now=self.clock.now,
            ),
            summaries=self.summaries,
            restores=self.restores,
            repairs=self.repairs,
            plans=self.planner,
            cases=self.cases,
        )
        self._api = UnixServer(
            app,
            bound,
            connections_max=settings.socket.max_connections,
            request_timeout_s=settings.socket.idle_timeout_s,
        )
        await self._api.start()
        _log.info("listening", socket=str(bound.path))

    async def _stop_api(self) -> None:
        if self._api is not None:
            await self._api.stop(3)

    async def _drain_melts(self, deadline_s: float) -> None:
        for wake in (
            self.engine.followed.set,
            self._gauges_now.set,
            self.leases.changed.set,
            *(tick.wake for tick in (*self._ticks.values(), *self._other_ticks)),
        ):
            wake()  # loops that sleep see that they are to stop
        # What is left of the deadline is for the callers' answers and for the parts to stop.
        left = await self.engine.drain(max(0.0, deadline_s - min(3.0, deadline_s / 3)))
        if left:
            _log.warning("melts left in the journal; the next start takes them up", melts=left)

    # --- loops ---

    async def _watch(self, context: LoopContext) -> None:
        """Open melts: look, act, look again."""
        while not context.stopping.is_set():
            context.beat()
            self.engine.followed.clear()
            try:
                delay = await self.watcher.tick()
            except StoreError as error:
                _log.warning("the journal can't be read", code=error.code.value, detail=error.detail)
                delay = 1.0
            await self.clock.wait(
                self.engine.followed, min(delay, WATCH_STEP_S_MAX, self.settings.sweep.hot_interval_s)
            )

    async def _sweep(self, alias: MintAlias, tick: Tick, context: LoopContext) -> None:
        """One mint's tours, while this instance holds its lease; and one at once where the mint is believed again."""
        while not context.stopping.is_set():
            context.beat()
            due = await tick.wait(SWEEP_BEAT_S)
            with self.leases.tenure(alias) as tenure:
                if tenure is None or context.stopping.is_set():
                    continue
                if not due and not await self.sentinels.probe(self.mints[alias]):
                    continue
                record = await self.sweeper.tour(alias, tenure.stop_or(context.stopping.is_set), context.beat)
            self._gauges_now.set()
            retry_s = self.lanes[alias].pace.tour_ended(ok=record.error is None)
            if retry_s is not None:
                asyncio.get_running_loop().call_later(retry_s, tick.wake)

    async def _warm(self, alias: MintAlias, tick: Tick, context: LoopContext) -> None:
        """One mint's rounds over new and large documents, by whoever sweeps it."""
        while not context.stopping.is_set():
            context.beat()
            if await tick.wait(SWEEP_BEAT_S) and not context.stopping.is_set():
                with self.leases.tenure(alias) as tenure:
                    if tenure is not None:
                        await self.warm.round(alias, tenure.stop_or(context.stopping.is_set), context.beat)

    async def _summarise(self, tick: Tick, context: LoopContext) -> None:
        """What a day cost and what is owed, written down."""
        while not context.stopping.is_set():
            context.beat()
            if await tick.wait(SWEEP_BEAT_S) and not context.stopping.is_set():
                try:
                    await self.summaries.make(context.stopping.is_set, context.beat)
                except StoreError as error:
                    _log.warning("the summaries could not be made", code=error.code.value, detail=error.detail)

    async def _restore(self, tick: Tick, context: LoopContext) -> None:
        """Looking for lost value, at one mint after another."""
        if self.restores.is_overdue():
            tick.wake()
        while not context.stopping.is_set():
            context.beat()
            if await tick.wait(SWEEP_BEAT_S) and not context.stopping.is_set():
                await self.restores.round(context.stopping.is_set, context.beat)

    async def _lease(self, context: LoopContext) -> None:
        """Which mints this instance sweeps."""
        while not context.stopping.is_set():
            context.beat()
            try:
                delay = await self.leases.run_once()
            except StoreError as error:
                _log.warning("leases can't be renewed", code=error.code.value, detail=error.detail)
                delay = 1.0
            await self.clock.wait(self.leases.changed, delay)

    async def _gauges(self, context: LoopContext) -> None:
        """What the database knows, as metrics: open events survive a restart this way."""
        while not context.stopping.is_set():
            context.beat()
            self._gauges_now.clear()
            try:
                await self._read_gauges()
                self.metrics.set_store_up(True)
            except StoreError as error:
                self.metrics.set_store_up(False)
                _log.warning("the database does not answer", code=error.code.value, detail=error.detail)
            await self.clock.wait(self._gauges_now, GAUGES_S)

    async def _read_gauges(self) -> None:
        threads, store = self.threads, self.store
        events = await threads(partial(store.events, open_only=True, limit=1000))
        self.metrics.set_open_events(Counter(event.type for event in events))
        for alias in self.mints:
            frozen = self.events.frozen(None, alias) is not None or self.events.distrusted(alias) is not None
            self.metrics.set_mint_frozen(alias, frozen)
        self.metrics.set_open_discrepancies(await threads(store.count_open_discrepancies))
        await self._read_plans_and_cases()
        for melt_id, npub, mint in await threads(store.unreadable_melts):
            if mint is None or self.events.frozen(npub, mint) is None:
                damaged = InvariantBroken(f"journal entry {melt_id} can't be read, so it is not followed")
                await self.events.invariant_broken(damaged, npub=npub, mint=mint, melt_id=melt_id)
        melts = await threads(store.open_melts)
        now = self.clock.now()
        oldest = max(((now - melt.created_at).total_seconds() for melt in melts), default=0.0)
        self.metrics.set_open_melts(Counter(melt.state for melt in melts), oldest_age_s=oldest)

    async def _read_plans_and_cases(self) -> None:
        now = self.clock.now()
        figures = await self.threads(self.store.open_figures)
        ages = {severity: (now - since).total_seconds() for severity, since in figures.oldest.items()}
        self.metrics.set_open_cases(oldest_age_s=ages, value=figures.value)
        plans = await self.planner.plans(states=tuple(LIVE_PLAN), limit=1000)
        ages_s = [(now - plan.made_at).total_seconds() for plan in plans]
        self.metrics.set_plans(Counter(plan.state for plan in plans), oldest_age_s=max(ages_s, default=0.0))

    def _look_at_gauges(self) -> None:
        self._gauges_now.set()

    def _resolved(self, melt: Melt) -> None:
        """A person has decided: whoever waits for the melt is told, or the watcher looks at it now."""
        if not melt.is_open:
            self.engine.report_end(melt, (self.clock.now() - melt.created_at).total_seconds())
        self.watcher.hurry(melt.id)
        self.engine.followed.set()

    def _show_pauses(self) -> None:
        self.metrics.set_paused(None, self.pauses.reason(None) is not None)
        for alias in self.mints:
            self.metrics.set_paused(alias, self.pauses.reason(alias) is not None)

    async def _readiness(self) -> tuple[Check, ...]:
        try:
            await self.threads(self.store.ping)
            store = Check(name="store", ok=True, required=True)
        except StoreError as error:
            store = Check(name="store", ok=False, required=True, detail=error.detail)
        schema = Check(
            name="schema",
            ok=self._schema_ok,
            required=True,
            detail="" if self._schema_ok else "collections and indexes are not made yet",
        )
        mints = tuple(
            Check(name=f"mint {alias}", ok=health.up is not False, required=False, detail=health.error or "")
            for alias, health in self.metrics.health.items()
        )
        return (store, schema, *mints)


async def _nothing() -> None:
    """A component that only needs to be stopped."""


__all__ = ["Daemon", "run"]
