"""
Keysets that end (NUT-02 ``final_expiry``; DESIGN section 5, KEYSET_EXPIRING). Pure.

After its final expiry a mint need not honour a keyset's proofs any more, so what lies on it is worth less every day.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from melt.errors import Severity
from melt.model import AMOUNT_MAX, Action, DriftType, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import Keyset, KeysetId, MintAlias

EXPIRING_DAYS: Final = 30.0
_MEDIUM_DAYS: Final = 7.0
_HIGH_DAYS: Final = 1.0
_DAY_S: Final = 86_400.0
_EXPIRY_MAX_S: Final = 253_402_300_799
"""The end of the year 9999, the last moment that a date can tell."""


def severity_of(days_left: float) -> Severity | None:
    """LOW within 30 days, MEDIUM within 7, HIGH within one or past; None before that."""
    if days_left <= _HIGH_DAYS:
        return Severity.HIGH
    if days_left <= _MEDIUM_DAYS:
        return Severity.MEDIUM
    return Severity.LOW if days_left <= EXPIRING_DAYS else None


def subject_of(mint: MintAlias, keyset_id: KeysetId) -> str:
    """The subject of a keyset's finding."""
    return f"keyset:{mint}:{keyset_id}"


def expiring(
    mint: MintAlias, keysets: Mapping[KeysetId, Keyset], held: Mapping[KeysetId, int], now: datetime
) -> tuple[Finding, ...]:
    """
    A finding for each keyset that ends soon or has ended and on which value lies.

    ``held`` is what a whole tour saw on each keyset (unspent and pending, not SPENT at the mint), in the keyset's unit.
    """
    found: list[Finding] = []
    for keyset_id, value in sorted(held.items()):
        keyset = keysets.get(keyset_id)
        if keyset is None or keyset.final_expiry is None or value <= 0:
            continue
        days_left = (keyset.final_expiry - now.timestamp()) / _DAY_S
        severity = severity_of(days_left)
        if severity is None:
            continue
        ends = datetime.fromtimestamp(max(0, min(keyset.final_expiry, _EXPIRY_MAX_S)), UTC)
        found.append(
            Finding(
                type=DriftType.KEYSET_EXPIRING,
                severity=severity,
                action=Action.RECORD,
                subject=subject_of(mint, keyset_id),
                npub=None,
                mint=mint,
                unit=keyset.unit,
                value=min(value, AMOUNT_MAX),
                token_id=None,
                ys=(),
                evidence={
                    "keyset_id": keyset_id,
                    "final_expiry": ends.isoformat(),
                    "hours_left": round(days_left * 24),
                    "active": keyset.active,
                    "asked_at": now.isoformat(timespec="seconds"),
                },
            )
        )
    return tuple(found)
