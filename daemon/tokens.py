"""
Documents marked spent on a person's word: what an operator knows and meltd can't (implements :class:`daemon.ports.TokenService`).

The mint is asked and its answer told, but it does not decide: that is why a person does. Where it still honours the
proofs, the rule that would bring their value back is told to leave it: the person's reason stands on that record.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import MarkedToken
from melt.drift import SEVERITIES
from melt.errors import Code, MeltdError, MintError, Severity
from melt.model import (
    OPEN_DISCREPANCY,
    Action,
    DriftType,
    Finding,
    MalformedToken,
    MintState,
    Token,
    TokenStatus,
    TransactionType,
    normalise_mint_url,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Actor, Discrepancy, MintAlias, TokenId, Y
    from melt.ports import CaseStore, Clock, Entropy, Mint, Store, StoreThreads

_log = structlog.get_logger("meltd.tokens")

REASON: Final = "marked_by_person"
_TOLD_MAX: Final = 5
_CORRECTING: Final = frozenset({Action.MARK_SPENT, Action.RELEASE, Action.RECLAIM})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Marks documents spent."""

    store: Store
    cases: CaseStore
    threads: StoreThreads
    mints: Mapping[MintAlias, Mint]
    clock: Clock
    entropy: Entropy

    async def mark_spent(
        self, *, token_ids: Sequence[TokenId], reason: str, now: bool, actor: Actor
    ) -> tuple[MarkedToken, ...]:
        """See :meth:`daemon.ports.TokenService.mark_spent`."""
        ids = tuple(dict.fromkeys(token_ids))
        tokens = await self._readable(ids)
        refused = await self._refused(tokens, now=now)
        if refused:
            more = f" and {len(refused) - _TOLD_MAX} more" if len(refused) > _TOLD_MAX else ""
            raise MeltdError(
                Code.WRONG_STATE,
                f"nothing was marked: {'; '.join(refused[:_TOLD_MAX])}{more}",
                hint="--now marks documents that are reserved, in question or sent all the same: somebody may still need them",
            )
        told = [await self._at_mint(token) for token in tokens]
        operation = f"tokens_spent:{self.entropy.token(8)}"
        moved = await self.threads(
            partial(
                self.store.mark_tokens_spent,
                ids,
                operation_id=operation,
                reason=REASON,
                actor=actor,
                note=reason,
                reserved_too=now,
            )
        )
        _log.warning(
            "a person has marked documents spent", documents=len(ids), moved=moved, uid=actor.uid, reason=reason
        )
        for token, (states, _) in zip(tokens, told, strict=True):
            await self._leave_it(token, states or {}, reason, actor)
        return tuple(_marked(token, states, error) for token, (states, error) in zip(tokens, told, strict=True))

    async def _readable(self, ids: Sequence[TokenId]) -> list[Token]:
        found = await self.threads(partial(self.store.tokens, ids))
        by_id = {token.id: token for token in found}
        missing = [token_id for token_id in ids if token_id not in by_id]
        if missing:
            raise MeltdError(Code.NOT_FOUND, f"there is no document {missing[0]}; nothing was marked")
        readable: list[Token] = []
        for token_id in ids:
            token = by_id[token_id]
            if isinstance(token, MalformedToken):
                raise MeltdError(Code.WRONG_STATE, f"document {token_id} can't be read as a token; nothing was marked")
            readable.append(token)
        return readable

    async def _refused(self, tokens: Sequence[Token], *, now: bool) -> list[str]:
        """Why documents may not be marked, one sentence each."""
        refused = [f"{token.id} is failed, which is final" for token in tokens if token.status is TokenStatus.FAILED]
        if now:
            return refused
        asked = [token for token in tokens if token.status is not TokenStatus.SPENT]
        marks = [token.reservation.melt_id for token in asked if token.reservation is not None]
        live = await self.threads(partial(self.store.live_melt_ids, marks)) if marks else frozenset()
        records = await self.threads(
            partial(self.store.open_discrepancies_of, [token.id for token in asked], tuple(Severity))
        )
        settling = {record.token_id: record for record in records if is_settling(record)}
        for token in asked:
            record = settling.get(token.id)
            if token.reservation is not None and token.reservation.melt_id in live:
                refused.append(f"{token.id} is reserved by {token.reservation.melt_id}")
            elif token.transaction_type == TransactionType.SENT:
                refused.append(f"{token.id} was sent: it is somebody else's")
            elif record is not None:
                refused.append(f"{token.id} is in question ({record.type}), and a rule will decide about it")
        return refused

    async def _at_mint(self, token: Token) -> tuple[Mapping[Y, MintState] | None, str | None]:
        """What the mint calls a document's proofs now, or why it could not be asked."""
        url = normalise_mint_url(token.mint_url)
        mint = next((one for one in self.mints.values() if normalise_mint_url(one.url) == url), None)
        if mint is None:
            return None, "its mint is not configured, so it is never asked"
        try:
            return {one.y: one.state for one in await mint.check_states([proof.y for proof in token.proofs])}, None
        except MintError as error:
            return None, error.detail

    async def _leave_it(self, token: Token, states: Mapping[Y, MintState], reason: str, actor: Actor) -> None:
        """Value that the mint honours behind it is not brought back: the person knows why it is gone."""
        honoured = [proof for proof in token.proofs if states.get(proof.y) is MintState.UNSPENT]
        alias = next(
            (a for a, m in self.mints.items() if normalise_mint_url(m.url) == normalise_mint_url(token.mint_url)), None
        )
        if not honoured:
            return
        drift = DriftType.DB_SPENT_MINT_UNSPENT
        finding = Finding(
            type=drift,
            severity=SEVERITIES[drift],
            action=Action.RECORD if token.transaction_type == TransactionType.SENT else Action.RECLAIM,
            subject=f"token:{token.id}",
            npub=token.npub,
            mint=alias,
            unit="",
            value=sum(proof.amount for proof in honoured),
            token_id=token.id,
            ys=tuple(proof.y for proof in honoured),
            evidence={
                "reason": "a person marked it spent, and the mint still honours the proofs",
                "status": "spent",
                "proofs_in_document": len(token.proofs),
                "asked_at": self.clock.now().isoformat(timespec="milliseconds"),
                "seen_by": "a person",
            },
        )
        (record,) = await self.threads(lambda: self.store.record([finding]))
        if record.state in OPEN_DISCREPANCY:
            await self.threads(partial(self.cases.acknowledge, record.id, reason=reason, actor=actor))


def is_settling(record: Discrepancy) -> bool:
    """Whether a rule will write the document by itself."""
    return record.state in OPEN_DISCREPANCY and record.action in _CORRECTING


def _marked(token: Token, states: Mapping[Y, MintState] | None, error: str | None) -> MarkedToken:
    counted = None if states is None else Counter(states[proof.y] for proof in token.proofs)
    return MarkedToken(
        token_id=token.id,
        npub=token.npub,
        status_before=token.status,
        amount=token.amount,
        at_mint=counted,
        mint_error=error,
    )
