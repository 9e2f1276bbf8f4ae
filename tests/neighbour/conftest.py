"""The neighbour and what it stands on. Everything here skips by name where Node is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.neighbour.process import Neighbour, why_skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.embedded import EmbeddedStore
    from tests.support.mint import MintProcess


@pytest.fixture(scope="session")
def node() -> None:
    """Node and npm are here."""
    reason = why_skipped()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def start_neighbour(
    node: None, store_process: EmbeddedStore, mint: MintProcess, database_name: str, tmp_path: Path
) -> Iterator[Callable[..., Neighbour]]:
    """Starts copies of the service over this test's database; options as :class:`Neighbour`'s, ``init`` as its start's."""
    started: list[Neighbour] = []

    def start(*, init: bool = True, **options: Any) -> Neighbour:
        options = {"mongo_uri": store_process.uri, "database": database_name, "mint_url": mint.url, **options}
        neighbour = Neighbour(log=tmp_path / f"neighbour-{len(started)}.log", **options)
        started.append(neighbour)
        neighbour.start(init=init)
        return neighbour

    yield start
    for neighbour in started:
        neighbour.stop()


@pytest.fixture
def neighbour(start_neighbour: Callable[..., Neighbour]) -> Neighbour:
    """One copy of the service over this test's database."""
    return start_neighbour()
