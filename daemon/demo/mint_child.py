"""Starting, scripting and ending the mint of :mod:`daemon.demo.mint_process` from another process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

LAUNCHER: Final = Path(__file__).with_name("mint_process.py")
START_S: Final = 60.0
STOP_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 << 20


class HttpRefusal(Exception):
    """An answer that is not a 2xx. ``code`` is the mint's error code where the body has one."""

    def __init__(self, status: int, code: int | None) -> None:
        super().__init__(f"HTTP {status}, code {code}")
        self.status = status
        self.code = code


def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Any:
    """
    One JSON exchange with a local mint, blocking. Raises HttpRefusal on an error status and OSError without an answer.

    Not the engine's client on purpose: what the demo and the tests do at the mint must not depend on what they show.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        sent = None if body is None else json.dumps(body).encode()
        sent_headers = {"Accept-Encoding": "identity", "Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body=sent, headers=sent_headers)
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not 200 <= answer.status < 300:
        raise HttpRefusal(answer.status, value.get("code") if isinstance(value, dict) else None)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice of an outside payee whose preimage the scripted node knows."""

    invoice: str
    payment_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """
    What the node knows of a payment hash: the oracle against paying twice.

    ``attempts`` counts the mint's calls, ``paid`` how often money has really left; the times are unix seconds.
    """

    attempts: int
    paid: int
    asked_at: tuple[float, ...]
    left_at: tuple[float, ...]
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltPost:
    """One melt POST that reached the mint; ``ended_at`` None while it runs (or when the mint died in it)."""

    at: float
    ended_at: float | None
    http_status: int | None


class ChildMint:
    """
    The life of a mint that is a child process: folder and port stay the same over :meth:`restart`.

    Both a synchronous and an asynchronous context manager; it belongs to no event loop.
    """

    def __init__(self, folder: Path, *, port: int | None) -> None:
        self.folder = folder
        self.port = port if port is not None else free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    # --- what each kind of mint says ---

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the process, whose output goes to ``log``."""
        raise NotImplementedError

    def _ask(self) -> bool:
        """Whether it is this mint that answers on the port. May raise as :func:`request` does."""
        raise NotImplementedError

    # --- life ---

    def start_blocking(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log when it doesn't."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = self._spawn(log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException, HttpRefusal):
                if self._ask():
                    return
            time.sleep(0.05)
        self.kill_blocking()
        raise RuntimeError(f"the mint did not start: {self._log_end()}")

    def stop_blocking(self) -> None:
        """SIGTERM, then SIGKILL when it takes too long."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill_blocking()
        self._process = None

    def kill_blocking(self) -> None:
        """SIGKILL: what it had not written is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def start(self) -> None:
        """As :meth:`start_blocking`."""
        await asyncio.to_thread(self.start_blocking)

    async def stop(self) -> None:
        """As :meth:`stop_blocking`."""
        await asyncio.to_thread(self.stop_blocking)

    async def kill(self) -> None:
        """As :meth:`kill_blocking`."""
        await asyncio.to_thread(self.kill_blocking)

    async def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) it and start it again on the same port and folder."""
        await (self.kill() if kill else self.stop())
        await self.start()

    def __enter__(self) -> Self:
        self.start_blocking()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop_blocking()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _log(self) -> Path:
        return self.folder / "mint.log"

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else "no log"


class DemoMint(ChildMint):
    """What the demo asks of its mint beside its life, whichever implementation it is."""

    async def invoice(self, amount_sat: int, *, expiry_s: int = 3600, **script: Any) -> Invoice:
        """
        An invoice of an outside payee; ``amount_sat`` 0 has no amount, ``expiry_s`` <= 0 is expired at once.

        ``script`` takes the fields of :class:`daemon.demo.lightning.Script`.
        """
        raise NotImplementedError

    async def resolve(self, payment_hash: str, status: str, *, fee_sat: int | None = None) -> None:
        """End a pending payment; the mint learns it when it next asks. Only where its node keeps a book."""
        raise NotImplementedError

    async def payments(self) -> dict[str, Payment]:
        """By payment hash, what was paid and how often."""
        raise NotImplementedError


class MintProcess(DemoMint):
    """
    A Nutshell mint as a child process. It keeps folder, port and keys over :meth:`restart`.

    ``python`` is the interpreter of the environment whose cashu runs, by default this process's own. A kill loses what
    the mint had not written; what its Lightning node was told goes on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        fee_ppk: int = 100,
        private_key: str = "demo",
        derivation_path: str = "",
        max_request_length: int = 0,
        name: str = "meltd demo mint",
        python: str | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self._python = python or sys.executable
        self._options = {
            "--dir": str(folder),
            "--port": str(self.port),
            "--fee-ppk": str(fee_ppk),
            "--private-key": private_key,
            "--derivation-path": derivation_path,
            "--max-request-length": str(max_request_length),
            "--name": name,
        }
        self._token = secrets.token_hex(16)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        options = [part for name, value in self._options.items() if value for part in (name, value)]
        return subprocess.Popen(  # noqa: S603 - our own launcher
            [self._python, "-W", "ignore", str(LAUNCHER), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin", "MELTD_DEMO_CONTROL_TOKEN": self._token},
            start_new_session=True,
        )

    def _ask(self) -> bool:
        # Not /v1/info: whoever else has the port would answer that.
        request(self.port, "GET", "/control/payments", headers={"x-control-token": self._token}, timeout_s=2)
        return True

    # --- control ---

    async def invoice(self, amount_sat: int, *, expiry_s: int = 3600, **script: Any) -> Invoice:
        """See :meth:`DemoMint.invoice`."""
        body = {"amount_sat": amount_sat, "expiry_s": expiry_s, "script": script or None}
        return Invoice(**await self._control("POST", "invoice", body))

    async def script(self, payment_hash: str, **script: Any) -> None:
        """What paying this hash (``"*"``: any without a script) does from now on."""
        await self._control("POST", "script", {"payment_hash": payment_hash, **script})

    async def resolve(self, payment_hash: str, status: str, *, fee_sat: int | None = None) -> None:
        """See :meth:`DemoMint.resolve`."""
        await self._control("POST", "resolve", {"payment_hash": payment_hash, "status": status, "fee_sat": fee_sat})

    async def payments(self) -> dict[str, Payment]:
        """See :meth:`DemoMint.payments`."""
        report = await self._control("GET", "payments")
        return {
            payment_hash: Payment(**{**known, "asked_at": tuple(known["asked_at"]), "left_at": tuple(known["left_at"])})
            for payment_hash, known in report["payments"].items()
        }

    async def posts(self) -> dict[str, tuple[MeltPost, ...]]:
        """By quote id, the melt POSTs that reached the mint."""
        report = await self._control("GET", "payments")
        return {quote: tuple(MeltPost(**post) for post in posts) for quote, posts in report["posts"].items()}

    async def rotate_keyset(self, *, fee_ppk: int = 0, final_expiry: int | None = None) -> str:
        """Retire the active keyset for a new one; returns the new id."""
        answer = await self._control("POST", "rotate_keyset", {"fee_ppk": fee_ppk, "final_expiry": final_expiry})
        return str(answer["keyset_id"])

    async def _control(self, method: str, name: str, body: Any = None) -> Any:
        headers = {"x-control-token": self._token}
        return await asyncio.to_thread(request, self.port, method, f"/control/{name}", body, headers=headers)


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
