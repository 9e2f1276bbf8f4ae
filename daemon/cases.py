"""Single discrepancies, and the stories that the records tell: implements :class:`daemon.ports.Casebook`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.model import MalformedToken, MeltId, TokenId, Y
from melt.story import Kind, Sight, Story, StoryRecords, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from melt.model import Actor, AuditEntry, Discrepancy, Melt, Token
    from melt.ports import CaseStore, Store, StoreThreads

_log = structlog.get_logger("meltd.cases")

READ_MAX: Final = 100
"""Records of each kind that one story is told from (I11)."""
TOKENS_MAX: Final = 100
_Y: Final = re.compile(r"0[23][0-9a-fA-F]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Reads from the store; changes a record only for a person, with the reason."""

    store: Store
    cases: CaseStore
    threads: StoreThreads
    on_change: Callable[[], None]

    async def discrepancy(self, discrepancy_id: str) -> Discrepancy | None:
        """One record with its history."""
        return await self.threads(partial(self.cases.discrepancy, discrepancy_id))

    async def acknowledge(self, *, discrepancy_id: str, reason: str, actor: Actor) -> Discrepancy | None:
        """A person knows of it: it stays as it is, and no rule corrects it."""
        after = await self.threads(partial(self.cases.acknowledge, discrepancy_id, reason=reason, actor=actor))
        self._told("discrepancy acknowledged", after, reason, actor)
        return after

    async def reopen(self, *, discrepancy_id: str, reason: str, actor: Actor) -> Discrepancy | None:
        """Take that back."""
        after = await self.threads(partial(self.cases.reopen, discrepancy_id, reason=reason, actor=actor))
        self._told("discrepancy reopened", after, reason, actor)
        return after

    def _told(self, what: str, after: Discrepancy | None, reason: str, actor: Actor) -> None:
        if after is not None:
            _log.info(what, discrepancy=after.id, severity=after.severity.value, uid=actor.uid, reason=reason)
            self.on_change()

    async def explain(self, what: str) -> Story | None:
        """A Y is told from its other ids by its form; a melt's id is looked for before a document's."""
        if _Y.match(what):
            records = await self._of_proof(Y(what.lower()))
        else:
            melt = await self.threads(partial(self.store.melt, MeltId(what)))
            records = await self._of_token(TokenId(what)) if melt is None else await self._of_melt(melt)
        known = records.tokens or records.unreadable or records.melts or records.audit or records.discrepancies
        return tell(records) if known else None

    async def _of_proof(self, y: Y) -> StoryRecords:
        melts = await self.threads(partial(self.store.melts_with_proof, y, READ_MAX))
        audit = await self.threads(partial(self.store.audit_of_proof, y, READ_MAX))
        found = await self.threads(partial(self.store.discrepancies_of_proof, y, READ_MAX))
        tokens, unreadable = await self._tokens(_token_ids(audit, found, melts, y), y)
        return StoryRecords(
            kind=Kind.PROOF,
            subject=y,
            tokens=tokens,
            unreadable=unreadable,
            melts=melts,
            audit=audit,
            discrepancies=found,
            cut=_cut(melts=melts, audit=audit, found=found),
        )

    async def _of_melt(self, melt: Melt) -> StoryRecords:
        audit = await self.threads(partial(self.store.audit, token_id=None, melt_id=melt.id, limit=READ_MAX))
        events = await self.threads(partial(self.cases.events_about_melt, melt.id, READ_MAX))
        ids = list(dict.fromkeys([*melt.source_token_ids, *(entry.token_id for entry in audit)]))
        tokens, unreadable = await self._tokens(ids, None)
        return StoryRecords(
            kind=Kind.MELT,
            subject=melt.id,
            tokens=tokens,
            unreadable=unreadable,
            melts=(melt,),
            audit=audit,
            events=events,
            cut=_cut(audit=audit, events=events),
        )

    async def _of_token(self, token_id: TokenId) -> StoryRecords:
        audit = await self.threads(partial(self.store.audit, token_id=token_id, melt_id=None, limit=READ_MAX))
        found = await self.threads(partial(self.cases.discrepancies_of_token, token_id, READ_MAX))
        tokens, unreadable = await self._tokens([token_id], None)
        melts: list[Melt] = []
        reserved = [MeltId(sight.reserved_by) for sight in tokens if sight.reserved_by]
        for melt_id in list(dict.fromkeys([*(e.melt_id for e in audit if e.melt_id is not None), *reserved]))[
            :READ_MAX
        ]:
            melt = await self.threads(partial(self.store.melt, melt_id))
            if melt is not None:
                melts.append(melt)
        return StoryRecords(
            kind=Kind.TOKEN,
            subject=token_id,
            tokens=tokens,
            unreadable=unreadable,
            melts=tuple(melts),
            audit=audit,
            discrepancies=found,
            cut=_cut(audit=audit, found=found),
        )

    async def _tokens(self, ids: Sequence[TokenId], y: Y | None) -> tuple[tuple[Sight, ...], tuple[str, ...]]:
        wanted = list(ids)[:TOKENS_MAX]
        found = await self.threads(partial(self.store.tokens, wanted)) if wanted else ()
        sights = tuple(_sight(token, y) for token in found if not isinstance(token, MalformedToken))
        unreadable = tuple(
            f"document {token.id} can't be read: {'; '.join(token.reasons)}"
            for token in found
            if isinstance(token, MalformedToken)
        )
        return sights, unreadable


def _token_ids(audit: Sequence[AuditEntry], found: Sequence[Discrepancy], melts: Sequence[Melt], y: Y) -> list[TokenId]:
    named: Iterable[TokenId] = (
        [entry.token_id for entry in audit]
        + [record.token_id for record in found if record.token_id is not None]
        + [ref.token_id for melt in melts for ref in melt.inputs if ref.y == y]
    )
    return list(dict.fromkeys(named))


def _cut(**read: Sequence[object]) -> tuple[str, ...]:
    names = {"melts": "melts", "audit": "changes", "found": "discrepancies", "events": "events"}
    return tuple(names[kind] for kind, records in read.items() if len(records) >= READ_MAX)


def _sight(token: Token, y: Y | None) -> Sight:
    return Sight(
        token_id=token.id,
        npub=token.npub,
        mint_url=token.mint_url,
        status=token.status,
        transaction_type=token.transaction_type,
        amount=token.amount,
        proofs=len(token.proofs),
        reserved_by=None if token.reservation is None else token.reservation.melt_id,
        created_at=token.created_at,
        updated_at=token.updated_at,
        spent_at=token.spent_at,
        holds=y is None or any(proof.y == y for proof in token.proofs),
    )
