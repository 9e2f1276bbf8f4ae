"""
The same tests on several real mints: ``python -m tests.generations [--only NAME] [test ...]``.

Makes an environment for each release of Nutshell and builds cdk-mintd (once each), runs the tests with mints of that
environment, prints a table, and fails where one failed. docs/testing.md says how, docs/mints-measured.md what differs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.generations import cdk
from tests.generations.environments import RECIPES, ROOT, EnvironmentNotMade, cache_folder, python_of
from tests.support.mint import CDK, KIND_ENV, PYTHON_ENV, VERSION_ENV

TESTS: Final = (
    "tests/contract/test_mint_answers.py",
    "tests/contract/test_mint_real.py",
    "tests/contract/test_mint_process.py",
    "tests/contract/test_mint_generations.py",
    "tests/contract/test_mint_subscriptions.py",
    "tests/e2e/test_melt_operation_flow.py",
    "tests/e2e/test_sweep_flow.py",
)
INSTEAD: Final = {"tests/contract/test_mint_generations.py": "tests/contract/test_cdk_mint.py"}
"""What of those is about the numbers of Nutshell, and what is about cdk-mintd's."""
CDK_TOO: Final = ("tests/e2e/test_drift_types.py",)
"""What those of Nutshell meet in every run of pytest."""
RUN_S: Final = 1800.0
"""How long the tests of one generation may take, in seconds."""
END_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one generation. ``why`` is empty where everything passed."""

    version: str
    passed: int = 0
    failed: int = 0
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0
    why: str = ""

    @property
    def good(self) -> bool:
        """Something was tested, and nothing failed."""
        return not self.why and self.passed > 0 and not self.failed


def environment_of(version: str) -> dict[str, str]:
    """What makes the tests' mints those of that release, which is made if it is not there. Raises EnvironmentNotMade."""
    if version == CDK:
        return {KIND_ENV: CDK, cdk.BINARY_ENV: str(cdk.build(_say)), VERSION_ENV: cdk.VERSION}
    return {PYTHON_ENV: str(python_of(RECIPES[version], cache_folder(), _say)), VERSION_ENV: version}


def _say(line: str) -> None:
    print(line, flush=True)


def run(version: str, environment: Mapping[str, str], tests: Sequence[str], folder: Path) -> Outcome:
    """The tests with that in their environment; pytest's own output goes where ours goes."""
    report = folder / f"{version}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    env = {**os.environ, **environment}
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL) as pytest:
        try:
            code = pytest.wait(RUN_S)
        except subprocess.TimeoutExpired:
            _end(pytest)
            return Outcome(version=version, seconds=RUN_S, why=f"not done within {RUN_S:.0f} s")
        except (KeyboardInterrupt, SystemExit):
            _end(pytest)
            raise
    seconds = time.monotonic() - began
    if not report.exists():
        return Outcome(version=version, seconds=seconds, why=f"pytest ended with {code} and without a report")
    outcome = read(report, version, seconds)
    # An error beside the tests, a warning at the end: pytest knows more than its report.
    if code != 0 and outcome.good:
        return Outcome(version=version, passed=outcome.passed, seconds=seconds, why=f"pytest ended with {code}")
    return outcome


def read(report: Path, version: str, seconds: float) -> Outcome:
    """What pytest's report says."""
    passed, failed, skipped = 0, 0, []
    for case in ET.parse(report).getroot().iter("testcase"):  # pytest has just written it
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skip is not None:
            skipped.append(f"{case.get('name')}: {skip.get('message')}")
        else:
            passed += 1
    return Outcome(version=version, passed=passed, failed=failed, skipped=tuple(skipped), seconds=seconds)


def _end(pytest: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would, so that it ends what it has started."""
    pytest.send_signal(signal.SIGINT)
    try:
        pytest.wait(END_S)
    except subprocess.TimeoutExpired:
        pytest.kill()


def show(outcomes: Sequence[Outcome]) -> None:
    """The table."""
    table = Table("mint", "passed", "failed", "skipped", "seconds", "", title="The same tests on each generation")
    for one in outcomes:
        word = "ok" if one.good else one.why or ("failed" if one.failed else "nothing was tested")
        name = cdk.NAME if one.version == CDK else f"Nutshell {one.version}"
        row = (name, str(one.passed), str(one.failed), str(len(one.skipped)), f"{one.seconds:.0f}")
        table.add_row(*row, word)
    console = Console()
    console.print(table)
    for one in outcomes:
        for line in one.skipped:
            console.print(f"skipped on {one.version}: {line}", markup=False, highlight=False, soft_wrap=True)


def main() -> int:
    """0 only where every generation asked for passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.generations", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*RECIPES, CDK], help="this one; may be repeated")
    parser.add_argument("--make", action="store_true", help="make the environments and run nothing")
    parser.add_argument("tests", nargs="*", help="instead of the usual ones")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that pytest is ended, not left behind
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="meltd-generations-") as folder:
        for version in options.only or [*RECIPES, CDK]:
            usual = [*(INSTEAD.get(test, test) for test in TESTS), *CDK_TOO] if version == CDK else list(TESTS)
            tests = options.tests or usual
            try:
                environment = environment_of(version)
            except EnvironmentNotMade as error:
                print(error, file=sys.stderr)
                outcomes.append(Outcome(version=version, why="no environment"))
                continue
            if not options.make:
                _say(f"{version}: {' '.join(tests)}")
                outcomes.append(run(version, environment, tests, Path(folder)))
    if outcomes:
        show(outcomes)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
