"""
Value that our outputs hold at a mint and the database lacks: found with NUT-09, and imported (DESIGN section 5).

Every output that meltd ever planned is in the journal, so an entry that has ended tells which outputs to ask about and whose
they are. Counters that no entry planned are asked about too; whose value lies there nobody knows, and it is imported
only to the operator, where one is named.

The order of looking matters, as in :mod:`melt.reconcile`. An entry's proofs are stored in the transaction that ends it,
so what an ended entry lacks was lost or came late. Counters are the other way round: a plan is in the journal
before its request leaves (I2), so the journal is read once more *after* the mint's answer, and what it then covers is a melt
that has begun meanwhile.

Two signals make value: the mint's signature (NUT-12 verified where it came with a proof) and UNSPENT with the sentinels
in order (I6). What is only recorded, and why, is in ``Discovery.kept_out``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from melt.ecash import keyset_id_version
from melt.errors import MintUntrusted
from melt.model import OutputPlan, Owner
from melt.model.restore import CounterPosition
from melt.restore.asking import ask_signed
from melt.restore.importing import Addressed, Importer
from melt.restore.judging import NOT_BELIEVED, believed, block_lacks, lacking, melt_lacks
from melt.restore.ranges import (
    BLOCK,
    GAP,
    Span,
    block_of,
    blocks_in,
    counter_subject,
    covers,
    merged,
    plans_of,
    uncovered,
)
from melt.restore.run import Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from melt.caps import Caps
    from melt.events import CriticalEvents
    from melt.model import Actor, Keyset, Melt, MintAlias, MintState, TokenId, Y
    from melt.ports import Clock, Mint, Outputs, RestoreStore, RestoreTelemetry, StateQuestion, Store, StoreThreads
    from melt.restore.asking import SignedOutput
    from melt.restore.ranges import OutputRole

WINDOW: Final = 10 * BLOCK
"""Counters that are looked at together; a multiple of BLOCK."""
JOURNAL_WINDOW: Final = 100 * WINDOW
"""Counters whose plans are read from the journal in one go: some servers read all of the journal for it."""
RESTORE_NUT: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePolicy:
    """
    ``batch_outputs`` a request. ``operator_npub`` is whose value becomes that lies at counters of no entry; None: it is
    recorded only.
    """

    batch_outputs: int = 100
    operator_npub: str | None = None


class Restorer:
    """Finds and imports. Holds no position: the caller walks (:mod:`daemon.restore`)."""

    def __init__(
        self,
        *,
        store: Store,
        restores: RestoreStore,
        threads: StoreThreads,
        outputs: Outputs,
        states: StateQuestion,
        events: CriticalEvents,
        clock: Clock,
        telemetry: RestoreTelemetry,
        caps: Caps,
        policy: RestorePolicy,
        is_paused: Callable[[MintAlias], str | None],
        observing: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store = store
        self._restores = restores
        self._threads = threads
        self._outputs = outputs
        self._states = states
        self._telemetry = telemetry
        self._caps = caps
        self.policy = policy
        self._importer = Importer(
            store=store,
            restores=restores,
            threads=threads,
            events=events,
            clock=clock,
            telemetry=telemetry,
            is_paused=is_paused,
            observing=observing,
        )

    def begin(self, *, dry_run: bool, actor: Actor, requests_max: int) -> Run:
        """A run at one mint."""
        caps = copy.deepcopy(self._caps) if dry_run else self._caps
        return Run(dry_run=dry_run, actor=actor, requests_left=requests_max, caps=caps)

    async def is_supported(self, mint: Mint) -> bool:
        """Whether the mint says that it can restore (NUT-06). Raises MintError."""
        return RESTORE_NUT in (await mint.info()).nuts

    async def entries(self, mint: Mint, melts: Sequence[Melt], run: Run) -> None:
        """
        Look at journal entries of this mint; those that are open are left to their recovery.

        Raises MintError where the mint could not be asked, StoreError where the store is away. What was imported stays.
        """
        run.entries += len(melts)
        plans, roles, melt_of = self._plans([melt for melt in melts if not melt.is_open], run)
        asked = await ask_signed(
            mint, self._outputs, self._threads, plans, batch=self.policy.batch_outputs, pace=run.pace
        )
        run.count(asked)
        self._telemetry.restore_asked(mint.alias, asked.outputs)
        by_melt: dict[str, list[SignedOutput]] = {}
        for one in asked.signed:
            by_melt.setdefault(melt_of[one.plan].id, []).append(one)
        credible: dict[str, tuple[SignedOutput, ...]] = {}
        likely: list[TokenId] = []
        for melt in melts:
            credible[melt.id], unproven = believed(melt, roles, by_melt.get(melt.id, ()))
            if unproven:
                run.fail(f"melt {melt.id}: {unproven} signatures came without proof and for too much")
            if credible[melt.id]:
                likely += _documents_of(melt)
        signed = [one for some in credible.values() for one in some]
        absent, states = await self._look(mint, signed, likely, run)
        unanswered = {melt_of[number].id for number in asked.unanswered}
        found: list[Addressed] = []
        clear: list[str] = []
        for melt in melts:
            outputs = lacking(credible[melt.id], absent, states)
            if outputs:
                owner = Owner(npub=melt.npub, wallet_id=melt.wallet_id, mint_url=melt.mint_url)
                tx = melt.transaction_id
                lacks = melt_lacks(melt, mint.alias, roles, outputs)
                found.append(Addressed(lacking=lacks, owner=owner, name=f"{tx}_restored", parent=tx, melt=melt))
            elif not melt.is_open and melt.id not in unanswered and states is not None:
                clear.append(f"melt:{melt.id}")
        await self._importer.act(mint, found, clear, run, believed=states is not None)

    def _plans(
        self, melts: Sequence[Melt], run: Run
    ) -> tuple[list[OutputPlan], dict[int, OutputRole], dict[int, Melt]]:
        """The plans that can be derived with this seed, with role and entry of each."""
        plans: list[OutputPlan] = []
        roles: dict[int, OutputRole] = {}
        melt_of: dict[int, Melt] = {}
        for melt in melts:
            planned = plans_of(melt)
            if any(plan.seed_id != self._outputs.seed_id for _, plan in planned):
                run.foreign += 1
            for role, plan in planned:
                if plan.seed_id != self._outputs.seed_id:
                    continue
                if keyset_id_version(plan.keyset_id) is None:
                    run.fail(f"melt {melt.id}: no outputs derive from its keyset id")
                    continue
                roles[len(plans)], melt_of[len(plans)] = role, melt
                plans.append(plan)
        return plans, roles, melt_of

    # --- counters of no entry ---

    async def counters(
        self,
        mint: Mint,
        run: Run,
        *,
        after: CounterPosition | None,
        stop: Callable[[], bool],
        keep: Callable[[CounterPosition], Awaitable[None]],
    ) -> CounterPosition | None:
        """
        Walk over the counters that no entry has planned, of each keyset of the mint, from 0 to a gap behind the next one.

        Where it has come to when the run's requests are spent or ``stop`` says so; None: all of it is done. ``keep`` is
        told of each step. Raises like :meth:`entries`.
        """
        keysets = await mint.keysets(refresh=after is None)
        for keyset_id in sorted(keysets):
            if keyset_id_version(keyset_id) is None or (after is not None and keyset_id < after.keyset_id):
                continue
            taken = await self._threads(partial(self._store.counter, self._outputs.seed_id, keyset_id))
            end = block_of(taken + GAP + BLOCK - 1).first
            position = after.counter if after is not None and after.keyset_id == keyset_id else 0
            planned: tuple[Span, ...] = ()
            read_to = 0
            while position < end:
                here = CounterPosition(keyset_id=keyset_id, counter=position)
                if run.is_spent or stop():
                    return here
                await keep(here)
                window = Span(position, min(position + WINDOW, end))
                if window.end > read_to:
                    read_to = position + JOURNAL_WINDOW
                    planned = await self._planned(keysets[keyset_id], Span(position, read_to))
                last = await self._window(mint, keysets[keyset_id], window, planned, run)
                if last is not None:
                    # As wallets do it: signatures near the end mean that there may be more behind them.
                    end = max(end, block_of(last + GAP + BLOCK).first)
                position = window.end
        return None

    async def _window(self, mint: Mint, keyset: Keyset, window: Span, planned: Sequence[Span], run: Run) -> int | None:
        """One window; the last counter of no entry that the mint has signed. ``planned`` may be of a while ago."""
        run.requests_left -= 1  # looking into the journal is work too: a walk without requests must end as well
        run.blocks += len(blocks_in(window))
        gaps = uncovered(window, planned)
        plans = [self._blanks(keyset, piece) for gap in gaps for piece in _pieces(gap)]
        asked = await ask_signed(
            mint, self._outputs, self._threads, plans, batch=self.policy.batch_outputs, pace=run.pace
        )
        run.count(asked)
        self._telemetry.restore_asked(mint.alias, asked.outputs)
        begun = await self._planned(keyset, window) if asked.signed else ()
        ours: list[tuple[int, SignedOutput]] = []
        for one in asked.signed:
            counter = plans[one.plan].counter + one.index
            if covers(begun, counter):
                continue
            if one.proven:
                ours.append((counter, one))
            else:
                run.fail(f"keyset {keyset.id}: signatures at counters of no entry came without proof")
        absent, states = await self._look(mint, [one for _, one in ours], (), run)
        lost = set(lacking([one for _, one in ours], absent, states))
        found: list[Addressed] = []
        clear: list[str] = []
        owner = await self._operator(mint, keyset.unit) if lost else None
        for block in blocks_in(window):
            here = [(at, one) for at, one in ours if one in lost and block.first <= at < block.end]
            if here:
                npub = self.policy.operator_npub
                lacks = block_lacks(self._outputs.seed_id, keyset, mint.alias, block, here, npub=npub)
                name = f"counters_{self._outputs.seed_id}_{keyset.id}_{block.first}-{block.end - 1}"
                found.append(Addressed(lacking=lacks, owner=owner, name=f"{name}_restored", parent=name, melt=None))
            elif not asked.unanswered and states is not None:
                clear.append(counter_subject(self._outputs.seed_id, keyset.id, block))
        await self._importer.act(mint, found, clear, run, believed=states is not None)
        return max((at for at, _ in ours), default=None)

    def _blanks(self, keyset: Keyset, span: Span) -> OutputPlan:
        amounts = (0,) * len(span)
        return OutputPlan(keyset_id=keyset.id, counter=span.first, amounts=amounts, seed_id=self._outputs.seed_id)

    async def _planned(self, keyset: Keyset, window: Span) -> tuple[Span, ...]:
        planned = await self._threads(
            partial(self._restores.planned_counters, self._outputs.seed_id, keyset.id, window.first, window.end)
        )
        return merged(Span(counter, counter + count) for counter, count in planned)

    async def _operator(self, mint: Mint, unit: str) -> Owner | None:
        """Whose becomes what nobody planned."""
        npub = self.policy.operator_npub
        if npub is None:
            return None
        wallet_id = await self._threads(partial(self._restores.wallet_of, npub, mint.url, unit))
        return Owner(npub=npub, wallet_id=wallet_id, mint_url=mint.url)

    # --- both ---

    async def _look(
        self, mint: Mint, signed: Sequence[SignedOutput], likely: Sequence[TokenId], run: Run
    ) -> tuple[frozenset[Y], Mapping[Y, MintState] | None]:
        """Which signed outputs no document holds, and their states; None where a sentinel failed."""
        if not signed:
            return frozenset(), {}
        proofs = [one.proof for one in signed]
        absent = await self._threads(lambda: self._restores.absent(proofs, likely=likely))
        if not absent:
            return absent, {}
        try:
            run.requests_left -= 1
            return absent, await self._states(mint, sorted(absent))
        except MintUntrusted:
            run.fail(NOT_BELIEVED)
            return absent, None


def _pieces(span: Span) -> tuple[Span, ...]:
    """A span in plans that are derived in one go."""
    return tuple(Span(first, min(first + BLOCK, span.end)) for first in range(span.first, span.end, BLOCK))


def _documents_of(melt: Melt) -> tuple[TokenId, ...]:
    """Where the proofs of an entry's outputs were put when it ended."""
    change = () if melt.change_token_id is None else (melt.change_token_id,)
    return (*change, *melt.keep_token_ids, *(ref.token_id for ref in melt.inputs))
