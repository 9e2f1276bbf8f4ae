"""Writing down which keysets end, once a whole tour has told what lies on them (DESIGN section 5, KEYSET_EXPIRING)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.beyond.expiry import expiring
from melt.model import OPEN_DISCREPANCY, DriftType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import Discrepancy, Finding, KeysetId
    from melt.ports import Mint, Store, StoreThreads, Telemetry

OPEN_MAX: Final = 1_000
"""How many open records are looked through; a mint has a handful of keysets."""


async def report_expiring(
    mint: Mint,
    held: Mapping[KeysetId, int],
    *,
    now: datetime,
    dry_run: bool,
    store: Store,
    threads: StoreThreads,
    telemetry: Telemetry,
) -> Sequence[Discrepancy | Finding]:
    """
    Record the keysets that end soon and on which ``held`` says that value lies, and close the records of the others.

    A record that became more severe is told to telemetry once more, since alerts are by severity. Raises MintError,
    StoreError.
    """
    found = expiring(mint.alias, await mint.keysets(), held, now)
    if dry_run:
        return found
    known = await threads(
        lambda: store.discrepancies(
            states=tuple(OPEN_DISCREPANCY),
            types=(DriftType.KEYSET_EXPIRING,),
            severities=(),
            npub=None,
            limit=OPEN_MAX,
        )
    )
    before = {record.subject: record.severity for record in known if record.mint == mint.alias}
    records = await threads(lambda: store.record(found)) if found else ()
    for record in records:
        if before.pop(record.subject, None) is not record.severity:
            telemetry.drift_found(record.type, record.severity, record.mint)
            telemetry.drift_alerting(record.type, record.severity, record.mint)
    if before:
        gone = tuple(before)
        await threads(lambda: store.clear_unseen(gone, ()))
    return records
