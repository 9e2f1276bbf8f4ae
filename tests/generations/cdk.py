"""
cdk-mintd, built once per machine and kept beside the environments of Nutshell's generations.

It is built from the registry's sources, with the fake wallet that scripts its Lightning and without real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.generations.environments import READY, EnvironmentNotMade, alone, cache_folder, logged, own

VERSION: Final = "0.18.3"
NAME: Final = f"cdk-mintd {VERSION}"
NOT_BUILT: Final = f"{NAME} is not built (python -m tests.generations --only cdk --make)"
FEATURES: Final = "fakewallet,sqlite"
BINARY_ENV: Final = "MELTD_TEST_CDK_MINTD"
"""A cdk-mintd to test with instead of the one that is built here; it must be of the same version."""
BUILT_S: Final = 3000.0
"""How long building it may take, in seconds: seven minutes on two idle cores."""
NEEDED: Final = {"cargo": "cargo (rustup, or Debian's cargo)", "protoc": "protoc (Debian: protobuf-compiler)"}


def folder() -> Path:
    """Where it is kept; another version or other features are kept elsewhere."""
    key = hashlib.sha256(f"{VERSION} {FEATURES}".encode()).hexdigest()[:12]
    return cache_folder() / f"cdk-mintd-{VERSION}-{key}"


def built() -> Path | None:
    """The program where it is there already, else None. Builds nothing and starts nothing."""
    if given := os.environ.get(BINARY_ENV):
        return Path(given)
    return folder() / "bin" / "cdk-mintd" if (folder() / READY).exists() else None


def build(say: Callable[[str], None]) -> Path:
    """The program, which is built if it is not there. Raises EnvironmentNotMade. Runs at once wait for each other."""
    if given := os.environ.get(BINARY_ENV):
        return Path(given)
    cache, place = cache_folder(), folder()
    own(cache)
    with alone(cache / "cdk-mintd.lock", say, within_s=BUILT_S):
        found = built()
        if found is not None:
            say(f"{NAME}: is there")
            return found
        if missing := [NEEDED[program] for program in NEEDED if shutil.which(program) is None]:
            raise EnvironmentNotMade(f"{NAME} can't be built: {' and '.join(missing)} not installed")
        began = time.monotonic()
        say(f"{NAME}: building it in {place}, which takes some minutes")
        _build(place, deadline=began + BUILT_S)
        say(f"{NAME}: built in {time.monotonic() - began:.0f} s")
    return place / "bin" / "cdk-mintd"


def _build(place: Path, *, deadline: float) -> None:
    """What an interrupted build left in ``target`` is gone on with."""
    log, target = place.parent / "cdk-mintd.log", place.parent / f"{place.name}-target"
    log.write_bytes(b"")
    command = ["cargo", "install", "cdk-mintd", "--version", VERSION, "--locked"]
    command += ["--no-default-features", "--features", FEATURES, "--root", str(place), "--target-dir", str(target)]
    # Whoever works on this machine at the same time comes first.
    logged([*(["nice", "-n", "15"] if shutil.which("nice") else []), *command], log, deadline)
    found = logged([str(place / "bin" / "cdk-mintd"), "--version"], log, deadline)
    if VERSION not in found:
        raise EnvironmentNotMade(f"asked for {NAME}, got {found}")
    (place / READY).write_text(json.dumps({"version": found}), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
