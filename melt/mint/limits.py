"""What a conversation with a mint may cost (I11)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MintLimits:
    """
    Bounds of the requests to one mint; seconds, bytes and counts.

    ``request_timeout_s`` is the total for one read, from connecting to the last byte; melt and swap bring their own.
    ``states_batch`` bounds the Ys of a NUT-07 request, and a long question is asked in requests of that size.
    ``money_in_flight_max`` bounds simultaneous melts and swaps, ``reads_in_flight_max`` everything else.
    """

    connect_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    answer_bytes_max: int = 1 << 20
    states_bytes_max: int = 4 << 20
    states_batch: int = 250
    arrays_max: int = 1000
    cached_s: float = 300.0
    reads_in_flight_max: int = 8
    money_in_flight_max: int = 32

    def __post_init__(self) -> None:
        if min(self.connect_timeout_s, self.request_timeout_s) <= 0 or self.cached_s < 0:
            raise ValueError("time-outs are positive")
        if min(self.answer_bytes_max, self.states_bytes_max) < 1024:
            raise ValueError("an answer may be at least 1024 bytes")
        if not 1 <= self.states_batch <= self.arrays_max:
            raise ValueError("a NUT-07 batch is between 1 and arrays_max")
        if min(self.reads_in_flight_max, self.money_in_flight_max) < 1:
            raise ValueError("at least one request in flight")
