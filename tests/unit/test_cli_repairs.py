"""``meltd reconcile --repair`` and ``meltd adopt`` on a terminal: shown first, asked, and done only on a yes."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from melt.errors import Code, Refusal
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted_repairs import KEEPING, LOSING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
APPLY = ("reconcile", "--repair", "DUPLICATE_PROOF", "--apply", "--reason", "checked")


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def on_terminal(socket: Path, *arguments: str, typed: bytes) -> tuple[int | None, str]:
    """Exit code and everything shown of a command whose standard streams are a terminal."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment |= {"MELTD_SOCKET": str(socket), "TERM": "xterm", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon",
        *arguments,
        env=environment,
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = await asyncio.to_thread(_drain, ours)
    code = await process.wait()
    os.close(ours)
    return code, shown


def _drain(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:
            return b"".join(parts).decode(errors="replace")
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


def asked(api: RunningApi) -> list[tuple[object, object]]:
    return [(call["dry_run"], call["plan_id"]) for name, call in api.repairs.calls if name == "repair"]


async def test_a_no_changes_nothing(api: RunningApi) -> None:
    code, shown = await on_terminal(api.path, *APPLY, typed=b"n\n")
    assert code == 1
    assert "Change 1 documents as shown?" in shown
    assert "nothing was changed" in shown
    assert LOSING[:8] in shown
    assert asked(api) == [(True, None)]


async def test_a_yes_carries_out_exactly_the_plan_that_was_shown(api: RunningApi) -> None:
    code, shown = await on_terminal(api.path, *APPLY, "--adopt", typed=b"y\n")
    assert code == 0, shown
    assert asked(api) == [(True, None), (False, api.repairs.plan.id)]
    assert [name for name, _ in api.repairs.calls][-2:] == ["adopt", "adoption"]
    assert "1 of 1" in shown


async def test_the_unique_index_has_a_yes_of_its_own(api: RunningApi) -> None:
    code, shown = await on_terminal(api.path, "adopt", "--unique-index", typed=b"n\n")
    assert code == 1
    assert "duplicate" in shown
    assert not api.repairs.calls
    code, shown = await on_terminal(api.path, "adopt", "--unique-index", typed=b"y\nfixed the writers\n")
    assert code == 0, shown
    assert api.repairs.calls[0][1]["reason"] == "fixed the writers"
    assert not api.modes.calls, "it switches nothing"


async def test_adopting_shows_the_survey_and_asks_for_a_yes_and_a_reason(api: RunningApi) -> None:
    code, shown = await on_terminal(api.path, "adopt", typed=b"n\n")
    assert code == 1
    for text in ("40 documents", "7 users", "mark_spent", "kept", "mind the gap", "meltd_status_id", "86 400"):
        assert text in shown
    assert [name for name, _ in api.modes.calls] == ["survey"]
    code, shown = await on_terminal(api.path, "adopt", typed=b"y\nlooked at it\n")
    assert code == 0, shown
    assert api.modes.calls[-1][0] == "correct"
    assert api.modes.calls[-1][1]["reason"] == "looked at it"
    assert not api.repairs.calls, "no unique index by this yes"


async def test_a_survey_alone_switches_nothing_and_the_way_back_is_one_command(api: RunningApi) -> None:
    code, _ = await on_terminal(api.path, "adopt", "--dry-run", "--json", typed=b"")
    assert code == 0
    assert [name for name, _ in api.modes.calls] == ["survey"]
    code, shown = await on_terminal(api.path, "mode", "observe", "--reason", "moving", "--end-open", typed=b"")
    assert code == 0, shown
    assert api.modes.calls[-1] == ("observe", api.modes.calls[-1][1])
    assert api.modes.calls[-1][1]["end_open"] is True
    code, shown = await on_terminal(api.path, "mode", "observe", typed=b"")
    assert code == 2, shown


async def test_a_refusal_ends_with_1_and_its_code(api: RunningApi) -> None:
    api.repairs.failure = Refusal(Code.PAUSED, "paused: moving", hint="meltd resume")
    code, shown = await on_terminal(api.path, "reconcile", "--repair", "all", typed=b"")
    assert code == 1
    assert "PAUSED: paused: moving" in shown


async def test_the_plan_shows_what_is_kept_where_and_what_is_a_person_s(api: RunningApi) -> None:
    _, shown = await on_terminal(api.path, "reconcile", "--repair", "all", typed=b"")
    for text in (KEEPING[:6], "duplicate 16", "ACROSS_USERS", "16 at main/sat", "--apply --reason TEXT"):
        assert text in shown
