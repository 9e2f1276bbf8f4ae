"""
What mints answer differently, as measured (docs/mints-measured.md): a test that meets such a difference asks here.

Only what a mint *says* differs. What meltd promises about money holds on each, and no test may ask here what to expect of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from daemon.demo.mint_child import request
from melt.mint import NOT_VALID
from melt.model import Ambiguous, MeltAnswer, StillPending


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One measured release. Numbers are error codes; where none is named, the case answers the same on all of them."""

    version: str
    implementation: str = "Nutshell"
    bad_signature: int
    proofs_pending: int
    outputs_signed: int
    outputs_pending: int | None
    """None: a swap takes the outputs that a pending melt holds, and the melt's change is lost or fails."""
    quote_pending: int
    quote_paid: int
    payment_failed: int
    keyset_inactive: int
    keyset_id_prefix: str
    final_expiry: bool
    """Keysets may have one."""
    unknown_is_failed: bool
    """A payment that the backend knows nothing of is rolled back, though the money may have left; else it stays PENDING."""
    found_settled_is_paid: bool
    """A payment that failed, and that the backend then calls settled, is PAID at once; else PENDING until somebody asks."""
    asks_fail_loudly: bool
    """GET of a pending quote whose backend can't be asked answers an error; else it says PENDING."""
    rollback_stays: bool
    """
    A GET in the middle of a payment whose backend says FAILED rolls the melt back everywhere. Here the payment's end does
    not undo it: the money has left, and the quote stays UNPAID, the inputs UNSPENT.
    """
    second_quote: bool
    """An invoice that was paid gets another quote, and is paid again."""
    unknown_quote: int = 0
    too_many_inputs: int = NOT_VALID
    shows_preimage: bool = True
    pending_is_answered: bool = True
    """A payment that stays open is answered PENDING; else the request is not answered before a minute has passed."""
    asking_fails: int | None = None
    """What a melt is answered whose backend can't be asked, where not PENDING."""
    replays: bool = False
    """An identical request is answered identically (NUT-19); else it is refused."""
    forgets_payments: bool = False
    """What was being paid when the process was killed stays PENDING for ever."""

    @property
    def pending(self) -> MeltAnswer:
        """What a melt whose payment stays open comes to, where it is waited for a short time."""
        return StillPending() if self.pending_is_answered else Ambiguous(reason="time-out")

    @property
    def pending_s(self) -> float:
        """How long to wait for such an answer, in seconds."""
        return 20.0 if self.pending_is_answered else 1.5

    @property
    def pending_melt(self) -> str:
        """What meltd calls such a melt before its own patience ends."""
        return "PENDING" if self.pending_is_answered else "MELTING"


_0_16_5: Final = Generation(
    version="0.16.5",
    bad_signature=10003,
    proofs_pending=11000,
    outputs_signed=10002,
    outputs_pending=None,
    quote_pending=11000,
    quote_paid=11000,
    payment_failed=20000,
    keyset_inactive=11000,
    keyset_id_prefix="00",
    final_expiry=False,
    unknown_is_failed=True,
    found_settled_is_paid=False,
    asks_fail_loudly=True,
    rollback_stays=False,
    second_quote=True,
)
_0_20_2: Final = Generation(
    version="0.20.2",
    bad_signature=10001,
    proofs_pending=11002,
    outputs_signed=11003,
    outputs_pending=11004,
    quote_pending=11000,
    quote_paid=11000,
    payment_failed=20004,
    keyset_inactive=11000,
    keyset_id_prefix="01",
    final_expiry=True,
    unknown_is_failed=True,
    found_settled_is_paid=False,
    asks_fail_loudly=True,
    rollback_stays=False,
    second_quote=False,
)
_0_21_0: Final = Generation(
    version="0.21.0",
    bad_signature=10001,
    proofs_pending=11002,
    outputs_signed=11003,
    outputs_pending=11004,
    quote_pending=20005,
    quote_paid=20006,
    payment_failed=20004,
    keyset_inactive=12002,
    keyset_id_prefix="01",
    final_expiry=True,
    unknown_is_failed=False,
    found_settled_is_paid=True,
    asks_fail_loudly=False,
    rollback_stays=True,
    second_quote=False,
)
_CDK: Final = Generation(
    version="0.18.3",
    implementation="cdk-mintd",
    bad_signature=10001,
    proofs_pending=11002,
    outputs_signed=11008,
    outputs_pending=11004,
    quote_pending=20005,
    quote_paid=20006,
    payment_failed=20004,
    keyset_inactive=12002,
    keyset_id_prefix="01",
    final_expiry=False,
    unknown_is_failed=False,
    found_settled_is_paid=True,
    asks_fail_loudly=True,
    rollback_stays=False,
    second_quote=False,
    unknown_quote=50000,
    too_many_inputs=11014,
    shows_preimage=False,
    pending_is_answered=False,
    asking_fails=50000,
    replays=True,
    forgets_payments=True,
)
GENERATIONS: Final = {f"{one.implementation}/{one.version}": one for one in (_0_16_5, _0_20_2, _0_21_0, _CDK)}


def generation_at(port: int) -> Generation:
    """What was measured of the mint that listens there. Raises LookupError for a release that nobody has measured."""
    version = request(port, "GET", "/v1/info")["version"]
    if version not in GENERATIONS:
        raise LookupError(f"{version} was not measured: see docs/mints-measured.md")
    return GENERATIONS[version]
