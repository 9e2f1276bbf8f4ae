"""
Indexes: meltd's own, and those it wants in the wallet's two collections.

The wallet's collections belong to a service that makes indexes of its own, by Mongoose's names, and that a server answers
with an error (85, 86) where the same keys stand under another name. So meltd goes round it:

- what serves already is used, whoever made it, and nothing is made beside it;
- keys that the wallet's own program may index are made exactly as it makes them, under the driver's default name, so
  that it meets its own index, whoever comes first;
- every other index has keys that nobody else has a reason for, and a name that begins with ``meltd_``;
- a unique index on proofs covers counted documents alone (:mod:`melt.model.counting`), so that the service may store a
  proof anew once its source is spent, and is made on a yes of its own.

Making an index while a transaction has uncommitted writes can stall an embedded store, and one built under running
transactions can miss documents: there they are made at start alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pymongo
import structlog
from pymongo.errors import OperationFailure

from melt.errors import Code, ConfigError, StoreError
from melt.model import COUNTED_TYPES, LIVE_STATUSES
from melt.model.indexes import IndexReport, IndexStanding, IndexState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.collection import Collection

    from melt.store.connect import Collections, Document

_log = structlog.get_logger("melt.store")

UNIQUE_COUNTED_INDEX: Final = "meltd_unique_counted_secret"
INDEX_BUILD_S_MAX: Final = 3600.0
"""For the unique index alone: an embedded store takes about 0.7 ms a proof."""
_DUPLICATE_KEY: Final = 11000
_CONFLICTS: Final = frozenset({85, 86})
"""IndexOptionsConflict, IndexKeySpecsConflict: somebody has one on these keys, or of this name."""
_CANNOT_CREATE: Final = 67
"""CannotCreateIndex: a unique index in a sharded collection, or a filter that this server does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index to have. One with the same keys (and, for a partial one, the same filter) counts as it."""

    name: str
    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    sparse: bool = False
    partial: Document | None = field(default=None)
    look_up: tuple[tuple[str, int], ...] = ()
    """The keys that its look-ups name, where these are fewer than its own."""
    as_mongoose: bool = False
    """The wallet's own program may make it, too; then every option has to be the same, ``background`` as well."""
    sparse_serves: bool = False
    """Every look-up by it names a value, so that one over the documents that have it does as well."""
    purpose: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its keys."""
        return tuple(name for name, _ in self.keys)


def ascending(*names: str) -> tuple[tuple[str, int], ...]:
    """Keys of an index, all ascending."""
    return tuple((name, 1) for name in names)


COUNTED_FILTER: Final[Document] = {
    "status": {"$in": sorted(status.value for status in LIVE_STATUSES)},
    "transaction_type": {"$in": [word.value for word in COUNTED_TYPES]},
    # Without this two pending documents that have no proofs yet would collide.
    "proofs.secret": {"$exists": True},
}
UNIQUE_COUNTED: Final = Index(
    name=UNIQUE_COUNTED_INDEX,
    keys=ascending("proofs.secret"),
    unique=True,
    partial=COUNTED_FILTER,
    purpose="refuses to store a proof in a second counted document",
)
SECRETS: Final = Index(
    # As the wallet's own program makes it where it does.
    name="proofs.secret_1",
    keys=ascending("proofs.secret"),
    as_mongoose=True,
    sparse_serves=True,
    purpose="who holds a proof: duplicates, and what may be stored or taken back",
)
TRANSACTION_IDS: Final = Index(
    name="transaction_id_1",
    keys=ascending("transaction_id"),
    unique=True,
    as_mongoose=True,
    sparse_serves=True,
    purpose="free names for new documents",
)
_PLAIN_TRANSACTION_IDS: Final = Index(
    # Not on transaction_id alone: the wallet's own, unique one must find these keys free.
    name="meltd_transaction_id",
    keys=ascending("transaction_id", "_id"),
    look_up=ascending("transaction_id"),
    sparse_serves=True,
    purpose=TRANSACTION_IDS.purpose,
)
WALLET_OWNERS: Final = Index(
    # Plain, and not on npub alone: the wallet's own, which is unique with the mint's URL, serves where it stands.
    name="meltd_npub",
    keys=ascending("npub", "_id"),
    look_up=ascending("npub"),
    purpose="a user's wallets and their units",
)
_TOKENS: Final = (
    Index(
        name="meltd_npub_status_mint",
        keys=ascending("npub", "status", "mint_url"),
        purpose="a user's balance and what can be spent",
    ),
    Index(name="meltd_status_id", keys=ascending("status", "_id"), purpose="tours over what counts, in order"),
    Index(
        name="meltd_status_amount",
        keys=ascending("status", "total_amount"),
        purpose="the largest documents, looked at most often",
    ),
    Index(
        name="meltd_reservation",
        keys=ascending("reservation.melt_id"),
        sparse=True,
        purpose="documents that a payment has reserved",
    ),
)
_FORMER: Final[Mapping[str, tuple[str, ...]]] = {
    "meltd_unique_proofs_secret": ("proofs.secret",),
    "meltd_proofs_secret": ("proofs.secret",),
    "meltd_transaction_id": ("transaction_id",),
    "meltd_npub": ("npub",),
}
"""Indexes of 0.1 by name and keys: over all documents, or on keys that the wallet's own program must find free."""


# --- meltd's own collections ---


def ensure_own(collection: Collection[Document], indexes: Sequence[Index]) -> None:
    """
    Make what is missing in a collection of meltd's own.

    Raises :class:`melt.errors.ConfigError` where an index that has to be unique turns out not to be: two reservations of
    one proof, or two payments of one invoice, would both go through.
    """
    infos = listed(collection)
    for index in indexes:
        if _find(infos, index) is None:
            _try_to_create(collection, index)
            infos = listed(collection)
        found = _find(infos, index)
        if index.unique and not (found is not None and found.get("unique")):
            msg = (
                f"the index on {', '.join(index.fields)} of {collection.name} is not unique, so that two payments at once "
                "could use one proof or pay one invoice: drop it, remove duplicates, and start again"
            )
            raise ConfigError(msg)


def _try_to_create(collection: Collection[Document], index: Index) -> None:
    """For a unique index the listing tells afterwards what became of it; a plain one that is refused is only slow."""
    code: int | None = None
    try:
        _create(collection, index)
    except OperationFailure as error:
        code = error.code
        if code not in {*_CONFLICTS, _CANNOT_CREATE, _DUPLICATE_KEY}:
            raise
    if code is not None:
        _log.warning("an index was not made", collection=collection.name, index=index.name, server_code=code)


# --- the wallet's collections ---


class WalletIndexes:
    """
    The indexes in the wallet's two collections: looked at, made where that is allowed, and told.

    ``embedded``: the store makes indexes at start alone. Used by several threads, though by one at a time for writing:
    at start, and then by the one loop that looks after them.
    """

    def __init__(self, collections: Collections) -> None:
        self._c = collections
        self.embedded = False
        self.report = IndexReport()
        self._refused: dict[str, str] = {}

    def look(self, *, make: bool, unique: bool, starting: bool, known_duplicates: int) -> IndexReport:
        """
        See how they stand, and with ``make`` make what is missing.

        ``starting``: those of 0.1 that got in the way are dropped first. ``unique`` makes the unique one, too: at start only,
        and on a person's yes. A server that refuses an index is no error: it is told in the report.
        """
        before = {one.name for one in self.report.standings if one.state is IndexState.STANDS}
        dropped = self._drop_former() if make and starting else ()
        made: list[str] = []
        standings: list[IndexStanding] = []
        for collection, index, fallback in self._wanted():
            standings.append(self._see(collection, index, fallback, make=make, made=made))
        standings.append(self._see_unique(make=make and unique, made=made))
        present = {one.name for one in standings if one.state is IndexState.STANDS} - set(made)
        self.report = IndexReport(
            standings=tuple(standings),
            made=tuple(made),
            lost=tuple(sorted(before - present)),
            dropped=dropped,
            unique_proofs=known_duplicates == 0 and self._unique_is_listed(),
        )
        self._tell(self.report)
        return self.report

    def _wanted(self) -> Sequence[tuple[Collection[Document], Index, Index | None]]:
        tokens, wallets = self._c.tokens, self._c.wallets
        return (
            *((tokens, index, None) for index in _TOKENS),
            (tokens, SECRETS, None),
            (tokens, TRANSACTION_IDS, _PLAIN_TRANSACTION_IDS),
            (wallets, WALLET_OWNERS, None),
        )

    def _see(
        self, collection: Collection[Document], index: Index, fallback: Index | None, *, make: bool, made: list[str]
    ) -> IndexStanding:
        serving = _serving(listed(collection), index)
        wanted = index
        if serving is None and make:
            wanted = self._choose(collection, index, fallback)
            if self._make(collection, wanted):
                made.append(wanted.name)
            elif fallback is not None and wanted is not fallback:
                wanted = fallback
                if self._make(collection, wanted):
                    made.append(wanted.name)
            serving = _serving(listed(collection), wanted)
        refusal = self._refused.get(wanted.name)
        if serving is not None:
            ours = serving["name"] in {index.name, wanted.name}
            return _standing(collection, wanted, serving["name"], IndexState.STANDS if ours else IndexState.SHARED)
        state = IndexState.MISSING if refusal is None else IndexState.REFUSED
        return _standing(collection, wanted, wanted.name, state, refusal)

    @staticmethod
    def _choose(collection: Collection[Document], index: Index, fallback: Index | None) -> Index:
        """A unique index of the wallet's own only where nothing lies there that was written without it."""
        if fallback is None or not index.unique or collection.estimated_document_count() == 0:
            return index
        return fallback

    def _see_unique(self, *, make: bool, made: list[str]) -> IndexStanding:
        tokens = self._c.tokens
        if make and not self._unique_is_listed():
            with pymongo.timeout(INDEX_BUILD_S_MAX):
                if self._make(tokens, UNIQUE_COUNTED):
                    made.append(UNIQUE_COUNTED.name)
        name = next((info["name"] for info in listed(tokens) if _keeps_secrets_apart(info)), UNIQUE_COUNTED.name)
        refusal = self._refused.get(UNIQUE_COUNTED.name)
        if self._unique_is_listed():
            state = IndexState.STANDS if name == UNIQUE_COUNTED.name else IndexState.SHARED
        else:
            state = IndexState.MISSING if refusal is None else IndexState.REFUSED
        return _standing(tokens, UNIQUE_COUNTED, name, state, refusal)

    def _unique_is_listed(self) -> bool:
        return any(_keeps_secrets_apart(info) for info in listed(self._c.tokens))

    def _make(self, collection: Collection[Document], index: Index) -> bool:
        """Whether it was made. A refusal is remembered for the report; none of them keeps meltd from starting."""
        code: int | None = None
        try:
            _create(collection, index)
        except OperationFailure as error:
            code = error.code
        # Told out here: the driver's error about duplicates quotes a secret (I10).
        if code is None:
            self._refused.pop(index.name, None)
            return True
        if code in _CONFLICTS:
            reason = f"somebody has an index on these keys or of this name already (code {code})"
        elif code == _DUPLICATE_KEY:
            reason = "duplicates forbid it"
        else:
            reason = f"the server refuses it (code {code})"
        self._refused[index.name] = reason
        _log.warning(
            "an index in the wallet's collection was not made; meltd goes on without it",
            collection=collection.name,
            index=index.name,
            reason=reason,
        )
        return False

    def _drop_former(self) -> tuple[str, ...]:
        dropped: list[str] = []
        for collection in (self._c.tokens, self._c.wallets):
            for info in listed(collection):
                if _FORMER.get(info["name"]) == tuple(info["key"]):
                    collection.drop_index(info["name"])
                    dropped.append(info["name"])
                    _log.warning(
                        "an index of an older meltd was dropped: it got in the way of the wallet's own program",
                        collection=collection.name,
                        index=info["name"],
                    )
        return tuple(dropped)

    @staticmethod
    def _tell(report: IndexReport) -> None:
        if report.made:
            _log.info("indexes were made in the wallet's collections", indexes=list(report.made))
        if report.lost:
            _log.warning(
                "indexes have disappeared from the wallet's collections",
                indexes=list(report.lost),
                made_again=sorted(set(report.lost) & set(report.made)),
            )
        for one in report.standings:
            if one.state is IndexState.SHARED:
                _log.debug("an index of the wallet's own is used", collection=one.collection, index=one.name)


def refuse_duplicates(tokens: Collection[Document]) -> None:
    """Raises :class:`melt.errors.StoreError` with how many proofs lie in more than one counted document."""
    pipeline: list[Document] = [
        {"$match": COUNTED_FILTER},
        {"$unwind": "$proofs"},
        {"$group": {"_id": "$proofs.secret", "times": {"$sum": 1}}},
        {"$match": {"times": {"$gt": 1}}},
        {"$count": "secrets"},
    ]
    secrets = sum(int(found["secrets"]) for found in tokens.aggregate(pipeline, allowDiskUse=True))
    if secrets:
        raise StoreError(
            Code.PROOF_STATE_INCONSISTENCY,
            f"the unique index can't be made: {secrets} proofs lie in more than one counted document",
            hint="set mongo.unique_proofs to auto, and run meltd reconcile --repair DUPLICATE_PROOF",
        )


def listed(collection: Collection[Document]) -> list[Document]:
    """The indexes of a collection; none where the collection is not there."""
    return [dict(info) for info in collection.list_indexes()]


def _create(collection: Collection[Document], index: Index) -> None:
    options: Document = {"name": index.name}
    if index.unique:
        options["unique"] = True
    if index.sparse:
        options["sparse"] = True
    if index.as_mongoose:
        options["background"] = True
    if index.partial is not None:
        options["partialFilterExpression"] = index.partial
    collection.create_index(list(index.keys), **options)


def _find(infos: Sequence[Document], index: Index) -> Document | None:
    """The index with exactly these keys and, for a partial one, this filter; a unique one before others."""
    found = [
        info
        for info in infos
        if list(info["key"].items()) == list(index.keys)
        and (index.partial is None or dict(info.get("partialFilterExpression", {})) == index.partial)
    ]
    return min(found, key=lambda info: not info.get("unique"), default=None)


def _serving(infos: Sequence[Document], index: Index) -> Document | None:
    """
    An index that serves the look-ups of ``index``: its keys, or more behind them, over all documents that have them.

    One of its own name first, so that what is told stays the same.
    """
    wanted = list(index.look_up or index.keys)
    found = [
        info
        for info in infos
        if list(info["key"].items())[: len(wanted)] == wanted
        and "partialFilterExpression" not in info
        and "collation" not in info
        and not info.get("hidden")
        and (index.sparse or index.sparse_serves or not info.get("sparse"))
    ]
    return min(found, key=lambda info: (info["name"] != index.name, len(info["key"])), default=None)


def _keeps_secrets_apart(info: Mapping[str, Any]) -> bool:
    """Whether a unique index covers the secrets of every counted document of a type that an index can name."""
    if list(info["key"]) != ["proofs.secret"] or not info.get("unique"):
        return False
    partial = dict(info.get("partialFilterExpression", {}))
    return partial in ({}, {"proofs.secret": {"$exists": True}}, COUNTED_FILTER)


def _standing(
    collection: Collection[Document], index: Index, name: str, state: IndexState, detail: str | None = None
) -> IndexStanding:
    return IndexStanding(
        collection=collection.name,
        name=name,
        keys=index.fields,
        purpose=index.purpose,
        state=state,
        unique=index.unique,
        on_a_yes=index.partial is not None,
        detail=detail,
    )
