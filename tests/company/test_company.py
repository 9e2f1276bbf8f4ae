"""A selection of the table of company (``python -m tests.company`` runs all of it), and that the table is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melt.model import MeltState
from tests.company.deeds import DEEDS
from tests.company.rows import POINTS, all_rows, few_rows
from tests.company.run import run

if TYPE_CHECKING:
    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore
    from tests.support.mint import MintProcess


def test_a_payment_ends_whatever_others_do_to_its_documents(
    mint: MintProcess, store_process: EmbeddedStore, db: Database[dict[str, Any]]
) -> None:
    """Ended right, or with a person's decision where nobody can know; the value counted at the mint."""
    ended = run(few_rows(), mint=mint, uri=store_process.uri, db=db)
    assert {one.row.name: one.problems for one in ended if one.problems} == {}
    assert {one.state for one in ended} == {"SETTLED", "RELEASED", "refused"}
    assert {one.decided for one in ended} == {None, "inputs_gone"}


def test_the_table_has_every_state_and_every_deed() -> None:
    """A new state of the journal, or another deed, is not left out by chance."""
    through = {"melting": MeltState.MELTING, "pending": MeltState.PENDING, "held": MeltState.HELD}
    through |= {"reserved": MeltState.RESERVED, "swapping": MeltState.SWAPPING, "ready": MeltState.READY}
    through |= {"fencing": MeltState.FENCING}
    assert set(through) <= set(POINTS)
    assert {*through.values(), MeltState.SETTLED, MeltState.RELEASED} == set(MeltState)
    rows = all_rows()
    assert len(rows) > 1000
    assert len({row.name for row in rows}) == len(rows)
    for chosen in (rows, few_rows()):
        assert {row.deed for row in chosen} == set(DEEDS)
        assert {(row.point, row.story.name) for row in chosen} == {
            (point, story.name) for point, stories in POINTS.items() for story in stories
        }
