"""
A Lightning node that only exists on paper: invoices, what paying them does, and how often money left.

The mint is a process of its own and can be killed; the node it pays through goes on. So a payment is written down when
it is asked for, with the moment at which it will have ended, and what became of it is computed from the clock. The book
is the oracle against paying twice: it pays as often as it is asked, and counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from bolt11 import Bolt11, Feature, Features, FeatureState, MilliSatoshi, TagChar, Tags, encode

Result: TypeAlias = Literal["SETTLED", "FAILED", "PENDING", "UNKNOWN"]
Answer: TypeAlias = Literal["SETTLED", "FAILED", "PENDING", "UNKNOWN", "raise"]
RESULTS: Final = frozenset(get_args(Result))
ANSWERS: Final = frozenset(get_args(Answer))
ANY: Final = "*"
"""The script of payment hashes that have none of their own."""
PAYEE_KEY: Final = hashlib.sha256(b"the payee of the demo").hexdigest()


@dataclass(slots=True, kw_only=True)
class Script:
    """
    What paying an invoice does.

    ``pay`` is what the backend answers after ``delay_s`` seconds. ``raises`` makes it raise instead, before or after the
    money has left. ``status`` is what a later question about the payment is answered; None: the truth. Money leaves when
    ``pay`` or ``status`` is SETTLED or it raises afterwards. ``fee_sat`` is the Lightning fee; None means one sat.
    ``preimage`` is what a settled payment shows: the real one, none, or a wrong one.
    """

    delay_s: float = 0.0
    pay: Result = "SETTLED"
    raises: Literal["before", "after"] | None = None
    status: Answer | None = None
    fee_sat: int | None = None
    preimage: Literal["real", "none", "wrong"] = "real"

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Script:
        """Read a script from JSON; ``raise`` is taken for ``raises``. Raises ValueError naming what is wrong."""
        values = {("raises" if key == "raise" else key): value for key, value in given.items()}
        unknown = values.keys() - {entry.name for entry in fields(cls)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        script = cls(**values)
        if script.pay not in RESULTS or (script.status is not None and script.status not in ANSWERS):
            raise ValueError(f"pay is one of {sorted(RESULTS)}, status one of {sorted(ANSWERS)}")
        if script.raises not in {None, "before", "after"} or script.preimage not in {"real", "none", "wrong"}:
            raise ValueError("raise is null, before or after; preimage is real, none or wrong")
        return script

    @property
    def leaves(self) -> bool:
        """Whether the money leaves."""
        if self.raises is not None:
            return self.raises == "after"
        return self.pay == "SETTLED" or self.status == "SETTLED"

    @property
    def outcome(self) -> Result:
        """What the payment has come to once it has ended."""
        if self.leaves:
            return "SETTLED"
        if self.raises == "before":
            return "FAILED"
        # What the check calls PENDING is still open, whatever the call that paid came back with.
        return "PENDING" if self.status == "PENDING" else self.pay


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One call of ``pay_invoice``. Times are unix seconds; ``left_at`` is when the money leaves, None: it doesn't."""

    asked_at: float
    ends_at: float
    outcome: Result
    left_at: float | None


@dataclass(slots=True, kw_only=True)
class Payment:
    """Everything about one payment hash. ``resolved`` overrides the script's status."""

    invoice: str | None = None
    preimage: str | None = field(default=None, repr=False)
    script: Script | None = None
    attempts: list[Attempt] = field(default_factory=list)
    resolved: Result | None = None
    resolved_fee_sat: int | None = None

    def times_left(self, now: float) -> int:
        """How often money has left by ``now``: more than once is a double payment."""
        return sum(1 for attempt in self.attempts if attempt.left_at is not None and attempt.left_at <= now)


def encode_invoice(amount_msat: int, *, expiry_s: int, description: str) -> tuple[str, str, str]:
    """
    A valid invoice of an outside payee: (invoice, payment hash, preimage).

    ``amount_msat`` 0 has no amount, ``expiry_s`` <= 0 is expired at once.
    """
    preimage = secrets.token_bytes(32)
    payment_hash = hashlib.sha256(preimage).hexdigest()
    tags = Tags()
    tags.add(TagChar.payment_hash, payment_hash)
    tags.add(TagChar.description, description)
    tags.add(TagChar.expire_time, max(1, expiry_s))
    tags.add(TagChar.payment_secret, secrets.token_hex(32))
    tags.add(TagChar.min_final_cltv_expiry, 18)
    tags.add(
        TagChar.features,
        Features.from_feature_list(
            {
                Feature.var_onion_optin: FeatureState.supported,
                Feature.payment_secret: FeatureState.required,
            }
        ),
    )
    # Backdated where the expiry is not positive, so that an expired invoice can be had at once.
    date = int(time.time()) if expiry_s > 0 else int(time.time()) - 7200
    amount = MilliSatoshi(amount_msat) if amount_msat else None
    invoice = encode(Bolt11(currency="bc", amount_msat=amount, date=date, tags=tags), PAYEE_KEY)
    return invoice, payment_hash, preimage.hex()


class Node:
    """The book of all payments, written through to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._payments: dict[str, Payment] = {}
        self._default = Script()
        self._posts: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            self._load()

    # --- written by the control routes ---

    def make_invoice(self, amount_msat: int, *, expiry_s: int = 3600, description: str = "demo") -> tuple[str, str]:
        """A valid invoice of an outside payee, whose preimage this node knows. Returns (invoice, payment hash)."""
        invoice, payment_hash, preimage = encode_invoice(amount_msat, expiry_s=expiry_s, description=description)
        with self._changing():
            self._payments[payment_hash] = Payment(invoice=invoice, preimage=preimage)
        return invoice, payment_hash

    def set_script(self, payment_hash: str, script: Script) -> None:
        """Say what paying does from now on; ``"*"`` for all that have no script of their own."""
        with self._changing():
            if payment_hash == ANY:
                self._default = script
            else:
                self._payment(payment_hash).script = script

    def resolve(self, payment_hash: str, status: Result, fee_sat: int | None) -> None:
        """End the payment that is pending: what status questions are answered from now on, and whether money left."""
        now = time.time()
        with self._changing():
            payment = self._payment(payment_hash)
            payment.resolved, payment.resolved_fee_sat = status, fee_sat
            for attempt in payment.attempts:
                if attempt.outcome in {"PENDING", "UNKNOWN"}:
                    attempt.outcome = status
                    attempt.left_at = now if status == "SETTLED" else None

    # --- asked by the mint ---

    def script_of(self, payment_hash: str) -> Script:
        """What paying this hash does."""
        payment = self._payments.get(payment_hash)
        return payment.script if payment is not None and payment.script is not None else self._default

    def start(self, payment_hash: str) -> Script:
        """Write down that the mint pays now; what the mint is to be told follows from the script returned."""
        script, now = self.script_of(payment_hash), time.time()
        ends_at = now + script.delay_s
        with self._changing():
            payment = self._payment(payment_hash)
            payment.resolved = None
            payment.attempts.append(
                Attempt(
                    asked_at=now,
                    ends_at=ends_at,
                    outcome=script.outcome,
                    left_at=ends_at if script.leaves else None,
                )
            )
        return script

    def status(self, payment_hash: str) -> Answer:
        """What a question about the payment is answered: what was resolved, else the script's word, else the truth."""
        payment = self._payments.get(payment_hash)
        if payment is None or not payment.attempts:
            return self.script_of(payment_hash).status or "UNKNOWN"
        if payment.resolved is not None:
            return payment.resolved
        scripted = self.script_of(payment_hash).status
        if scripted is not None:
            return scripted
        last = payment.attempts[-1]
        return last.outcome if time.time() >= last.ends_at else "PENDING"

    def fee_sat(self, payment_hash: str) -> int:
        """The Lightning fee that a settled payment costs."""
        payment = self._payments.get(payment_hash)
        if payment is not None and payment.resolved_fee_sat is not None:
            return payment.resolved_fee_sat
        fee = self.script_of(payment_hash).fee_sat
        return 1 if fee is None else fee

    def preimage_shown(self, payment_hash: str) -> str | None:
        """The preimage as the mint gets to see it."""
        payment = self._payments.get(payment_hash)
        shown = self.script_of(payment_hash).preimage
        if shown == "wrong":
            return hashlib.sha256(b"wrong").hexdigest()
        return payment.preimage if payment is not None and shown == "real" else None

    # --- the oracle ---

    def post_began(self, quote_id: str) -> dict[str, Any]:
        """A melt POST has arrived; the record is ended by :meth:`post_ended`."""
        record: dict[str, Any] = {"at": time.time(), "ended_at": None, "http_status": None}
        with self._changing():
            self._posts.setdefault(quote_id, []).append(record)
        return record

    def post_ended(self, record: dict[str, Any], http_status: int | None) -> None:
        """The mint has answered it (``None``: it died on the way)."""
        with self._changing():
            record["ended_at"], record["http_status"] = time.time(), http_status

    def report(self) -> dict[str, Any]:
        """Payments by hash and melt POSTs by quote, without preimages."""
        now = time.time()
        return {
            "payments": {
                payment_hash: {
                    "attempts": len(payment.attempts),
                    "paid": payment.times_left(now),
                    "asked_at": [attempt.asked_at for attempt in payment.attempts],
                    "left_at": [a.left_at for a in payment.attempts if a.left_at is not None and a.left_at <= now],
                    "status": self.status(payment_hash),
                }
                for payment_hash, payment in self._payments.items()
            },
            "posts": self._posts,
        }

    # --- the file ---

    def _payment(self, payment_hash: str) -> Payment:
        return self._payments.setdefault(payment_hash, Payment())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Write the book after a change. A killed process keeps what was written; a crash of the machine may not."""
        yield
        book = {
            "default": asdict(self._default),
            "payments": {payment_hash: asdict(payment) for payment_hash, payment in self._payments.items()},
            "posts": self._posts,
        }
        beside = self._path.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(json.dumps(book), encoding="utf-8")
        os.replace(beside, self._path)  # noqa: PTH105 - atomic, and the same on both

    def _load(self) -> None:
        book = json.loads(self._path.read_text(encoding="utf-8"))
        self._default = Script(**book["default"])
        self._posts = book["posts"]
        for payment_hash, kept in book["payments"].items():
            script = kept.pop("script")
            attempts = [Attempt(**attempt) for attempt in kept.pop("attempts")]
            self._payments[payment_hash] = Payment(
                script=None if script is None else Script(**script), attempts=attempts, **kept
            )
