"""Talking to the daemon over its socket."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from daemon.cli.ends import AnswerLost, CommandFailed, NoDaemon

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_SOCKET: Final = Path("/run/meltd/meltd.sock")
"""Where the systemd unit's daemon listens."""
ANSWER_MARGIN_S: Final = 15.0
RECONCILE_TIMEOUT_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status and parsed body of an answer."""

    status: int
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether it is no problem document."""
        return self.status < 400


def find_socket(given: Path | None, config: Path | None = None) -> Path:
    """``--socket``, else ``MELTD_SOCKET``, else the settings, else the service's; raises ConfigError."""
    if given is not None:
        return given
    if named := os.environ.get("MELTD_SOCKET"):
        return Path(named)
    from daemon.settings import load  # noqa: PLC0415 - only where the path isn't given

    settings = load(config=config)
    own = settings.socket_path
    if settings.socket.path is None and not own.exists() and SERVICE_SOCKET.exists():
        return SERVICE_SOCKET
    return own


class Client:
    """One command's connection. Raises :class:`NoDaemon` and :class:`AnswerLost`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://meltd", trust_env=False
        )

    def close(self) -> None:
        """Let go of the socket."""
        self._http.close()

    def get(self, path: str, **query: object) -> Reply:
        """GET with the query parameters that are not None."""
        return self._ask("GET", path, query=query, timeout_s=30.0)

    def post(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        **query: object,
    ) -> Reply:
        """POST a JSON body without its None fields."""
        given = {key: value for key, value in body.items() if value is not None}
        return self._ask("POST", path, body=given, headers=headers, query=query, timeout_s=timeout_s)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object],
        timeout_s: float,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        parameters: dict[str, Any] = {key: value for key, value in query.items() if value is not None}
        timeout = httpx.Timeout(timeout_s, connect=5.0)
        try:
            answer = self._http.request(
                method, path, params=parameters, json=body, headers=dict(headers or {}), timeout=timeout
            )
        except httpx.ConnectError as error:
            raise NoDaemon(self._why(error)) from error
        except httpx.HTTPError as error:
            raise AnswerLost(f"no answer from meltd at {self.path} ({type(error).__name__})") from error
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise CommandFailed(f"{self.path} answered something that is not meltd's (HTTP {answer.status_code})")
        return Reply(status=answer.status_code, body=value)

    def _why(self, error: Exception) -> str:
        if not self.path.exists():
            why = "there is no such socket; start one with `meltd run`, or name its socket with --socket"
        elif not os.access(self.path, os.W_OK):
            why = "this user may not open it; ask to be put into the socket's group"
        else:
            why = f"nobody answers there ({error})"
        return f"no daemon at {self.path}: {why}"
