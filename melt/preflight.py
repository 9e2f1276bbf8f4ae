"""
The check of the proofs that a melt is about to use (DESIGN section 4, Preflight).

HIGH drift is corrected and the request refused: the caller's view of the balance was wrong, and a retry picks clean
proofs. Proofs that are PENDING at the mint are noted and left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from melt import drift
from melt.corrections import Corrections, Judged, asked_evidence, mint_said
from melt.errors import Code, Refusal, Severity
from melt.model import Action, DiscrepancyState, MintState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Actor, Token, TokenId, Y
    from melt.ports import Clock, Mint
    from melt.sentinels import Sentinels

_log = structlog.get_logger("melt.preflight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """Checks chosen proofs at their mint."""

    corrections: Corrections
    sentinels: Sentinels
    clock: Clock

    async def check(
        self,
        mint: Mint,
        chosen: Mapping[TokenId, Sequence[Y]],
        tokens: Mapping[TokenId, Token],
        *,
        unit: str,
        actor: Actor,
    ) -> frozenset[Y]:
        """
        Ask the mint about the chosen proofs of ``tokens``.

        Returns:
            The Ys that are PENDING at the mint: choose others. Empty means go.

        Raises:
            Refusal: HIGH_SEVERITY_DISCREPANCIES, when some are SPENT; they have been marked spent.
            MintError: the mint could not be asked or its answer can't be believed.
            StoreError: drift could not be written down.
        """
        ys = [y for token_ys in chosen.values() for y in token_ys]
        states = await self.sentinels.states(mint, ys, hurry=True)
        if all(states[y] is MintState.UNSPENT for y in ys):
            return frozenset()
        # Marking spent can't be undone, so what the mint calls SPENT is asked about once more. The caller waits, so the
        # two looks are not spaced as a sweep's are; what is marked is no more than one request's proofs.
        states |= await self.sentinels.states(mint, [y for y in ys if states[y] is not MintState.UNSPENT], hurry=True)
        by_token: dict[TokenId, dict[Y, MintState]] = defaultdict(dict)
        for token_id, token_ys in chosen.items():
            by_token[token_id] = {y: states[y] for y in token_ys}
        now = self.clock.now()
        context = drift.Context(now=now, pending_grace_s=0)
        judged = [
            Judged(
                token=tokens[token_id],
                verdict=verdict,
                mint=mint.alias,
                unit=unit,
                evidence={"mint_said": mint_said(verdict.ys, states)},
            )
            for token_id, token_states in by_token.items()
            for verdict in drift.classify(tokens[token_id], token_states, context)
            if verdict.action in {Action.MARK_SPENT, Action.WATCH}
        ]
        asked = asked_evidence("preflight", now, len(ys))
        records = await self.corrections.record(judged, asked)
        high = 0
        for one, record in zip(judged, records, strict=True):
            if one.verdict.severity is Severity.HIGH and one.verdict.action is Action.MARK_SPENT:
                high += one.verdict.value
                # What a person has acknowledged is left as it is; the money is gone all the same.
                if record.state is not DiscrepancyState.ACKNOWLEDGED:
                    await self.corrections.apply(one, record, actor)
        if high:
            _log.warning("preflight found spent proofs", mint=mint.alias, value=high, unit=unit)
            raise Refusal(
                Code.HIGH_SEVERITY_DISCREPANCIES,
                f"proofs worth {high} {unit} that were counted as unspent are already spent at the mint; they have been corrected",
                hint="retry: other proofs will be chosen",
            )
        return frozenset(y for y in ys if states[y] is MintState.PENDING)
