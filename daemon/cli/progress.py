"""How the sweeps get on, as lines for a terminal; redrawn while somebody watches."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daemon.cli.ends import AnswerLost, CommandFailed, NoDaemon
from daemon.cli.tables import cell, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.cli.client import Client

T = TypeVar("T")

REDRAW_S = 1.0
_BAR_CELLS = 20


def sweeps(body: dict[str, Any]) -> Table:
    """One line per mint: lane, tour, progress, pace, detection lag, what went wrong."""
    shown = Table(title="Sweeps", title_justify="left", header_style="bold")
    for column in ("mint", "lane", "#tour", "done", "#documents", "#per s", "ends in", "lag", "#duty", "error"):
        name = column.removeprefix("#")
        shown.add_column(name, justify="right" if name != column else "left", overflow="fold")
    for mint in body["mints"]:
        shown.add_row(*_row(mint))
    return shown


def _row(mint: dict[str, Any]) -> tuple[Text, ...]:
    sweep, pace = mint["sweep"] or {}, mint["pace"] or {}
    done, total = sweep.get("documents", 0), sweep.get("total_documents", 0)
    ended = sweep.get("finished_at") is not None and not pace.get("touring")
    share = 1.0 if ended else min(1.0, done / total) if total else 0.0
    lag, target = pace.get("detection_lag_s"), pace.get("lag_target_s")
    late = lag is not None and target is not None and lag > target
    return (
        cell(mint["alias"]),
        cell(pace.get("lane") or ("rests" if pace.get("resting_s") else None)),
        cell(sweep.get("tour")),
        Text(f"{'█' * round(share * _BAR_CELLS):░<{_BAR_CELLS}} {share:4.0%}") if sweep else cell(None),
        cell(f"{plain(done)} of {plain(total)}" if sweep else None),
        cell(None if pace.get("documents_per_s") is None else round(pace["documents_per_s"])),
        cell(None if pace.get("eta_s") is None else duration(pace["eta_s"])),
        Text(plain(None if lag is None else duration(lag)), style="yellow" if late else ""),
        cell(None if pace.get("duty") is None else f"{pace['duty']:.0%}"),
        cell(sweep.get("error") or pace.get("warm_error")),
    )


def duration(seconds: float) -> str:
    """The two largest units: ``2 h 5 min``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    told = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(told[:2]) or "0 s"


def watch(client: Client, *, stop: threading.Event | None = None) -> None:
    """
    Redraw the sweeps until ``stop``, or until the person has seen enough (Ctrl-C).

    A daemon that goes away meanwhile is waited for. Raises NoDaemon where none is there at first.
    """
    client.get("/v1/status")
    ended = stop or threading.Event()
    console = Console()
    try:
        with Live(console=console, auto_refresh=False, transient=stop is not None) as live:
            while not ended.is_set():
                live.update(_page(client), refresh=True)
                ended.wait(REDRAW_S)
    except KeyboardInterrupt:
        if stop is not None:
            raise


def _page(client: Client) -> Group | Text:
    try:
        reply = client.get("/v1/status")
    except (AnswerLost, NoDaemon) as error:
        return Text(str(error))
    if not reply.ok:
        raise CommandFailed(f"{plain(reply.body.get('code'))}: {plain(reply.body.get('detail'))}")
    body = reply.body
    open_melts = sum(body["open_melts"].values())
    line = f"meltd {body['version']}, up for {duration(body['uptime_s'])}, open melts {open_melts}"
    return Group(Text(f"{line}, open events {body['open_events']}"), sweeps(body))


def beside(work: Callable[[], T], client: Callable[[], Client]) -> T:
    """
    Do ``work``, which waits for the daemon, and show the sweeps meanwhile where standard error is a terminal's.

    The watching has a connection of its own, made by ``client``, and its failures are of no importance.
    """
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        return work()
    stop = threading.Event()

    def show() -> None:
        own = client()
        try:
            watch(own, stop=stop)
        except (AnswerLost, CommandFailed, NoDaemon):
            pass  # the work itself says what is wrong
        finally:
            own.close()

    watcher = threading.Thread(target=show, name="progress", daemon=True)
    watcher.start()
    try:
        return work()
    finally:
        stop.set()
        watcher.join(2 * REDRAW_S)
