"""A client of the socket that leaves nothing open when the daemon dies under it; httpx leaks the socket of a failed connection."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


class Gone(Exception):
    """The daemon does not listen, or died before it answered."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer and its JSON."""

    status: int
    body: dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)  # whoever made the connection closes it, whatever comes of this


def call(
    path: str,
    method: str,
    route: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 90,
) -> Reply:
    """One exchange over the socket at ``path``. Raises Gone."""
    connection = _UnixConnection(path, timeout_s)
    try:
        sent = None if body is None else json.dumps(body).encode()
        connection.request(method, route, body=sent, headers=headers or {})
        answer = connection.getresponse()
        return Reply(status=answer.status, body=json.loads(answer.read()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Gone(type(error).__name__) from None
    finally:
        connection.close()


def melt(path: str, npub: str, mint: str, invoice: str, *, key: str, wait: float) -> Reply:
    """Ask for a payment."""
    body = {"npub": npub, "mint": mint, "invoice": invoice}
    route = "/v1/melts?" + urlencode({"wait": wait})
    return call(path, "POST", route, body, headers={"Idempotency-Key": key}, timeout_s=wait + 60)
