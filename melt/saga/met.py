"""What the checks of one request have found in its way, while it chooses anew (:mod:`melt.preflight`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.errors import Code, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Discrepancy, Token, TokenId
    from melt.preflight import Checked
    from melt.saga.choice import NotEnough

PROOFS_CHECKED_MAX = 1000
"""How many proofs beyond the chosen ones a check asks about, where much of a wallet turned out to be in use (I11)."""


@dataclass(slots=True)
class DriftMet:
    """What the checks of one request have found in its way so far."""

    out: set[TokenId] = field(default_factory=set)
    records: list[Discrepancy] = field(default_factory=list)
    corrected: int = 0
    rounds: int = 0

    def to_check(self, chosen: Mapping[TokenId, Token], tokens: Sequence[Token]) -> Mapping[TokenId, Token]:
        """
        The documents that are asked about: those that were chosen, and once that failed twice the others, too.

        A wallet much of which somebody else has spent would else be asked about a few documents at a time, round after round.
        """
        if self.rounds < 2:
            return chosen
        wider = dict(chosen)
        proofs = sum(len(token.proofs) for token in chosen.values())
        for token in tokens:
            proofs += len(token.proofs)
            if proofs > PROOFS_CHECKED_MAX:
                break
            if token.id not in self.out:
                wider[token.id] = token
        return wider

    def meet(self, checked: Checked) -> None:
        """These documents are out."""
        self.out |= checked.out
        self.records += checked.records
        self.corrected += checked.corrected
        self.rounds += 1

    def refusal(self, short: NotEnough, unit: str) -> Refusal:
        """The money does not reach because of what was marked spent a moment ago."""
        return Refusal(
            Code.HIGH_SEVERITY_DISCREPANCIES,
            f"proofs worth {self.corrected} {unit} that were counted as unspent are already spent at the mint; they have "
            f"been corrected, and {short.available} {unit} can be used now",
            hint="the balance is right now: ask for less, or fund the wallet",
        )
