"""
The lanes of one mint (DESIGN section 5, Sweep): whose turn it is to ask it about states, and how long they rest.

- One lane at a time holds the turn, page by page, so that a mint has at most one NUT-07 request of the sweep in flight;
  waiting lanes come in the order in which they asked, so a long tour doesn't keep the warm lane waiting.
- Melts come first: while one has just begun at the mint, a page waits a bounded moment.
- The pace (:mod:`daemon.pace`) is the mint's, whichever lane asks: a mint that limits or suffers is left alone by all.

Each mint has lanes of its own; one that hangs holds up nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import Lane
from melt.errors import MintUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from daemon.metrics import Metrics
    from daemon.pace import Pace
    from melt.model import MintAlias
    from melt.ports import Clock
    from melt.reconcile import Outcome

_log = structlog.get_logger("meltd.sweep")

RATE_LIMITED_MAX: Final = 8
"""So often in a row a page is asked again after a 429, with growing pauses; then the tour ends with an error."""
FRESH_MELT_S: Final = 2.0
"""So long after its beginning a melt has precedence. One that takes longer waits for Lightning, and not for us."""
_MELT_POLL_S: Final = 0.01
_SLICE_S: Final = 0.25


class Lanes:
    """One mint's lanes and their pace."""

    def __init__(
        self,
        alias: MintAlias,
        *,
        pace: Pace,
        clock: Clock,
        metrics: Metrics,
        yield_s: float,
        melts_under_way: Callable[[], bool],
        lag_s: Callable[[], float],
    ) -> None:
        self.alias = alias
        self.pace = pace
        self.lag_s = lag_s
        self.lane: Lane | None = None
        self._clock = clock
        self._metrics = metrics
        self._yield_s = yield_s
        self._melts_under_way = melts_under_way
        self._turn = asyncio.Lock()
        self._rests_until = 0.0
        self._left_alone_until = 0.0

    @property
    def resting_s(self) -> float:
        """How long the tour still rests."""
        return max(0.0, self._rests_until - self._clock.monotonic())

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """The mint is this lane's meanwhile."""
        async with self._turn:
            self.lane = lane
            try:
                yield
            finally:
                self.lane = None

    async def page(
        self,
        lane: Lane,
        work: Callable[[], Awaitable[None]],
        outcome: Outcome,
        *,
        pages: int,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> float:
        """
        Do one page when its turn has come; returns how many seconds to :meth:`rest` after it.

        ``pages`` is how many of this run it makes. A page that the mint answers with a 429 is done again after a pause,
        :data:`RATE_LIMITED_MAX` times in a row. Raises what ``work`` raises.
        """
        limited = 0
        while True:
            await self.rest(lane, self._left_alone_until - self._clock.monotonic(), stop, beat)
            await self._let_melts_pass()
            found, kept, documents = dict(outcome.found_by_type), len(outcome.found), outcome.documents
            try:
                async with self.turn(lane):
                    began = self._clock.monotonic()
                    await work()
            except MintUnreachable as error:
                pause_s = self.pace.refused(error.retry_after_s)
                self._metrics.set_sweep_duty(self.alias, self.pace.duty)
                limited += 1
                if not error.rate_limited or limited > RATE_LIMITED_MAX or stop():
                    raise
                # What the page had counted before the mint was asked must not count twice.
                outcome.found_by_type = defaultdict(int, found)
                del outcome.found[kept:]
                self._left_alone_until = self._clock.monotonic() + pause_s
                _log.info("the mint limits requests", mint=self.alias, lane=lane.value, pause_s=round(pause_s, 1))
                continue
            rest_s = self.pace.page_done(
                seconds=self._clock.monotonic() - began,
                drift=outcome.found_by_type != found,
                lag_s=self.lag_s(),
                pages=pages,
            )
            self._metrics.set_sweep_duty(self.alias, self.pace.duty)
            self._metrics.lane_documents(self.alias, lane, outcome.documents - documents)
            return rest_s

    async def prompt_page(self, lane: Lane, work: Callable[[], Awaitable[None]], outcome: Outcome) -> None:
        """A page that somebody waits for: in its turn, but without rests. Raises what ``work`` raises."""
        documents = outcome.documents
        async with self.turn(lane):
            await work()
        self._metrics.lane_documents(self.alias, lane, outcome.documents - documents)

    async def rest(self, lane: Lane, seconds: float, stop: Callable[[], bool], beat: Callable[[], None]) -> None:
        """Rest; other lanes may have their turn meanwhile."""
        until = self._clock.monotonic() + seconds
        if lane is Lane.COLD:
            self._rests_until = until
        while (left := until - self._clock.monotonic()) > 0 and not stop():
            beat()
            await self._clock.sleep(min(left, _SLICE_S))

    async def _let_melts_pass(self) -> None:
        until = self._clock.monotonic() + self._yield_s
        while self._melts_under_way() and self._clock.monotonic() < until:
            await self._clock.sleep(_MELT_POLL_S)
