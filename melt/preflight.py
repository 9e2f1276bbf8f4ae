"""
The check of the documents that a melt is about to use (DESIGN section 4, Preflight).

The mint is asked about *every* proof of each document that the melt would touch. One that is SPENT or PENDING puts the whole
document out: somebody is at work on it, and paying with its other proofs would split it under their hands (I13). What was seen
is written down before anybody is answered; the document itself is left alone until that has settled. Other documents are
tried in the same request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from melt import drift
from melt.corrections import Corrections, Judged, asked_evidence, confirmed, mint_said
from melt.errors import Severity
from melt.model import Action, MintState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Actor, Discrepancy, Token, TokenId
    from melt.ports import Clock, Mint
    from melt.sentinels import Sentinels

_log = structlog.get_logger("melt.preflight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """
    What a check came to. ``out`` are documents that can't be paid with now; none means go.

    ``records`` say why, those that are over already left out. ``corrected`` is the value that was marked spent at once, where
    nothing has to settle.
    """

    out: frozenset[TokenId] = frozenset()
    records: tuple[Discrepancy, ...] = ()
    corrected: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """Checks documents at their mint."""

    corrections: Corrections
    sentinels: Sentinels
    clock: Clock

    async def check(self, mint: Mint, tokens: Mapping[TokenId, Token], *, unit: str, actor: Actor) -> Checked:
        """
        Ask the mint about the documents that a melt would touch.

        Raises:
            MintError: the mint could not be asked or its answer can't be believed.
            StoreError: drift could not be written down.
        """
        ys = [proof.y for token in tokens.values() for proof in token.proofs]
        states = await self.sentinels.states(mint, ys, hurry=True)
        if all(states[y] is MintState.UNSPENT for y in ys):
            return Checked()
        # What is seen can't be taken back, so it is asked about once more. The caller waits, so the two looks are not spaced
        # as a sweep's are.
        states |= await self.sentinels.states(mint, [y for y in ys if states[y] is not MintState.UNSPENT], hurry=True)
        context = drift.Context(now=self.clock.now(), pending_grace_s=0)
        judged = [
            Judged(
                token=token,
                verdict=verdict,
                mint=mint.alias,
                unit=unit,
                evidence={"mint_said": mint_said((proof.y for proof in token.proofs), states)},
            )
            for token in tokens.values()
            for verdict in drift.classify(token, states, context)
            if verdict.action in {Action.MARK_SPENT, Action.WATCH}
        ]
        records = await self.corrections.record(judged, asked_evidence("preflight", self.clock.now(), len(ys)))
        out = frozenset(
            token.id
            for token in tokens.values()
            if any(states[proof.y] is not MintState.UNSPENT for proof in token.proofs)
        )
        left, corrected = await self._settle_at_once(judged, records, actor)
        high = sum(one.verdict.value for one in judged if one.verdict.severity is Severity.HIGH)
        if high:
            _log.warning("preflight found spent proofs", mint=mint.alias, value=high, unit=unit, documents=len(out))
        return Checked(out=out, records=left, corrected=corrected)

    async def _settle_at_once(
        self, judged: Sequence[Judged], records: Sequence[Discrepancy], actor: Actor
    ) -> tuple[tuple[Discrepancy, ...], int]:
        """
        Mark spent what need not settle, because nobody else spends from this database; what is left, and what was marked.

        Where anything has to settle, nothing is written from here, however old the record: that is the sweep's, with its caps.
        """
        left: list[Discrepancy] = []
        corrected = 0
        for one, record in zip(judged, records, strict=True):
            at_once = record.needs_ms == 0 and one.verdict.action is Action.MARK_SPENT
            # What a person has acknowledged is left as it is; the money is gone all the same.
            if at_once and confirmed(record, confirm_after_s=0) and await self.corrections.apply(one, record, actor):
                corrected += one.verdict.value
            else:
                left.append(record)
        return tuple(left), corrected
