"""systemd's notification protocol (sd_notify(3)): READY, STOPPING, STATUS and the watchdog. Does nothing elsewhere."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT_MAX: Final = 200


class Notifier:
    """Sends datagrams to ``$NOTIFY_SOCKET``. A failure to send is ignored: systemd is no part of our work."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_s = self._watchdog(environ)
        """The unit's WatchdogSec, where it has one that means this process."""

    def ready(self, status: str) -> None:
        """Start-up is complete."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """The drain has begun."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def alive(self) -> None:
        """Pet the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_line(text)}")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(message.encode(), address)
        except OSError:
            return

    @staticmethod
    def _watchdog(environ: Mapping[str, str]) -> float | None:
        if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        text = environ.get("WATCHDOG_USEC", "")
        return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


def _line(text: str) -> str:
    return text.replace("\n", " ")[:_TEXT_MAX]
