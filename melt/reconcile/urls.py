"""Which stored ``mint_url`` belongs to which configured mint. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt.model import normalise_mint_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import MintAlias
    from melt.ports import Mint


@dataclass(frozen=True, slots=True, kw_only=True)
class MintUrls:
    """Which stored ``mint_url`` texts mean which configured mint (compared normalised), and which mean none."""

    by_alias: Mapping[MintAlias, tuple[str, ...]]
    unconfigured: tuple[str, ...]


def sort_urls(stored: Sequence[str], mints: Mapping[MintAlias, Mint]) -> MintUrls:
    """Sort stored URLs by configured mint. A URL that no mint is configured for is never contacted."""
    alias_of = {normalise_mint_url(mint.url): alias for alias, mint in mints.items()}
    by_alias: dict[MintAlias, list[str]] = {alias: [] for alias in mints}
    unconfigured: list[str] = []
    for url in stored:
        alias = alias_of.get(normalise_mint_url(url))
        if alias is None:
            unconfigured.append(url)
        else:
            by_alias[alias].append(url)
    return MintUrls(by_alias={a: tuple(u) for a, u in by_alias.items()}, unconfigured=tuple(unconfigured))
