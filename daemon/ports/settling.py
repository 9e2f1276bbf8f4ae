"""What settles, for the status page (I13, :mod:`melt.settling`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from melt.settling import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.ports.cases import OpenFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingStatus:
    """
    How many open records settle (they page nobody yet), wait to be carried out, and are due.

    ``unsettled`` do not come to rest and are for a person. ``amounts`` is by unit what settling records say of counted proofs
    that are spent at the mint.
    """

    settling: int = 0
    waiting: int = 0
    due: int = 0
    unsettled: int = 0
    amounts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, figures: OpenFigures) -> Self:
        """Folded over types, severities and mints; units stay apart."""
        phases: Counter[str] = Counter()
        for (_, _, _, phase), count in figures.phases.items():
            phases[phase] += count
        amounts: Counter[str] = Counter()
        for (_, unit), value in figures.settling_value.items():
            amounts[unit] += value
        return cls(
            settling=phases[Phase.SETTLING],
            waiting=phases[Phase.WAITING],
            due=phases[Phase.DUE],
            unsettled=sum(figures.unsettled.values()),
            amounts={unit: value for unit, value in sorted(amounts.items()) if value},
        )
