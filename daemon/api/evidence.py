"""The answer of ``GET /v1/melts/{id}/evidence``: what a person looks at before deciding about a melt."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import Field

from daemon.api.answers import ActorAnswer, Answer, AuditAnswer, EventAnswer, MeltAnswer
from melt.model import MintState, PostOutcome, QuoteState, ResolveAs

if TYPE_CHECKING:
    from daemon.ports import MeltEvidence
    from melt.model import Melt, MeltQuote

INPUTS_MAX = 1000


class JournalAnswer(Answer):
    """What the journal knows beyond the melt's answer."""

    holder: str
    rev: int
    post: PostOutcome = Field(description="What is known of the one melt POST.")
    post_code: int | None
    posted_at: datetime | None
    contradiction: str | None
    contradiction_since: datetime | None
    clear_since: datetime | None = Field(description="When UNPAID and UNSPENT were first seen together.")
    inputs_amount: int
    blank_outputs: int
    fence_planned: bool
    source_token_ids: list[str]
    decision: str | None = Field(description="What a person has decided and is being carried out.")
    decided_by: ActorAnswer | None
    decided_because: str | None

    @classmethod
    def of(cls, melt: Melt) -> Self:
        decision = melt.resolution
        return cls(
            holder=melt.holder,
            rev=melt.rev,
            post=melt.post,
            post_code=melt.post_code,
            posted_at=melt.posted_at,
            contradiction=melt.contradiction,
            contradiction_since=melt.contradiction_since,
            clear_since=melt.clear_since,
            inputs_amount=melt.inputs_amount,
            blank_outputs=0 if melt.blanks is None else len(melt.blanks.amounts),
            fence_planned=melt.fence is not None,
            source_token_ids=list(melt.source_token_ids),
            decision=None if decision is None else decision.outcome.value,
            decided_by=None if decision is None else ActorAnswer.of(decision.actor),
            decided_because=None if decision is None else decision.reason,
        )


class QuoteAnswer(Answer):
    """The melt quote as the mint tells it now. A preimage is shown by the melt itself, once it is paid."""

    state: QuoteState
    amount: int
    fee_reserve: int
    expiry: int | None
    change_signatures: int

    @classmethod
    def of(cls, quote: MeltQuote) -> Self:
        return cls(
            state=quote.state,
            amount=quote.amount,
            fee_reserve=quote.fee_reserve,
            expiry=quote.expiry,
            change_signatures=len(quote.change),
        )


class InputAnswer(Answer):
    """One input, by its Y."""

    y: str
    amount: int
    token_id: str
    state: MintState | None


class AtMintAnswer(Answer):
    """What the mint says now; null where it could not be asked, and then why."""

    asked_at: datetime
    quote: QuoteAnswer | None
    quote_error: str | None
    quote_withheld: bool = Field(
        description="The quote was not asked, because the payment may be running and asking can disturb it."
    )
    inputs_by_state: dict[str, int] | None
    inputs_error: str | None
    inputs: list[InputAnswer]


class EvidenceAnswer(Answer):
    """Everything that is known of a melt, and what a person may decide on it."""

    melt: MeltAnswer
    journal: JournalAnswer
    at_mint: AtMintAnswer
    events: list[EventAnswer]
    audit: list[AuditAnswer]
    allowed: dict[ResolveAs, bool]
    forbidden: dict[ResolveAs, str] = Field(description="Why the others are not allowed now.")

    @classmethod
    def of(cls, evidence: MeltEvidence) -> Self:
        melt, sight = evidence.melt, evidence.sight
        states = sight.states
        counted = None if states is None else dict(Counter(states[ref.y].value for ref in melt.inputs))
        return cls(
            melt=MeltAnswer.of(melt),
            journal=JournalAnswer.of(melt),
            at_mint=AtMintAnswer(
                asked_at=sight.asked_at,
                quote=None if sight.quote is None else QuoteAnswer.of(sight.quote),
                quote_error=sight.quote_error,
                quote_withheld=sight.quote_withheld,
                inputs_by_state=counted,
                inputs_error=sight.states_error,
                inputs=[
                    InputAnswer(
                        y=ref.y,
                        amount=ref.amount,
                        token_id=ref.token_id,
                        state=None if states is None else states.get(ref.y),
                    )
                    for ref in melt.inputs[:INPUTS_MAX]
                ],
            ),
            events=[EventAnswer.of(event) for event in evidence.events],
            audit=[AuditAnswer.of(entry) for entry in evidence.audit],
            allowed={outcome: why is None for outcome, why in sight.forbidden.items()},
            forbidden={outcome: why for outcome, why in sight.forbidden.items() if why is not None},
        )
