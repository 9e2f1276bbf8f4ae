"""What a caller asks for when it wants an invoice paid."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melt.model import Actor


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltRequest:
    """
    One melt as asked for. ``mint`` is an alias or the URL of a configured mint; ``max_fee`` bounds the mint's fee
    reserve plus input fees, in ``unit``. ``idempotency_key`` makes a repeated request the same melt.
    """

    idempotency_key: str
    npub: str
    mint: str
    invoice: str
    unit: str = "sat"
    max_fee: int | None = None
    actor: Actor

    def digest(self) -> str:
        """SHA-256 of the body: tells the same request from another one under the same key."""
        body = {
            "npub": self.npub,
            "mint": self.mint,
            "invoice": self.invoice.strip().lower(),
            "unit": self.unit,
            "max_fee": self.max_fee,
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
