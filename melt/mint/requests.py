"""
One request to a mint and what comes of it: every way to fail is an error of ours, every answer is counted.

A mint's text is never repeated: what an error says is written here (I10).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, TypeVar

from melt import failpoints
from melt.errors import MintRejected, MintUnreachable, MintUntrusted, MintWantsLogin, NotTheMint
from melt.mint import wire
from melt.mint.limits import MintLimits
from melt.mint.sorting import NOT_SENT
from melt.mint.transport import Answer, Lost, NotSent, Transport
from melt.model import Ambiguous, MintAlias, Refused
from melt.ports import Clock, Telemetry

T = TypeVar("T")

PER_ITEM_BYTES: Final = 2048
"""What one entry of an answer may take: a signature with its DLEQ has about 500 bytes, a state with a witness 1,200."""
BASE_BYTES: Final = 64 << 10
ELSEWHERE: Final = frozenset({511})
"""HTTP statuses that no mint gives: 511 is a network's that wants a login first (RFC 6585)."""
LOGINS: Final = frozenset({30001, 30002, 31001, 31002})
"""Codes of a request that wants a login (NUT-21, NUT-22), as HTTP 401 does."""


class Requests:
    """The requests to one mint."""

    def __init__(self, alias: MintAlias, url: str, *, limits: MintLimits, clock: Clock, telemetry: Telemetry) -> None:
        self._alias = alias
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self._transport = Transport(url, limits=limits, user_agent=f"meltd/{_version()}")
        self._wants_login: dict[str, None] = {}

    @property
    def wants_login(self) -> tuple[str, ...]:
        """The endpoints that were last refused for want of a login."""
        return tuple(self._wants_login)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    def sized(self, items: int) -> int:
        """How many bytes an answer with so many entries may have."""
        return min(self._limits.states_bytes_max, BASE_BYTES + PER_ITEM_BYTES * items)

    async def read(
        self,
        endpoint: str,
        method: Literal["GET", "POST"],
        path: str,
        parse: Callable[[bytes], T],
        *,
        body: Any = None,
        bytes_max: int | None = None,
        bad: type[MintUnreachable | MintUntrusted] = MintUnreachable,
    ) -> T:
        """
        One read, with every way to fail as an error of ours. ``bad`` is what an answer of the wrong shape becomes.

        A 4xx without a code is no mint's word: a proxy's, a wrong path's. A 422 is the mint's, though it has no code.
        """
        started, outcome = self._clock.monotonic(), "error"
        limits = self._limits
        failpoints.hit(f"mint.{endpoint}.before_request")
        try:
            answer = await self._transport.exchange(
                method,
                path,
                body=body,
                bytes_max=limits.answer_bytes_max if bytes_max is None else bytes_max,
                timeout_s=limits.request_timeout_s,
            )
            failpoints.hit(f"mint.{endpoint}.after_answer")
            if answer.status in ELSEWHERE or 300 <= answer.status < 400:
                raise NotTheMint(
                    f"mint {self._alias}: {endpoint} was answered by something else, with HTTP {answer.status} "
                    + ("(a network that wants a login)" if answer.status in ELSEWHERE else "(a redirect)")
                )
            if 200 <= answer.status < 300:
                found = parse(answer.body)
                outcome = "ok"
                self._wants_login.pop(endpoint, None)
                return found
            code = wire.error_code(answer.body)
            if 400 <= answer.status < 500 and (code in LOGINS or answer.status == 401):
                outcome = "rejected"
                self._wants_login[endpoint] = None
                raise MintWantsLogin(
                    f"mint {self._alias} wants a login for {endpoint}, which meltd has not", mint_code=code
                )
            if 400 <= answer.status < 500 and answer.status != 429 and (code is not None or answer.status == 422):
                outcome = "rejected"
                raise MintRejected(f"mint {self._alias} refused {endpoint} with code {code}", mint_code=code)
            raise MintUnreachable(
                f"mint {self._alias} answered {endpoint} with HTTP {answer.status}",
                retry_after_s=answer.retry_after_s,
                rate_limited=answer.status == 429,
                status=answer.status,
            )
        except (NotSent, Lost) as error:
            raise MintUnreachable(f"mint {self._alias} gave no answer to {endpoint}: {error}") from error
        except wire.BadAnswer as error:
            if isinstance(error, wire.Unreadable):
                page = "a page of HTML" if answer.body.lstrip()[:1] == b"<" else str(error)
                raise NotTheMint(
                    f"mint {self._alias}: {endpoint} was answered by something else, with HTTP {answer.status} and {page}"
                ) from error
            raise bad(f"mint {self._alias} gave an unusable answer to {endpoint}: {error}") from error
        finally:
            self._telemetry.mint_request(self._alias, endpoint, outcome, self._clock.monotonic() - started)

    async def money(
        self,
        endpoint: str,
        path: str,
        body: Any,
        items: int,
        timeout_s: float,
        sort: Callable[[Answer], T],
    ) -> T | Refused | Ambiguous:
        """One request that moves money, about ``items`` outputs; nothing that a mint does raises."""
        started, outcome = self._clock.monotonic(), "error"
        failpoints.hit(f"mint.{endpoint}.before_request")
        try:
            answer = await self._transport.exchange(
                "POST",
                path,
                body=body,
                bytes_max=max(self._limits.answer_bytes_max, self.sized(items)),
                timeout_s=timeout_s,
                money=True,
            )
            failpoints.hit(f"mint.{endpoint}.after_answer")
            found = sort(answer)
            outcome = {Refused: "rejected", Ambiguous: "error"}.get(type(found), "ok")
        except NotSent:
            return Refused(mint_code=NOT_SENT, payment_tried=False)
        except Lost as lost:
            return Ambiguous(reason=str(lost))
        else:
            return found
        finally:
            self._telemetry.mint_request(self._alias, endpoint, outcome, self._clock.monotonic() - started)


def _version() -> str:
    try:
        return version("meltd")
    except PackageNotFoundError:
        return "unknown"
