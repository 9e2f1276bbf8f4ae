"""
The real parts that tests share: one store process and one mint process per session, a database per test.

Both start on first use, so that a test that needs neither pays for neither.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from tests.generations import cdk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.terminal import TerminalReporter
    from pymongo import MongoClient
    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore
    from melt.store import MongoStore
    from tests.support.cdk_mint import CdkMint
    from tests.support.generations import Generation
    from tests.support.mint import MintProcess


_left_out: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs cdk-mintd where it is not built: nobody needs it to work on meltd."""
    needing = [item for item in items if item.get_closest_marker("cdk") is not None]
    if needing and cdk.built() is None:
        items[:] = [item for item in items if item not in needing]
        config.hook.pytest_deselected(items=needing)
        _left_out.extend(item.nodeid for item in needing)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say so, in one line. The processes of xdist collect, and this one can't know how many."""
    if _left_out or (config.getoption("numprocesses", None) and cdk.built() is None):
        terminalreporter.line(f"left out: the tests on cdk-mintd, since {cdk.NOT_BUILT}")


@pytest.fixture(scope="session")
def store_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """The SecantusDB process of this test session, as ``meltd run --embedded`` starts it."""
    from daemon.embedded import EmbeddedStore

    with EmbeddedStore(tmp_path_factory.mktemp("store"), cache_size="512M") as process:
        yield process


@pytest.fixture(scope="session")
def mongo_client(store_process: EmbeddedStore) -> Iterator[MongoClient[dict[str, Any]]]:
    """A plain client of the tests' own, for arranging and for looking."""
    from pymongo import MongoClient

    with MongoClient(store_process.uri, tz_aware=True, serverSelectionTimeoutMS=10_000) as client:
        yield client


@pytest.fixture
def database_name() -> str:
    """A name that no other test has."""
    return f"test_{secrets.token_hex(8)}"


@pytest.fixture
def db(mongo_client: MongoClient[dict[str, Any]], database_name: str) -> Database[dict[str, Any]]:
    """This test's database, without any schema until a store is made. Not dropped: dropping may block others."""
    return mongo_client[database_name]


@pytest.fixture
def make_store(store_process: EmbeddedStore, database_name: str) -> Iterator[Callable[..., MongoStore]]:
    """
    Makes stores over this test's database, each with its own client, as several daemons would be.

    The schema is made with the first one; ``unique_proofs``, ``mode`` and the constructor's arguments may be given. Tests
    insert documents first and want them corrected: that is the setting ``correct``, unless they say otherwise.
    """
    from melt.model.mode import Mode
    from melt.store import MongoStore
    from tests.support.store import SystemClock

    made: list[MongoStore] = []

    def make(
        *,
        unique_proofs: str = "auto",
        schema: bool = True,
        uri: str | None = None,
        mode: str | None = "correct",
        **options: Any,
    ) -> MongoStore:
        options.setdefault("clock", SystemClock())
        options.setdefault("retry_writes", False)
        store = MongoStore(uri or store_process.uri, database_name, **options)
        made.append(store)
        if schema:
            store.ensure_schema(unique_proofs=unique_proofs, mode=None if mode is None else Mode(mode))
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., MongoStore]) -> MongoStore:
    """A store over this test's own, empty database; its schema is made."""
    return make_store()


@pytest.fixture(scope="session")
def mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MintProcess]:
    """The real mint of this test session. Tests that kill or script a mint start their own."""
    from tests.support.mint import MintProcess

    with MintProcess(tmp_path_factory.mktemp("mint")) as process:
        yield process


@pytest.fixture(scope="session")
def cdk_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CdkMint]:
    """The real cdk-mintd of this test session, for tests with the mark ``cdk``."""
    from tests.support.cdk_mint import CdkMint

    with CdkMint(tmp_path_factory.mktemp("cdk")) as process:
        yield process


@pytest.fixture(scope="session")
def generation(mint: MintProcess) -> Generation:
    """How the release of this session's mint differs from others, where it does."""
    from tests.support.generations import generation_at

    return generation_at(mint.port)
