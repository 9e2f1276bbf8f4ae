"""Answers as tables for a terminal. Texts from the database may hold anything, so control characters are shown, not sent."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = {
    "CRITICAL": "bold red", "HIGH": "red", "MEDIUM": "yellow", "LOW": "dim",
    "SETTLED": "green", "RELEASED": "yellow", "HELD": "bold red", "PENDING": "cyan", "MELTING": "cyan",
    "up": "green", "down": "bold red", "open": "red", "recurred": "red", "corrected": "green",
}  # fmt: skip
_WIDTH_PIPED = 240


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_PIPED)


def plain(value: object) -> str:
    """A value as one printable line; a dash for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:_}".replace("_", " ")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value))


def cell(value: object) -> Text:
    """A table cell: never markup, coloured where the word is one of ours."""
    text = plain(value)
    return Text(text, style=_COLOURS.get(text, ""))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or one sentence when there is nothing to show. Columns that begin with # hold numbers."""
    out = console()
    if not rows:
        out.print(Text(empty))
        return
    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(
            column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(cell(value) for value in row))
    out.print(shown)


def facts(title: str, pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, two columns, without frames."""
    grid = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name), cell(value))
    console().print(grid)


def as_json(value: object) -> None:
    """The answer itself, indented."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not _utf8()) + "\n")


def problem(body: dict[str, Any]) -> None:
    """A problem document on standard error."""
    out = Console(stderr=True)
    out.print(Text(f"{plain(body.get('code'))}: {plain(body.get('detail'))}", style="red"))
    for name in ("hint", "melt_id", "quote_id", "transaction_id"):
        if body.get(name):
            out.print(Text(f"  {name.replace('_', ' ')}: {plain(body[name])}"))
    if body.get("requires_manual_intervention"):
        out.print(Text("  a person has to look at this", style="bold red"))


def when(text: object) -> str:
    """An ISO time without its fraction."""
    return "-" if not isinstance(text, str) else text.split(".")[0].replace("T", " ").removesuffix("Z")


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
