"""The parts that look: the reconciler, and all that takes it through documents, journal and time, by whoever holds the lease."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from daemon.cases import Cases
from daemon.hints import HintDesk, HintPolicy
from daemon.lanes import FRESH_MELT_S, Lanes
from daemon.lease import LeaseKeeper, LeasePolicy, SweepWork
from daemon.pace import Pace, PacePolicy
from daemon.ports import Lane
from daemon.repairs import DaemonRepairs
from daemon.restore import Restores, RoundPolicy
from daemon.settle import SettleDesk, SettleRounds
from daemon.summary import Summaries
from daemon.survey import DaemonSurvey
from daemon.sweep import Sweeper, SweepPolicy
from daemon.warm import WarmLane, WarmPolicy, WarmStore
from melt.beyond import Beyond, BeyondPolicy
from melt.caps import CapPolicy, Caps
from melt.mint import Subscriber
from melt.planner import Planner, PlanPolicy
from melt.reconcile import ReconcilePolicy, Reconciler
from melt.repair import Repairer
from melt.restore import RestorePolicy, Restorer
from melt.survey import Surveyor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from daemon.bootstrap.ground import Ground
    from daemon.bootstrap.paying import Paying
    from daemon.hints import InTurn
    from daemon.schedule import Tick
    from daemon.settings.model import SweepSettings
    from daemon.supervisor import Supervisor
    from melt.mint import HttpMint
    from melt.model import HintStatus, MintAlias
    from melt.reconcile import Outcome
    from melt.survey import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """What finds drift and mends it."""

    reconciler: Reconciler
    lanes: Mapping[MintAlias, Lanes]
    planner: Planner
    cases: Cases
    sweeper: Sweeper
    summaries: Summaries
    warm: WarmLane
    settle: SettleRounds
    leases: LeaseKeeper
    hints: Mapping[MintAlias, HintDesk]
    restores: Restores
    repairs: DaemonRepairs
    survey: DaemonSurvey

    def hint_status(self, mint: MintAlias) -> HintStatus | None:
        """How the subscriptions at a mint are; None where there are none."""
        desk = self.hints.get(mint)
        return None if desk is None else desk.status()


def make_looking(
    ground: Ground, paying: Paying, supervisor: Supervisor, sweep_ticks: Mapping[MintAlias, Tick]
) -> Looking:
    """Put them together; ``sweep_ticks`` begin a tour, as a lease that was taken does."""
    caps = Caps(_cap_policy(ground.settings.sweep))
    reconciler = _reconciler(ground, paying, caps)
    planner = _planner(ground, paying, reconciler)
    # A sweeper waits for the turn that its lanes give, and the lanes hurry where the sweeper lags behind.
    lanes: dict[MintAlias, Lanes] = {}
    sweeper = _sweeper(ground, reconciler, lanes, planner)
    lanes.update({alias: _lanes(ground, paying, sweeper, alias) for alias in ground.mints})
    leases = _leases(ground, sweeper, caps, sweep_ticks, supervisor)
    if ground.settings.subscriptions.enabled:
        for alias, mint in ground.mints.items():
            in_turn = partial(_hint_page, leases, lanes[alias])
            paying.desks[alias] = _hint_desk(ground, paying, reconciler, sweeper, mint, in_turn)
    return Looking(
        reconciler=reconciler,
        lanes=lanes,
        planner=planner,
        cases=Cases(store=ground.store, cases=ground.store, threads=ground.threads, on_change=ground.look_at_gauges),
        sweeper=sweeper,
        summaries=_summaries(ground, sweeper),
        warm=_warm_lane(ground, reconciler, lanes, sweeper),
        settle=_settle_rounds(ground, reconciler, lanes, sweeper),
        leases=leases,
        hints=paying.desks,
        restores=_restores(ground, reconciler, caps),
        repairs=_repairs(ground, reconciler, supervisor),
        survey=_survey(ground, reconciler, lanes, supervisor),
    )


# --- what all of them use ---


def _cap_policy(sweep: SweepSettings) -> CapPolicy:
    return CapPolicy(
        count_per_run=sweep.corrections_max_count_per_cycle,
        count_per_hour=sweep.corrections_max_count_per_hour,
        value_per_run=sweep.corrections_max_value_per_cycle,
        share_per_run=sweep.corrections_max_share_per_cycle,
    )


def _reconciler(ground: Ground, paying: Paying, caps: Caps) -> Reconciler:
    sweep = ground.settings.sweep
    return Reconciler(
        store=ground.store,
        threads=ground.threads,
        corrections=paying.corrections,
        recovery=paying.recovery,
        events=ground.events,
        sentinels=paying.sentinels,
        clock=ground.clock,
        entropy=ground.entropy,
        telemetry=ground.metrics,
        policy=ReconcilePolicy(
            pending_grace_s=sweep.pending_grace_s,
            confirm_after_s=sweep.confirm_after_s,
            spent_confirm_s=sweep.spent_confirm_s,
            shares=ground.settings.settle_policy.waits,
        ),
        caps=caps,
        holder=ground.holder,
        observing=ground.mode.observing,
        beyond=Beyond(
            holdings=ground.store,
            threads=ground.threads,
            work=ground.work,
            clock=ground.clock,
            entropy=ground.entropy,
            policy=BeyondPolicy(signature_share=sweep.signature_sample_share),
        ),
    )


def _planner(ground: Ground, paying: Paying, reconciler: Reconciler) -> Planner:
    sweep = ground.settings.sweep
    return Planner(
        store=ground.store,
        plans=ground.store,
        threads=ground.threads,
        mints=ground.mints,
        reconciler=reconciler,
        corrections=paying.corrections,
        events=ground.events,
        clock=ground.clock,
        entropy=ground.entropy,
        policy=PlanPolicy(four_eyes=sweep.four_eyes, expires_s=sweep.plan_expires_s),
        is_paused=ground.pauses.reason,
        observing=ground.mode.observing,
        on_change=ground.look_at_gauges,
    )


# --- tours, rounds and hints, in their turn at a mint ---


def _sweeper(ground: Ground, reconciler: Reconciler, lanes: Mapping[MintAlias, Lanes], planner: Planner) -> Sweeper:
    sweep = ground.settings.sweep
    return Sweeper(
        store=ground.store,
        threads=ground.threads,
        mints=ground.mints,
        reconciler=reconciler,
        metrics=ground.metrics,
        lanes=lanes,
        clock=ground.clock,
        policy=SweepPolicy(page_documents=sweep.page_documents, spent_sample_share=sweep.spent_sample_share),
        is_paused=ground.pauses.reason,
        holdings=ground.store,
        planner=planner,
    )


def _lanes(ground: Ground, paying: Paying, sweeper: Sweeper, alias: MintAlias) -> Lanes:
    sweep, metrics = ground.settings.sweep, ground.metrics
    policy = PacePolicy(duty_min=sweep.duty_min, duty_max=sweep.duty_max, lag_target_s=sweep.lag_target)
    pace = metrics.paces[alias] = Pace(policy, ground.entropy)
    metrics.set_sweep_duty(alias, pace.duty)
    lag_s = partial(sweeper.detection_lag_s, alias)
    metrics.watch_detection_lag(alias, lag_s, target_s=sweep.lag_target)
    return Lanes(
        alias,
        pace=pace,
        clock=ground.clock,
        metrics=metrics,
        yield_s=sweep.yield_s,
        melts_under_way=partial(paying.engine.under_way, alias, younger_than_s=FRESH_MELT_S),
        lag_s=lag_s,
    )


def _warm_lane(ground: Ground, reconciler: Reconciler, lanes: Mapping[MintAlias, Lanes], sweeper: Sweeper) -> WarmLane:
    sweep = ground.settings.sweep
    return WarmLane(
        store=WarmStore(ground.store, ground.store),
        threads=ground.threads,
        mints=ground.mints,
        reconciler=reconciler,
        lanes=lanes,
        clock=ground.clock,
        policy=WarmPolicy(
            page_documents=sweep.page_documents,
            new_s=sweep.warm_new_s,
            large_amount=sweep.large_amount,
            documents_max=sweep.warm_documents,
        ),
        is_paused=ground.pauses.reason,
        expected_documents=sweeper.documents_of,
    )


def _settle_rounds(
    ground: Ground, reconciler: Reconciler, lanes: Mapping[MintAlias, Lanes], sweeper: Sweeper
) -> SettleRounds:
    return SettleRounds(
        desk=SettleDesk(ground.store, ground.store),
        threads=ground.threads,
        mints=ground.mints,
        reconciler=reconciler,
        lanes=lanes,
        clock=ground.clock,
        policy=ground.settings.settle_policy,
        page_documents=ground.settings.sweep.page_documents,
        is_paused=ground.pauses.reason,
        expected_documents=sweeper.documents_of,
    )


def _leases(
    ground: Ground, sweeper: Sweeper, caps: Caps, ticks: Mapping[MintAlias, Tick], supervisor: Supervisor
) -> LeaseKeeper:
    return LeaseKeeper(
        leases=ground.store,
        threads=ground.threads,
        clock=ground.clock,
        policy=LeasePolicy(lease_s=ground.settings.lease_s),
        holder=ground.holder,
        mints=ground.aliases,
        work=SweepWork(
            sweeper=sweeper,
            caps=caps,
            leases=ground.store,
            threads=ground.threads,
            clock=ground.clock,
            metrics=ground.metrics,
            interval_s=ground.settings.sweep.interval_s,
            ticks=ticks,
            stalled_loops=supervisor.stalled,
        ),
        metrics=ground.metrics,
    )


def _hint_desk(
    ground: Ground, paying: Paying, reconciler: Reconciler, sweeper: Sweeper, mint: HttpMint, in_turn: InTurn
) -> HintDesk:
    settings = ground.settings.subscriptions
    return HintDesk(
        mint=mint,
        source=Subscriber(mint, clock=ground.clock, entropy=ground.entropy, telemetry=ground.metrics),
        store=ground.store,
        watch_store=ground.store,
        threads=ground.threads,
        reconciler=reconciler,
        in_turn=in_turn,
        clock=ground.clock,
        entropy=ground.entropy,
        policy=HintPolicy(
            proofs_max=settings.proofs_max,
            refresh_s=settings.refresh_s,
            settle_s=settings.settle_s,
            checks_per_s=settings.checks_per_s,
            run_s=ground.settings.sweep.interval_s,
        ),
        nudge=paying.watcher.nudge,
        is_paused=partial(ground.pauses.reason, mint.alias),
        expected_documents=partial(sweeper.documents_of, mint.alias),
    )


async def _hint_page(leases: LeaseKeeper, lanes: Lanes, work: Callable[[], Awaitable[None]], outcome: Outcome) -> None:
    """A hint is followed by whoever sweeps the mint, in its turn there; the others get the same hint and leave it."""
    with leases.tenure(lanes.alias) as tenure:
        if tenure is not None:
            await lanes.prompt_page(Lane.HINT, work, outcome)


# --- what goes through the books instead of the documents ---


def _summaries(ground: Ground, sweeper: Sweeper) -> Summaries:
    return Summaries(
        store=ground.store,
        summaries=ground.store,
        threads=ground.threads,
        mints=ground.mints,
        sweeps=lambda: sweeper.records,
        metrics=ground.metrics,
        clock=ground.clock,
    )


def _restores(ground: Ground, reconciler: Reconciler, caps: Caps) -> Restores:
    restore = ground.settings.restore
    return Restores(
        store=ground.store,
        restores=ground.store,
        threads=ground.threads,
        mints=ground.mints,
        restorer=Restorer(
            store=ground.store,
            restores=ground.store,
            threads=ground.threads,
            outputs=ground.seed,
            states=reconciler.states,
            events=ground.events,
            clock=ground.clock,
            telemetry=ground.metrics,
            caps=caps,
            policy=RestorePolicy(batch_outputs=restore.batch_outputs, operator_npub=restore.operator_npub),
            is_paused=ground.pauses.reason,
            observing=ground.mode.observing,
        ),
        events=ground.events,
        metrics=ground.metrics,
        clock=ground.clock,
        policy=RoundPolicy(
            interval_s=restore.interval_s,
            window_s=restore.window_s,
            requests_max_per_round=restore.requests_max_per_round,
            requests_max_on_request=restore.requests_max_on_request,
            pause_s=restore.pause_s,
        ),
        on_found=ground.look_at_gauges,
    )


def _repairs(ground: Ground, reconciler: Reconciler, supervisor: Supervisor) -> DaemonRepairs:
    return DaemonRepairs(
        store=ground.store,
        threads=ground.threads,
        repairer=Repairer(
            store=ground.store,
            repairs=ground.store,
            threads=ground.threads,
            mints=ground.mints,
            reconciler=reconciler,
            events=ground.events,
            telemetry=ground.metrics,
        ),
        is_paused=ground.pauses.reason,
        observing=ground.mode.observing,
        knows=ground.mints.__contains__,
        draining=supervisor.draining,
        clock=ground.clock,
        setting=ground.settings.mongo.unique_proofs,
        on_change=ground.look_at_gauges,
    )


def _survey(
    ground: Ground, reconciler: Reconciler, lanes: Mapping[MintAlias, Lanes], supervisor: Supervisor
) -> DaemonSurvey:
    async def in_turn(mint: MintAlias, work: Work, outcome: Outcome) -> None:
        await lanes[mint].prompt_page(Lane.ASKED, work, outcome)

    settle = ground.settings.settle_policy
    return DaemonSurvey(
        keeper=ground.mode,
        store=ground.store,
        threads=ground.threads,
        surveyor=Surveyor(
            store=ground.store,
            repairs=ground.store,
            surveys=ground.store,
            holdings=ground.store,
            threads=ground.threads,
            mints=ground.mints,
            reconciler=reconciler,
            in_turn=in_turn,
            settle=settle,
            caps=_cap_policy(ground.settings.sweep),
        ),
        settle=settle,
        clock=ground.clock,
        draining=supervisor.draining,
        on_change=ground.look_at_gauges,
    )


__all__ = ["Looking", "make_looking"]
