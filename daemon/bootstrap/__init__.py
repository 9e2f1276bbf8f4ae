"""
The composition root: the only package that names concrete adapters (DESIGN section 2).

Read it from :func:`run` down: :class:`~daemon.bootstrap.daemon.Daemon` is what a process is made of and in which order it
starts; ``ground``, ``paying`` and ``looking`` make its parts, and ``loops`` and ``gauges`` are what turns.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import TYPE_CHECKING

import structlog

from daemon import logs
from daemon.bootstrap.daemon import Daemon
from daemon.embedded import EmbeddedStore
from daemon.instance import DataFolder, load_seed
from melt import failpoints

if TYPE_CHECKING:
    from daemon.settings import Settings
    from melt.ecash import Seed

_log = structlog.get_logger("meltd")


def run(settings: Settings) -> int:
    """
    Run the daemon until it is asked to stop; the exit code.

    Raises ConfigError for what can't work as it is configured (exit 78).
    """
    logs.setup(settings.log)
    version = importlib.metadata.version("meltd")
    _log.info("meltd starts", version=version, settings=settings.masked_dump())
    if not settings.mints:
        _log.warning("no mint is configured: nothing can be checked or paid", next_step="add [mints.NAME] url = ...")
    if settings.debug.failpoint is not None:
        _log.critical("a failpoint is armed: this process will kill itself", failpoint=settings.debug.failpoint)
        failpoints.arm(settings.debug.failpoint)
    folder = DataFolder.open(settings.data_dir)
    try:
        seed = load_seed(settings)
        if not settings.embedded:
            if settings.mongo.uri is None:
                raise AssertionError("require_runnable was not called")
            return asyncio.run(_main(settings, folder, seed, settings.mongo.uri.get_secret_value(), version))
        with EmbeddedStore(settings.data_dir / "store") as embedded:
            return asyncio.run(_main(settings, folder, seed, embedded.uri, version))
    finally:
        folder.close()


async def _main(settings: Settings, folder: DataFolder, seed: Seed, uri: str, version: str) -> int:
    daemon = Daemon(settings, folder, seed, uri, version)
    return await daemon.supervisor.run()


__all__ = ["Daemon", "run"]
