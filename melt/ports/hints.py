"""Hints to look sooner (NUT-17): who gives them, who is told, what is worth watching (DESIGN section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.model import Hint, HintDrop, HintKind, HintStatus, MintAlias, WatchedDocument


class HintSource(Protocol):
    """
    The subscriptions of one mint. What it tells is never evidence: whoever hears it looks for himself.

    Nothing that a mint does makes it raise; a mint without subscriptions is one that never gives a hint.
    """

    def watch(self, wanted: Mapping[HintKind, Sequence[str]], /) -> None:
        """What to watch from now on, most important first, in place of what was watched before."""
        ...

    async def run(self, on_hint: Callable[[Hint], None], /) -> None:
        """Connect, subscribe, listen, connect again, until cancelled. ``on_hint`` must neither raise nor wait."""
        ...

    def status(self) -> HintStatus: ...


class HintTelemetry(Protocol):
    """Who is told how the subscriptions fare: the daemon turns it into metrics. Never raises."""

    def hints_connected(self, mint: MintAlias, *, connected: bool) -> None: ...
    def hints_reconnected(self, mint: MintAlias) -> None: ...
    def hint_received(self, mint: MintAlias, kind: HintKind) -> None: ...
    def hint_dropped(self, mint: MintAlias, reason: HintDrop) -> None: ...


class WatchStore(Protocol):
    """The part of the database that chooses what to watch. Raises :class:`melt.errors.StoreError` and no other."""

    def worth_watching(self, mint_url: str, *, proofs_max: int) -> tuple[WatchedDocument, ...]:
        """
        The largest and the newest unspent documents of a mint (its URL with or without a trailing slash), by turns.

        Together they hold at most ``proofs_max`` proofs. Bounded in time: it is asked every minute.
        """
        ...
