"""A scripted mode, survey and check behind the API: what they were asked is kept, what they answer is set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from daemon.ports import CheckedDocument, CheckReport, ModeReport, RepairProgress, SurveyReport
from melt.errors import Severity
from melt.model import Action, Actor, DriftType, MintAlias, MintState, TokenId, TokenStatus, Y
from melt.model.indexes import IndexReport, IndexStanding, IndexState
from melt.model.mode import Mode, ModeChoice
from melt.model.survey import Change, Copies, CopyGroup, Drift, Holding, IndexWish, Others, Survey
from tests.support.engine import token

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DOCUMENT = TokenId("ab" * 12)
INDEX = IndexStanding(
    collection="cashu_tokens",
    name="meltd_status_id",
    keys=("status", "_id"),
    purpose="tours",
    state=IndexState.MISSING,
)


def make_survey(**changes: Any) -> Survey:
    """A survey of a small database with one thing to mark."""
    survey = Survey(
        documents=40,
        proofs=200,
        users=7,
        holdings=(
            Holding(status="unspent", transaction_type="minted", unit="sat", documents=30, proofs=150, value=4096),
        ),
        drift=(
            Drift(
                type=DriftType.DB_UNSPENT_MINT_SPENT,
                severity=Severity.HIGH,
                action=Action.MARK_SPENT,
                mint=MintAlias("main"),
                unit="sat",
                number=1,
                value=16,
            ),
        ),
        changes=(
            Change(
                token_id=DOCUMENT,
                npub="npub1" + "q" * 58,
                mint=MintAlias("main"),
                unit="sat",
                type=DriftType.DB_UNSPENT_MINT_SPENT,
                action=Action.MARK_SPENT,
                status=TokenStatus.UNSPENT,
                proofs=1,
                of_proofs=2,
                ys=(Y("02" + "ab" * 32),),
                value=16,
                in_s=86_400.0,
            ),
        ),
        changes_count=1,
        capped=(),
        sent_as_unspent={"sat": 8},
        sent_as_unspent_documents=1,
        copies=(CopyGroup(copies=Copies.KEPT, proofs=3, value=24),),
        keeps_before_source=0,
        others=Others(cleared=5, settling=1, recurred=0, rolled_back=0),
        indexes=(IndexWish(standing=INDEX, seconds=0.4),),
        complete=True,
    )
    return replace(survey, **changes)


@dataclass
class ScriptedModes:
    """Remembers what it was asked; ``failure`` is raised by all that changes something."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None
    now: Mode = Mode.OBSERVE
    made: Survey = field(default_factory=make_survey)
    by: Actor = field(default_factory=lambda: Actor(name="meltd"))

    def _call(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    def _report(self) -> ModeReport:
        choice = ModeChoice(mode=self.now, chosen=self.now is Mode.CORRECT, at=NOW, actor=self.by, reason="scripted")
        return ModeReport(
            mode=self.now, reason="scripted", setting=None, choice=choice, indexes=IndexReport(standings=(INDEX,))
        )

    async def mode(self) -> ModeReport:
        return self._report()

    async def observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeReport:
        self._call("observe", actor=actor, reason=reason, end_open=end_open)
        self.now, self.by = Mode.OBSERVE, actor
        return self._report()

    async def correct(self, *, actor: Actor, reason: str) -> ModeReport:
        self._call("correct", actor=actor, reason=reason)
        self.now, self.by = Mode.CORRECT, actor
        return self._report()

    async def survey(self, *, actor: Actor) -> SurveyReport:
        self._call("survey", actor=actor)
        return SurveyReport(
            survey=self.made, mode=self._report(), correct_after_s=86_400.0, advice=("mind the gap",), seconds=0.5
        )

    def survey_progress(self) -> RepairProgress:
        return RepairProgress(running=True, phase="comparing", done=10, total=40, seconds=1.0)


@dataclass
class ScriptedChecks:
    """Answers with one document."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    async def check(
        self, *, ys: Sequence[Y], token_ids: Sequence[TokenId], mint: MintAlias | None, actor: Actor
    ) -> CheckReport:
        self.calls.append({"ys": list(ys), "token_ids": list(token_ids), "mint": mint})
        document = token(TokenStatus.UNSPENT, 4, 8)
        return CheckReport(
            documents=(
                CheckedDocument(
                    token=document,
                    mint=MintAlias("main"),
                    states=(MintState.UNSPENT, MintState.SPENT),
                    found=(),
                    severity=Severity.HIGH,
                    blocked=True,
                ),
            ),
            strangers=tuple((y, None) for y in ys),
            missing=(),
            errors=(),
        )
