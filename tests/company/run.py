"""Carrying the rows out, many at a time, in one event loop over one mint and one store."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from daemon.metrics import Metrics
from daemon.system import SystemClock, SystemEntropy
from melt.ecash import Seed
from melt.mint import HttpMint
from melt.store import MongoStore, Threads
from tests.company.bench import Bench, Ended, Ground
from tests.company.life import MAIN

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.company.rows import Row
    from tests.support.mint import MintProcess


def run(
    rows: Sequence[Row],
    *,
    mint: MintProcess,
    uri: str,
    db: Database[dict[str, Any]],
    jobs: int = 6,
    told: Callable[[Ended], None] = lambda _: None,
) -> list[Ended]:
    """Every row, in any order; what raised is a problem of its row."""
    store = MongoStore(uri, db.name, clock=SystemClock(), retry_writes=False)
    store.ensure_schema(unique_proofs="off")
    threads = Threads(4, queue_max=10_000)

    async def all_of_them() -> list[Ended]:
        metrics = Metrics(version="0")
        metrics.declare([MAIN])
        client = HttpMint(MAIN, mint.url, telemetry=metrics, clock=SystemClock(), entropy=SystemEntropy())
        seed = Seed(secrets.token_bytes(32))
        ground = Ground(mint=mint, store=store, db=db, threads=threads, seed=seed, client=client)
        try:
            return await _run(ground, rows, jobs, told)
        finally:
            await client.aclose()

    try:
        return asyncio.run(all_of_them())
    finally:
        store.close()


async def _run(ground: Ground, rows: Sequence[Row], jobs: int, told: Callable[[Ended], None]) -> list[Ended]:
    # A killed life leaves tasks that nobody asks for their error.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    room, ended = asyncio.Semaphore(jobs), list[Ended]()

    async def one(row: Row) -> None:
        async with room:
            began = monotonic()
            try:
                done = await Bench(ground=ground, row=row).perform()
            except Exception:  # noqa: BLE001 - a row's trouble is its own
                said = traceback.format_exc(limit=-6)
                done = Ended(
                    row=row, state="?", decided=None, requests=0, seconds=monotonic() - began, problems=(said,)
                )
            ended.append(done)
            told(done)

    await asyncio.gather(*(one(row) for row in rows))
    return ended


def own_folder() -> Path:
    """Where a run keeps its mint and its store."""
    return Path(tempfile.mkdtemp(prefix="meltd-company-"))
