"""Verdicts, discrepancies, corrections, audit entries and CRITICAL events (DESIGN sections 3 and 5). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.errors import Severity
    from melt.model.journal import Actor
    from melt.model.lease import Fence
    from melt.model.passage import Passage
    from melt.model.summary import Solvency
    from melt.model.words import (
        Action,
        DiscrepancyState,
        DriftType,
        EventType,
        MeltId,
        MintAlias,
        TokenId,
        TokenStatus,
        Y,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What :mod:`melt.drift` says about one document: one type, the proofs that show it, what to do.

    ``ys`` may be fewer than the document's proofs: a correction then splits the document. ``value`` is the sum
    of these proofs in the token's unit.
    """

    type: DriftType
    severity: Severity
    action: Action
    ys: tuple[Y, ...]
    value: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict about a subject, with the evidence, on its way into ``meltd_discrepancies``."""

    type: DriftType
    severity: Severity
    action: Action
    subject: str
    """``token:<id>``, ``melt:<id>`` or ``mint:<alias>``: with the type it is the identity of the record."""
    npub: str | None
    mint: MintAlias | None
    unit: str
    value: int
    token_id: TokenId | None
    ys: tuple[Y, ...]
    evidence: Mapping[str, str | int | bool | None]
    mark: str | None = None
    """The document's digest as it was looked at (``Token.mark``); None for what is not about one document."""
    whole: bool = True
    """Whether the look was at every proof of the document: one at fewer neither restarts the time nor changes value or Ys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a discrepancy's life. ``by`` and ``reason`` where a person took it."""

    at: datetime
    what: str
    """A state, or ``reopened``."""
    by: Actor | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """
    A record of ``meltd_discrepancies``. ``occurrence`` counts how often it was opened.

    ``same_since`` is since when every sighting has asked for the same action on the same proofs: what gives value
    back is confirmed by it, not by ``first_seen`` (I6). None: unknown, so not confirmed.

    ``watched_ms`` is how long the document has been watched standing still, ``same_ms`` how long with the same verdict, and
    ``open_ms`` how long since the record was opened, whatever moved; ``needs_ms`` is how long it is watched before it is
    carried out, ``alert_ms`` before it pages anybody (I13, :mod:`melt.settling`).
    """

    id: str
    type: DriftType
    severity: Severity
    action: Action
    state: DiscrepancyState
    subject: str
    npub: str | None
    mint: MintAlias | None
    unit: str
    value: int
    token_id: TokenId | None
    ys: tuple[Y, ...]
    first_seen: datetime
    last_seen: datetime
    closed_at: datetime | None
    sightings: int
    occurrence: int
    same_since: datetime | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)
    history: tuple[Turn, ...] = ()
    """The last turns, oldest first, and every turn that a person took."""
    mark: str | None = None
    watched_ms: int = 0
    same_ms: int = 0
    open_ms: int = 0
    needs_ms: int = 0
    alert_ms: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether its document has stood still for as long as a rule waits for."""
        return self.watched_ms >= self.needs_ms

    @property
    def is_settling(self) -> bool:
        """Whether it is open and still so young that it pages nobody."""
        return self.closed_at is None and self.watched_ms < self.alert_ms

    @property
    def settles_in_s(self) -> float:
        """How many more seconds its document has to be watched standing still."""
        return max(0, self.needs_ms - self.watched_ms) / 1000

    def age_s(self, now: datetime) -> float:
        """How long it has been there, in seconds; for one that is over, how long it was."""
        return max(0.0, ((self.closed_at or now) - self.first_seen).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Warrant:
    """
    By what a document may be written, split or have its proofs swapped by rule: compared inside the writing transaction (I13).

    The record must be open at this ``occurrence`` and settled, and the document's digest still be ``mark``, the record's own.
    ``at_once``: a person has said not to wait for that; the digest is compared all the same.
    """

    discrepancy_id: str
    occurrence: int
    token_id: TokenId
    mark: str
    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """
    One change of one document by rule. ``expected_status`` and ``expected_rev`` are part of the filter, so
    applying a correction twice equals once and a document that moved on is left alone.
    """

    discrepancy_id: str
    occurrence: int
    token_id: TokenId
    expected_status: TokenStatus
    expected_rev: int | None
    new_status: TokenStatus
    ys: tuple[Y, ...]
    reason: DriftType
    actor: Actor
    warrant: Warrant
    note: str | None = None
    """Stands in the audit: the plan that it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One status change (I9). ``from_status`` None: the document was made. Never a secret (I10)."""

    id: str
    at: datetime
    token_id: TokenId
    npub: str
    mint_url: str
    from_status: TokenStatus | None
    to_status: TokenStatus
    amount: int
    ys: tuple[Y, ...]
    reason: str
    actor: Actor
    melt_id: MeltId | None
    discrepancy_id: str | None
    note: str | None = None
    """A person's reason, where a person decided."""
    fence: Fence | None = None
    """The lease that it was written under; None: by a melt or for a person. No two holders ever share an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalEvent:
    """A CRITICAL event. ``subject`` and type are its identity while it is open."""

    id: str
    type: EventType
    subject: str
    mint: MintAlias | None
    detail: str
    opened_at: datetime
    last_seen: datetime
    resolved_at: datetime | None
    sightings: int
    requires_manual_intervention: bool
    evidence: Mapping[str, object] = field(default_factory=dict)
    resolution: str | None = None
    """Why it was closed."""

    @property
    def recovery_s(self) -> float | None:
        """From its opening to its end, in seconds; None while it is open."""
        return None if self.resolved_at is None else max(0.0, (self.resolved_at - self.opened_at).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedEvent:
    """
    A CRITICAL event as the instance that raised it holds it, in memory and in its spool, until it is resolved.

    ``stored`` tells that the database has it. ``resolution`` tells that it is over, and only the database does not know
    yet. ``signatures`` are blind signatures that were at hand, each ``keyset:amount:C_:e:s``: no secret, since nobody
    but the owner of the seed can unblind them (DESIGN section 4).
    """

    type: EventType
    subject: str
    mint: MintAlias | None
    detail: str
    opened_at: datetime
    requires_manual_intervention: bool
    evidence: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    signatures: tuple[str, ...] = ()
    stored: bool = False
    resolution: str | None = None
    resolved_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """
    Progress and result of the tour of one mint (``meltd_sweeps``).

    ``position`` is the last ``_id`` that was done, None before the first. Counts are documents and proofs of
    this tour. ``found`` and ``corrected`` are by drift type. ``sampled`` is how far the sample of spent and failed
    documents has come, over all tours. ``owed`` and ``honoured`` are by unit, of this tour so far, and ``solvency`` is
    what the last whole tour came to. ``passing`` is this tour's passage and ``passed`` that of the last complete
    tour before it; ``first_seen`` is since when meltd knows the mint (:mod:`melt.detection`). ``succeeded_at`` is
    when a tour last ended well, whoever ran it.
    """

    mint: MintAlias
    tour: int
    position: TokenId | None
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    documents: int
    proofs: int
    total_documents: int
    found: Mapping[str, int]
    corrected: Mapping[str, int]
    error: str | None
    sampled: TokenId | None = None
    owed: Mapping[str, int] = field(default_factory=dict)
    honoured: Mapping[str, int] = field(default_factory=dict)
    solvency: tuple[Solvency, ...] = ()
    first_seen: datetime | None = None
    passing: Passage | None = None
    passed: Passage | None = None
    succeeded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomicResult:
    """What T3 did (DESIGN section 6, ``atomic_result``). Amounts in the melt's unit."""

    source_tokens_spent: int
    keep_token_id: TokenId | None
    keep_amount: int
    melt_change_token_id: TokenId | None
    melt_change_amount: int
    operations: int
    unproved_token_id: TokenId | None = None
    """The ``failed`` document that holds what is not shown to be worth anything yet."""
