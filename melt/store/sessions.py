"""
Ending the transactions that a killed daemon has left open.

A server keeps the open transaction of a client that died for up to a minute (``transactionLifetimeLimitSeconds``), and
everything that it wrote conflicts until then: with the counters among it, no melt could be admitted. So a process writes
down the sessions that it opens transactions in, before it does, and its next life ends them by ``killSessions``, which a
user may do to sessions of its own. Where the server refuses, its minute has to pass.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any, Final

import structlog
from bson.binary import UUID_SUBTYPE, Binary
from pymongo.errors import OperationFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

SESSIONS_MAX: Final = 1024
"""The most that are written down and ended; a driver uses about one per thread, over and over."""
_LINE: Final = re.compile(r"[0-9a-f]{32}")

_log = structlog.get_logger("melt.store")


class SessionBook:
    """The ids of the sessions of this process, in a file of its own. Without a path they are only remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._noted: set[bytes] = set()
        self._lock = threading.Lock()

    def note(self, session: ClientSession) -> None:
        """Write the session down, once, before its first transaction. A file that can't be written is no reason to stop."""
        session_id = bytes(session.session_id["id"])
        with self._lock:
            if session_id in self._noted or len(self._noted) >= SESSIONS_MAX:
                return
            self._noted.add(session_id)
            if self._path is None:
                return
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, session_id.hex().encode() + b"\n")
                finally:
                    os.close(descriptor)
            except OSError as error:
                _log.warning("sessions can't be written down", path=str(self._path), error=error.strerror)

    def known(self) -> list[str]:
        """The ids of this process's sessions, as hex: for another instance that has to end them."""
        with self._lock:
            return sorted(session_id.hex() for session_id in self._noted)

    def end(self, client: MongoClient[dict[str, Any]], sessions: Iterable[str]) -> int:
        """
        End sessions of another process of ours that is gone; returns how many. 0 where the server refuses.

        Raises PyMongoError where the server can't be reached.
        """
        left = [bytes.fromhex(one) for one in sessions if _LINE.fullmatch(one)][-SESSIONS_MAX:]
        return len(left) if left and _ended(client, left) else 0

    def end_left_behind(self, client: MongoClient[dict[str, Any]]) -> int:
        """
        End the sessions of an earlier life of this process; returns how many there were.

        Call it before the first transaction. Raises PyMongoError where the server can't be reached.
        """
        left = self._read()
        if not left:
            return 0
        if not _ended(client, left):
            return 0
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        with self._lock:
            self._noted.clear()
        return len(left)

    def _read(self) -> list[bytes]:
        if self._path is None:
            return []
        try:
            lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return []
        return [bytes.fromhex(line) for line in lines if _LINE.fullmatch(line)][-SESSIONS_MAX:]


def _ended(client: MongoClient[dict[str, Any]], sessions: Sequence[bytes]) -> bool:
    try:
        client.admin.command({"killSessions": [{"id": Binary(one, UUID_SUBTYPE)} for one in sessions]})
    except OperationFailure as error:
        _log.warning("transactions of an earlier run can't be ended; the server ends them by itself", code=error.code)
        return False
    return True
