"""The drift table in small: each kind of disagreement planted once at real mints, and judged as in the large one."""

from __future__ import annotations

from melt.model import DriftType
from tests.drift.ground import Ground
from tests.drift.run import run


def test_every_kind_of_drift_is_found_and_ends_as_its_rule_says_and_nothing_else_is_touched() -> None:
    ground = Ground.start(seed=7, cache="512M", settings={}, say=lambda _: None)
    try:
        result = run(ground, proofs=1200, users=12, each=1, patience_s=90)
    finally:
        ground.end()

    assert result.problems == []
    assert {row.type for row in result.rows} == {*(kind.value for kind in DriftType), "-"}
    assert sum(row.wrong for row in result.rows) == 0
    assert all(line["conserved"] for line in result.ledger)
