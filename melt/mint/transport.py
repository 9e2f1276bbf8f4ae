"""
One bounded HTTP exchange with a mint: the only module that imports httpx.

Nothing is believed of the other side: redirects and proxies of the environment are not followed, a compressed body is
refused (a small one can unpack to gigabytes), the body is read up to a cap and the whole exchange up to a
deadline, so that a mint that drips a byte a second costs no more than one that is silent.

Requests that move money never ride a connection that has been idle: a server that closes it in that moment would make
the answer of a payment unknown for no reason. They get a fresh connection each, which also makes "could not connect" a
proof that nothing was sent.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

import httpx

from melt.mint.limits import MintLimits

RETRY_AFTER_MAX_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete HTTP answer within the bounds."""

    status: int
    body: bytes
    retry_after_s: float | None


class NotSent(Exception):
    """No byte of the request has left: no connection was made."""


class Lost(Exception):
    """The request may have arrived, but there is no whole answer. ``args[0]`` is our own word for why."""


class Transport:
    """The connections to one mint."""

    def __init__(self, base_url: str, *, limits: MintLimits, user_agent: str) -> None:
        self._base = base_url.rstrip("/")
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
        timeout = httpx.Timeout(limits.request_timeout_s, connect=limits.connect_timeout_s)
        self._reads = _client(limits.reads_in_flight_max, limits.reads_in_flight_max, timeout)
        # The deadline of a payment is its caller's: only connecting and waiting for a free connection have their own.
        connect_s = limits.connect_timeout_s
        money = httpx.Timeout(None, connect=connect_s, pool=connect_s)
        self._money = _client(limits.money_in_flight_max, 0, money)

    async def exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: Any = None,
        bytes_max: int,
        timeout_s: float,
        money: bool = False,
    ) -> Answer:
        """
        Send one request and read its answer.

        Raises NotSent when no connection was made, Lost for everything else that is not a whole answer.
        """
        headers = dict(self._headers)
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        client = self._money if money else self._reads
        try:
            async with (
                asyncio.timeout(timeout_s),
                client.stream(method, f"{self._base}{path}", content=content, headers=headers) as response,
            ):
                return Answer(
                    status=response.status_code,
                    body=await _read(response, bytes_max),
                    retry_after_s=_retry_after(response.headers.get("Retry-After")),
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent("no connection") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Lost("time-out") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Lost("broken connection") from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._reads.aclose()
        await self._money.aclose()


def _client(connections: int, kept: int, timeout: httpx.Timeout) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=timeout,
        # Mints behind uvicorn close idle connections after five seconds: we do before them.
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=kept, keepalive_expiry=2.0),
        trust_env=False,
        follow_redirects=False,
    )


async def _read(response: httpx.Response, bytes_max: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise Lost("compressed answer")
    announced = response.headers.get("Content-Length", "0")
    if announced.isdecimal() and int(announced[:20]) > bytes_max:
        raise Lost("answer too large")
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > bytes_max:
            raise Lost("answer too large")
        parts.append(part)
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110), at most an hour; None where there is none that can be read."""
    if value is None or len(value) > 64:
        return None
    if value.strip().isdecimal():
        return min(float(value), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_MAX_S)
