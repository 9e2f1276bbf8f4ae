"""The command line against a scripted daemon on a real socket, run as its users run it: as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.ports import SettlingStatus
from melt.errors import Code, Refusal
from melt.model import MeltState
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted import NPUB, make_melt, make_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
PAY = ("melt", "--npub", NPUB, "--mint", "main", "--invoice", "lnbc1")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None
    out: str
    err: str

    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out)
        return found


async def run(*arguments: str, socket: Path | str | None = None, **environ: str) -> Done:
    given = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environ
    if socket is not None:
        given["MELTD_SOCKET"] = str(socket)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", *arguments, env=given, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_a_payment_that_ends_is_0_and_shows_its_amounts(api: RunningApi) -> None:
    done = await run(*PAY, "--max-fee", "5", "--wait", "3", "--key", "mine", socket=api.path)
    assert (done.code, done.err) == (0, "")
    assert "SETTLED" in done.out
    (request, wait_s), *_ = api.service.asked
    assert (request.idempotency_key, request.max_fee, wait_s) == ("mine", 5, 3)


async def test_a_payment_under_way_is_3_and_says_how_to_ask_again(api: RunningApi) -> None:
    api.service.answer = make_melt(MeltState.PENDING)
    done = await run(*PAY, socket=api.path)
    assert done.code == 3
    key = api.service.asked[0][0].idempotency_key
    assert f"--key {key}" in done.err
    assert "melts show m-1" in done.err


async def test_the_status_shows_what_settles_where_anything_does(api: RunningApi) -> None:
    assert "settling" not in (await run("status", socket=api.path)).out
    settling = SettlingStatus(settling=3, waiting=1, unsettled=1, amounts={"sat": 4096, "usd": 7})
    api.operations.state = make_status(settling=settling)
    shown = " ".join((await run("status", socket=api.path)).out.split())
    expected = "settling 3 page nobody yet, worth 4096 sat, 7 usd; 1 wait to be carried out; 1 do not come to rest"
    assert expected in shown


async def test_a_refusal_is_1_with_code_detail_and_hint(api: RunningApi) -> None:
    api.service.answer = Refusal(Code.INSUFFICIENT_FUNDS, "needs 12 sat, has 3", hint="receive more first")
    done = await run(*PAY, socket=api.path)
    assert (done.code, done.out) == (1, "")
    assert "INSUFFICIENT_FUNDS: needs 12 sat, has 3" in done.err
    assert "receive more first" in done.err
    done = await run(*PAY, "--json", socket=api.path)
    assert (done.code, done.json()["code"]) == (1, "INSUFFICIENT_FUNDS")


async def test_without_a_daemon_it_is_69(tmp_path: Path) -> None:
    for command in (PAY, ("status",), ("wallet", NPUB), ("reconcile",), ("events", "--drill"), ("melts",)):
        done = await run(*command, socket=tmp_path / "none.sock")
        assert done.code == 69
        assert "no daemon at" in done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("melt",),
        ("status", "--nonsense"),
        ("melts", "show"),
        ("events", "--resolve", "e-1"),
        ("events", "--drill", "--resolve", "e-1", "--reason", "x"),
        ("discrepancies", "--limit", "0"),
        ("discrepancies", "acknowledge", "d-1"),
        ("plans", "approve", "plan_1"),
        ("plans", "withdraw", "plan_1"),
        ("reconcile", "--plan", "--dry-run"),
        ("explain",),
        ("run", "--mint", "no-equals-sign"),
    ],
)
async def test_wrong_usage_is_2(api: RunningApi, arguments: tuple[str, ...]) -> None:
    done = await run(*arguments, socket=api.path)
    assert done.code == 2
    assert api.operations.calls == []


@pytest.mark.parametrize(
    ("arguments", "shows", "key"),
    [
        (("status",), "127.0.0.1:3338", "instance_id"),
        (("wallet", NPUB), "unspent", "wallets"),
        (("melts",), "m-2", None),
        (("melts", "list"), "m-2", "melts"),
        (("melts", "show", "m-7"), "m-7", "id"),
        (("melts", "resolve", "m-7", "--as", "released", "--reason", "seen"), "still honoured", "id"),
        (("discrepancies", "--severity", "HIGH"), "DB_UNSPENT_MINT_SPENT", "discrepancies"),
        (("discrepancies", "show", "T:token:x"), "History", "history"),
        (("discrepancies", "acknowledge", "T:token:x", "--reason", "seen"), "acknowledged", "history"),
        (("discrepancies", "reopen", "T:token:x", "--reason", "seen"), "T:token:x", "history"),
        (("plans",), "plan_1", "plans"),
        (("plans", "list", "--state", "OPEN"), "plan_1", "plans"),
        (("plans", "show", "plan_7"), "DB_UNSPENT_MINT_SPENT", "items"),
        (("plans", "approve", "plan_7", "--reason", "seen"), "APPROVED", "approvals"),
        (("plans", "apply", "plan_7"), "APPLIED", "done"),
        (("plans", "withdraw", "plan_7", "--reason", "seen"), "WITHDRAWN", "reason"),
        (("reconcile", "--plan", "--mint", "main"), "meltd plans show plan_1", "plan"),
        (("explain", "m-1"), "now: document d is spent", "lines"),
        (("events",), "DRILL", "events"),
        (("events", "--drill"), "DRILL", "id"),
        (("events", "--resolve", "e-1", "--reason", "seen"), "resolved", "id"),
        (("reconcile", "--dry-run"), "would correct", "found"),
        (("reconcile", "--mint", "main", "--status", "unspent"), "corrected", "found"),
        (("pause", "--reason", "moving"), "paused (moving)", "paused"),
        (("resume",), "running", "paused"),
    ],
)
async def test_every_command_shows_a_table_or_the_answer_itself(
    api: RunningApi, arguments: tuple[str, ...], shows: str, key: str | None
) -> None:
    done = await run(*arguments, socket=api.path)
    assert (done.code, done.err) == (0, "")
    assert shows in done.out
    if key is not None:
        done = await run(*arguments, "--json", socket=api.path)
        assert done.code == 0
        assert key in done.json()


async def test_filters_reach_the_daemon(api: RunningApi) -> None:
    await run("discrepancies", "--state", "open", "--state", "recurred", "--type", "DUPLICATE_PROOF", socket=api.path)
    (_, filters), *_ = api.operations.calls
    assert (len(filters["states"]), filters["types"]) == (2, ("DUPLICATE_PROOF",))
    done = await run("discrepancies", "--state", "nonsense", socket=api.path)
    assert done.code == 1
    assert "INVALID_REQUEST" in done.err


async def test_texts_from_the_database_are_neither_markup_nor_escape_codes(api: RunningApi) -> None:
    api.operations.state = make_status(store_ok=False, store_error="[red]x[/red] \x1b]0;owned\x07 \u202e end")
    done = await run("status", socket=api.path)
    assert "[red]x[/red]" in done.out
    for char in ("\x1b", "\x07", "\u202e"):
        assert char not in done.out


async def test_an_answer_that_is_lost_after_a_payment_was_asked_for_is_3(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(hang_up, str(tmp_path / "s"))
    async with server:
        done = await run(*PAY, "--key", "mine", socket=tmp_path / "s")
        assert done.code == 3
        assert "--key mine" in done.err
        assert (await run("status", socket=tmp_path / "s")).code == 1


async def test_a_configuration_that_can_not_be_used_is_78(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[swep]\n")
    for command in (("run",), ("config", "check"), ("config", "show")):
        done = await run(*command, "--config", str(config))
        assert done.code == 78
        assert "did you mean sweep?" in done.err
    assert (await run("status", MELTD_CONFIG=str(config))).code == 78


async def test_the_configuration_is_checked_and_shown_without_secrets(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[mongo]\nuri = 'mongodb://u:hunter2@db/'\n[mints.main]\nurl = 'https://mint.example'\n")
    done = await run("config", "check", "--config", str(config))
    assert (done.code, done.out) == (0, "The configuration can be used.\n")
    done = await run("config", "show", "--config", str(config))
    assert done.code == 0
    assert "hunter2" not in done.out
    assert done.json()["mongo"] == {
        "uri": "mongodb://***@db/",
        "database": "cashu",
        "retry_writes": None,
        "unique_proofs": "auto",
    }


async def test_the_socket_is_found_through_the_settings(api: RunningApi, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[socket]\npath = '{api.path}'\n")
    assert (await run("status", MELTD_CONFIG=str(config))).code == 0
    assert (await run("status", "--socket", str(api.path))).code == 0


@pytest.mark.parametrize(
    "command",
    ["run", "demo", "melt", "reconcile", "status", "wallet", "discrepancies", "events", "pause", "resume", "melts list", "melts show", "melts resolve", "config check", "config show", "plans list", "plans show", "plans approve", "plans apply", "plans withdraw", "discrepancies show", "discrepancies acknowledge", "discrepancies reopen", "explain"],
)  # fmt: skip
async def test_each_command_teaches_with_an_example(command: str) -> None:
    done = await run(*command.split(), "--help")
    assert done.code == 0
    assert f"meltd {command}" in done.out.split("Example")[1]


async def test_the_help_lists_the_exit_codes() -> None:
    text = (await run("--help")).out
    for part in ("0 done", "1 refused", "2 wrong usage", "3 still under way", "69 no daemon", "78 the configuration"):
        assert part in text


async def test_nobody_reading_is_no_drama(api: RunningApi) -> None:
    script = f"{sys.executable} -m daemon melts --json | true; exit ${{PIPESTATUS[0]}}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "MELTD_SOCKET": str(api.path), "HOME": "/"},
    )  # fmt: skip
    _, err = await process.communicate()
    assert err == b""


async def test_help_needs_none_of_the_heavy_libraries() -> None:
    script = (
        "import sys\nfrom daemon.cli import run\nassert run(['--help']) == 0\n"
        "print(sorted({'httpx', 'fastapi', 'uvicorn', 'pymongo', 'rich', 'pydantic', 'apscheduler', 'cashu'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out.decode().splitlines()[-1] == "[]"
