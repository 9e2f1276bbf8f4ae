"""
The drift table: ``python -m tests.drift``. Every drift type in one large database over three mints, one dead and one slow.

Prints what was planted, found, corrected and recorded, what was wrongly changed, and a ledger per user against the
mints. Exit code 1 where anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.drift.ground import Ground
from tests.drift.run import Result, run

WIDTH: Final = 150
"""Of what is printed where there is no terminal."""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.drift", description=__doc__)
    parser.add_argument("--proofs", type=int, default=20_000, help="about so many in the database")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--each", type=int, default=8, help="documents of each kind of drift")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=900.0, help="seconds until the sweeps must have come to rest")
    parser.add_argument("--json", action="store_true", help="the result as JSON, and nothing else on standard output")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else WIDTH)
    ground = Ground.start(seed=options.seed, cache="2G", settings={}, say=console.log)
    try:
        result = run(ground, proofs=options.proofs, users=options.users, each=options.each, patience_s=options.patience)
    finally:
        ground.end(keep=options.keep)
    if options.json:
        json.dump(asdict(result), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show(console, result)
    return 1 if result.problems else 0


def show(console: Console, result: Result) -> None:
    """The table, the ledger's sum, and what is wrong."""
    table = Table(title="drift planted, and what became of it")
    for name in ("drift", "how"):
        table.add_column(name)
    for name in ("planted", "found", "corrected", "recorded", "wrongly changed"):
        table.add_column(name, justify="right")
    for row in result.rows:
        figures = (row.planted, row.found, row.corrected, row.recorded, row.wrong)
        table.add_row(row.type, row.name, *(str(figure) for figure in figures))
    console.print(table)
    kept = sum(1 for line in result.ledger if line["conserved"])
    sums = {name: sum(int(line[name]) for line in result.ledger) for name in ("before", "fees", "restored", "after")}
    console.print(f"ledger: {kept} of {len(result.ledger)} conserved (a line per user and mint); in sat: {sums}")
    console.print(f"figures: {result.figures}")
    for problem in result.problems:
        console.print(f"[red]problem:[/red] {problem}")
    console.print("[green]everything holds[/green]" if not result.problems else "[red]not so[/red]")


if __name__ == "__main__":
    sys.exit(main())
