"""The drift table in small: each kind of disagreement planted once at real mints, and judged as in the large one."""

from __future__ import annotations

from melt.model import DriftType
from tests.drift.ground import Ground
from tests.drift.run import left_alone, run

NOT_PLANTED = {
    DriftType.RESERVED_TOKEN_CHANGED: "takes a melt in flight: tests/e2e/test_company_flow.py",
    DriftType.PROOF_REFUSED: "takes a melt that the mint refuses: tests/e2e/test_sweep_flow.py, tests/mints/test_refused_proofs.py",
    DriftType.PAYMENT_UNPROVED: "takes an answer with a false proof: tests/mints/test_answers_to_a_melt.py",
    DriftType.UNIT_MISMATCH: "takes a mint of two units: tests/mints/test_odd_documents.py",
}
"""What a document written beside the daemon can't show, and where it is shown."""


def test_every_kind_of_drift_is_found_and_ends_as_its_rule_says_and_nothing_else_is_touched() -> None:
    ground = Ground.start(seed=7, cache="512M", settings={}, say=lambda _: None)
    try:
        result = run(ground, proofs=1200, users=12, each=1, patience_s=90)
    finally:
        ground.end()

    assert result.problems == []
    assert {row.type for row in result.rows} == {*(kind.value for kind in DriftType if kind not in NOT_PLANTED), "-"}
    assert sum(row.wrong for row in result.rows) == 0
    assert all(line["conserved"] for line in result.ledger)


def test_at_the_defaults_all_of_it_is_found_and_nothing_is_written() -> None:
    """Beside a wallet service a rule waits for a day; until then the two collections stay as they are."""
    settings = {"sweep.correct_after_s": 86_400, "sweep.alert_after_s": 3600}
    ground = Ground.start(seed=8, cache="512M", settings=settings, say=lambda _: None)
    try:
        result = left_alone(ground, proofs=600, users=6, each=1, patience_s=90)
    finally:
        ground.end()
    assert result.problems == []
