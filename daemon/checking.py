"""Given proofs and documents, looked at on request: implements :class:`daemon.ports.CheckService`. Nothing is written."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from daemon.ports import CheckedDocument, CheckReport, Lane
from melt.errors import Code, MintError, Refusal, Severity
from melt.model import MintState, Token, TokenStatus, normalise_mint_url
from melt.reconcile import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from daemon.lanes import Lanes
    from melt.model import Actor, Discrepancy, Finding, MintAlias, TokenId, Y
    from melt.ports import Mint, Store, StoreThreads
    from melt.reconcile import Reconciler

RECORDS_PER_Y: Final = 20
_WORST_FIRST: Final = (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW)
_BLOCKING: Final = frozenset({Severity.CRITICAL, Severity.HIGH})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofChecks:
    """Reads documents and asks their mints, as a dry run does."""

    store: Store
    threads: StoreThreads
    mints: Mapping[MintAlias, Mint]
    reconciler: Reconciler
    lanes: Mapping[MintAlias, Lanes]

    async def check(
        self, *, ys: Sequence[Y], token_ids: Sequence[TokenId], mint: MintAlias | None, actor: Actor
    ) -> CheckReport:
        """See :meth:`daemon.ports.CheckService.check`."""
        if mint is not None and mint not in self.mints:
            raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")
        wanted = dict.fromkeys(token_ids)
        for y in ys:
            wanted |= dict.fromkeys(await self._documents_of(y))
        found = await self.threads(partial(self.store.tokens, list(wanted)))
        tokens = [item for item in found if isinstance(item, Token)]
        asked = set(ys)
        told = {proof.y for token in tokens for proof in token.proofs}
        # A record may lead to a document that has given the proof away since.
        shown = [token for token in tokens if token.id in token_ids or asked & {proof.y for proof in token.proofs}]
        errors: list[str] = []
        documents = await self._documents(shown, actor, errors)
        strangers = [y for y in ys if y not in told]
        states = await self._states(mint, strangers, errors)
        there = {token.id for token in tokens}
        return CheckReport(
            documents=tuple(documents),
            strangers=tuple((y, states.get(y)) for y in strangers),
            missing=tuple(token_id for token_id in token_ids if token_id not in there),
            errors=tuple(errors),
        )

    async def _documents_of(self, y: Y) -> Iterable[TokenId]:
        """Documents to which meltd's records lead from a Y: no index of the wallet's knows one."""
        melts = await self.threads(partial(self.store.melts_with_proof, y, RECORDS_PER_Y))
        audit = await self.threads(partial(self.store.audit_of_proof, y, RECORDS_PER_Y))
        records = await self.threads(partial(self.store.discrepancies_of_proof, y, RECORDS_PER_Y))
        return [
            *(ref.token_id for melt in melts for ref in melt.inputs if ref.y == y),
            *(entry.token_id for entry in audit),
            *(record.token_id for record in records if record.token_id is not None),
        ]

    async def _documents(self, tokens: Sequence[Token], actor: Actor, errors: list[str]) -> list[CheckedDocument]:
        alias_of = {normalise_mint_url(mint.url): alias for alias, mint in self.mints.items()}
        by_mint: dict[MintAlias, list[Token]] = defaultdict(list)
        for token in tokens:
            alias = alias_of.get(normalise_mint_url(token.mint_url))
            if alias is not None:
                by_mint[alias].append(token)
        states: dict[Y, MintState] = {}
        findings: dict[TokenId, list[Discrepancy | Finding]] = defaultdict(list)
        for alias, held in by_mint.items():
            try:
                states |= await self._ask(alias, held, actor, findings)
            except MintError as error:
                errors.append(f"{alias}: {error.code}: {error.detail}")
        ids = [token.id for token in tokens]
        known = await self.threads(partial(self.store.open_discrepancies_of, ids, list(Severity))) if ids else ()
        for record in known:
            if record.token_id is not None:
                seen = {one.type for one in findings[record.token_id]}
                findings[record.token_id] += [] if record.type in seen else [record]
        return [
            _checked(token, alias_of.get(normalise_mint_url(token.mint_url)), states, findings[token.id])
            for token in tokens
        ]

    async def _ask(
        self,
        alias: MintAlias,
        tokens: Sequence[Token],
        actor: Actor,
        findings: dict[TokenId, list[Discrepancy | Finding]],
    ) -> Mapping[Y, MintState]:
        """The mint's states, and what a dry run finds about these documents. Raises MintError."""
        mint, outcome = self.mints[alias], Outcome(suspects=[])
        work = partial(self.reconciler.page, mint, tokens, outcome, dry_run=True, actor=actor)
        await self.lanes[alias].prompt_page(Lane.ASKED, work, outcome)
        for one in outcome.found:
            if one.token_id is not None:
                findings[one.token_id].append(one)
        return await self.reconciler.states(mint, [proof.y for token in tokens for proof in token.proofs])

    async def _states(self, mint: MintAlias | None, ys: Sequence[Y], errors: list[str]) -> Mapping[Y, MintState]:
        if mint is None or not ys:
            return {}
        try:
            return await self.reconciler.states(self.mints[mint], ys)
        except MintError as error:
            errors.append(f"{mint}: {error.code}: {error.detail}")
            return {}


def _checked(
    token: Token, alias: MintAlias | None, states: Mapping[Y, MintState], found: Sequence[Discrepancy | Finding]
) -> CheckedDocument:
    severities = {one.severity for one in found}
    said = tuple(states.get(proof.y) for proof in token.proofs)
    pays = token.is_counted and token.status is TokenStatus.UNSPENT and alias is not None
    return CheckedDocument(
        token=token,
        mint=alias,
        states=said,
        found=tuple(found),
        severity=next((severity for severity in _WORST_FIRST if severity in severities), None),
        blocked=not pays or bool(severities & _BLOCKING) or any(state is not MintState.UNSPENT for state in said),
    )


__all__ = ["ProofChecks"]
