"""
The embedded store: SecantusDB as a child process under the data folder (DESIGN section 3).

It is started as a program of its own and never imported. Three things keep it honest:

- it syncs its log on each commit, without which acknowledged commits are lost when it is killed;
- the kernel kills it when the process that started it dies (``PR_SET_PDEATHSIG``), so that a killed daemon does not
  leave a server behind that holds the folder. SIGKILL, since the server can hang for good on a SIGTERM that comes
  while it starts, and since with a synced log nothing is lost by it;
- it listens on the loopback interface alone. It asks nobody for a password, so on a machine with other users this
  default is for trying out only; they want a MongoDB of their own with ``--mongo-uri``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from melt.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PROGRAM = "secantusd-py"
READY_S_MAX = 20.0
"""How long to wait for the server to listen, a predecessor's hold on the folder included."""
STOP_S_MAX = 15.0
"""How long SIGTERM may take before SIGKILL, which is safe with a synced log."""
_SETTLE_S = 0.5
"""A server that gets SIGTERM between listening and waiting deadlocks in its handler; it is past that by then."""
_POLL_S = 0.05
_BUSY_POLL_S = 0.5
_LOG_BYTES_READ_MAX = 64 * 1024
_LOG_BYTES_KEPT_MAX = 4 * 1024 * 1024
_BUSY_WORDS = (b"Device or resource busy", b"Resource busy", b"already open")

# Runs in the child before the server: a parent's threads make a preexec_fn unsafe, a fresh interpreter isn't. The
# parent may have died before prctl; then nobody would send the signal any more.
_SHIM = """
import ctypes, os, signal, sys
os.umask(0o077)
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(75)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedStore:
    """
    One SecantusDB server under a folder.

    Args:
        folder: where its files lie; made with mode 0700.
        cache_size: the server's cache, such as ``256M`` or ``1G``.
        port: a loopback port; 0 takes a free one.
        sync_on_commit: leave it on; tests that restart nothing may switch it off for speed.

    :meth:`start` blocks for up to :data:`READY_S_MAX` seconds and belongs in the main thread: the kernel ties the
    child to the thread that made it. Raises :class:`melt.errors.ConfigError` where the program is missing, the
    folder can't be used or another server holds it.
    """

    def __init__(self, folder: Path, cache_size: str = "1G", port: int = 0, *, sync_on_commit: bool = True) -> None:
        self._folder = Path(folder)
        self._cache_size = cache_size
        self._wanted_port = port
        self._sync_on_commit = sync_on_commit
        self._port = 0
        self._listens_since = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it listens. The driver's own retries stay off: they apply a blocked write twice there."""
        if self._port == 0:
            msg = "the embedded store was not started"
            raise RuntimeError(msg)
        return f"mongodb://127.0.0.1:{self._port}/?retryWrites=false&maxIdleTimeMS=240000"

    @property
    def port(self) -> int:
        """Its port; 0 before the first start."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the child is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """What the server prints; mode 0600."""
        return self._folder / "secantusd.log"

    def start(self) -> None:
        """Start it and wait until it listens. A second call on a running one does nothing."""
        if self.running:
            return
        program = _program()
        self._make_folder()
        deadline = time.monotonic() + READY_S_MAX
        busy = False
        while True:
            self._port = self._wanted_port or self._port or _free_port()
            log_start = self._spawn(program)
            if self._wait_until_it_listens(deadline):
                self._listens_since = time.monotonic()
                return
            said_busy = self._log_says_busy(log_start)
            busy = busy or said_busy
            self.kill()
            if time.monotonic() >= deadline:
                break
            # Held by the server of a daemon that was killed a moment ago, or its port taken in between: try again.
            self._port = 0
            time.sleep(_BUSY_POLL_S if said_busy else _POLL_S)
        if busy:
            msg = (
                f"another process still holds the store in {self._folder} after {READY_S_MAX:.0f} s; is meltd running?"
            )
            raise ConfigError(msg)
        msg = f"the embedded store in {self._folder} did not start within {READY_S_MAX:.0f} s; see {self.log_path}"
        raise ConfigError(msg)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after :data:`STOP_S_MAX` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            time.sleep(max(self._listens_since + _SETTLE_S - time.monotonic(), 0.0))
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would: nothing that was acknowledged is lost, the folder can be started again."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / "data").mkdir(mode=0o700, exist_ok=True)
            # An explicit empty file stops the server's search for one in the working folder and in /etc.
            config = self._folder / "secantusd.toml"
            config.touch(mode=0o600)
        except OSError as error:
            msg = f"the folder of the embedded store can't be used: {self._folder}: {error.strerror}"
            raise ConfigError(msg) from error

    def _spawn(self, program: Path) -> int:
        """Start the child; returns where its part of the log begins, in bytes."""
        arguments = [
            str(program),
            *("--config", str(self._folder / "secantusd.toml")),
            *("--host", "127.0.0.1"),
            *("--port", str(self._port)),
            *("--storage-path", str(self._folder / "data")),
            *("--cache-size", self._cache_size),
            *("--log-level", "WARNING"),
        ]
        if self._sync_on_commit:
            arguments.append("--sync-on-commit")
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(descriptor).st_size > _LOG_BYTES_KEPT_MAX:
                os.ftruncate(descriptor, 0)
            log_start = os.fstat(descriptor).st_size
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                close_fds=True,
                # A terminal's Ctrl-C goes to the daemon alone, which stops the store last.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return log_start

    def _wait_until_it_listens(self, deadline: float) -> bool:
        while self.running and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1.0):
                return self.running
            time.sleep(_POLL_S)
        return False

    def _log_says_busy(self, log_start: int) -> bool:
        try:
            with self.log_path.open("rb") as log:
                log.seek(log_start)
                text = log.read(_LOG_BYTES_READ_MAX)
        except OSError:
            return False
        return any(word in text for word in _BUSY_WORDS)


def _program() -> Path:
    beside = Path(sys.executable).parent / PROGRAM
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which(PROGRAM)
    if found is None:
        msg = (
            f"{PROGRAM} was not found: install it with `pip install 'meltd[embedded]'`, "
            "or use a MongoDB replica set with --mongo-uri"
        )
        raise ConfigError(msg)
    return Path(found)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
