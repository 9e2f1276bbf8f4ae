"""The spool: one private file per open CRITICAL event, whole or not at all, read back as it was written."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon.spool import Spool
from melt.model import EventType, MintAlias, RaisedEvent

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
EVENT = RaisedEvent(
    type=EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
    subject="melt:../../etc/passwd",
    mint=MintAlias("main"),
    detail="the mint has paid",
    opened_at=AT,
    requires_manual_intervention=False,
    evidence={"quote_id": "q", "counter": 7, "seed_id": None, "again": True},
    signatures=("00ad:64:02ab:e:s",),
)


async def test_an_event_reads_back_as_it_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    over = replace(EVENT, subject="b", stored=True, resolution="seen", resolved_at=AT, opened_at=AT.replace(hour=1))
    await spool.keep(EVENT)
    await spool.keep(over)

    assert await Spool(tmp_path / "spool").kept() == (over, EVENT)


async def test_the_folder_and_each_file_are_their_owners_alone(tmp_path: Path) -> None:
    await Spool(tmp_path / "spool").keep(EVENT)

    (file,) = (tmp_path / "spool").iterdir()
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.resolve().parent == (tmp_path / "spool").resolve(), "a subject names no path"


async def test_an_event_has_one_file_and_dropping_it_leaves_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    await spool.keep(EVENT)
    await spool.keep(replace(EVENT, stored=True))
    assert len(list((tmp_path / "spool").iterdir())) == 1

    await spool.drop(EVENT.type, EVENT.subject)
    await spool.drop(EVENT.type, EVENT.subject)

    assert await spool.kept() == ()
    assert not list((tmp_path / "spool").iterdir())


async def test_a_file_that_is_no_event_is_left_alone_and_hides_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    await spool.keep(EVENT)
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"type": "DRILL"}'), ("d", "\x00" * 300_000)):
        (tmp_path / "spool" / f"{name}.json").write_text(text)

    assert await spool.kept() == (EVENT,)
    assert len(list((tmp_path / "spool").iterdir())) == 5


async def test_a_spool_that_can_not_be_written_does_not_raise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    spool = Spool(tmp_path / "spool")

    await spool.keep(EVENT)
    await spool.drop(EVENT.type, EVENT.subject)

    assert await spool.kept() == ()


async def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.spool.FILES_MAX", 3)
    spool = Spool(tmp_path / "spool")
    for number in range(5):
        await spool.keep(replace(EVENT, subject=f"melt:{number}"))
    await spool.keep(replace(EVENT, subject="melt:0", stored=True))

    kept = await spool.kept()
    assert sorted(event.subject for event in kept) == ["melt:0", "melt:1", "melt:2"]
    assert [event.stored for event in kept if event.subject == "melt:0"] == [True]
