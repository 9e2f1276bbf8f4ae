"""Time, randomness, threads, a mint and the operator's outputs: what the engine asks (DESIGN section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from melt.model import (
        BlindedMessage,
        Keyset,
        KeysetId,
        MeltAnswer,
        MeltQuote,
        MintAlias,
        MintInfo,
        MintReport,
        NewProof,
        OutputPlan,
        Proof,
        ProofState,
        QuoteId,
        Restored,
        SwapAnswer,
        Y,
    )

T = TypeVar("T")


class Clock(Protocol):
    """Time. Records use :meth:`now` (aware, UTC); waiting and deadlines use :meth:`monotonic` (seconds)."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float, /) -> None: ...
    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        """Wait until ``event`` is set, ``seconds`` at most; whether it was."""
        ...


class Entropy(Protocol):
    """Randomness. :meth:`token` gives ``n`` random bytes as hex; :meth:`uniform` a float for jitter."""

    def token(self, n: int, /) -> str: ...
    def uniform(self, low: float, high: float, /) -> float: ...


class StoreThreads(Protocol):
    """Runs a store method in the bounded pool. Cancelling the waiter doesn't stop the method (I3)."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class Mint(Protocol):
    """
    One configured mint (NUT-01 to 09, 12). Reads raise :class:`melt.errors.MintError`; the two requests that move
    money, :meth:`melt` and :meth:`swap`, never raise for what a mint does: they return a sorted answer.
    """

    @property
    def alias(self) -> MintAlias: ...
    @property
    def url(self) -> str: ...

    def report(self) -> MintReport:
        """What is known of its ways by now; asks nothing."""
        ...

    async def info(self) -> MintInfo:
        """NUT-06, cached."""
        ...

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        """NUT-02, all keysets, cached; ``refresh`` asks again."""
        ...

    async def keysets_with(self, wanted: Collection[KeysetId]) -> Mapping[KeysetId, Keyset]:
        """As :meth:`keysets`, asked anew where the list lacks one of ``wanted``: once a keyset id in a while."""
        ...

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        """NUT-01: amount to public key (66 hex), cached for ever since a keyset's keys can't change."""
        ...

    async def melt_quote(self, invoice: str, unit: str) -> MeltQuote: ...
    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        """NUT-05 GET. Makes some mints ask their Lightning backend: see DESIGN section 4 on when to call it."""
        ...

    async def melt(
        self, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> MeltAnswer: ...
    async def check_states(self, ys: Sequence[Y], *, spent: Sequence[Y] | None = None) -> tuple[ProofState, ...]:
        """
        NUT-07: as many states as ``ys``, in their order, duplicates kept. Split in fixed-size batches inside.

        With ``spent``, which may be empty, each batch holds the sentinels of DESIGN section 5: a random Y that must read
        UNSPENT, and some of ``spent``, which must read SPENT (StateRegressed where one does not). At least one batch is
        asked then. A Y is asked about once, however often it stands in ``ys``.
        """
        ...

    async def swap(
        self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> SwapAnswer: ...
    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        """NUT-09: those of ``outputs`` that the mint has signed."""
        ...


class Outputs(Protocol):
    """Deterministic outputs of the operator's seed (NUT-13); implemented by :mod:`melt.ecash`."""

    @property
    def seed_id(self) -> str:
        """Fingerprint of the seed: 16 hex characters, safe to log."""
        ...

    def blinded(self, plan: OutputPlan) -> tuple[BlindedMessage, ...]:
        """The outputs of a plan, in order. Raises InvariantBroken where ``plan.seed_id`` is another seed's."""
        ...

    def unblind(
        self,
        plan: OutputPlan,
        index: int,
        signature_amount: int,
        c_: str,
        public_key: str,
        dleq: tuple[str, str] | None,
        *,
        keyset_id: KeysetId | None = None,
    ) -> NewProof:
        """
        Unblind the signature on output ``index``. With ``dleq`` (e, s) it is verified first; MintUntrusted if wrong.

        ``keyset_id`` is the keyset that the signature names, where it is not the plan's.
        """
        ...

    def match(self, plan: OutputPlan, index: int, c_: str, public_key: str, dleq: tuple[str, str]) -> bool:
        """Whether the DLEQ proof shows that ``c_`` signs output ``index`` of the plan (NUT-12)."""
        ...
