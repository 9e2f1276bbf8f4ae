"""The daemon as a whole: its parts, the order in which they start and stop, and what it shows of itself."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.api import ApiOptions, UnixServer, bind, build_api
from daemon.api.peers import AllowList
from daemon.bootstrap.ground import lay_ground
from daemon.bootstrap.looking import make_looking
from daemon.bootstrap.loops import Loops, make_ticks
from daemon.bootstrap.paying import make_paying
from daemon.checking import ProofChecks
from daemon.health import Health, HealthServer
from daemon.notify import Notifier
from daemon.operations import DaemonOperations, Process
from daemon.ports import Check
from daemon.schedule import Schedule
from daemon.supervisor import Supervisor
from daemon.tokens import Tokens
from melt.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from daemon.instance import DataFolder
    from daemon.settings import Settings
    from melt.ecash import Seed
    from melt.model import Melt

_log = structlog.get_logger("meltd")

STORE_RETRY_S_FIRST: Final = 0.5
STORE_RETRY_S_MAX: Final = 15.0


class Daemon:
    """Everything that runs in one process, put together."""

    def __init__(self, settings: Settings, folder: DataFolder, seed: Seed, uri: str, version: str) -> None:
        self.settings = settings
        self.version = version
        holder = folder.instance_id(settings.instance_id_path)
        self.ground = ground = lay_ground(settings, seed=seed, uri=uri, holder=holder, version=version)
        self.supervisor = Supervisor(drain_s=settings.drain_s, counters=ground.metrics, notifier=Notifier())
        self._schedule = Schedule(ground.metrics)
        ticks = make_ticks(self._schedule, settings, ground.aliases)
        self.paying = make_paying(ground)
        self.looking = make_looking(ground, self.paying, self.supervisor, ticks.sweep)
        self._loops = Loops(ground=ground, paying=self.paying, looking=self.looking, ticks=ticks)
        self.operations = self._operations()
        self._http: HealthServer | None = None
        self._api: UnixServer | None = None
        self._schema_ok = False
        self._compose()

    def _compose(self) -> None:
        """Components in the order in which they start (they stop in reverse), then loops, then what a drain waits for."""
        supervisor = self.supervisor
        supervisor.add("http", self._start_http, self._stop_http)
        supervisor.add("store", self._start_store, self._stop_store)
        supervisor.add("mints", _nothing, self._stop_mints)
        supervisor.add("watcher", _nothing, self.paying.watcher.stop)
        supervisor.add("schedule", self._schedule.start, self._schedule.stop)
        supervisor.add("leases", _nothing, self.looking.leases.close)
        supervisor.add("api", self._start_api, self._stop_api)
        self._loops.add_to(supervisor)
        supervisor.on_drain("melts", self._drain_melts)
        supervisor.on_drain("leases", self.looking.leases.hand_over)

    # --- metrics and health ---

    async def _start_http(self) -> None:
        health = Health(self.ground.metrics, self.supervisor.stalled, self._readiness)
        self._http = HealthServer(health, self.settings.http.host, self.settings.http.port)
        await self._http.start()
        _log.info("metrics and health", url=self._http.url)

    async def _stop_http(self) -> None:
        if self._http is not None:
            await self._http.stop(2)

    def _metrics_url(self) -> str | None:
        return None if self._http is None else f"{self._http.url}/metrics"

    async def _readiness(self) -> tuple[Check, ...]:
        try:
            await self.ground.threads(self.ground.store.ping)
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
            for alias, health in self.ground.metrics.health.items()
        )
        return (store, schema, *mints)

    # --- the database and the mints ---

    async def _start_store(self) -> None:
        """Make what is missing in the database, and read from it what the last process knew."""
        ground, looking = self.ground, self.looking
        await ground.events.load()
        await self._make_schema()
        self._schema_ok = True
        ground.metrics.set_store_up(True)
        await ground.events.flush()
        await looking.sweeper.load()
        await looking.restores.load()
        ground.show_pauses()
        self._show_sweeps()

    async def _make_schema(self) -> None:
        """Waits for a database that is not there yet."""
        ground, delay = self.ground, STORE_RETRY_S_FIRST
        while True:
            try:
                choice = await ground.threads(
                    partial(ground.store.ensure_schema, self.settings.mongo.unique_proofs, self.settings.mode_setting)
                )
            except StoreUnavailable as error:
                ground.metrics.set_store_up(False)
                _log.warning("the database does not answer yet", detail=error.detail, retry_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(STORE_RETRY_S_MAX, delay * 2)
            else:
                ground.mode.take(choice)
                ground.metrics.set_indexes(ground.store.indexes)
                return

    def _show_sweeps(self) -> None:
        metrics, records = self.ground.metrics, self.looking.sweeper.records
        for alias in self.ground.mints:
            record = records.get(alias)
            success = record.finished_at if record is not None and record.error is None else None
            metrics.set_sweep_schedule(alias, interval_s=self.settings.sweep.interval_s, last_success=success)
            if record is not None:
                metrics.set_solvency(alias, record.solvency)

    async def _stop_store(self) -> None:
        await self.ground.work.aclose()
        await self.ground.threads.aclose()
        self.ground.store.close()

    async def _stop_mints(self) -> None:
        for mint in self.ground.mints.values():
            await mint.aclose()

    # --- the socket ---

    def _operations(self) -> DaemonOperations:
        """What the socket's callers ask for besides melts."""
        settings, ground, paying, looking = self.settings, self.ground, self.paying, self.looking
        return DaemonOperations(
            store=ground.store,
            threads=ground.threads,
            mints=ground.mints,
            reconciler=looking.reconciler,
            sweeper=looking.sweeper,
            lanes=looking.lanes,
            warm=looking.warm,
            pauses=ground.pauses,
            mode=ground.mode,
            clock=ground.clock,
            process=Process(
                version=self.version,
                instance_id=ground.holder,
                started_at=ground.clock.now(),
                data_dir=settings.data_dir,
                embedded=settings.embedded,
                seed_id=ground.seed.seed_id,
                metrics_url=self._metrics_url,
                loops=self.supervisor.loops,
                draining=self.supervisor.draining,
            ),
            health=ground.metrics.health,
            critical=ground.events,
            on_pause=ground.show_pauses,
            on_event=ground.look_at_gauges,
            recovery=paying.recovery,
            on_resolved=self._resolved,
            open_figures=ground.store.open_figures,
            hint_status=looking.hint_status,
            holdings=ground.store,
            plans=looking.planner,
            lease_of=looking.leases.status,
        )

    def _resolved(self, melt: Melt) -> None:
        """A person has decided: whoever waits for the melt is told, or the watcher looks at it now."""
        engine = self.paying.engine
        if not melt.is_open:
            engine.report_end(melt, (self.ground.clock.now() - melt.created_at).total_seconds())
        self.paying.watcher.hurry(melt.id)
        engine.followed.set()

    async def _start_api(self) -> None:
        socket, looking = self.settings.socket, self.looking
        bound = bind(self.settings.socket_path, mode=socket.mode, owner=socket.owner, group=socket.group)
        app = build_api(
            self.paying.engine,
            self.operations,
            self._api_options(),
            summaries=looking.summaries,
            restores=looking.restores,
            repairs=looking.repairs,
            plans=looking.planner,
            cases=looking.cases,
            modes=looking.survey,
            checks=ProofChecks(
                store=self.ground.store,
                threads=self.ground.threads,
                mints=self.ground.mints,
                reconciler=looking.reconciler,
                lanes=looking.lanes,
            ),
            tokens=Tokens(
                store=self.ground.store,
                cases=self.ground.store,
                threads=self.ground.threads,
                mints=self.ground.mints,
                clock=self.ground.clock,
                entropy=self.ground.entropy,
            ),
        )
        self._api = UnixServer(
            app, bound, connections_max=socket.max_connections, request_timeout_s=socket.idle_timeout_s
        )
        await self._api.start()
        _log.info("listening", socket=str(bound.path))

    def _api_options(self) -> ApiOptions:
        melt, socket = self.settings.melt, self.settings.socket
        return ApiOptions(
            mints={alias: mint.url for alias, mint in self.ground.mints.items()},
            wait_s_default=melt.wait_s_default,
            wait_s_max=melt.wait_s_max,
            body_bytes_max=socket.body_bytes_max,
            allow=AllowList(uids=frozenset(socket.allow_uids), gids=frozenset(socket.allow_gids)),
            draining=self.supervisor.draining,
            version=self.version,
            now=self.ground.clock.now,
        )

    async def _stop_api(self) -> None:
        if self._api is not None:
            await self._api.stop(3)

    # --- the end ---

    async def _drain_melts(self, deadline_s: float) -> None:
        self._loops.wake()
        # What is left of the deadline is for the callers' answers and for the parts to stop.
        left = await self.paying.engine.drain(max(0.0, deadline_s - min(3.0, deadline_s / 3)))
        if left:
            _log.warning("melts left in the journal; the next start takes them up", melts=left)


async def _nothing() -> None:
    """A component that only needs to be stopped."""


__all__ = ["Daemon"]
