"""
What the demo shows: its steps on standard error, its tables on standard output.

On a terminal a step turns while it lasts and ends with a mark and its time; elsewhere it is one plain line. With
``--json`` standard output carries nothing but the JSON.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH_PIPED: Final = 160
_SPELLED: Final = {"✓": "ok", "✗": "FAILED", "→": "->", "—": "-", "·": "-", "…": "..."}
STYLES: Final = {
    "corrected": "green", "recorded": "cyan", "watched": "cyan", "missing": "bold red", "open": "yellow",
    "SETTLED": "green", "RELEASED": "yellow", "HIGH": "bold red", "MEDIUM": "yellow", "LOW": "dim",
    "✓": "bold green", "✗": "bold red",
}  # fmt: skip


class Screen:
    """Where the demo's words go."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._progress = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDTH_PIPED)
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_PIPED)

    # --- progress ---

    def say(self, text: str, *, style: str = "") -> None:
        """A line of progress."""
        self._progress.print(Text(_spelled(self._progress, text), style=style), soft_wrap=True)

    def note(self, text: Text | str) -> None:
        """A line below the step that is under way."""
        line = text if isinstance(text, Text) else Text(text)
        self.say_text(Text("      ").append_text(line))

    def say_text(self, text: Text) -> None:
        """A styled line of progress; what does not fit into the terminal is left out."""
        if _plain(self._progress):
            text = Text(_spelled(self._progress, text.plain))
        if self._progress.is_terminal:
            self._progress.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self._progress.print(text, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """A step of the demo; what is put into the list it yields is said at its end."""
        started = time.monotonic()
        told: list[str] = []
        mark = "✗"
        try:
            if self._progress.is_terminal:
                with self._progress.status(Text(title), spinner="dots"):
                    yield told
            else:
                yield told
            mark = "✓"
        finally:
            seconds = f"{time.monotonic() - started:5.1f} s"
            line = Text.assemble(
                "  ", (mark, STYLES[mark]), " ", (f"{title:<46}", "bold"), (seconds, "dim"), "  ", "; ".join(told)
            )
            self.say_text(line)

    # --- results ---

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on standard output, not with ``--json``. Columns that begin with # hold numbers."""
        if self._as_json:
            return
        shown = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for column in columns:
            shown.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
        for row in rows:
            shown.add_row(*(self._cell(value) for value in row))
        self._out.print()
        self._out.print(shown)

    def print(self, text: str = "", *, style: str = "") -> None:
        """A line on standard output, not with ``--json``. Never wrapped, so that commands can be copied."""
        if not self._as_json:
            self._out.print(Text(_spelled(self._out, text), style=style), soft_wrap=True)

    def result(self, value: dict[str, Any]) -> None:
        """The whole result, with ``--json``."""
        if self._as_json:
            sys.stdout.write(json.dumps(value, indent=2) + "\n")
            sys.stdout.flush()

    def _cell(self, value: object) -> Text:
        if isinstance(value, bool):
            value = "✓" if value else "✗"
        if isinstance(value, Text):
            return value
        text = str(value)
        return Text(_spelled(self._out, text), style=STYLES.get(text, ""))


def _plain(console: Console) -> bool:
    return not (console.encoding or "").lower().startswith("utf")


def _spelled(console: Console, text: str) -> str:
    """The text in the letters that the other end can show."""
    if _plain(console):
        for sign, word in _SPELLED.items():
            text = text.replace(sign, word)
    return text
