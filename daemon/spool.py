"""
The spool: a private file for each open CRITICAL event, for when the database is what has failed (DESIGN section 4).

A file holds ids, amounts, counters and blind signatures, and never a secret (I10); it is there for this instance's next
start, and for a person who has to find a payment when nothing else is left. It goes when the event is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from daemon.instance import write_private
from melt.model import EventType, MintAlias, RaisedEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger("meltd.spool")

FILES_MAX: Final = 1_000
FILE_BYTES_MAX: Final = 256 * 1024
"""What is larger is none of ours."""


class Spool:
    """
    Implements :class:`melt.ports.EventSpool` with files under one folder (0700), each 0600 and written whole.

    Never raises: a spool that can't be written (a full disk) is logged, and the event goes on its other ways.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()

    async def keep(self, event: RaisedEvent, /) -> None:
        """Write the event, or write it anew; it is on disk when this returns."""
        await self._run("write", lambda: self._write(event))

    async def drop(self, event_type: EventType, subject: str, /) -> None:
        """Remove the event's file, if there is one."""
        await self._run("remove", lambda: self._file(event_type, subject).unlink(missing_ok=True))

    async def kept(self) -> tuple[RaisedEvent, ...]:
        """Every event that is there, oldest first. A file that can't be read is left alone and logged."""
        found: list[RaisedEvent] = []
        await self._run("read", lambda: found.extend(self._read_all()))
        return tuple(sorted(found, key=lambda event: event.opened_at))

    # --- files ---

    async def _run(self, what: str, work: Callable[[], None]) -> None:
        async with self._lock:  # one file is written by one thread at a time, in the order of the calls
            try:
                await asyncio.to_thread(work)
            except OSError as error:
                _log.error("the spool of CRITICAL events can't be used", attempt=what, reason=error.strerror)

    def _file(self, event_type: EventType, subject: str) -> Path:
        digest = hashlib.sha256(subject.encode()).hexdigest()[:24]
        return self._folder / f"{event_type.value}-{digest}.json"

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(self._folder.glob("*.json"))[: FILES_MAX + 1]

    def _write(self, event: RaisedEvent) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._file(event.type, event.subject)
        if not file.exists() and len(self._files()) >= FILES_MAX:
            _log.error("the spool of CRITICAL events is full", files=FILES_MAX, folder=str(self._folder))
            return
        write_private(file, json.dumps(_document(event), indent=1) + "\n")

    def _read_all(self) -> list[RaisedEvent]:
        found = []
        for file in self._files():
            event = None
            if file.stat().st_size <= FILE_BYTES_MAX:
                event = _event(file.read_text(encoding="utf-8", errors="replace"))
            if event is None:
                _log.error("a file of the spool can't be read as an event: it is left as it is", file=file.name)
            else:
                found.append(event)
        return found


def _document(event: RaisedEvent) -> dict[str, Any]:
    document = asdict(event)
    for name in ("opened_at", "resolved_at"):
        moment: datetime | None = document[name]
        document[name] = None if moment is None else moment.isoformat()
    return document


def _event(text: str) -> RaisedEvent | None:
    """The event of a file; None where it holds none."""
    try:
        raw = json.loads(text)
        resolved_at = raw["resolved_at"]
        return RaisedEvent(
            type=EventType(raw["type"]),
            subject=str(raw["subject"]),
            mint=None if raw["mint"] is None else MintAlias(raw["mint"]),
            detail=str(raw["detail"]),
            opened_at=_moment(raw["opened_at"]),
            requires_manual_intervention=bool(raw["requires_manual_intervention"]),
            evidence=dict(raw["evidence"]),
            signatures=tuple(str(one) for one in raw["signatures"]),
            stored=bool(raw["stored"]),
            resolution=None if raw["resolution"] is None else str(raw["resolution"]),
            resolved_at=None if resolved_at is None else _moment(resolved_at),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _moment(text: str) -> datetime:
    """Raises ValueError for what is no time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment
