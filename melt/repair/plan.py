"""
A plan: the whole collection searched, the documents that matter read, the mint asked, the users valued (ADR 13).

The mint is asked as a sweep asks it: with sentinels, and what reads SPENT twice. The plan is made on what was read;
applying a step compares all of that again inside its transaction, so what moved on in between is left alone and told.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.duplicates import digest_of
from melt.errors import MintError
from melt.model import (
    DriftType,
    MalformedToken,
    Token,
    normalise_mint_url,
)
from melt.model.repair import Left, LeftReason, RepairPlan
from melt.repair.decide import Group, unfit
from melt.repair.find import Found, Progress, find
from melt.repair.steps import Draft, Sight, close_records, plan_mint
from melt.repair.value import elsewhere, value_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.events import CriticalEvents
    from melt.model import MintAlias, MintState, TokenId, Y
    from melt.model.repair import RepairStep, RepairType, UserValue
    from melt.ports import Mint, RepairStore, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("melt.repair")

DOCUMENTS_MAX: Final = 10_000
"""Documents in one plan (I11). What is beyond is planned by the next run."""
YS_PER_QUESTION: Final = 1000
READ_DOCUMENTS: Final = 200


class Planner:
    """Searches, decides and values. Changes nothing."""

    def __init__(
        self,
        *,
        store: Store,
        repairs: RepairStore,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        events: CriticalEvents,
    ) -> None:
        self._store = store
        self._repairs = repairs
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._events = events
        self._alias_of = {normalise_mint_url(mint.url): alias for alias, mint in mints.items()}

    # --- planning ---

    async def search(self, progress: Progress) -> Found:
        """Every proof that lies in several documents, without asking a mint. Raises StoreError."""
        return await find(self._repairs, self._threads, progress, history=True)

    async def plan(
        self, repair: RepairType, *, across_users: bool, only: MintAlias | None, progress: Progress
    ) -> RepairPlan:
        """
        What a repair would do now, and what the double count is worth. Changes nothing.

        ``only`` leaves the documents of other mints out. A mint that can't be asked or believed is an error in the
        plan, and nothing of it is planned; where that goes for all of them, its MintError is raised. Raises StoreError.
        """
        found = await find(self._repairs, self._threads, progress)
        wanted, complete = _bounded(found, repair)
        items = await self._read(wanted, progress)
        draft = Draft(type=repair, across_users=across_users)
        by_mint, melted = self._sort(draft, found, items, only)
        errors: list[str] = []
        users: list[UserValue] = []
        aliases = sorted(set(by_mint) | set(melted))
        for alias in aliases:
            try:
                users += await self._plan_mint(draft, alias, by_mint[alias], melted[alias], progress)
            except MintError as error:
                errors.append(f"{alias}: {error.code}: {error.detail}")
                if len(errors) == len(aliases):
                    raise
        close_records(draft)
        return RepairPlan(
            type=repair,
            across_users=across_users,
            documents=found.documents,
            proofs=found.proofs,
            duplicates=len(found.groups),
            melted_documents=found.melted_documents,
            complete=complete,
            steps=tuple(draft.steps),
            left=tuple(draft.left),
            users=tuple(sorted(users, key=lambda user: (-user.inflation, user.npub, user.mint, user.unit))),
            errors=tuple(errors),
        )

    async def _read(self, ids: Sequence[TokenId], progress: Progress) -> dict[TokenId, Token | MalformedToken]:
        items: dict[TokenId, Token | MalformedToken] = {}
        for start in range(0, len(ids), READ_DOCUMENTS):
            page = ids[start : start + READ_DOCUMENTS]
            items |= {item.id: item for item in await self._threads(partial(self._store.tokens, page))}
            progress("reading the documents", len(items), len(ids))
        return items

    def _sort(
        self,
        draft: Draft,
        found: Found,
        items: Mapping[TokenId, Token | MalformedToken],
        only: MintAlias | None,
    ) -> tuple[defaultdict[MintAlias, list[Group]], defaultdict[MintAlias, list[Token]]]:
        """Groups and melted documents by mint; what no rule can be applied to is left."""
        by_mint: defaultdict[MintAlias, list[Group]] = defaultdict(list)
        melted: defaultdict[MintAlias, list[Token]] = defaultdict(list)
        unfit_ys: dict[tuple[LeftReason, tuple[TokenId, ...]], list[Y]] = defaultdict(list)
        held = {token_id: _digests(item) for token_id, item in items.items() if isinstance(item, Token)}
        for digest, ids in found.groups.items():
            present = [items[token_id] for token_id in ids if token_id in items]
            tokens = tuple(item for item in present if isinstance(item, Token) and digest in held[item.id])
            readable = sum(isinstance(item, Token) for item in present)
            if len(present) != len(ids) or len(tokens) != readable:
                draft.unresolved.update(item.id for item in present)
                continue  # beyond the plan's bound, or moved on meanwhile: the next run's
            y = held[tokens[0].id][digest] if tokens else None
            reason = unfit(present, y, self._alias_of)
            if reason is not None or y is None:
                unfit_ys[reason or LeftReason.UNREADABLE, ids].extend(() if y is None else (y,))
                continue
            alias = self._alias_of[normalise_mint_url(tokens[0].mint_url)]
            if only in {None, alias} and (draft.type.duplicates or _any_melted(tokens)):
                by_mint[alias].append(Group(y=y, holders=tokens))
        for (reason, ids), ys in unfit_ys.items():
            self._leave(draft, reason, ys, [items[token_id] for token_id in ids], only)
        for token_id in found.melted if draft.type.melted else ():
            item = items.get(token_id)
            known = self._alias_of.get(normalise_mint_url(item.mint_url)) if isinstance(item, Token) else None
            if isinstance(item, Token) and known is not None and only in {None, known}:
                melted[known].append(item)
        return by_mint, melted

    def _leave(
        self,
        draft: Draft,
        reason: LeftReason,
        ys: Sequence[Y],
        present: Sequence[Token | MalformedToken],
        only: MintAlias | None,
    ) -> None:
        """Secrets of the same documents, to which no rule can be applied."""
        tokens = [item for item in present if isinstance(item, Token)]
        aliases = {self._alias_of.get(normalise_mint_url(item.mint_url)) for item in present if item.mint_url}
        if (only is not None and only not in aliases) or not (draft.type.duplicates or _any_melted(tokens)):
            return
        draft.unresolved.update(item.id for item in present)
        amounts = {proof.y: proof.amount for token in tokens for proof in token.proofs}
        draft.left.append(
            Left(
                reason=reason,
                mint=aliases.pop() if len(aliases) == 1 else None,
                unit="sat",
                value=sum(amounts[y] for y in ys),
                ys=tuple(ys),
                token_ids=tuple(item.id for item in present),
                npubs=tuple(dict.fromkeys(item.npub for item in present if item.npub is not None)),
                type=DriftType.LEGACY_MELTED_DOCUMENT if _any_melted(tokens) else DriftType.DUPLICATE_PROOF,
            )
        )

    async def _plan_mint(
        self, draft: Draft, alias: MintAlias, groups: Sequence[Group], melted: Sequence[Token], progress: Progress
    ) -> list[UserValue]:
        """Decide about one mint's documents, and value its users. Raises MintError before anything is drafted."""
        mint = self._mints[alias]
        keysets = await mint.keysets(refresh=True)
        ys = [group.y for group in groups] + [proof.y for token in melted for proof in token.proofs]
        states = await self._ask(mint, ys, progress)
        tokens = {token.id: token for group in groups for token in group.holders} | {t.id: t for t in melted}
        reserved = [token.reservation.melt_id for token in tokens.values() if token.reservation is not None]
        live = await self._threads(partial(self._store.live_melt_ids, reserved)) if reserved else frozenset()
        npubs = sorted({token.npub for token in tokens.values()})
        sight = Sight(
            mint=alias,
            states=states,
            live=live,
            frozen=frozenset(npub for npub in npubs if self._events.frozen(npub, alias) is not None),
            units={token.id: self._reconciler.unit_of(token, keysets) for token in tokens.values()},
        )
        before = len(draft.steps), len(draft.left)
        plan_mint(draft, groups, melted, sight)
        try:
            return await self._value(
                alias, npubs, states, draft.steps[before[0] :], draft.left[before[1] :], tokens, progress
            )
        except MintError:
            del draft.steps[before[0] :], draft.left[before[1] :]
            raise

    async def _ask(self, mint: Mint, ys: Sequence[Y], progress: Progress) -> dict[Y, MintState]:
        wanted = list(dict.fromkeys(ys))
        states: dict[Y, MintState] = {}
        for start in range(0, len(wanted), YS_PER_QUESTION):
            states |= await self._reconciler.states(mint, wanted[start : start + YS_PER_QUESTION])
            progress(f"asking {mint.alias}", len(states), len(wanted))
        return {y: states[y] for y in wanted}

    # --- valuing ---

    async def _value(
        self,
        alias: MintAlias,
        npubs: Sequence[str],
        states: Mapping[Y, MintState],
        steps: Sequence[RepairStep],
        left: Sequence[Left],
        tokens: Mapping[TokenId, Token],
        progress: Progress,
    ) -> list[UserValue]:
        """Every user whose documents are concerned, a few at a time."""
        mint = self._mints[alias]
        keysets = await mint.keysets()
        kept = elsewhere(steps, left)
        owners = {token.id: token.npub for token in tokens.values()}
        by_user: dict[str, list[RepairStep]] = defaultdict(list)
        for step in steps:
            by_user[step.npub].append(step)
        values: list[UserValue] = []
        waiting: list[tuple[str, list[Token]]] = []
        proofs = 0
        for position, npub in enumerate(npubs, 1):
            documents = await self._documents_of(npub, alias)
            waiting.append((npub, documents))
            proofs += sum(len(token.proofs) for token in documents)
            if proofs < YS_PER_QUESTION and position < len(npubs):
                continue
            unknown = [p.y for _, held in waiting for token in held for p in token.proofs if p.y not in states]
            known = dict(states) | await self._ask(mint, unknown, _silent)
            for one, held in waiting:
                units = {token.id: self._reconciler.unit_of(token, keysets) for token in held}
                values += [
                    value_user(
                        one,
                        [token for token in held if units[token.id] == unit],
                        mint=alias,
                        unit=unit,
                        states=known,
                        kept=kept,
                        owners=owners,
                        steps=[step for step in by_user[one] if step.unit == unit],
                    )
                    for unit in sorted(set(units.values()))
                ]
            waiting, proofs = [], 0
            progress(f"valuing the users of {alias}", position, len(npubs))
        return values

    async def _documents_of(self, npub: str, alias: MintAlias) -> list[Token]:
        found = await self._threads(partial(self._repairs.counting_documents, npub))
        return [token for token in found if self._alias_of.get(normalise_mint_url(token.mint_url)) == alias]


def _bounded(found: Found, repair: RepairType) -> tuple[list[TokenId], bool]:
    """The documents to read: of whole groups, as many as one plan may have; and whether that is all."""
    wanted: dict[TokenId, None] = {}
    complete = found.complete
    for ids in found.groups.values():
        if len(wanted) + len(ids) > DOCUMENTS_MAX:
            complete = False
            break
        wanted |= dict.fromkeys(ids)
    for token_id in found.melted if repair.melted else ():
        if len(wanted) >= DOCUMENTS_MAX:
            complete = False
            break
        wanted[token_id] = None
    return list(wanted), complete


def _digests(token: Token) -> dict[bytes, Y]:
    return {digest_of(proof.secret): proof.y for proof in token.proofs}


def _any_melted(tokens: Sequence[Token]) -> bool:
    return any(token.transaction_type == "melted" for token in tokens)


def _silent(_phase: str, _done: int, _total: int | None) -> None:
    """No progress is told."""
