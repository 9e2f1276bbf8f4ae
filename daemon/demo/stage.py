"""
The demo's parts: a temporary folder, and in it the embedded store, the mint and the daemon as children.

Whatever happens, :meth:`Stage.__exit__` ends the children by their process ids and removes the folder. Should this
process be killed itself, the kernel takes store and daemon with it, and the mint sees that its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import daemon
from daemon.api.unix_socket import PATH_BYTES_MAX
from daemon.cli.client import Client
from daemon.cli.ends import AnswerLost, NoDaemon
from daemon.demo import MintKind
from daemon.demo.cdk_child import FEE_SAT, CdkMint, find_binary
from daemon.demo.mint_child import DemoMint, MintProcess
from daemon.demo.payments import ALIAS, HANG_S
from daemon.demo.planting import DATABASE
from daemon.demo.scenario import INVOICES, at_one_fee
from daemon.embedded import EmbeddedStore

if TYPE_CHECKING:
    from types import TracebackType

FEE_PPK: Final = 100
CDK_DELAY_S: Final = int(HANG_S) + 1
"""Its payments take this long, all of them, so that one that hangs is still under way when its caller gives up."""
READY_S_MAX: Final = 45.0
STOP_S_MAX: Final = 8.0
LOG_BYTES_SHOWN_MAX: Final = 6000
_POLL_S: Final = 0.1

SETTINGS: Final = {
    # Nobody else spends from the demo's database, so nothing has to be looked at or to settle first.
    "MELTD_MODE": "correct",
    "MELTD_SWEEP__CORRECT_AFTER_S": "0",
    "MELTD_SWEEP__ALERT_AFTER_S": "0",
    "MELTD_SWEEP__INTERVAL_S": "2",
    # The demo shows what sweeps find; a hint would be there first.
    "MELTD_SUBSCRIPTIONS__ENABLED": "false",
    "MELTD_SWEEP__HOT_INTERVAL_S": "0.5",
    "MELTD_SWEEP__CONFIRM_AFTER_S": "1",
    "MELTD_SWEEP__SPENT_CONFIRM_S": "0.5",
    # What was left pending was left days ago; what a melt reserves is younger than this.
    "MELTD_SWEEP__PENDING_GRACE_S": "3600",
    "MELTD_SWEEP__SPENT_SAMPLE_SHARE": "1",
    # A third of the documents is wrong on purpose: the cap would rightly stop the corrections.
    "MELTD_SWEEP__CORRECTIONS_MAX_SHARE_PER_CYCLE": "1",
    "MELTD_MELT__RELEASE_CONFIRM_S": "1",
    "MELTD_DRAIN_S": "5",
    "MELTD_HTTP__PORT": "0",
    "MELTD_LOG__FORMAT": "json",
}
"""The demo's pace: what takes minutes and hours in earnest takes seconds. Everything else is as it comes."""

# A fresh interpreter asks for the signal, since a parent's threads make a preexec_fn unsafe.
_SHIM: Final = """
import ctypes, os, signal, sys
os.umask(0o077)
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(75)
os.execv(sys.executable, [sys.executable, "-m", "daemon", "run"])
"""


class DaemonEnded(Exception):
    """The daemon has ended, or does not get ready."""


class Stage:
    """Everything that runs, and its end. Start the parts in the main thread, which the kernel ties them to."""

    def __init__(self, kind: MintKind = MintKind.NUTSHELL) -> None:
        # Before anything is there to be removed.
        binary = find_binary() if kind is MintKind.CDK else None
        self.folder = Path(tempfile.mkdtemp(prefix="meltd-demo-"))
        self.store = EmbeddedStore(self.folder / "store", cache_size="256M")
        self.mint: DemoMint
        if binary is not None:
            self.mint = CdkMint(self.folder / "mint", binary=binary, fee_ppk=FEE_PPK, delay_s=CDK_DELAY_S)
            self.mint_name, self.invoices = "cdk-mintd", at_one_fee(INVOICES, FEE_SAT)
        else:
            self.mint = MintProcess(self.folder / "mint", fee_ppk=FEE_PPK)
            self.mint_name, self.invoices = "Nutshell mint", INVOICES
        self.log_path = self.folder / "meltd.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        socket_path = self.folder / "meltd.sock"
        self._socket_folder: Path | None = None
        if len(os.fsencode(socket_path)) > PATH_BYTES_MAX:
            self._socket_folder = Path(tempfile.mkdtemp(prefix="meltd-", dir="/tmp"))
            socket_path = self._socket_folder / "meltd.sock"
        self.socket = socket_path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    # --- the daemon ---

    def start_daemon(self) -> None:
        """``meltd run`` beside store and mint, with nothing of this process's environment but the path."""
        config = self.folder / "meltd.toml"
        config.touch(mode=0o600)
        root = str(Path(daemon.__file__).resolve().parents[1])
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ},
            "HOME": str(self.folder),
            "PYTHONPATH": root,
            "MELTD_CONFIG": str(config),
            "MELTD_DATA_DIR": str(self.folder / "data"),
            "MELTD_SOCKET": str(self.socket),
            "MELTD_MONGO_URI": self.store.uri,
            "MELTD_MONGO__DATABASE": DATABASE,
            "MELTD_MONGO__RETRY_WRITES": "false",
            f"MELTD_MINTS__{ALIAS.upper()}__URL": self.mint.url,
            **SETTINGS,
        }
        handle = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._daemon = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(handle)

    def wait_ready(self, client: Client) -> dict[str, Any]:
        """Until the daemon answers, blocking; its status. Raises DaemonEnded."""
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            self.check_daemon()
            if self.socket.exists():
                with contextlib.suppress(NoDaemon, AnswerLost):
                    reply = client.get("/v1/status")
                    if reply.ok:
                        return reply.body
            time.sleep(_POLL_S)
        raise DaemonEnded(f"the daemon was not ready after {READY_S_MAX:.0f} s")

    def client(self) -> Client:
        """A connection to the daemon's socket."""
        return Client(self.socket)

    def check_daemon(self) -> None:
        """Raise DaemonEnded unless it runs."""
        code = None if self._daemon is None else self._daemon.poll()
        if self._daemon is None or code is not None:
            raise DaemonEnded(f"the daemon has ended with exit code {code}")

    def check_children(self) -> None:
        """Raise DaemonEnded naming the first child that has ended."""
        self.check_daemon()
        if not self.store.running:
            raise DaemonEnded("the store has ended")
        if self.mint.pid is None:
            raise DaemonEnded("the mint has ended")

    def log_end(self) -> str:
        """The last lines of the daemon's log, which holds no secrets (I10)."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text[-LOG_BYTES_SHOWN_MAX:].splitlines()[-12:])

    # --- the end ---

    def end(self) -> None:
        """End the daemon, which finishes what it is doing, then mint and store; remove the folder. Can be repeated."""
        process, self._daemon = self._daemon, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Killed: what they have written is thrown away in any case.
        self.mint.kill_blocking()
        self.store.kill()
        for folder in (self.folder, self._socket_folder):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
