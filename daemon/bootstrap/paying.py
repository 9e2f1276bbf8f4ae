"""The parts that pay: corrections, recovery, the engine of melts, and the watcher of those that stay open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from melt.corrections import Corrections
from melt.model import MintAlias
from melt.preflight import Preflight
from melt.recovery import Patience, Recovery, RecoveryPolicy
from melt.saga import Engine, Forward, MeltPolicy, StandPolicy, Watcher, WatchPolicy
from melt.sentinels import Sentinels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.bootstrap.ground import Ground
    from daemon.hints import HintDesk
    from daemon.settings import Settings
    from melt.model import Melt


@dataclass(frozen=True, slots=True, kw_only=True)
class Paying:
    """What a melt goes through, and what recovers one."""

    sentinels: Sentinels
    corrections: Corrections
    recovery: Recovery
    engine: Engine
    watcher: Watcher
    desks: dict[MintAlias, HintDesk]
    """Who is told of open melts. Empty at first: a desk is made of parts that look, and these of the ones here."""


def make_paying(ground: Ground) -> Paying:
    """Put them together."""
    store, threads, clock, entropy = ground.store, ground.threads, ground.clock, ground.entropy
    melt = ground.settings.melt
    sentinels = Sentinels(
        records=store, store=store, threads=threads, events=ground.events, clock=clock, entropy=entropy
    )
    corrections = Corrections(store, threads, ground.metrics)
    recovery = Recovery(
        store=store,
        threads=threads,
        mints=ground.mints,
        outputs=ground.seed,
        clock=clock,
        telemetry=ground.metrics,
        events=ground.events,
        policy=RecoveryPolicy(
            patience=Patience(post_grace_s=melt.post_grace_s, confirm_s=melt.release_confirm_s),
            swap_timeout_s=melt.swap_timeout_s,
        ),
    )
    engine = _engine(ground, sentinels, corrections, recovery)
    desks: dict[MintAlias, HintDesk] = {}
    watcher = Watcher(
        engine=engine,
        recovery=recovery,
        store=store,
        threads=threads,
        clock=clock,
        entropy=entropy,
        policy=WatchPolicy(
            confirm_s=melt.release_confirm_s,
            lease_s=ground.settings.lease_s,
            standing=StandPolicy(after_s=melt.stuck_after_s),
        ),
        holder=ground.holder,
        breakers=ground.metrics.breakers,
        on_open=partial(_tell_of_open_melts, desks),
    )
    return Paying(
        sentinels=sentinels,
        corrections=corrections,
        recovery=recovery,
        engine=engine,
        watcher=watcher,
        desks=desks,
    )


def _tell_of_open_melts(desks: Mapping[MintAlias, HintDesk], melts: Sequence[Melt]) -> None:
    for desk in desks.values():
        desk.melts_open(melts)


def _engine(ground: Ground, sentinels: Sentinels, corrections: Corrections, recovery: Recovery) -> Engine:
    policy = _melt_policy(ground.settings)
    return Engine(
        store=ground.store,
        threads=ground.threads,
        mints=ground.mints,
        forward=Forward(
            store=ground.store,
            threads=ground.threads,
            outputs=ground.seed,
            clock=ground.clock,
            entropy=ground.entropy,
            telemetry=ground.metrics,
            preflight=Preflight(corrections=corrections, sentinels=sentinels, clock=ground.clock),
            recovery=recovery,
            policy=policy,
            holder=ground.holder,
        ),
        clock=ground.clock,
        entropy=ground.entropy,
        telemetry=ground.metrics,
        policy=policy,
        is_paused=ground.pauses.reason,
        observing=ground.mode.observing,
        breakers=ground.metrics.breakers,
    )


def _melt_policy(settings: Settings) -> MeltPolicy:
    melt = settings.melt
    return MeltPolicy(
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


__all__ = ["Paying", "make_paying"]
