"""
An environment of its own for each generation of the mint, made once and kept.

A generation is a version of cashu with pins for its whole tree, so that a run today and one next year meet the same mint.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE_ENV: Final = "MELTD_TEST_MINT_CACHE"
"""The folder that holds the environments; by default one in the temporary folder."""
MADE_S: Final = 600.0
"""How long making one environment may take, in seconds."""
READY: Final = "ready.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the environment of one generation is made: ``base`` with its pinned tree, then ``over`` without dependencies."""

    version: str
    base: str
    pins: Path
    over: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Another one for another recipe, other pins, or another Python."""
        parts = [sys.version, self.pins.read_text(encoding="utf-8"), self.base, *self.over]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


_PINS_0_20: Final = ROOT / "deploy" / "constraints.txt"

RECIPES: Final = {
    recipe.version: recipe
    for recipe in (
        Recipe(version="0.16.5", base="cashu==0.16.5", pins=Path(__file__).with_name("pins-0.16.5.txt")),
        Recipe(version="0.20.2", base="cashu==0.20.2", pins=_PINS_0_20),
        # It asks for a breez-sdk-spark that the registry no longer has, and runs over 0.20.2's tree with a later one.
        Recipe(
            version="0.21.0",
            base="cashu==0.20.2",
            pins=_PINS_0_20,
            over=("cashu==0.21.0", "breez-sdk-spark==0.18.0"),
        ),
    )
}


class EnvironmentNotMade(Exception):
    """It could not be made; says where the log is and how it ends."""


def cache_folder() -> Path:
    """Where the environments are kept."""
    given = os.environ.get(CACHE_ENV)
    return Path(given) if given else Path(tempfile.gettempdir()) / f"meltd-test-mints-{os.getuid()}"


def python_of(recipe: Recipe, cache: Path, say: Callable[[str], None]) -> Path:
    """
    The interpreter of the generation's environment, which is made if it is not there. Raises EnvironmentNotMade.

    Runs at once wait for each other; what a killed one left unfinished is made anew.
    """
    folder = cache / f"{recipe.version}-{recipe.key}"
    python = folder / "bin" / "python"
    own(cache)
    with alone(cache / f"{recipe.version}.lock", say, within_s=MADE_S):
        if (folder / READY).exists():
            say(f"{recipe.version}: environment is there")
            return python
        if folder.exists():
            shutil.rmtree(folder)
        began = time.monotonic()
        say(f"{recipe.version}: making its environment in {folder}")
        _make(recipe, folder, deadline=began + MADE_S)
        say(f"{recipe.version}: made in {time.monotonic() - began:.0f} s")
    return python


def own(cache: Path) -> None:
    """Make the folder, or see that it is ours. Raises EnvironmentNotMade."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        # Programs are started from there.
        raise EnvironmentNotMade(f"{cache} belongs to somebody else: name another folder in {CACHE_ENV}")


def _make(recipe: Recipe, folder: Path, *, deadline: float) -> None:
    log = folder.parent / f"{recipe.version}.log"
    log.write_bytes(b"")
    python = folder / "bin" / "python"
    pip = (str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check")
    logged([sys.executable, "-m", "venv", str(folder)], log, deadline)
    logged([*pip, "-c", str(recipe.pins), recipe.base], log, deadline)
    if recipe.over:
        logged([*pip, "--no-deps", *recipe.over], log, deadline)
    found = logged([str(python), "-c", "import importlib.metadata as m; print(m.version('cashu'))"], log, deadline)
    if found != recipe.version:
        raise EnvironmentNotMade(f"asked for cashu {recipe.version}, got {found}")
    (folder / READY).write_text(json.dumps({"version": found}), encoding="utf-8")


def logged(command: Sequence[str], log: Path, deadline: float, **more: str) -> str:
    """
    Run it, with ``more`` in its environment; its output is returned and goes to the log. Raises EnvironmentNotMade.

    ``deadline`` is a time of the monotonic clock.
    """
    # PYTHONPATH would let one environment see another's packages.
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}} | more
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(1.0, deadline - time.monotonic()),
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise EnvironmentNotMade(f"not in time: {' '.join(command)} ({log})") from late
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}")
    if done.returncode != 0:
        raise EnvironmentNotMade(f"{' '.join(command)} failed ({log}):\n{done.stdout[-1500:]}")
    return done.stdout.strip()


@contextmanager
def alone(lock: Path, say: Callable[[str], None], *, within_s: float) -> Iterator[None]:
    """Hold the lock, for which others are waited for so long. Raises EnvironmentNotMade."""
    deadline, told = time.monotonic() + within_s, False
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as busy:
                if time.monotonic() > deadline:
                    raise EnvironmentNotMade(f"another run has held {lock} for {within_s:.0f} s") from busy
                if not told:
                    say(f"waiting for another run that holds {lock}")
                    told = True
                time.sleep(0.2)
        yield
