"""
How much a mint takes in one request (NUT-07, NUT-09): learned from what it refuses, and kept.

No NUT says how many Ys or outputs a request may have, and ``max_array_length`` is what the mint says, not what a front
before it lets through. So a refused request is tried in smaller ones, and what went through bounds what comes after.
Nothing is padded beyond a size that has gone through: a question about one proof must not fail because it was made longer.

Where padding is allowed it goes to few sizes, since a mint may recompile its query for each new one (MINTS.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from melt.errors import MintError, MintRejected, MintUnreachable, MintWantsLogin, NotTheMint


@dataclass(slots=True)
class BatchSize:
    """
    The bound of one kind of request to one mint. ``least`` is the smallest that makes sense.

    ``proven`` is the largest that has gone through, ``bound`` what was learned from a refusal (None: nothing was refused).
    """

    least: int
    proven: int = 0
    bound: int | None = None

    def within(self, most: int) -> int:
        """How many entries the next request may have, at most ``most``."""
        return most if self.bound is None else min(most, self.bound)

    def padded(self, count: int, most: int) -> int:
        """To how many entries a request of ``count`` may be filled up: to a power of two that is known to go through."""
        step = min(most, 1 << max(3, (count - 1).bit_length()))
        return step if step <= self.proven else count

    def accepted(self, count: int) -> None:
        """A request of so many went through."""
        self.proven = max(self.proven, count)
        if self.bound is not None:
            self.bound = max(self.bound, count)

    def smaller(self, count: int, error: MintError) -> int | None:
        """
        The size to try instead of ``count``, which failed with ``error``; None: its size is not why.

        A refusal (4xx) may be about the size whatever it says. A broken connection or a 5xx is taken for that only where
        something smaller has gone through before: a mint that is down refuses everything.
        """
        if count <= self.least or not _may_be_size(error, grown=0 < self.proven < count):
            return None
        return self.proven if self.least <= self.proven < count else max(self.least, count // 2)

    def learn(self, count: int) -> None:
        """Requests of more than ``count`` are refused, and one of ``count`` is tried now."""
        self.bound = count

    def forget(self, before: int | None) -> None:
        """The smallest was refused too: it was not the size, and what was learned before stands."""
        self.bound = before


def _may_be_size(error: MintError, *, grown: bool) -> bool:
    if isinstance(error, MintWantsLogin | NotTheMint):
        return False
    if isinstance(error, MintRejected):
        return True
    if not isinstance(error, MintUnreachable) or error.rate_limited:
        return False
    return grown or (error.status is not None and 400 <= error.status < 500)
