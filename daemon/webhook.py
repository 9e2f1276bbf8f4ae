"""
The webhook: a POST for each CRITICAL event that opens and for each that ends (``webhook.url``).

Nothing waits for it. Notices stand in a bounded queue and are delivered in order by a loop of the daemon, each tried
again with growing, jittered pauses until it is taken or given up. A receiver may get one twice and knows it by its
``id``. The body carries what the event carries: ids and amounts, never a secret (I10). The URL may hold a token, so it is
never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from daemon.supervisor import LoopContext
    from melt.model import CriticalEvent, EventType, RaisedEvent
    from melt.ports import Entropy

_log = structlog.get_logger("meltd.webhook")

QUEUE_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 12
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 300.0
LAST_CHANCE_S: Final = 2.0
"""For what is still queued when the process stops: one attempt, in this time altogether."""
TEXT_MAX: Final = 500
EVIDENCE_MAX: Final = 50


class _Told(Protocol):
    def webhook_delivered(self, *, ok: bool) -> None: ...


class Webhook:
    """Implements :class:`melt.ports.EventNotices`. :meth:`run` is a loop for the supervisor."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        instance_id: str,
        metrics: _Told,
        entropy: Entropy,
        pause_first_s: float = PAUSE_FIRST_S,
        transport: Callable[[], httpx.AsyncBaseTransport | None] = lambda: None,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._instance_id = instance_id
        self._metrics = metrics
        self._entropy = entropy
        self._pause_first_s = pause_first_s
        self._transport = transport
        self._queue: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()

    # --- notices ---

    def opened(self, event: RaisedEvent, /) -> None:
        """Queue the news that an event has opened."""
        self._put(
            "opened",
            event.type,
            event.subject,
            event.opened_at,
            mint=event.mint,
            detail=event.detail[:TEXT_MAX],
            requires_manual_intervention=event.requires_manual_intervention,
            evidence=_flat(event.evidence),
        )

    def resolved(self, event: CriticalEvent, /) -> None:
        """Queue the news that an event is over."""
        self._put(
            "resolved",
            event.type,
            event.subject,
            event.opened_at,
            mint=event.mint,
            detail=event.detail[:TEXT_MAX],
            resolved_at=None if event.resolved_at is None else event.resolved_at.isoformat(),
            recovery_s=event.recovery_s,
            reason=None if event.resolution is None else event.resolution[:TEXT_MAX],
        )

    def _put(self, what: str, event_type: EventType, subject: str, opened_at: datetime, **more: Any) -> None:
        if len(self._queue) >= QUEUE_MAX:
            _log.error("the webhook's queue is full: a notice is dropped", queued=QUEUE_MAX)
            self._metrics.webhook_delivered(ok=False)
            return
        identity = hashlib.sha256(f"{what} {event_type} {subject} {opened_at.isoformat()}".encode()).hexdigest()[:32]
        self._queue.append(
            {
                "id": identity,
                "what": what,
                "type": event_type.value,
                "subject": subject,
                "opened_at": opened_at.isoformat(),
                "instance_id": self._instance_id,
                **more,
            }
        )
        self._wake.set()

    @property
    def queued(self) -> int:
        """Notices that are not delivered yet."""
        return len(self._queue)

    # --- delivery ---

    async def run(self, context: LoopContext) -> None:
        """Deliver until the process stops; then give what is left one last chance."""
        async with httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout_s),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            transport=self._transport(),
        ) as client:
            while not context.stopping.is_set():
                context.beat()
                if self._queue:
                    await self._deliver_first(client, context)
                else:
                    self._wake.clear()
                    await _first_of(self._wake, context.stopping, 5.0)
            try:
                async with asyncio.timeout(LAST_CHANCE_S):
                    while self._queue and await self._post(client, self._queue[0]):
                        self._queue.popleft()
            except TimeoutError:
                pass
        if self._queue:
            _log.warning("notices were not delivered before the stop; the events are in the database", left=self.queued)

    async def _deliver_first(self, client: httpx.AsyncClient, context: LoopContext) -> None:
        notice = self._queue[0]
        pause_s = self._pause_first_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if await self._post(client, notice):
                break
            if attempt == ATTEMPTS_MAX:
                _log.error("a notice is given up", type=notice["type"], subject=notice["subject"], attempts=attempt)
                break
            if await context.pause(pause_s * self._entropy.uniform(0.7, 1.3)):
                return  # it stays queued for the last chance
            pause_s = min(PAUSE_MAX_S, pause_s * 2)
        self._queue.popleft()

    async def _post(self, client: httpx.AsyncClient, notice: dict[str, Any]) -> bool:
        """One attempt; whether it was taken (2xx)."""
        body = json.dumps(notice).encode()
        why: str
        try:
            # The answer's body is not read: only its status counts, however much it sends.
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream("POST", self._url, content=body, headers={"Content-Type": "application/json"}) as answer,
            ):
                ok = answer.is_success
                why = f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            ok, why = False, type(error).__name__
        self._metrics.webhook_delivered(ok=ok)
        if not ok:
            _log.warning("the webhook took no notice", type=notice["type"], subject=notice["subject"], reason=why)
        return ok


async def _first_of(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _flat(evidence: Any) -> dict[str, Any]:
    return {
        str(key)[:TEXT_MAX]: value[:TEXT_MAX] if isinstance(value, str) else value
        for key, value in list(evidence.items())[:EVIDENCE_MAX]
    }
