"""What a run of reconciliation is about, by which rules it goes, and what its pages have come to so far."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from melt.caps import RunTotals
from melt.corrections import unit_of
from melt.errors import Severity
from melt.model import PLAN_ITEMS_MAX, MintState, TokenStatus, TransactionType
from melt.plan_items import items_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.corrections import Judged
    from melt.model import (
        Action,
        Discrepancy,
        DriftType,
        Finding,
        Keyset,
        KeysetId,
        MintAlias,
        PlanItem,
        Token,
        TokenId,
        Y,
    )

TOURED: Final = (TokenStatus.UNSPENT, TokenStatus.PENDING)
"""Statuses that every tour looks at; the others are sampled (DESIGN section 5)."""
BLOCKING: Final = frozenset({Severity.HIGH, Severity.CRITICAL})
"""What is open of these severities keeps its document out of payments."""
FOUND_MAX: Final = 1_000
"""How many findings of one run are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileScope:
    """What to reconcile on request: everything, one mint (alias), one user, some statuses (empty: TOURED)."""

    mint: str | None = None
    npub: str | None = None
    statuses: tuple[TokenStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePolicy:
    """
    ``pending_grace_s``: how old a pending document must be before it may be released. ``confirm_after_s``: the least
    time between the two sightings that giving value back needs. ``spent_confirm_s``: the time between the two looks
    that marking spent needs. ``shares``: whether other services spend from this database, so that a document of which the
    mint calls proofs PENDING right now is left alone whatever its other proofs are (I13).
    """

    pending_grace_s: float = 3600.0
    confirm_after_s: float = 60.0
    spent_confirm_s: float = 0.0
    shares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """One correction that was applied. ``value`` is in ``unit``."""

    action: Action
    type: DriftType
    token_id: TokenId
    npub: str
    mint: MintAlias
    unit: str
    value: int


@dataclass(slots=True)
class Outcome:
    """
    What the pages of one run have found and done so far. ``liabilities`` is by (unit, status); amounts in the unit.
    ``owed`` is by unit what counts as somebody's money, ``honoured`` the part of it that the mint did not call SPENT.

    ``expected_documents`` is how many the run is about, for the cap on their share. ``turn`` is the tour's number: whose
    signatures are checked follows from it (None: at random). ``capped`` names the caps that kept corrections from being
    made, ``held_back`` those corrections (the first PLAN_ITEMS_MAX; ``held_back_count`` is of all). ``by_keyset`` is what
    lies on each keyset, unspent or pending and not SPENT at the mint. ``found`` holds the first FOUND_MAX; the counts are
    of all. ``suspects``, where it is a list, takes what a dry run would correct: the caller empties it. ``dry_pages``
    counts the pages that were only looked at, ``settling`` what has to stand still before it is corrected. ``performed``
    are the first FOUND_MAX corrections; ``blocking`` the documents that something HIGH or CRITICAL keeps from paying.
    """

    expected_documents: int = 0
    turn: int | None = None
    documents: int = 0
    proofs: int = 0
    found: list[Discrepancy | Finding] = field(default_factory=list)
    planned: int = 0
    corrected: int = 0
    settling: int = 0
    found_by_type: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    totals: RunTotals = field(default_factory=RunTotals)
    capped: set[str] = field(default_factory=set)
    held_back: list[PlanItem] = field(default_factory=list)
    held_back_count: int = 0
    suspects: list[Judged] | None = None
    dry_pages: int = 0
    corrected_by_type: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    performed: list[Performed] = field(default_factory=list)
    blocking: set[str] = field(default_factory=set)
    liabilities: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    owed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    honoured: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_keyset: dict[KeysetId, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, found: Discrepancy | Finding) -> None:
        """Count what was found, and keep it while there is room (I11)."""
        self.found_by_type[found.type.value] += 1
        if found.severity in BLOCKING and found.token_id is not None:
            self.blocking.add(f"{found.type}:{found.subject}")
        if len(self.found) < FOUND_MAX:
            self.found.append(found)

    def corrected_one(self, judged: Judged) -> None:
        """Count a correction that was applied; what it was about blocks nothing any more."""
        self.corrected += 1
        self.corrected_by_type[judged.verdict.type.value] += 1
        self.blocking.discard(f"{judged.verdict.type}:token:{judged.token.id}")
        if len(self.performed) < FOUND_MAX:
            self.performed.append(
                Performed(
                    action=judged.verdict.action,
                    type=judged.verdict.type,
                    token_id=judged.token.id,
                    npub=judged.token.npub,
                    mint=judged.mint,
                    unit=judged.unit,
                    value=judged.verdict.value,
                )
            )

    def hold_back(self, judged: Judged, record: Discrepancy) -> None:
        """Keep what a cap forbids, for a plan, while there is room (I11)."""
        items, _ = items_of([judged], [record])
        self.held_back_count += len(items)
        if len(self.held_back) < PLAN_ITEMS_MAX:
            self.held_back.extend(items)

    def count(self, tokens: Sequence[Token], states: Mapping[Y, MintState], keysets: Mapping[KeysetId, Keyset]) -> None:
        """Add what these documents hold to the run's sums."""
        for token in tokens:
            unit = unit_of(token, keysets)
            self.liabilities[unit, token.status.value] += token.amount
            if token.status not in TOURED:
                continue
            # What was handed out is its recipient's, though old code leaves it counted.
            is_owed = token.transaction_type != TransactionType.MELTED and not token.is_sent
            self.owed[unit] += token.amount if is_owed else 0
            for proof in token.proofs:
                if states.get(proof.y) is not MintState.SPENT:
                    self.by_keyset[proof.keyset_id] += proof.amount
                    self.honoured[unit] += proof.amount if is_owed else 0
