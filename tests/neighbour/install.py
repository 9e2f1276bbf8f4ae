"""
The neighbour's Node packages, installed once into a folder outside of the checkout: ``python -m tests.neighbour.install``.

The folder is named after what decides its content (lock file, Node's major version), the service's own files lie in one
named after theirs beside ``node_modules``; so another checkout, another branch or a second pytest worker shares it or has
its own, and never sees half of one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

SERVICE: Final = Path(__file__).with_name("service")
CACHE_ENV: Final = "MELTD_TEST_NEIGHBOUR_CACHE"
"""The folder of the installed packages, by default one in the user's cache folder."""
INSTALL_S: Final = 300.0
_PACKAGE_FILES: Final = ("package.json", "package-lock.json")


class NotInstalled(Exception):
    """The packages could not be installed; carries the end of what npm said."""


def missing_program() -> str | None:
    """The first program that the neighbour needs and that isn't here, by name."""
    return next((program for program in ("node", "npm") if shutil.which(program) is None), None)


def service_folder() -> Path:
    """The service, ready to be started there. Raises NotInstalled, and FileNotFoundError without node or npm."""
    packages = _packages_folder()
    files = sorted(SERVICE.glob("*.mjs"))
    folder = packages / f"service-{_digest(*files)}"
    with _only_one(packages):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=packages, prefix="service-new-") as fresh:
                whole = Path(fresh) / "whole"
                whole.mkdir()
                for file in (*files, SERVICE / "package.json"):
                    shutil.copy(file, whole)
                whole.rename(folder)
    return folder


def _packages_folder() -> Path:
    """The folder with ``node_modules``; installs them where they are missing."""
    folder = _cache_folder() / _digest(*(SERVICE / name for name in _PACKAGE_FILES), words=(_node_major(),))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(folder):
        if not (folder / "node_modules").exists():
            with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as fresh:
                _npm_ci(Path(fresh))
                (Path(fresh) / "node_modules").rename(folder / "node_modules")
    return folder


def _npm_ci(folder: Path) -> None:
    """Exactly what the lock says, and none of the packages' own scripts."""
    for name in _PACKAGE_FILES:
        shutil.copy(SERVICE / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(  # the user's own settings of npm say where packages come from
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode != 0:
        raise NotInstalled(f"npm ci ended with {done.returncode}: {done.stderr[-1500:]}")


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_ENV)
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meltd-neighbour"
    )


@cache
def _node_major() -> str:
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return said.strip().split(".")[0]


def _digest(*files: Path, words: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One process at a time, workers of the same pytest run among them."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    absent = missing_program()
    if absent is not None:
        sys.exit(f"{absent} is not installed")
    print(service_folder())
