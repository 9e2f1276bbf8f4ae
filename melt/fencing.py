"""
Which lease the present work is done under (DESIGN section 5).

A tour writes from many places: records of findings, corrections, reclaims, its own position. Each such write must be
refused once the shard's lease has gone to another instance. So the fence is set once, around the tour, and the store
asks for it in every transaction of a method that a tour may call; no call in between can forget to hand it on.
:class:`melt.store.Threads` carries it into the thread in which a method runs. Without a fence (melts, the socket's
reconciliation) nothing is asked: those writes are guarded by the status, ``rev`` and state that they were decided on.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melt.model import Fence

_fence: ContextVar[Fence | None] = ContextVar("fence", default=None)


def current() -> Fence | None:
    """The fence around the caller, or None."""
    return _fence.get()


@contextmanager
def under(fence: Fence) -> Iterator[None]:
    """Do what is inside, and the tasks that it starts, under this fence."""
    token = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(token)
