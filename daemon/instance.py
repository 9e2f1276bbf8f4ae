"""
What makes this process itself: its data folder, its id, its seed (DESIGN sections 3 and 4).

The id is stable over restarts, so that a daemon that comes back takes up its own open melts at once; a lock on the data
folder keeps a second process from having the same id. The seed is the root of every output that meltd makes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from melt.ecash import Seed
from melt.errors import ConfigError

if TYPE_CHECKING:
    from daemon.settings import Settings

_log = structlog.get_logger("meltd.instance")


@dataclass(slots=True)
class DataFolder:
    """The data folder, locked for this process until :meth:`close`."""

    path: Path
    _lock: int = field(default=-1, repr=False)

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """
        Make it (0700) where missing, and lock it.

        Raises ConfigError where it can't be used, belongs to somebody else, or another meltd runs on it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_mode & 0o077:
                path.chmod(0o700)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"data_dir {path} can't be used: {error.strerror}; set MELTD_DATA_DIR") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                f"another meltd runs on data_dir {path}; give each instance a folder of its own (MELTD_DATA_DIR)"
            ) from error
        return cls(path, lock)

    def instance_id(self, file: Path) -> str:
        """The id of this instance, made at the first start."""
        try:
            known = file.read_text().strip()
        except FileNotFoundError:
            known = ""
        if known:
            return known
        made = secrets.token_hex(8)
        write_private(file, made + "\n")
        return made

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, and on disk when this returns."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_seed(settings: Settings) -> Seed:
    """
    The operator's seed: from the settings, else from the data folder, else made there once.

    Raises ConfigError for words that are no BIP-39 mnemonic and for a file that others can read.
    """
    if settings.seed is not None:
        return _seed(settings.seed.get_secret_value(), "the configured seed (MELTD_SEED, MELTD_SEED_FILE)")
    file = settings.seed_path
    try:
        words = file.read_text()
    except FileNotFoundError:
        words = Seed.generate_mnemonic()
        write_private(file, words + "\n")
        _log.warning(
            "a new seed was made: back this file up now, it restores change that is still at a mint", file=str(file)
        )
    else:
        if file.stat().st_mode & 0o077:
            raise ConfigError(f"{file} holds the seed and can be read by others: chmod 600 {file}")
    return _seed(words, str(file))


def _seed(words: str, where: str) -> Seed:
    try:
        return Seed.from_mnemonic(words)
    except ValueError as error:
        raise ConfigError(f"{where} is not a BIP-39 mnemonic (12 to 24 English words)") from error
