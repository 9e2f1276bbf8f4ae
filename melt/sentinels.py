"""
Whether a mint's word can be believed (DESIGN section 5, Guards), asked with every question about states.

In each batch of NUT-07 go, beside the proofs in question: a random Y that was never issued, and Ys that
this mint has called SPENT before: the newest, by which a mint that was put back to a backup is known, and random older
ones. What they show is a CRITICAL event, of which at most one a mint and type is open:

=======================  ===============================================================================
SENTINEL_FAILED          the answer is none that a sane mint gives: never-issued Ys SPENT, Ys missing,
                         twice, changed
MINT_STATE_REGRESSED     a proof that it called SPENT is not any more, as a sentinel or in a document
MINT_UNTRUSTED           something else answered in its place: a captive portal, a redirect
=======================  ===============================================================================

While one is open, nothing is corrected at the mint, no melt is begun there and none is released (I12). A whole answer in
which every sentinel is right closes it; MINT_STATE_REGRESSED only one that calls the very proofs SPENT that showed it. A
mint that is down is none of this: it says nothing wrong.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from melt.drift import SEVERITIES
from melt.errors import MintError, MintUntrusted, NotTheMint, StateRegressed, StoreError
from melt.events import DISTRUSTING
from melt.model import SANE_AGAIN, Action, DriftType, EventType, Finding, MintState, SpentMemory, Verdict, Y

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime

    from melt.corrections import Judged
    from melt.events import CriticalEvents
    from melt.model import Keyset, KeysetId, MintAlias, Token
    from melt.ports import Clock, Entropy, Mint, SpentRecords, Store, StoreThreads

KNOWN_MAX: Final = 64
"""How many Ys the records give for the sentinels of a mint."""
NEWEST: Final = 2
OLDER: Final = 2
LEARNED_MAX: Final = 256
"""How many Ys are kept of spent documents that the mint was seen to call SPENT."""
FAILED_MAX: Final = 8
"""How many Ys that showed a regression are asked about until it is over."""
FRESH_S: Final = 5.0
"""How old a sweep's view of the records may be."""
CALM_S: Final = 60.0
"""How old a melt's view of them may be: its caller waits."""

_ALIVE: Final = frozenset(
    {DriftType.DB_SPENT_MINT_UNSPENT, DriftType.DB_SPENT_MINT_PENDING, DriftType.DB_FAILED_MINT_UNSPENT}
)
_GIVES_BACK: Final = frozenset({Action.RELEASE, Action.RECLAIM})


@dataclass(slots=True)
class _Known:
    """What this process knows of one mint. ``proven``: its last answer called something SPENT that should be."""

    memory: SpentMemory = field(default_factory=SpentMemory)
    read_at: float | None = None
    learned: deque[Y] = field(default_factory=lambda: deque(maxlen=LEARNED_MAX))
    failed: tuple[Y, ...] = ()
    proven: bool = False


class Sentinels:
    """Asks mints about states and says whether they can be believed. One per process."""

    def __init__(
        self,
        *,
        records: SpentRecords,
        store: Store,
        threads: StoreThreads,
        events: CriticalEvents,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._records = records
        self._store = store
        self._threads = threads
        self._events = events
        self._clock = clock
        self._entropy = entropy
        self._known: dict[MintAlias, _Known] = {}

    # --- asking ---

    async def states(self, mint: Mint, ys: Sequence[Y], *, hurry: bool = False) -> dict[Y, MintState]:
        """
        The mint's states of ``ys``, with sentinels in every batch. ``hurry``: known Ys may be a minute old.

        Raises:
            MintUntrusted: a sentinel was wrong; a CRITICAL event says what was seen.
            MintError: the mint could not be asked; an event only where something else answered in its place.
            StoreError: the records could not be read.
        """
        return await self._ask(mint, ys, fresh_s=CALM_S if hurry else FRESH_S) if ys else {}

    async def keysets(self, mint: Mint) -> Mapping[KeysetId, Keyset]:
        """The mint's keysets, asked anew. Raises MintError, with an event where something else answered."""
        async with self._watched(mint):
            return await mint.keysets(refresh=True)

    async def probe(self, mint: Mint) -> bool:
        """Look at a mint that is not believed; whether it is believed again. Raises nothing."""
        if self._events.distrusted(mint.alias) is None:
            return False
        try:
            await self.keysets(mint)
            await self._ask(mint, (), fresh_s=FRESH_S)
        except (MintError, StoreError):
            return False
        return self._events.distrusted(mint.alias) is None

    def is_proven(self, mint: MintAlias) -> bool:
        """
        Whether the mint's last answer called a proof SPENT that is known, or recorded, to be.

        Where it did not, its UNSPENT is not even worth a second look: it may have forgotten everything.
        """
        return mint in self._known and self._known[mint].proven

    def learn(self, mint: MintAlias, ys: Iterable[Y]) -> None:
        """These are recorded as spent and were called SPENT in a good answer: sentinels from now on."""
        learned = self._known.setdefault(mint, _Known()).learned
        learned.extend(y for y in ys if y not in learned)

    async def _ask(self, mint: Mint, ys: Sequence[Y], *, fresh_s: float) -> dict[Y, MintState]:
        known = await self._recall(mint, fresh_s)
        spent = self._chosen(known)
        hints = () if spent else known.memory.hints
        async with self._watched(mint):
            answers = await mint.check_states(list(dict.fromkeys((*ys, *known.failed, *hints))), spent=spent)
            states = {answer.y: answer.state for answer in answers}
            alive = tuple(y for y in known.failed if states[y] is not MintState.SPENT)
            if alive:
                raise StateRegressed(
                    f"mint {mint.alias} calls {len(alive)} of {len(known.failed)} proofs {states[alive[0]]} "
                    "that it called SPENT before",
                    alive,
                )
        seen = [y for y in hints if states[y] is MintState.SPENT]
        self.learn(mint.alias, seen)
        known.proven = bool(spent or known.failed or seen)
        await self._believe(mint.alias, known, witnessed=bool(spent or known.failed))
        return states

    async def _recall(self, mint: Mint, fresh_s: float) -> _Known:
        """What is known, read anew where it is old, empty, or what a person has resolved makes it so."""
        known = self._known.setdefault(mint.alias, _Known())
        regressed = self._events.is_open(EventType.MINT_STATE_REGRESSED, _subject(mint.alias))
        now = self._clock.monotonic()
        stale = known.read_at is None or now - known.read_at >= fresh_s
        empty = not (known.memory.known or known.learned)
        if stale or empty or (known.failed and not regressed):
            memory = await self._threads(lambda: self._records.spent_memory(mint.alias, mint.url, KNOWN_MAX))
            if memory.accepted_at != known.memory.accepted_at:
                known.learned.clear()
            known.memory, known.read_at = memory, now
        if known.failed and not regressed:  # a person has resolved the event
            await self._threads(lambda: self._store.clear_unseen([_subject(mint.alias)], ()))
        known.failed = (known.failed or known.memory.regressed[:FAILED_MAX]) if regressed else ()
        return known

    def _chosen(self, known: _Known) -> list[Y]:
        newest, older = known.memory.known[:NEWEST], known.memory.known[NEWEST:]
        return list(dict.fromkeys((*newest, *self._some(older, OLDER), *self._some(known.learned, OLDER))))

    def _some(self, pool: Sequence[Y], count: int) -> list[Y]:
        if len(pool) <= count:
            return list(pool)
        return [pool[int(self._entropy.uniform(0, len(pool))) % len(pool)] for _ in range(count)]

    # --- believing ---

    @asynccontextmanager
    async def _watched(self, mint: Mint) -> AsyncIterator[None]:
        """Whatever makes the mint's word worthless in here becomes an event, and is raised on."""
        try:
            yield
        except NotTheMint as error:
            await self._distrust(mint.alias, EventType.MINT_UNTRUSTED, error.detail, {})
            raise
        except StateRegressed as error:
            known = self._known.setdefault(mint.alias, _Known())
            before, known.read_at = known.memory.accepted_at, None
            await self._recall(mint, FRESH_S)
            if known.memory.accepted_at == before:  # else a person has just said that it is to be taken as it is
                known.failed = tuple(Y(y) for y in error.ys[:FAILED_MAX])
                await self._distrust(
                    mint.alias, EventType.MINT_STATE_REGRESSED, error.detail, {"ys": ",".join(known.failed)}
                )
                await self._record_regressed(mint.alias, known.failed, error.detail)
            raise
        except MintUntrusted as error:
            await self._distrust(mint.alias, EventType.SENTINEL_FAILED, error.detail, {})
            raise

    async def _distrust(
        self, mint: MintAlias, event: EventType, detail: str, evidence: Mapping[str, str | int]
    ) -> None:
        await self._events.open(
            event,
            _subject(mint),
            mint=mint,
            detail=f"{detail}; nothing is corrected and no melt is begun at this mint until it answers sanely",
            requires_manual_intervention=False,
            evidence=evidence,
        )

    async def _record_regressed(self, mint: MintAlias, ys: tuple[Y, ...], detail: str) -> None:
        """Beside the event, among what is wrong: a sentinel showed it, so no page came to judge a document."""
        drift = DriftType.MINT_STATE_REGRESSED
        finding = Finding(
            type=drift,
            severity=SEVERITIES[drift],
            action=Action.RECORD,
            subject=_subject(mint),
            npub=None,
            mint=mint,
            unit="sat",
            value=0,
            token_id=None,
            ys=ys,
            evidence={"reason": detail, "seen_by": "sentinels"},
        )
        await self._threads(lambda: self._store.record([finding]))

    async def _believe(self, mint: MintAlias, known: _Known, *, witnessed: bool) -> None:
        """A good answer. What a known SPENT proof has shown, only known SPENT proofs take back."""
        for event in DISTRUSTING:
            if not self._events.is_open(event, _subject(mint)):
                continue
            if event is EventType.MINT_STATE_REGRESSED:
                if not witnessed:
                    continue
                known.failed = ()
                await self._threads(lambda: self._store.clear_unseen([_subject(mint)], ()))
            await self._events.resolve(event, _subject(mint), reason=SANE_AGAIN)

    # --- documents ---

    async def regressions(self, mint: Mint, judged: Sequence[Judged]) -> list[Judged]:
        """
        The verdicts, in which proofs that the mint itself once called SPENT are MINT_STATE_REGRESSED, not value to take.

        Looked up for the proofs of these verdicts alone. Raises StoreError.
        """
        claimed = [
            y
            for one in judged
            if one.verdict.type in _ALIVE or one.verdict.action in _GIVES_BACK
            for y in one.verdict.ys
        ]
        if not claimed:
            return list(judged)
        once = await self._threads(lambda: self._records.once_spent(claimed))
        if not once:
            return list(judged)
        found = [part for one in judged for part in _parted(one, once)]
        await self._tell_regressed(mint, found, once)
        return found

    async def _tell_regressed(self, mint: Mint, found: Sequence[Judged], once: Mapping[Y, datetime]) -> None:
        """Not about what a person has seen and resolved: that stays recorded, and stays as it is."""
        known = self._known.setdefault(mint.alias, _Known())
        accepted_at = known.memory.accepted_at
        regressed = [one for one in found if one.verdict.type is DriftType.MINT_STATE_REGRESSED]
        ys = [y for one in regressed for y in one.verdict.ys if accepted_at is None or once[y] > accepted_at]
        if not ys:
            return
        known.failed = tuple(ys[:FAILED_MAX])
        documents = len({one.token.id for one in regressed})
        await self._distrust(
            mint.alias,
            EventType.MINT_STATE_REGRESSED,
            f"mint {mint.alias} honours {len(ys)} proofs in {documents} documents again that it called SPENT before",
            {"ys": ",".join(known.failed), "proofs": len(ys), "documents": documents},
        )


def _subject(mint: MintAlias) -> str:
    return f"mint:{mint}"


def _parted(one: Judged, once: Mapping[Y, datetime]) -> list[Judged]:
    """A verdict without the proofs that were once SPENT, and a verdict about those."""
    verdict = one.verdict
    gone = tuple(y for y in verdict.ys if y in once)
    if not gone or not (verdict.type in _ALIVE or verdict.action in _GIVES_BACK):
        return [one]
    rest = tuple(y for y in verdict.ys if y not in once)
    regressed = Verdict(
        type=DriftType.MINT_STATE_REGRESSED,
        severity=SEVERITIES[DriftType.MINT_STATE_REGRESSED],
        action=Action.RECORD,
        ys=gone,
        value=_worth(one.token, gone),
        reason=f"the mint called these proofs SPENT before ({verdict.type.value} now): it has lost or changed its records",
    )
    parts = [replace(one, verdict=regressed)]
    if rest:
        parts.insert(0, replace(one, verdict=replace(verdict, ys=rest, value=_worth(one.token, rest))))
    return parts


def _worth(token: Token, ys: Sequence[Y]) -> int:
    wanted = set(ys)
    return sum(proof.amount for proof in token.proofs if proof.y in wanted)
