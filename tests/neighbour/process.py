"""
The wallet service beside meltd as a child process: a real one, on Mongoose and cashu-ts (``service/``).

Operations run side by side and each can be held at its steps, so that a test keeps the window between the mint and the
database open for as long as it wants, or kills the service in the middle of it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from tests.neighbour.install import missing_program, service_folder

CALL_S: Final = 60.0
"""How long an operation may take that waits for nothing but mint and database, in seconds."""
STOP_S: Final = 10.0

Hold: TypeAlias = Mapping[str, bool | int]
"""Step to True (until :meth:`Operation.go`) or to milliseconds."""


def why_skipped() -> str | None:
    """The reason by which tests of the neighbour skip here; None where they can run."""
    absent = missing_program()
    return None if absent is None else f"{absent} is not installed: the neighbour's tests need it"


class Refused(Exception):
    """
    The operation ended with the service's own error.

    ``name`` is the service's (``CONCURRENT_OPERATION``, ``INSUFFICIENT_FUNDS``, ``HIGH_SEVERITY_DISCREPANCIES``,
    ``PAYMENT_FAILED``, ``OUTCOME_UNKNOWN``, ``MINT_REJECTED``, ``MINT_UNREACHABLE``, ``VALIDATION``, ``E11000``, ...),
    ``details`` what it says beside it: ``lost`` sats thrown away, the mint's ``code``, invalid ``paths``.
    """

    def __init__(self, name: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(f"{name}: {message} {dict(details)}")
        self.name = name
        self.details = dict(details)


class Gone(Exception):
    """The service ended, or was killed, before the operation did."""


@dataclass(slots=True)
class Operation:
    """One operation under way. Belongs to whoever started it: not for several threads at once."""

    id: int
    op: str
    _neighbour: Neighbour
    _lines: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The steps reached that were looked for so far, with what was told at them."""
    _end: dict[str, Any] | None = None

    def reached(self, step: str, *, within_s: float = CALL_S) -> dict[str, Any]:
        """Wait until it has come to that step; what it tells there. Raises as :meth:`result` where it ends before."""
        deadline = time.monotonic() + within_s
        while step not in self.steps and self._next(deadline):
            pass
        if step not in self.steps:
            self.result()
            raise AssertionError(f"{self.op} ended well and never came to {step}")
        return self.steps[step]

    def go(self, step: str) -> None:
        """Let it pass that step, also before it has come to it."""
        self._neighbour.say({"id": self.id, "go": step})

    def result(self, *, within_s: float = CALL_S) -> Any:
        """Wait for its end. Raises Refused, Gone, or TimeoutError."""
        deadline = time.monotonic() + within_s
        while self._next(deadline):
            pass
        end = self._end or {}
        if "error" in end:
            raise Refused(**end["error"])
        if "ok" not in end:
            raise Gone(f"the service ended in the middle of {self.op}")
        return end["ok"]

    @property
    def ended(self) -> bool:
        """Whether it has ended, without waiting."""
        while self._end is None and not self._lines.empty():
            self._take(self._lines.get())
        return self._end is not None

    def hear(self, line: dict[str, Any]) -> None:
        """A line of the service about it, or an empty one when the service has ended. Any thread."""
        self._lines.put(line)

    def _next(self, deadline: float) -> bool:
        """Take one more line; False when there can be none."""
        if self._end is not None:
            return False
        try:
            self._take(self._lines.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise TimeoutError(f"{self.op} has not ended; steps: {list(self.steps)}") from None
        return True

    def _take(self, line: dict[str, Any]) -> None:
        if "at" in line:
            self.steps[line["at"]] = line["told"]
        else:
            self._end = line


class Neighbour:
    """
    The service as a child process. A synchronous context manager; its methods may be called from several threads.

    Args:
        mongo_uri, database: the database that it shares with meltd.
        mint_url: where its users' ecash is.
        log: a file for its standard error.
        unit: of the ecash.
        secret_index: whether its schema has a plain index on ``proofs.secret``.
    """

    def __init__(
        self, *, mongo_uri: str, database: str, mint_url: str, log: Path, unit: str = "sat", secret_index: bool = False
    ) -> None:
        self._connect = {
            "mongo_uri": mongo_uri,
            "database": database,
            "mint_url": mint_url,
            "unit": unit,
            "secret_index": secret_index,
        }
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._ids = itertools.count(1)
        self._running: dict[int, Operation] = {}
        self._lock = threading.Lock()

    # --- life ---

    def start(self, *, init: bool = True) -> dict[str, Any]:
        """Start it and connect it; ``init`` makes its collections and indexes, as its start does. Its versions."""
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("node")
        folder = service_folder()
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [node, "main.mjs"],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PATH": os.defpath, "NODE_ENV": "production"},
                text=True,
                start_new_session=True,
            )
        self._process = process
        self._listener = threading.Thread(target=self._listen, args=(process,), name="neighbour", daemon=True)
        self._listener.start()
        versions: dict[str, Any] = self.call("connect", **self._connect)
        if init:
            self.init()
        return versions

    def stop(self) -> None:
        """End its input, at which it ends; SIGKILL where it does not."""
        process = self._process
        if process is None:
            return
        self._close_input(process)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._reap(process)

    def kill(self) -> None:
        """SIGKILL, whatever it has in memory."""
        process = self._process
        if process is not None:
            process.kill()
            self._reap(process)

    def _reap(self, process: subprocess.Popen[str]) -> None:
        """Take its end, and let every operation under way know."""
        process.wait()
        self._close_input(process)
        self._process = None
        if self._listener is not None:
            self._listener.join(STOP_S)

    def _close_input(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._lock:
                process.stdin.close()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- operations ---

    def begin(self, op: str, *, hold: Hold | None = None, **args: Any) -> Operation:
        """Start an operation; see ``service/`` for what each takes and tells. Raises Gone where the service is not there."""
        operation = Operation(next(self._ids), op, self)
        with self._lock:
            self._running[operation.id] = operation
        self.say({"id": operation.id, "op": op, "args": {**args, "hold": dict(hold or {})}})
        return operation

    def call(self, op: str, *, within_s: float = CALL_S, **args: Any) -> Any:
        """Start an operation and wait for its end. Raises as :meth:`Operation.result`."""
        return self.begin(op, **args).result(within_s=within_s)

    def init(self) -> dict[str, list[str]]:
        """Collections and Mongoose's own indexes; the names of all indexes that are there then, by collection."""
        return dict(self.call("init"))

    def sync_indexes(self) -> dict[str, list[str]]:
        """Mongoose's ``syncIndexes()``: drops what its schema does not know. The names of those, by collection."""
        return dict(self.call("syncIndexes")["dropped"])

    def create_wallet(self, npub: str) -> str:
        """A wallet of that user at the mint; its id."""
        return str(self.call("createWallet", npub=npub)["id"])

    def mint(self, npub: str, amount: int, *, fail_after_s: float = 180.0) -> dict[str, Any]:
        """Mint, and wait for the poller: {id, transaction_id, status, amount}; ``failed`` after ``fail_after_s``."""
        return dict(self.call("mint", npub=npub, amount=amount, fail_after_s=fail_after_s))

    def request_mint(self, npub: str, amount: int) -> dict[str, Any]:
        """Only the ``pending`` document of a mint that nobody polls for: {id, transaction_id, quote_id, request}."""
        return dict(self.call("requestMint", npub=npub, amount=amount))

    def poll(self, *, fail_after_s: float = 180.0) -> dict[str, list[str]]:
        """One look of the poller at all ``pending`` ``minted`` documents, whoever made them so: {filled, failed}."""
        return dict(self.call("poll", fail_after_s=fail_after_s))

    def cleanup(self, *, age_s: float) -> int:
        """All ``pending`` documents of that age and more become ``failed``; how many."""
        return int(self.call("cleanup", age_s=age_s)["failed"])

    def melt(self, npub: str, invoice: str, *, hold: Hold | None = None) -> Operation:
        """
        Begin to pay. Steps: before_swap, after_swap, after_post, after_check, after_sources, after_keep.

        Ends with {transaction_id, paid, sources, keep_id, keep_amount, kept_unchanged, change_id, change_amount}.
        """
        return self.begin("melt", npub=npub, invoice=invoice, hold=hold)

    def send(self, npub: str, amount: int, *, style: str = "new", hold: Hold | None = None) -> Operation:
        """
        Begin to make a token of that amount; ``style`` old leaves the ``sent`` document ``unspent``.

        Steps: before_swap, after_swap, after_check, after_sources. Ends with {transaction_id, token, proofs, sources,
        sent_id, change_id, change_amount}.
        """
        return self.begin("send", npub=npub, amount=amount, style=style, hold=hold)

    def receive(self, npub: str, token: str, *, hold: Hold | None = None) -> Operation:
        """Begin to take a token. Step: after_swap. Ends with {transaction_id, id, amount}."""
        return self.begin("receive", npub=npub, token=token, hold=hold)

    def balance(self, npub: str) -> int:
        """What it shows the user: the sum of ``unspent``."""
        return int(self.call("balance", npub=npub)["balance"])

    def history(self, npub: str) -> list[dict[str, Any]]:
        """Each document one line, the newest first: {id, type, status, amount, transaction_id}."""
        return list(self.call("history", npub=npub))

    def save(self, token_id: str, *, proofs: bool = False) -> dict[str, Any]:
        """Load, change a field, ``save()`` with validators (Refused VALIDATION); ``proofs`` writes those whole too."""
        return dict(self.call("save", id=token_id, proofs=proofs))

    def invalid(self) -> list[dict[str, Any]]:
        """The documents of both collections that its validators refuse: {id, transaction_id, paths}."""
        return list(self.call("validateAll")["invalid"])

    def touch(self, token_id: str) -> None:
        """Write a field that nothing depends on."""
        self.call("touch", id=token_id)

    def replace(self, token_id: str) -> None:
        """Delete the document and insert the same again."""
        self.call("replace", id=token_id)

    def remove(self, token_id: str) -> None:
        """Delete the document."""
        self.call("remove", id=token_id)

    def unspend(self, token_id: str) -> None:
        """Write ``unspent`` over whatever it was."""
        self.call("unspend", id=token_id)

    # --- the line protocol ---

    def say(self, line: Mapping[str, Any]) -> None:
        """One line to the service. Raises Gone where it has ended."""
        process = self._process
        if process is None or process.stdin is None:
            raise Gone("the service does not run")
        try:
            with self._lock:
                process.stdin.write(json.dumps(line) + "\n")
                process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Gone("the service has ended") from None

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Hand each line to its operation; at the end of the output every operation is over."""
        if process.stdout is None:
            return
        with process.stdout:
            for text in process.stdout:
                line = json.loads(text)
                with self._lock:
                    over = "ok" in line or "error" in line
                    operation = self._running.pop(line["id"]) if over else self._running[line["id"]]
                operation.hear(line)
        with self._lock:
            left, self._running = list(self._running.values()), {}
        for operation in left:
            operation.hear({})
