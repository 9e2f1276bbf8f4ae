"""
Ecash without curves: hashes in place of points, so that thousands of worlds a minute fit on one core.

What the engine relies on is kept: an output's B_ and its secret follow from seed, keyset and counter alone; a signature
belongs to exactly one B_ and one key; a DLEQ proof shows which; a signature that is unblinded against another
output, or with another key, yields a proof that the mint refuses; nobody but the mint can make a signature.
"""

from __future__ import annotations

from hashlib import sha256

from melt.errors import InvariantBroken, MintUntrusted
from melt.invoice import Invoice
from melt.model import BlindedMessage, Dleq, KeysetId, NewProof, OutputPlan, Y


def _digest(*parts: str) -> str:
    return sha256("|".join(parts).encode()).hexdigest()


def fast_y(secret: str) -> Y:
    """Y of a secret: unique, public, and one way."""
    return Y("02" + sha256(secret.encode()).hexdigest())


def blinded_of(secret: str) -> str:
    """B_: known to the mint, and tells it nothing of the secret."""
    return "02" + _digest("B", secret)


def signature_of(b_: str, public_key: str) -> str:
    """C_ of the owner of ``public_key``. Only the model mint may call it."""
    return "02" + _digest("C_", b_, public_key)


def dleq_of(b_: str, c_: str, public_key: str) -> tuple[str, str]:
    """The DLEQ proof over a signature."""
    return _digest("e", b_, c_, public_key), _digest("s", b_, c_, public_key)


def unblinded(secret: str, public_key: str) -> str:
    """The C that the mint takes for a secret."""
    return "02" + _digest("C", secret, public_key)


def read_invoice(text: str, *, now: object) -> Invoice:
    """Invoices of this world are ``ln:<payment hash>:<amount in sat>``."""
    del now
    _, payment_hash, amount = text.split(":")
    return Invoice(text=text, payment_hash=payment_hash, amount_msat=int(amount) * 1000, expires_at=2**40)


def looks_like_a_point(text: str) -> bool:
    """The points of this world are hashes."""
    return len(text) == 66


class ModelOutputs:
    """Implements :class:`melt.ports.Outputs`."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._seed_id = _digest("id", seed)[:16]
        self._known: dict[tuple[str, int], tuple[str, str]] = {}

    @property
    def seed_id(self) -> str:
        """See the port."""
        return self._seed_id

    def secret(self, plan: OutputPlan, index: int) -> str:
        """The secret of an output."""
        return self._output(plan, index)[0]

    def _output(self, plan: OutputPlan, index: int) -> tuple[str, str]:
        if plan.seed_id != self._seed_id:
            raise InvariantBroken("the plan's outputs derive from another seed")
        if not 0 <= index < len(plan.amounts):
            raise InvariantBroken(f"output {index} of a plan of {len(plan.amounts)}")
        key = (plan.keyset_id, plan.counter + index)
        known = self._known.get(key)
        if known is None:
            secret = _digest("secret", self._seed, key[0], str(key[1]))
            known = self._known[key] = (secret, blinded_of(secret))
        return known

    def blinded(self, plan: OutputPlan) -> tuple[BlindedMessage, ...]:
        """See the port."""
        return tuple(
            BlindedMessage(keyset_id=plan.keyset_id, amount=amount, b_=self._output(plan, index)[1])
            for index, amount in enumerate(plan.amounts)
        )

    def match(self, plan: OutputPlan, index: int, c_: str, public_key: str, dleq: tuple[str, str]) -> bool:
        """See the port."""
        return dleq == dleq_of(self._output(plan, index)[1], c_, public_key)

    def unblind(
        self,
        plan: OutputPlan,
        index: int,
        signature_amount: int,
        c_: str,
        public_key: str,
        dleq: tuple[str, str] | None,
        *,
        keyset_id: KeysetId | None = None,
    ) -> NewProof:
        """See the port. A signature of another output or key unblinds to a C that no mint takes."""
        secret = self.secret(plan, index)
        asked = plan.amounts[index]
        if signature_amount <= 0 or (asked and asked != signature_amount):
            raise MintUntrusted(f"a signature over {signature_amount} came for an output of {asked}")
        if dleq is not None and not self.match(plan, index, c_, public_key, dleq):
            raise MintUntrusted("the DLEQ proof of a signature does not hold")
        good = c_ == signature_of(blinded_of(secret), public_key)
        return NewProof(
            keyset_id=keyset_id or plan.keyset_id,
            amount=signature_amount,
            secret=secret,
            c=unblinded(secret, public_key) if good else "03" + _digest("worthless", secret, c_, public_key),
            dleq=None if dleq is None else Dleq(e=dleq[0], s=dleq[1], r=_digest("r", secret)),
        )
