"""The search for duplicates: two passes over the secrets of all documents, page by page (ADR 13)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from melt.duplicates import Holders, Suspects, slices_for, table_bits
from melt.model import TokenStatus, TransactionType, is_counted, is_history, is_live

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model import TokenId
    from melt.model.repair import DocumentSecrets
    from melt.ports import RepairStore, StoreThreads

PAGE_DOCUMENTS: Final = 1000
PROOFS_PER_DOCUMENT: Final = 8
"""Assumed for the size of the table; a table that gets full is made anew."""
MELTED_MAX: Final = 10_000
GROUPS_MAX: Final = 500_000
SLICES_MAX: Final = 1024

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told the phase, what is done and of how much (None: unknown)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a document is, as far as it matters who counts its proofs; "" where it can't be read."""

    status: str
    transaction_type: str
    npub: str = ""
    created_at: datetime | None = None
    spent_at: datetime | None = None


@dataclass(slots=True)
class Found:
    """
    What the search found. ``groups`` are the documents of each secret, by its digest, that stands in several.

    ``kinds`` are these documents' statuses and types, ``values`` the secrets' amounts. ``complete`` is false where there
    was more than is remembered at a time.
    """

    documents: int = 0
    proofs: int = 0
    groups: dict[bytes, tuple[TokenId, ...]] = field(default_factory=dict)
    kinds: dict[TokenId, Kind] = field(default_factory=dict)
    values: dict[bytes, int] = field(default_factory=dict)
    melted: list[TokenId] = field(default_factory=list)
    melted_documents: int = 0
    complete: bool = True

    @property
    def counted_twice(self) -> int:
        """How many of the secrets are a double count."""
        return sum(counts_twice([self.kinds[token_id] for token_id in ids]) for ids in self.groups.values())


def _pass_over(_: DocumentSecrets) -> None:
    """Nobody wants to see the documents."""


async def find(
    store: RepairStore,
    threads: StoreThreads,
    progress: Progress,
    *,
    history: bool = False,
    see: Callable[[DocumentSecrets], None] = _pass_over,
) -> Found:
    """
    Every secret that counts more than once, and the ``melted`` documents that count. Raises StoreError.

    A copy in a ``spent`` or ``failed`` document is history and looked at only beside a ``melted`` one; with ``history``
    every secret that several documents hold is found, whatever they are. ``see`` is shown each document once.
    """
    seen_all = False
    expected = await threads(store.documents_estimated) * PROOFS_PER_DOCUMENT
    parts = slices_for(expected)
    while True:
        found = Found()
        fits = True
        for part in range(parts):
            suspects = Suspects(table_bits(expected // parts), part=part, parts=parts)
            await _first_pass(
                store,
                threads,
                found,
                suspects,
                progress,
                part=part,
                parts=parts,
                history=history,
                see=_pass_over if seen_all else see,
            )
            seen_all = True
            if suspects.is_full and parts < SLICES_MAX:
                fits = False
                break
            await _second_pass(store, threads, found, suspects, progress, part=part, parts=parts, history=history)
        if fits:
            return found
        # Documents with more proofs than assumed. What was counted is what there is.
        expected = max(found.proofs, expected * 2)
        parts = min(SLICES_MAX, slices_for(expected))


async def _first_pass(
    store: RepairStore,
    threads: StoreThreads,
    found: Found,
    suspects: Suspects,
    progress: Progress,
    *,
    part: int,
    parts: int,
    history: bool,
    see: Callable[[DocumentSecrets], None],
) -> None:
    done = 0
    async with aclosing(_pages(store, threads)) as pages:
        async for page in pages:
            for item in page:
                see(item)
                if history or not item.is_history:
                    suspects.note(item.digests, suspect=item.melted_counts)
                if part == 0:
                    _count(found, item)
            done += len(page)
            progress(f"looking for suspects, {part + 1} of {parts}", done, found.documents if part else None)


async def _second_pass(
    store: RepairStore,
    threads: StoreThreads,
    found: Found,
    suspects: Suspects,
    progress: Progress,
    *,
    part: int,
    parts: int,
    history: bool,
) -> None:
    holders = Holders(suspects)
    kinds: dict[TokenId, Kind] = {}
    values: dict[bytes, int] = {}
    done = 0
    if suspects.slots:
        async with aclosing(_pages(store, threads)) as pages:
            async for page in pages:
                for item in page:
                    if holders.note(item.id, item.digests):
                        kinds[item.id] = Kind(
                            status=item.status,
                            transaction_type=item.transaction_type,
                            npub=item.npub,
                            created_at=item.created_at,
                            spent_at=item.spent_at,
                        )
                        values |= zip(item.digests, item.amounts, strict=True)
                done += len(page)
                progress(f"looking for duplicates, {part + 1} of {parts}", done, found.documents)
    groups = {
        digest: ids
        for digest, ids in holders.duplicates().items()
        if history or counts_twice([kinds[token_id] for token_id in ids])
    }
    room = GROUPS_MAX - len(found.groups)
    found.complete &= not suspects.overflowed and len(groups) <= room
    kept = dict(islice(groups.items(), room))
    found.groups |= kept
    found.values |= {digest: values[digest] for digest in kept}
    found.kinds |= {token_id: kinds[token_id] for ids in kept.values() for token_id in ids}


def counts_twice(kinds: Sequence[Kind]) -> bool:
    """
    Whether one proof in documents of these kinds is a double count: a counted one beside any that is not history, or a
    ``melted`` one that weighs on a balance, whoever else holds the proof.
    """
    if any(is_live(kind.status) and kind.transaction_type == TransactionType.MELTED for kind in kinds):
        return len(kinds) > 1
    present = [kind for kind in kinds if not is_history(kind.status)]
    return len(present) > 1 and any(is_counted(kind.status, kind.transaction_type) for kind in present)


def keeps_before_source(found: Found) -> int:
    """Proofs that were stored anew before their source was spent: a unique index would have refused that."""
    return sum(_was_early([found.kinds[token_id] for token_id in ids]) for ids in found.groups.values())


def _was_early(kinds: Sequence[Kind]) -> bool:
    sources = [kind for kind in kinds if kind.status == TokenStatus.SPENT and kind.spent_at is not None]
    return any(
        kept.transaction_type == TransactionType.CHANGE
        and kept.created_at is not None
        and source is not kept
        and source.created_at is not None
        and source.spent_at is not None
        and source.created_at <= kept.created_at < source.spent_at
        for source in sources
        for kept in kinds
    )


def _count(found: Found, item: DocumentSecrets) -> None:
    found.documents += 1
    found.proofs += item.proofs
    if item.melted_counts:
        found.melted_documents += 1
        if len(found.melted) < MELTED_MAX:
            found.melted.append(item.id)
        else:
            found.complete = False


async def _pages(store: RepairStore, threads: StoreThreads) -> AsyncGenerator[tuple[DocumentSecrets, ...], None]:
    tour = store.secret_tour()
    try:
        while page := await threads(partial(tour.next_page, PAGE_DOCUMENTS)):
            yield page
    finally:
        await threads(tour.close)
