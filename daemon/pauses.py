"""What an operator has paused, kept over restarts in the data folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import structlog

from daemon.instance import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from melt.model import MintAlias

_log = structlog.get_logger("meltd.pauses")
_ALL: Final = "*"


class Pauses:
    """Pause per mint, or of everything. While paused meltd detects and reports, and changes nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reasons: dict[str, str] = {}
        try:
            read = json.loads(file.read_text())
            self._reasons = {str(key): str(value) for key, value in read.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError):
            # Unreadable: the safe reading is that somebody wanted it paused.
            self._reasons = {_ALL: f"{file.name} can't be read: resume to start anew"}
            _log.error("the pauses can't be read: everything is paused", file=str(file))

    def reason(self, mint: MintAlias | None) -> str | None:
        """Why this mint (None: everything) is paused, or None."""
        return self._reasons.get(_ALL) or (self._reasons.get(mint) if mint is not None else None)

    def pause(self, mint: MintAlias | None, reason: str) -> None:
        """Pause; a second pause replaces the reason."""
        self._reasons[mint or _ALL] = reason
        self._save()

    def resume(self, mint: MintAlias | None) -> None:
        """Resume one mint, or (None) everything that is paused."""
        if mint is None:
            self._reasons.clear()
        else:
            self._reasons.pop(mint, None)
        self._save()

    def _save(self) -> None:
        write_private(self._file, json.dumps(self._reasons, indent=1) + "\n")
