"""
One page of reconciliation: documents, the mint's states, verdicts, corrections (DESIGN section 5).

The order of looking matters. Documents are read, the mint is asked, and what looks like drift is then read again: only
what still stands as it was read is judged, so that a melt that ran in between is not taken for drift. What the mint
calls SPENT is asked about once more, some seconds later, before it is marked, and value comes back only after sightings in
two rounds, from a mint that has shown that it remembers what was spent (:mod:`melt.sentinels`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.beyond import Looked, report_expiring
from melt.corrections import asked_evidence, unit_of
from melt.model import DriftType, MalformedToken, MintState, Token, TokenStatus
from melt.reconcile.acting import Acting
from melt.reconcile.judging import Judging

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.beyond import Beyond
    from melt.caps import Caps
    from melt.corrections import Corrections, Judged
    from melt.errors import InvariantBroken
    from melt.events import CriticalEvents
    from melt.model import Actor, Discrepancy, Keyset, KeysetId, MintAlias, Y
    from melt.ports import Clock, Entropy, Holdings, Mint, Store, StoreThreads, Telemetry
    from melt.reconcile.outcome import Outcome, ReconcilePolicy
    from melt.recovery import Recovery
    from melt.sentinels import Sentinels


class Reconciler:
    """Compares pages of documents with their mint and corrects by rule."""

    def __init__(
        self,
        *,
        store: Store,
        threads: StoreThreads,
        corrections: Corrections,
        recovery: Recovery,
        events: CriticalEvents,
        sentinels: Sentinels,
        clock: Clock,
        entropy: Entropy,
        telemetry: Telemetry,
        policy: ReconcilePolicy,
        caps: Caps,
        holder: str,
        beyond: Beyond | None = None,
        observing: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._beyond = beyond
        self._store = store
        self._threads = threads
        self._events = events
        self._sentinels = sentinels
        self._clock = clock
        self._telemetry = telemetry
        self.policy = policy
        self._judging = Judging(
            store=store,
            threads=threads,
            sentinels=sentinels,
            clock=clock,
            policy=policy,
            holdings=None if beyond is None else beyond.holdings,
        )
        self._acting = Acting(
            store=store,
            threads=threads,
            corrections=corrections,
            recovery=recovery,
            events=events,
            sentinels=sentinels,
            clock=clock,
            entropy=entropy,
            telemetry=telemetry,
            policy=policy,
            caps=caps,
            holder=holder,
            observing=observing,
        )

    async def page(
        self,
        mint: Mint,
        items: Sequence[Token | MalformedToken],
        outcome: Outcome,
        *,
        dry_run: bool,
        actor: Actor,
        holdings: Holdings | None = None,
    ) -> None:
        """
        Reconcile documents of one mint, adding to ``outcome``.

        ``holdings`` tells who else holds a proof, where the caller knows without asking the database.

        With ``dry_run`` nothing is written: ``outcome.found`` and ``outcome.planned`` tell what a run would do.

        Raises:
            MintError: the mint could not be asked or can't be believed; nothing of the page was changed.
            StoreError: the store is away; what was corrected so far is corrected.
        """
        started = self._clock.monotonic()
        tokens = [item for item in items if isinstance(item, Token)]
        unreadable = [item for item in items if isinstance(item, MalformedToken)]
        await self._acting.malformed(mint, unreadable, outcome, dry_run=dry_run)
        keysets, listed = await self._keysets(mint, tokens)
        if self._beyond is not None:
            tokens, odd = await self._beyond.sane(mint, tokens, keysets)
            await self._acting.malformed(mint, odd, outcome, dry_run=dry_run)
        states = await self._sentinels.states(mint, [proof.y for token in tokens for proof in token.proofs])
        self._learn(mint, tokens, states)
        asked = asked_evidence("dry run" if dry_run else actor.name, self._clock.now(), len(states))
        suspects = await self._judging.judge(mint, tokens, states, keysets, listed=listed, holdings=holdings)
        looked = Looked()
        if self._beyond is not None:
            looked = await self._beyond.look(mint, tokens, states, keysets, turn=outcome.turn, holdings=holdings)
        if suspects or looked.judged:
            suspects = await self._judging.judge_again(
                mint, suspects, looked, states, keysets, listed=listed, holdings=holdings
            )
            suspects = await self._sentinels.regressions(mint, suspects)
        outcome.count(tokens, states, keysets)
        outcome.documents += len(items)
        outcome.proofs += sum(len(token.proofs) for token in tokens)
        outcome.dry_pages += dry_run
        if dry_run:
            self._acting.plan(suspects, outcome, asked)
        else:
            # Records whose documents were not looked at for it must not be closed because nothing was seen.
            unchecked = [*looked.unchecked, *(() if listed else _about_keysets(tokens))]
            await self._acting.act(mint, tokens, suspects, outcome, actor, asked, unchecked)
        self._telemetry.swept_batch(
            mint.alias,
            len(items),
            sum(len(token.proofs) for token in tokens),
            self._clock.monotonic() - started,
        )

    async def correct_planned(
        self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, *, note: str, at_once: bool = False
    ) -> bool:
        """See :meth:`melt.reconcile.acting.Acting.correct_planned`. Raises StoreError."""
        return await self._acting.correct_planned(mint, one, record, actor, note=note, at_once=at_once)

    async def meet(self, mint: Mint) -> None:
        """
        Before a tour: the mint's keysets, asked anew, so that one without documents shows that it is up.

        Raises MintError.
        """
        await self._sentinels.keysets(mint)

    async def freeze(self, mint: MintAlias, error: InvariantBroken) -> None:
        """Nothing new is begun or corrected at this mint until a person resolves the event."""
        await self._events.invariant_broken(error, npub=None, mint=mint)

    async def keysets_expiring(self, mint: Mint, outcome: Outcome, *, dry_run: bool) -> None:
        """
        Report keysets that end soon, by what a whole tour has seen on them, and close the records of the others.

        Raises MintError, StoreError.
        """
        found = await report_expiring(
            mint,
            outcome.by_keyset,
            now=self._clock.now(),
            dry_run=dry_run,
            store=self._store,
            threads=self._threads,
            telemetry=self._telemetry,
        )
        for one in found:
            outcome.note(one)

    async def states(self, mint: Mint, ys: Sequence[Y]) -> dict[Y, MintState]:
        """
        The mint's states as a page gets them: with sentinels, and what reads SPENT asked about once more.

        Raises MintError where the mint can't be asked or can't be believed.
        """
        states = await self._sentinels.states(mint, ys)
        states.update(await self._sentinels.states(mint, [y for y in ys if states[y] is MintState.SPENT]))
        return states

    @staticmethod
    def unit_of(token: Token, keysets: Mapping[KeysetId, Keyset]) -> str:
        """The unit of a document's proofs: that of the first keyset which the mint knows, else sat."""
        return unit_of(token, keysets)

    async def _keysets(self, mint: Mint, tokens: Sequence[Token]) -> tuple[Mapping[KeysetId, Keyset], bool]:
        if self._beyond is None:
            return await mint.keysets(), True
        return await self._beyond.keysets(mint, tokens)

    def _learn(self, mint: Mint, tokens: Sequence[Token], states: Mapping[Y, MintState]) -> None:
        """What both sides call spent tells later whether the mint still remembers it."""
        agreed = [
            proof.y
            for token in tokens
            if token.status is TokenStatus.SPENT
            for proof in token.proofs
            if states[proof.y] is MintState.SPENT
        ]
        self._sentinels.learn(mint.alias, agreed)


def _about_keysets(tokens: Sequence[Token]) -> list[str]:
    """The ids of the records that these documents may have about unknown keysets."""
    return [f"{DriftType.UNKNOWN_KEYSET}:token:{token.id}" for token in tokens]
