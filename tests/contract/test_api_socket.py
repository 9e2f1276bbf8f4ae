"""The socket itself: who made it, who may use it, what lies in its place, and what a rude peer gets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.api import bind
from daemon.api.peers import AllowList, Peer
from melt.errors import ConfigError
from tests.support.running_api import eventually, read_all, running_api
from tests.support.scripted import NPUB

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sun_path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="meltd-") as name:
        yield Path(name)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_socket_has_the_mode_of_the_settings_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        for mode in (0o660, 0o600, 0o666):
            bound = bind(folder / f"{mode:o}.sock", mode=mode)
            assert mode_of(bound.path) == mode
            bound.close()
            assert not bound.path.exists()
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_the_socket_is_given_to_the_owner_and_group_of_the_settings(folder: Path) -> None:
    bound = bind(folder / "s", owner=str(os.getuid()), group=str(os.getgid()))
    assert (bound.path.stat().st_uid, bound.path.stat().st_gid) == (os.getuid(), os.getgid())
    bound.close()
    for wrong in ({"owner": "no-such-user-x"}, {"group": "no-such-group-x"}):
        with pytest.raises(ConfigError, match="there is no"):
            bind(folder / "t", **wrong)


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    path = folder / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()
    bound = bind(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_a_socket_that_lives_is_never_taken(folder: Path) -> None:
    first = bind(folder / "s")
    inode = first.path.stat().st_ino
    with pytest.raises(ConfigError, match="another process listens"):
        bind(first.path)
    assert first.path.stat().st_ino == inode
    first.close()


def test_what_is_no_socket_is_never_removed(folder: Path) -> None:
    file = folder / "file"
    file.write_text("precious")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(file)
    for name in ("file", "folder", "link"):
        with pytest.raises(ConfigError, match="not a socket"):
            bind(folder / name)
    assert file.read_text() == "precious"
    assert (folder / "link").is_symlink()


def test_a_successors_socket_is_left_alone_at_the_end(folder: Path) -> None:
    first = bind(folder / "s")
    first.path.unlink()
    second = bind(first.path)
    first.close()
    assert second.path.exists()
    second.close()
    assert not second.path.exists()


def test_a_path_that_can_not_be_used_is_a_configuration_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        bind(folder / ("x" * 120))
    (folder / "file").write_text("")
    with pytest.raises(ConfigError, match="can't listen"):
        bind(folder / "file" / "s")


def test_systemds_socket_is_used_and_left(folder: Path) -> None:
    script = """
import os, socket, sys
from pathlib import Path
from daemon.api import bind
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
bound = bind(Path("/nonexistent/elsewhere"), environ={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
print(bound.path)
bound.close()
print(os.path.exists(sys.argv[1]))
"""
    path = folder / "handed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == [str(path), "True"], done.stderr


def test_activation_meant_for_another_process_is_ignored(folder: Path) -> None:
    bound = bind(folder / "s", environ={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert bound.path == folder / "s"
    bound.close()


def test_an_allow_list_admits_by_uid_or_gid_and_never_an_unknown_peer() -> None:
    peer = Peer(pid=1, uid=1000, gid=100)
    assert AllowList().admits(None)
    assert AllowList(uids=frozenset({1000})).admits(peer)
    assert AllowList(gids=frozenset({100})).admits(peer)
    assert not AllowList(uids=frozenset({0})).admits(peer)
    assert not AllowList(uids=frozenset({1000})).admits(None)


async def test_a_peer_that_is_not_on_the_list_gets_403_and_reaches_nothing() -> None:
    async with running_api(allow=AllowList(uids=frozenset({os.getuid() + 1}))) as api:
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/melts"), ("GET", "/v1/openapi.json"), ("GET", "/x")):
            answer = await api.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        assert api.operations.calls == []
    async with running_api(allow=AllowList(uids=frozenset({os.getuid()}))) as api:
        assert (await api.http.get("/v1/status")).status_code == 200


async def test_a_slow_request_is_ended_with_408() -> None:
    async with running_api(idle_timeout_s=0.3) as api:
        for sent in (b"", b"POST /v1/melts HTTP/1.1\r\nHost: x\r\n"):
            answer = await api.raw(sent)
            assert b"408" in answer.split(b"\r\n")[0]
            assert b"application/problem+json" in answer


async def test_a_slow_body_is_ended_and_reaches_nothing() -> None:
    async with running_api(idle_timeout_s=0.3) as api:
        head = b"POST /v1/melts HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 50\r\n\r\n"
        answer = await api.raw(head, more=b'{"npub":')
        assert b"408" in answer.split(b"\r\n")[0]
        assert api.service.asked == []


async def test_a_whole_request_may_take_longer_than_the_idle_time() -> None:
    async with running_api(idle_timeout_s=0.3) as api:
        api.service.hold = asyncio.Event()
        body = {"npub": NPUB, "mint": "main", "invoice": "lnbc1"}
        paying = asyncio.create_task(api.http.post("/v1/melts", json=body, headers={"Idempotency-Key": "k"}))
        probe = await api.raw(b"")  # a connection opened later has timed out by its end
        assert b"408" in probe
        assert not paying.done()
        api.service.hold.set()
        assert (await paying).status_code == 200


async def test_a_connection_is_kept_for_the_next_request_and_watched_again() -> None:
    async with running_api(idle_timeout_s=0.5) as api:
        reader, writer = await asyncio.open_unix_connection(str(api.path))
        request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
        for _ in range(2):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.write(request[:10])
        async with asyncio.timeout(20):
            assert b"408" in await read_all(reader)
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000,
        b"POST /v1/melts HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/melts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_400_and_the_api_lives(data: bytes) -> None:
    async with running_api() as api:
        answer = await api.raw(data)
        assert b" 400 " in answer.split(b"\r\n")[0]
        assert (await api.http.get("/v1/status")).status_code == 200


async def test_a_body_that_ends_early_reaches_nothing() -> None:
    async with running_api() as api:
        head = b"POST /v1/melts HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 500\r\n\r\n{}"
        await api.raw(head, end=True)
        assert api.service.asked == []
        assert (await api.http.get("/v1/status")).status_code == 200


async def test_connections_beyond_the_bound_are_turned_away() -> None:
    async with running_api(connections_max=3) as api:
        held = [await asyncio.open_unix_connection(str(api.path)) for _ in range(3)]
        await asyncio.sleep(0)
        answer = await api.raw(b"")
        assert b"503" in answer.split(b"\r\n")[0]
        for _, writer in held:
            writer.close()
        await eventually(lambda: api.server.connections == 0)
        assert (await api.http.get("/v1/status")).status_code == 200


async def test_at_the_end_a_request_under_way_is_answered_and_the_path_is_gone() -> None:
    async with running_api() as api:
        api.service.hold = asyncio.Event()
        body = {"npub": NPUB, "mint": "main", "invoice": "lnbc1"}
        paying = asyncio.create_task(api.http.post("/v1/melts", json=body, headers={"Idempotency-Key": "k"}))
        await eventually(lambda: bool(api.service.asked))
        stopping = asyncio.create_task(api.server.stop(10))
        api.service.hold.set()
        assert (await paying).status_code == 200
        await stopping
        assert not api.path.exists()


async def test_fifty_requests_at_once_are_all_answered() -> None:
    async with running_api() as api:
        answers = await asyncio.gather(*(api.http.get("/v1/status") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}


def test_the_socket_is_open_to_nobody_else_before_its_mode_is_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    chmod = Path.chmod

    def watch(path: Path, mode: int) -> None:
        seen.append(mode_of(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", watch)
    before = os.umask(0)
    try:
        bind(folder / "s", mode=0o666).close()
    finally:
        os.umask(before)
    assert seen == [0o600]
