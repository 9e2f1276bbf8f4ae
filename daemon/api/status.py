"""The answer of ``GET /v1/status``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import Field

from daemon.api.answers import Answer
from daemon.api.pace import PaceAnswer
from melt.model import PlanState
from melt.model.mode import Mode
from melt.saga.pricing import wanting_login

if TYPE_CHECKING:
    from daemon.ports import LeaseStatus, LoopStatus, MintStatus, SettlingStatus, StatusReport
    from melt.model import HintStatus, MethodLimits, MintInfo, MintReport, Plan, SweepRecord


class SweepAnswer(Answer):
    """Where the tour of one mint is."""

    tour: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    documents: int
    total_documents: int
    proofs: int
    found: dict[str, int]
    corrected: dict[str, int]
    error: str | None

    @classmethod
    def of(cls, record: SweepRecord) -> Self:
        return cls(
            tour=record.tour,
            started_at=record.started_at,
            updated_at=record.updated_at,
            finished_at=record.finished_at,
            documents=record.documents,
            total_documents=record.total_documents,
            proofs=record.proofs,
            found=dict(record.found),
            corrected=dict(record.corrected),
            error=record.error,
        )


class HintsAnswer(Answer):
    """One mint's subscriptions (NUT-17); counts since the start of the process."""

    link: str = Field(description="`connected`, `connecting`, `idle` (nothing to watch), `unsupported` or `off`.")
    watched: int = Field(description="Proofs and quotes that are subscribed now.")
    hints: int
    dropped: int
    reconnects: int
    last_hint: datetime | None

    @classmethod
    def of(cls, status: HintStatus) -> Self:
        return cls(
            link=status.link.value,
            watched=status.watched,
            hints=status.hints,
            dropped=status.dropped,
            reconnects=status.reconnects,
            last_hint=status.last_hint,
        )


class LeaseAnswer(Answer):
    """Which instance sweeps a mint."""

    holder: str | None = Field(description="Its `instance_id`; null: nobody at the moment.")
    epoch: int = Field(description="Rises with each change of the holder.")
    here: bool = Field(description="Whether it is this instance.")

    @classmethod
    def of(cls, lease: LeaseStatus) -> Self:
        return cls(holder=lease.holder, epoch=lease.epoch, here=lease.here)


class LimitsAnswer(Answer):
    """What a mint melts by bolt11 in one unit (NUT-05); `max_amount` null: it does not say."""

    unit: str
    min_amount: int
    max_amount: int | None
    amountless: bool
    in_parts: bool = Field(description="Several mints may pay one invoice (NUT-15). meltd does not use it.")


class WaysAnswer(Answer):
    """What a mint says of itself, and what has been learned of it."""

    name: str
    version: str
    keysets: int
    melts: list[LimitsAnswer]
    melting_disabled: bool
    wants_login: list[str] = Field(description="Requests that meltd makes and that want a login (NUT-21, NUT-22).")
    usable: bool = Field(description="False: no melt is begun there, because melting is disabled or wants a login.")
    max_array_length: int | None
    inputs_max: int | None = Field(description="Learned from refusals; null: nothing was refused.")
    states_batch: int | None = Field(description="Proofs in one question about states that have gone through.")
    repeats_answers: list[str] = Field(description="Requests whose answers it repeats to the byte (NUT-19).")
    unusable_count: int = Field(description="Entries of its lists that could not be used; each costs itself alone.")
    unusable: list[str] = Field(description="The first of them, by name, with the reason.")

    @classmethod
    def of(cls, report: MintReport) -> Self | None:
        info = report.info
        if info is None and not (report.keysets or report.unusable_count or report.wants_login):
            return None
        announced = () if info is None else wanting_login(info)
        login = list(dict.fromkeys((*report.wants_login, *announced)))
        melts_login = any("melt" in one for one in login)
        return cls(
            name="" if info is None else info.name,
            version="" if info is None else info.version,
            keysets=report.keysets,
            melts=[] if info is None else [_limits(one, info) for one in info.melt_methods if one.method == "bolt11"],
            melting_disabled=info is not None and info.melting_disabled,
            wants_login=login,
            usable=not melts_login and not (info is not None and info.melting_disabled),
            max_array_length=None if info is None else info.max_array_length,
            inputs_max=None if info is None else info.inputs_max,
            states_batch=report.states_batch,
            repeats_answers=[] if info is None else sorted(f"{one.method} {one.path}" for one in info.cached),
            unusable_count=report.unusable_count,
            unusable=list(report.unusable),
        )


def _limits(limits: MethodLimits, info: MintInfo) -> LimitsAnswer:
    return LimitsAnswer(
        unit=limits.unit,
        min_amount=limits.min_amount,
        max_amount=limits.max_amount,
        amountless=limits.amountless,
        in_parts=limits.unit in info.multi_path,
    )


class MintAnswer(Answer):
    """One configured mint as the daemon sees it now."""

    alias: str
    url: str
    up: bool | None = Field(description="Null before the first request.")
    last_ok: datetime | None
    paused: bool
    paused_reason: str | None
    frozen: bool = Field(
        description="The mint is not believed: nothing is corrected, no melt is begun. `events` say why."
    )
    open_melts: int
    error: str | None
    ways: WaysAnswer | None = Field(description="Null before the mint has said anything.")
    sweep: SweepAnswer | None
    pace: PaceAnswer | None
    hints: HintsAnswer | None = Field(description="Null where subscriptions are switched off.")
    lease: LeaseAnswer | None

    @classmethod
    def of(cls, mint: MintStatus) -> Self:
        return cls(
            alias=mint.alias,
            url=mint.url,
            up=mint.up,
            last_ok=mint.last_ok,
            paused=mint.paused,
            paused_reason=mint.paused_reason,
            frozen=mint.frozen,
            open_melts=mint.open_melts,
            error=mint.error,
            ways=None if mint.report is None else WaysAnswer.of(mint.report),
            sweep=None if mint.sweep is None else SweepAnswer.of(mint.sweep),
            pace=None if mint.pace is None else PaceAnswer.of(mint.pace),
            hints=None if mint.hints is None else HintsAnswer.of(mint.hints),
            lease=None if mint.lease is None else LeaseAnswer.of(mint.lease),
        )


class LoopAnswer(Answer):
    """One supervised loop."""

    name: str
    running: bool
    turned_s_ago: float
    stalled: bool
    restarts: int

    @classmethod
    def of(cls, loop: LoopStatus) -> Self:
        return cls(
            name=loop.name,
            running=loop.running,
            turned_s_ago=round(loop.turned_s_ago, 1),
            stalled=loop.stalled,
            restarts=loop.restarts,
        )


class PlanWaitingAnswer(Answer):
    """A plan that waits for approval or for being applied."""

    id: str
    state: PlanState
    mint: str | None
    items: int
    made_at: datetime
    made_by: str

    @classmethod
    def of(cls, plan: Plan) -> Self:
        return cls(
            id=plan.id,
            state=plan.state,
            mint=plan.scope.mint,
            items=plan.items,
            made_at=plan.made_at,
            made_by=plan.made_by.name,
        )


class SettlingAnswer(Answer):
    """Open discrepancies by how far they are."""

    settling: int = Field(description="So young that they page nobody.")
    waiting: int = Field(description="Watched until their document has stood still for long enough.")
    due: int = Field(description="Nothing is waited for.")
    unsettled: int = Field(description="Do not come to rest, and are for a person; counted above, too.")
    amounts: dict[str, int] = Field(
        description="By unit, what settling ones say of counted ecash that is spent at the mint."
    )

    @classmethod
    def of(cls, settling: SettlingStatus) -> Self:
        return cls(
            settling=settling.settling,
            waiting=settling.waiting,
            due=settling.due,
            unsettled=settling.unsettled,
            amounts=dict(settling.amounts),
        )


class StatusAnswer(Answer):
    """The whole daemon on one page."""

    version: str
    instance_id: str
    seed_id: str | None = Field(description="Fingerprint of the seed that outputs derive from.")
    started_at: datetime
    uptime_s: float
    data_dir: str
    embedded: bool
    store_ok: bool
    store_error: str | None
    draining: bool
    paused: bool
    paused_reason: str | None
    mode: Mode = Field(description="`observe`, `correct`, or `ending` on the way back to `observe`.")
    mode_reason: str
    mints: list[MintAnswer]
    open_melts: dict[str, int] = Field(description="By state.")
    oldest_open_melt_s: float
    open_events: int
    open_plans: list[PlanWaitingAnswer]
    open_discrepancies: dict[str, int] = Field(description="By `TYPE/SEVERITY/mint`.")
    settling: SettlingAnswer
    unconfigured_mint_documents: int
    loops: list[LoopAnswer]
    metrics_url: str | None

    @classmethod
    def of(cls, report: StatusReport) -> Self:
        return cls(
            version=report.version,
            instance_id=report.instance_id,
            seed_id=report.seed_id,
            started_at=report.started_at,
            uptime_s=round(report.uptime_s, 1),
            data_dir=report.data_dir,
            embedded=report.embedded,
            store_ok=report.store_ok,
            store_error=report.store_error,
            draining=report.draining,
            paused=report.paused,
            paused_reason=report.paused_reason,
            mode=report.mode,
            mode_reason=report.mode_reason,
            mints=[MintAnswer.of(mint) for mint in report.mints],
            open_melts=dict(report.open_melts),
            oldest_open_melt_s=round(report.oldest_open_melt_s, 1),
            open_events=report.open_events,
            open_plans=[PlanWaitingAnswer.of(plan) for plan in report.open_plans],
            open_discrepancies=dict(report.open_discrepancies),
            settling=SettlingAnswer.of(report.settling),
            unconfigured_mint_documents=report.unconfigured_mint_documents,
            loops=[LoopAnswer.of(loop) for loop in report.loops],
            metrics_url=report.metrics_url,
        )
