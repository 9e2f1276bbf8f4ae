"""The part of the fault table that every change has to pass; ``python -m tests.faults`` is the whole of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.faults.cases import Row, Runner
from tests.faults.lab import Lab
from tests.faults.table import all_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = 6
CASES = {case.name: case for case in all_cases(kills=3) if case.ci}

# The first test waits for all the rows: they run at once, and each is judged by a test of its own.
pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, Row]]:
    """The selection, performed."""
    with Lab() as lab:
        runner = Runner(lab, tuple(CASES.values()))
        with ThreadPoolExecutor(JOBS) as pool:
            found = list(pool.map(runner.perform, [case for case in CASES.values() if not case.alone]))
        found += [runner.perform(case) for case in CASES.values() if case.alone]
        found += runner.close_shared()
        yield {row.name: row for row in found}


@pytest.mark.parametrize("name", list(CASES))
def test_a_fault_loses_nothing_and_pays_at_most_once(rows: dict[str, Row], name: str) -> None:
    assert rows[name].problems == ()
    assert rows[name].conserved


def test_no_secret_is_in_what_the_daemons_wrote(rows: dict[str, Row]) -> None:
    written = [row for name, row in rows.items() if name.startswith("secrets/")]
    assert written
    assert [row.problems for row in written if not row.ok] == []
