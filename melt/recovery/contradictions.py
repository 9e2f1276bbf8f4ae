"""
Melts whose mint contradicts itself, as discrepancies (DESIGN section 5: QUOTE_PAID_INPUTS_UNSPENT, QUOTE_UNPAID_INPUTS_SPENT).

The CRITICAL event wakes somebody; the record beside it says what is at stake and how long, with all other drift. It is
open while the melt is HELD: it closes when a person has decided, and when the melt ends by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.errors import StoreError
from melt.model import Action, DriftType, Finding

if TYPE_CHECKING:
    from melt.model import Melt
    from melt.ports import Clock, Store, StoreThreads, Telemetry

_log = structlog.get_logger("melt.recovery")

CONTRADICTIONS: Final = (DriftType.QUOTE_PAID_INPUTS_UNSPENT, DriftType.QUOTE_UNPAID_INPUTS_SPENT)
_SAID: Final = {
    DriftType.QUOTE_PAID_INPUTS_UNSPENT: "quote PAID, inputs not SPENT",
    DriftType.QUOTE_UNPAID_INPUTS_SPENT: "quote UNPAID, inputs SPENT",
}


async def record(store: Store, threads: StoreThreads, telemetry: Telemetry, clock: Clock, melt: Melt) -> None:
    """Write a HELD melt's contradiction down, or see it again. What the store refuses is tried at the next look."""
    drift = next((one for one in CONTRADICTIONS if one.value == melt.contradiction), None)
    if drift is None:
        return
    since = melt.contradiction_since
    finding = Finding(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.WATCH,
        subject=f"melt:{melt.id}",
        npub=melt.npub,
        mint=melt.mint,
        unit=melt.unit,
        value=melt.inputs_amount,
        token_id=None,
        ys=tuple(ref.y for ref in melt.inputs),
        evidence={
            "reason": melt.error_detail or "the mint contradicts itself",
            "status": f"the journal says {melt.state.value}",
            "rev": melt.rev,
            "mint_said": _SAID[drift],
            "quote_id": melt.quote_id,
            "transaction_id": melt.transaction_id,
            "contradiction_since": None if since is None else since.isoformat(timespec="milliseconds"),
            "asked_at": clock.now().isoformat(timespec="milliseconds"),
            "batch": len(melt.inputs),
            "seen_by": "recovery",
        },
    )
    try:
        await record_findings([finding], store=store, threads=threads, telemetry=telemetry)
    except StoreError:
        _log.exception("a contradiction could not be recorded", melt_id=melt.id, drift=drift.value)


async def close(store: Store, threads: StoreThreads, melt: Melt) -> None:
    """The melt has ended or a person has decided: its record is closed, and its shortfall's, if it has one, is not."""
    if melt.contradiction is None:
        return
    kept = [f"{drift}:melt:{melt.id}" for drift in DriftType if drift not in CONTRADICTIONS]
    try:
        await threads(lambda: store.clear_unseen([f"melt:{melt.id}"], kept))
    except StoreError:
        _log.exception("a contradiction's record could not be closed", melt_id=melt.id)
