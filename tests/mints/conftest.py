"""A mint that plays, and the engine on it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.parts import parts
from tests.support.played_mint import PlayedMint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.support.parts import Parts


@pytest.fixture
def playing(store_process, mongo_client, database_name, tmp_path) -> Callable[..., AbstractAsyncContextManager[Parts]]:
    """``async with playing(PlayedMint(...)) as house``."""

    @contextlib.asynccontextmanager
    async def start(mint: PlayedMint | None = None, **settings: Any):
        async with (
            mint or PlayedMint() as up,
            parts(up, uri=store_process.uri, db=mongo_client[database_name], folder=tmp_path, settings=settings) as one,
        ):
            yield one

    return start
