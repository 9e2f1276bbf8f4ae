"""The journal: what a melt intends and what is known of it (DESIGN section 4). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.model.words import TERMINAL, JournalKind, MeltState, PostOutcome, ResolveAs

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.words import KeysetId, MeltId, MintAlias, QuoteId, TokenId, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRef:
    """One proof that a mint may consume. Its secret stays in its token document."""

    token_id: TokenId
    y: Y
    amount: int
    keyset_id: KeysetId


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """
    Deterministic outputs (NUT-13): the counters ``counter .. counter + len(amounts) - 1`` of one keyset.

    Amount 0 stands for a blank output (NUT-08). ``seed_id`` is a fingerprint of the seed they derive from,
    so that a changed seed is noticed instead of yielding unspendable proofs.
    """

    keyset_id: KeysetId
    counter: int
    amounts: tuple[int, ...]
    seed_id: str

    @property
    def amount(self) -> int:
        """Sum of the planned amounts; 0 for blanks."""
        return sum(self.amounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapPlan:
    """
    A swap (NUT-03) that can be repeated to the byte: inputs, outputs, fee in the unit.

    Outputs are one range: the first ``keep`` of them stay with the owner, the others pay (a fence and a
    reclaim keep all of them).
    """

    inputs: tuple[InputRef, ...]
    outputs: OutputPlan
    keep: int
    fee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who caused a write: a part of meltd, and the peer of the socket where there was one (SO_PEERCRED)."""

    name: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What a person decided about a HELD melt, with the reason given; the audit names this actor from then on."""

    outcome: ResolveAs
    reason: str
    actor: Actor
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """
    What another writer had done to a document that an entry had reserved, as the entry found it when it ended.

    ``what`` and ``done`` are sentences' parts for a person: what stood there, and what was done instead. ``amount`` is
    what the entry's inputs in it are worth. ``changed_at`` is the document's own date, where it has one. ``written``
    tells that it still carried the reservation, so that the entry wrote it; ``deleted`` that it was not there.
    """

    token_id: TokenId
    what: str
    done: str
    amount: int
    ys: tuple[Y, ...]
    written: bool
    deleted: bool
    changed_at: datetime | None
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Melt:
    """
    One journal entry. Every amount is an int in ``unit``.

    ``inputs`` are what the melt POST consumes (after a swap: the swap's pay outputs). ``source_token_ids``
    are the documents that were reserved first. ``clear_since`` is when UNPAID and UNSPENT were first seen
    together; ``contradiction_since`` likewise for a contradiction: both must be seen twice to count.
    ``fees_paid`` are Lightning fees; ``input_fee`` and ``swap_fee`` are the mint's (NUT-02).
    ``claim`` is the payment hash while the entry is not RELEASED; a unique index on it holds I1.
    ``altered`` is what others had done to the reserved documents. The inputs' proofs lie beside the entry in the
    database until its end and are no part of this value (I10): :meth:`melt.ports.Store.input_proofs`.
    """

    id: MeltId
    kind: JournalKind = JournalKind.MELT
    state: MeltState
    rev: int
    holder: str
    idempotency_key: str | None
    request_digest: str
    npub: str
    wallet_id: str | None
    mint: MintAlias
    mint_url: str
    unit: str
    transaction_id: str
    payment_hash: str | None
    invoice: str | None
    quote_id: QuoteId | None
    quote_expiry: int | None
    amount: int
    fee_reserve: int
    input_fee: int
    inputs: tuple[InputRef, ...]
    source_token_ids: tuple[TokenId, ...]
    blanks: OutputPlan | None
    swap: SwapPlan | None = None
    fence: SwapPlan | None = None
    post: PostOutcome = PostOutcome.NOT_SENT
    posted_at: datetime | None = None
    post_code: int | None = None
    clear_since: datetime | None = None
    contradiction_since: datetime | None = None
    contradiction: str | None = None
    preimage: str | None = field(default=None, repr=False)
    fees_paid: int | None = None
    swap_fee: int = 0
    shortfall: int = 0
    unaccounted: int = 0
    """What went with inputs that are gone (I5): neither paid nor missing change, as far as anybody knows."""
    keep_token_ids: tuple[TokenId, ...] = ()
    keep_amount: int = 0
    change_token_id: TokenId | None = None
    change_amount: int = 0
    error_code: str | None = None
    error_detail: str | None = None
    resolution: Resolution | None = None
    note: str | None = None
    """Stands in the audit where no decision does: the plan that a reclaim belongs to."""
    altered: tuple[Altered, ...] = ()
    refusals: int = 0
    """How often in a row the mint has answered its swap with ``refused_code``, all inputs free."""
    refused_code: int | None = None
    actor: Actor
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it still holds inputs."""
        return self.state not in TERMINAL

    @property
    def inputs_gone(self) -> bool:
        """Whether a person ended it as *inputs gone, outcome unknown*: SETTLED, and nobody knows whether it was paid."""
        decided = self.resolution
        return self.state is MeltState.SETTLED and decided is not None and decided.outcome is ResolveAs.INPUTS_GONE

    @property
    def paid_amount(self) -> int | None:
        """What was paid by Lightning; None while that is not known, and where it will never be."""
        if self.is_open or self.inputs_gone:
            return None
        return self.amount if self.state is MeltState.SETTLED and self.kind is JournalKind.MELT else 0

    @property
    def decided_by(self) -> Actor:
        """Who stands in the audit for what ends it: the person who resolved it, else who asked for it."""
        return self.actor if self.resolution is None else self.resolution.actor

    @property
    def inputs_amount(self) -> int:
        """Sum of the inputs of the melt POST."""
        return sum(ref.amount for ref in self.inputs)

    @property
    def overpaid(self) -> int:
        """What the mint holds beyond amount and input fee: the Lightning fee and our change come out of it."""
        return self.inputs_amount - self.amount - self.input_fee
