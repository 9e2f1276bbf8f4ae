"""
Plant each bug of the catalogue in a copy of the tree and see a test fail: ``python -m tests.mutants``.

Prints one line a mutant: killed, and by which test, or SURVIVED. Exit code 1 where one survived, 2 where a mutant no
longer applies. ``--only TEXT`` picks by name, ``--list`` shows them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT: Final = Path(__file__).resolve().parents[2]
SUITE_S_MAX: Final = 600
COPIED: Final = ("melt", "daemon", "tests", "grafana", "docs", "deploy")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    parser.add_argument("--list", action="store_true", help="show the catalogue")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.file:32} {mutant.name}")
        return 0
    bad = [mutant.name for mutant in chosen if not applies(mutant)]
    if bad:
        print("no longer in the code, or there more than once: " + "; ".join(bad), file=sys.stderr)
        return 2
    survived = 0
    for number, mutant in enumerate(chosen, 1):
        started = time.monotonic()
        killer = kill(mutant)
        survived += killer is None
        verdict = f"killed by {killer}" if killer else "SURVIVED"
        print(f"{number:2}/{len(chosen)} {time.monotonic() - started:5.0f} s  {mutant.name}: {verdict}", flush=True)
    print(f"{len(chosen) - survived} killed, {survived} survived")
    return 1 if survived else 0


def applies(mutant: Mutant) -> bool:
    """Whether the text to replace stands exactly once in its file."""
    text = (ROOT / mutant.file).read_text()
    return text.count(mutant.old) == 1 and (mutant.also is None or text.count(mutant.also[0]) == 1)


def kill(mutant: Mutant) -> str | None:
    """The test that fails with the bug planted, or None."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "meltd"
        tree.mkdir()
        for name in COPIED:
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, tree / name)
        file = tree / mutant.file
        text = file.read_text().replace(mutant.old, mutant.new)
        file.write_text(text if mutant.also is None else text.replace(*mutant.also))
        for suite in mutant.suites:
            failed = first_failure(tree, list(suite))
            if failed is not None:
                return failed
    return None


def first_failure(tree: Path, targets: list[str]) -> str | None:
    """Run one suite until the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *targets]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            command, cwd=tree, env=env, capture_output=True, text=True, timeout=SUITE_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{targets[0]} (did not end in {SUITE_S_MAX} s)"
    if run.returncode in {0, 5}:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return found.group(1) if found else f"{targets[0]} (exit code {run.returncode})"


if __name__ == "__main__":
    sys.exit(main())
