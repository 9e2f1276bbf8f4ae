"""What indexes meltd wants in the wallet's two collections, and how they stand (pure data)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class IndexState(StrEnum):
    """How a wanted index stands."""

    STANDS = "stands"
    """Listed, under the name that it was made with."""
    SHARED = "shared"
    """Another one with the same keys, or one that begins with them, serves: it is used as it is."""
    MISSING = "missing"
    REFUSED = "refused"
    """The server, or what lies in the collection, does not let it be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStanding:
    """
    One index in one of the wallet's collections. ``name`` is the one that serves, ``purpose`` says what for.

    ``on_a_yes``: made only where a person has asked for it by itself.
    """

    collection: str
    name: str
    keys: tuple[str, ...]
    purpose: str
    state: IndexState
    unique: bool = False
    on_a_yes: bool = False
    detail: str | None = None

    @property
    def serves(self) -> bool:
        """Whether it is there, by whoever's hand."""
        return self.state in {IndexState.STANDS, IndexState.SHARED}

    @property
    def unique_stands(self) -> bool:
        """Whether it is the unique one on counted secrets, and there."""
        return self.on_a_yes and self.serves


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """
    A look at all of them. ``made`` and ``lost`` are names: what this look has made, and what was there at the last one.

    ``unique_proofs``: the unique index on counted secrets is listed and no duplicate is known that it should have refused.
    """

    standings: tuple[IndexStanding, ...] = ()
    made: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unique_proofs: bool = False

    def lacks(self, *keys: str) -> bool:
        """Whether the index with these keys has not been made. One that a server refuses is not waited for."""
        return any(one.keys == keys and one.state is IndexState.MISSING for one in self.standings)

    def serves(self, *keys: str) -> bool:
        """Whether an index serves look-ups by these keys."""
        return any(
            one.keys[: len(keys)] == keys and one.serves and not one.on_a_yes  # a partial one serves no look-up
            for one in self.standings
        )
