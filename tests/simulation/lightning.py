"""
Lightning as the mint's backend sees it, scripted by the seed, and the oracle: which payments really left.

A payment's truth (it will go out, or it fails) is fixed when it is attempted; what the backend says of it at which moment
is another matter. The rows of MINTS.md's second table are combinations of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from random import Random

LIES_FOR_S = 240.0
"""How long a backend keeps to its lie, where nobody has acted on it before."""


class Says(StrEnum):
    """What a backend answers to a payment or to a question about one."""

    SETTLED = "settled"
    FAILED = "failed"
    PENDING = "pending"
    UNKNOWN = "unknown"
    RAISES = "raises"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """
    One attempt to pay one invoice. Seconds count from its start.

    ``settles``: whether the money leaves. ``decided_s``: when that is certain. ``returns_s``: when the backend's call
    returns, with ``answer``. ``check_before`` and ``check_after``: what its status check says before and after
    ``decided_s``; from ``honest_s`` on it tells the truth whatever it said before.
    """

    name: str
    settles: bool
    decided_s: float
    returns_s: float
    answer: Says
    check_before: Says
    check_after: Says
    honest_s: float
    fee: int

    @property
    def truth(self) -> Says:
        """How it ends."""
        return Says.SETTLED if self.settles else Says.FAILED


@dataclass(slots=True)
class Attempt:
    """A payment under way."""

    script: Script
    started_s: float
    payment_hash: str
    quote_id: str

    def check(self, now_s: float) -> Says:
        """The backend's status check."""
        age, script = now_s - self.started_s, self.script
        if age >= script.honest_s:
            return script.truth
        return script.check_before if age < script.decided_s else script.check_after


@dataclass(slots=True)
class Lightning:
    """All attempts. ``lies`` switches on backends that never tell the truth."""

    rng: Random
    lies: bool
    slow: bool
    attempts: list[Attempt] = field(default_factory=list)
    preimages: dict[str, str] = field(default_factory=dict)

    def new_hash(self) -> str:
        """A payment hash whose preimage the payee has."""
        preimage = self.rng.randbytes(32).hex()
        payment_hash = sha256(bytes.fromhex(preimage)).hexdigest()
        self.preimages[payment_hash] = preimage
        return payment_hash

    def paid(self, payment_hash: str) -> int:
        """How many payments for this hash have left or will: the oracle."""
        return sum(1 for one in self.attempts if one.payment_hash == payment_hash and one.script.settles)

    def start(self, payment_hash: str, quote_id: str, fee_reserve: int, now_s: float) -> Attempt:
        """Attempt to pay."""
        attempt = Attempt(
            script=self._script(fee_reserve), started_s=now_s, payment_hash=payment_hash, quote_id=quote_id
        )
        self.attempts.append(attempt)
        return attempt

    def _script(self, fee_reserve: int) -> Script:
        rng = self.rng
        fee = rng.choice((0, 0, min(1, fee_reserve), fee_reserve, rng.randint(0, fee_reserve)))
        soon = rng.uniform(0.01, 1.5)
        names = ["settled"] * 8 + ["failed"] * 3
        names += ["high_fee", "pending_settles", "pending_fails", "failed_checked_pending_settles"]
        names += ["failed_checked_pending_fails", "check_raises_settles", "check_raises_fails", "unknown_fails"]
        if self.slow:
            names += ["slow_settles", "slow_fails", "slow_checked_settled", "pending_settles", "pending_fails"]
        if self.lies:
            names += ["raises_after_paying", "pending_said_failed", "slow_checked_failed", "slow_checked_unknown"]
        name = rng.choice(names)
        later = rng.uniform(1.0, 40.0)
        settles = name not in {"failed", "unknown_fails"} and not name.endswith("_fails")
        base = {"name": name, "settles": settles, "fee": fee, "decided_s": soon, "returns_s": soon, "honest_s": 0.0}
        truth = Says.SETTLED if settles else Says.FAILED
        before, after, answer = Says.PENDING, truth, truth
        match name:
            case "high_fee":
                base["fee"] = fee_reserve + rng.randint(1, 3)
            case "unknown_fails":
                answer, after = Says.UNKNOWN, Says.UNKNOWN
                base["honest_s"] = later
            case "pending_settles" | "pending_fails":
                answer = Says.PENDING
                base["decided_s"] = soon + later
            case "failed_checked_pending_settles" | "failed_checked_pending_fails":
                answer = rng.choice((Says.FAILED, Says.UNKNOWN, Says.RAISES))
                base["decided_s"] = soon + later
            case "check_raises_settles" | "check_raises_fails":
                answer = rng.choice((Says.PENDING, Says.UNKNOWN, Says.RAISES))
                before = after = Says.RAISES
                base["honest_s"] = soon + later
            case "slow_settles" | "slow_fails":
                base["decided_s"] = base["returns_s"] = rng.choice((later, later * 3))
            case "slow_checked_settled":
                before = Says.SETTLED
                base["decided_s"] = soon
                base["returns_s"] = soon + later
            case "raises_after_paying":
                answer, before, after = Says.RAISES, Says.UNKNOWN, Says.UNKNOWN
                base["honest_s"] = LIES_FOR_S
            case "pending_said_failed":
                answer, before, after = Says.PENDING, Says.FAILED, Says.FAILED
                base["honest_s"] = LIES_FOR_S
            case "slow_checked_failed" | "slow_checked_unknown":
                before = Says.FAILED if name == "slow_checked_failed" else Says.UNKNOWN
                base["decided_s"] = base["returns_s"] = later
            case _:
                pass
        if base["honest_s"] == 0.0:
            base["honest_s"] = base["decided_s"]
        return Script(**base, answer=answer, check_before=before, check_after=after)
