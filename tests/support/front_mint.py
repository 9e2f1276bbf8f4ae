"""A scripted mint in a thread of its own, alone or in front of a real one, for tests that drive a daemon process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

from daemon.demo.mint_child import HttpRefusal, request
from tests.support.scripted_mint import Asked, Rule, Say, ScriptedMint

STATES = "/v1/checkstate"
START_S = 10.0


class FrontMint:
    """
    Answers by ``rules``; what has no rule is asked of ``upstream`` where there is one.

    ``lie`` is applied to the real mint's states, each ``{"Y", "state"}``, while it is set. ``portal`` is said to whatever
    is asked, while it is set: the mint is not reached. ``states_delay_s`` slows every NUT-07 answer.
    """

    def __init__(self, *, upstream: str | None = None, rules: dict[str, Rule] | None = None) -> None:
        self.lie: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None
        self.portal: Say | None = None
        self.states_delay_s = 0.0
        self._port = None if upstream is None else urlsplit(upstream).port
        self.server = ScriptedMint(rules)
        if self._port is not None:
            del self.server.rules["/v1/info"]
            self.server.rules = _Falling(self.server.rules, self._forward)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def asked(self) -> list[Asked]:
        return self.server.asked

    def states_asked(self) -> list[list[str]]:
        """The Ys of each NUT-07 request, padding and all."""
        return [one.body["Ys"] for one in self.asked if one.path == STATES]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S), "the scripted mint does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    def _run(self) -> None:
        async def serve() -> None:
            async with self.server:
                self._ready.set()
                await self._stop.wait()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    def _forward(self, asked: Asked) -> Say:
        assert self._port is not None
        if self.portal is not None:
            return self.portal
        try:
            body = request(self._port, asked.method, asked.path, asked.body)
        except HttpRefusal as refusal:
            return Say(status=refusal.status, body={"detail": "refused", "code": refusal.code})
        if asked.path == STATES:
            self._stop_event_wait()
            if self.lie is not None:
                body["states"] = self.lie(body["states"])
        return Say(body=body)

    def _stop_event_wait(self) -> None:
        # Blocks this mint's only thread on purpose: one request at a time is all that the tests need.
        if self.states_delay_s:
            threading.Event().wait(self.states_delay_s)


class _Falling(dict[str, Rule]):
    """Rules in which every path without one is forwarded."""

    def __init__(self, rules: dict[str, Rule], forward: Callable[[Asked], Say]) -> None:
        super().__init__(rules)
        self._forward = forward

    def get(self, path: str, default: Any = None) -> Any:
        return super().get(path, self._forward)


def keysets_rules(keyset_id: str, *, fee_ppk: int = 0) -> dict[str, Rule]:
    """A mint that lists one keyset and calls everything UNSPENT."""
    keyset = {"id": keyset_id, "unit": "sat", "active": True, "input_fee_ppk": fee_ppk}

    def unspent(asked: Asked) -> Say:
        return Say(body={"states": [{"Y": y, "state": "UNSPENT"} for y in asked.body["Ys"]]})

    return {"/v1/keysets": Say(body={"keysets": [keyset]}), STATES: unspent}
