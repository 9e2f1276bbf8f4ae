"""What a mint says, once it has been read and checked (NUT-01 to 09, 12). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from melt.model.words import KeysetId, MintState, QuoteId, QuoteState, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """A keyset (NUT-02). ``input_fee_ppk`` is per 1000 inputs; ``final_expiry`` is a unix time in seconds."""

    id: KeysetId
    unit: str
    active: bool
    input_fee_ppk: int
    final_expiry: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodLimits:
    """What a mint melts by one method in one unit (NUT-05 settings). Amounts in ``unit``; ``max_amount`` None: not told."""

    method: str
    unit: str
    min_amount: int
    max_amount: int | None
    amountless: bool = False

    def fits(self, amount: int) -> bool:
        """Whether an amount is within them."""
        return self.min_amount <= amount and (self.max_amount is None or amount <= self.max_amount)

    def __str__(self) -> str:
        most = "any amount" if self.max_amount is None else str(self.max_amount)
        return f"{self.min_amount} to {most} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEndpoint:
    """A request whose answer the mint repeats to the byte when it comes again (NUT-19)."""

    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedEndpoint:
    """Requests that want a login: ``path`` is a path or a pattern of paths. ``blind``: by blind token (NUT-22)."""

    method: str
    path: str
    blind: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MintInfo:
    """
    The parts of NUT-06 that meltd uses. ``max_array_length`` bounds inputs, outputs and Ys of a request.

    ``melt_methods`` is empty where the mint tells none. ``multi_path`` are the units of NUT-15.
    """

    name: str
    version: str
    nuts: frozenset[int]
    max_array_length: int
    subscribable: frozenset[str] = frozenset()
    """Kinds of subscription over bolt11 that the mint offers (NUT-17), in the protocol's words."""
    inputs_max: int | None = None
    """The inputs of a request, where the mint has refused more of them than it says that it takes."""
    melting_disabled: bool = False
    melt_methods: tuple[MethodLimits, ...] = ()
    multi_path: frozenset[str] = frozenset()
    cached: frozenset[CachedEndpoint] = frozenset()
    protected: tuple[ProtectedEndpoint, ...] = ()

    def limits(self, unit: str) -> MethodLimits | None:
        """What it says of melting by bolt11 in this unit; None where it says nothing of it."""
        return next((one for one in self.melt_methods if one.method == "bolt11" and one.unit == unit), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MintReport:
    """
    What is known of a mint's ways by now, for the status page. Nothing is asked for it.

    ``unusable`` names entries of its lists that could not be used (the first few; ``unusable_count`` is of all).
    ``wants_login``: the requests that it refuses without one. ``states_batch`` is how many Ys it has been seen to take at
    a time, None before the first.
    """

    info: MintInfo | None = None
    keysets: int = 0
    unusable: tuple[str, ...] = ()
    unusable_count: int = 0
    wants_login: tuple[str, ...] = ()
    states_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindedMessage:
    """An output (NUT-00): ``b_`` is 66 hex characters."""

    keyset_id: KeysetId
    amount: int
    b_: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSignature:
    """A promise (NUT-00) with its DLEQ scalars (NUT-12) where the mint sent them."""

    keyset_id: KeysetId
    amount: int
    c_: str = field(repr=False)
    dleq_e: str | None = field(default=None, repr=False)
    dleq_s: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltQuote:
    """
    A melt quote (NUT-05, 23). ``change`` is empty unless PAID; some mints send it only with the POST.

    ``change_known`` tells an answer that carried a ``change`` field from one that had none.
    """

    id: QuoteId
    state: QuoteState
    amount: int
    fee_reserve: int
    expiry: int | None
    preimage: str | None = field(default=None, repr=False)
    change: tuple[BlindSignature, ...] = ()
    change_known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofState:
    """NUT-07's answer for one Y."""

    y: Y
    state: MintState


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """The mint says that the melt is paid."""

    quote: MeltQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class StillPending:
    """The mint says that the payment is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """
    A no. ``payment_tried`` false: refused before any payment (definite). True: the mint says that the
    payment failed (20004, 20000), which is a candidate for release and no more than that (I6, I8).
    """

    mint_code: int
    payment_tried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous:
    """Nothing is known: lost answer, 5xx, 429, a code that means several things. ``reason`` is our own word."""

    reason: str
    mint_code: int | None = None


MeltAnswer: TypeAlias = Paid | StillPending | Refused | Ambiguous
"""Outcome of a melt POST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A swap that went through: signatures in the order of the outputs."""

    signatures: tuple[BlindSignature, ...]


SwapAnswer: TypeAlias = Signed | Refused | Ambiguous
"""Outcome of a swap POST. ``Refused`` here means refused for good; spent or pending inputs and outputs that were
signed before are ``Ambiguous`` with their code, because they may be our own earlier request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """NUT-09: a signature that the mint gave for one of our outputs, matched by ``b_``."""

    b_: str
    signature: BlindSignature
