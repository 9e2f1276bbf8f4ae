"""What a restore looks for, finds and remembers (DESIGN section 5, PROOF_NOT_IN_DB; NUT-09, 13). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.findings import Discrepancy, Finding
    from melt.model.journal import Actor
    from melt.model.token import NewProof, Owner
    from melt.model.words import KeysetId, MeltId, MintAlias, TokenId, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreScope:
    """What to restore on request: everything, one mint (alias), one journal entry."""

    mint: MintAlias | None = None
    melt: MeltId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalPosition:
    """The last journal entry that a walk in the order (``ended_at``, ``_id``) has done."""

    at: datetime
    melt_id: MeltId


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterPosition:
    """Where a walk over counters goes on: this keyset, from this counter."""

    keyset_id: KeysetId
    counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRecord:
    """
    How far the rounds of one mint have come (``meltd_restores``).

    ``recent`` is the walk over entries that ended lately, ``past`` the slow one over all others, ``counters`` the one over
    counters of no entry; None: it starts anew. The ``passes`` tell how often each came to its end. ``error`` is why the last
    round ended early, in our own words.
    """

    mint: MintAlias
    rounds: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    recent: JournalPosition | None = None
    past: JournalPosition | None = None
    counters: CounterPosition | None = None
    recent_passes: int = 0
    past_passes: int = 0
    counters_passes: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreImport:
    """
    Proofs to store as a new document, and the record that this corrects.

    ``owned_by_melt`` is the entry that planned the outputs; ``change_ys`` are those proofs that are its change, which may
    make up a shortfall that was booked. ``name`` is the new document's transaction id, ``parent`` its parent's.
    """

    discrepancy_id: str
    occurrence: int
    owner: Owner
    name: str
    parent: str
    proofs: tuple[NewProof, ...] = field(repr=False)
    change_ys: frozenset[Y]
    owned_by_melt: MeltId | None
    actor: Actor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """
    What an import wrote. ``late_change`` is change that the settlement had booked as missing or as a fee;
    ``shortfall_paid`` is the part that was booked as shortfall, ``shortfall_left`` what is still missing. ``again``: an
    earlier run of the same import had done it.
    """

    token_ids: tuple[TokenId, ...]
    amount: int
    late_change: int = 0
    shortfall_paid: int = 0
    shortfall_left: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """
    Value that the mint holds and the database lacks, and what became of it (in a dry run: would become).

    ``kept_out`` says why it was only recorded; None: it was imported.
    """

    found: Discrepancy | Finding
    kept_out: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """
    What a restore did, or with ``dry_run`` would do.

    ``entries`` are journal entries looked at, ``outputs`` the outputs that the mint was asked about, ``signed`` those it has
    signed and whose signatures verify, ``refused`` those whose signatures do not. ``foreign`` counts entries of another seed. ``imported`` counts
    documents' worth of discoveries, ``imported_amounts`` is by unit; ``late_change`` is the part, by unit, that had been booked
    as missing. ``errors`` are sentences about what could not be asked.
    """

    dry_run: bool
    entries: int
    outputs: int
    signed: int
    refused: int
    foreign: int
    discoveries: tuple[Discovery, ...]
    imported: int
    imported_amounts: dict[str, int]
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
