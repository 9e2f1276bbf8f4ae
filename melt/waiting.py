"""What an open record waits for, in plain words (I13, :mod:`melt.settling`). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.model import OPEN_DISCREPANCY, Action
from melt.settling import CORRECTIVE

if TYPE_CHECKING:
    from melt.model import Discrepancy

_CARRIED_OUT: Final = {
    Action.MARK_SPENT: "its proofs are marked spent",
    Action.RELEASE: "it is released to unspent",
    Action.RECLAIM: "its value is brought back by a swap",
}
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def waits_for(record: Discrepancy) -> str | None:
    """
    Since when its document is watched, what would end it, and when it is carried out.

    None for a record that is not open, and for one of which nothing is waited for and nothing would be done.
    """
    if record.state not in OPEN_DISCREPANCY:
        return None
    if record.action not in CORRECTIVE:
        if not record.is_settling:
            return None
        return f"it is {_settling(record)}, and nothing is done by rule"
    if record.needs_ms == 0:
        return None
    done = _CARRIED_OUT[record.action]
    if record.is_settled:
        return f"its document has stood still for long enough: {done} at the next look, unless a pause, a freeze or a cap keeps it"
    young = f"it is {_settling(record)}. " if record.is_settling else ""
    unsettled_s = record.evidence.get("unsettled_s")
    restless = (
        f"It has not come to rest in {span(unsettled_s)}: a person has to look. "
        if isinstance(unsettled_s, int)
        else ""
    )
    return (
        f"{young}{restless}Its document has been watched since {record.first_seen:%Y-%m-%d %H:%M:%S} UTC and has stood still for "
        f"{span(record.watched_ms / 1000)} of the {span(record.needs_ms / 1000)} that a rule waits for. If the wallet service "
        f"writes it, or the mint says otherwise, this ends or begins anew; else {done} after {span(record.settles_in_s)} more"
    )


def span(seconds: float) -> str:
    """A time in its two largest units: ``1 d 2 h``, ``45 s``."""
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for size, name in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count) or "0 s"


def _settling(record: Discrepancy) -> str:
    return f"settling, and pages nobody before it has been watched for {span(record.alert_ms / 1000)}"
