"""
Whether planted drift was found and mended as the rules say: the daemon's record, the documents and the mint together.

A record alone proves nothing: for each outcome the documents themselves are looked at, past the daemon, and where
value was moved the mint is asked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from daemon.demo.planting import ys_in
from melt.model import DriftType, Y

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.demo.planting import WalletService
    from daemon.demo.scenario import Drift

_MARKED: Final = frozenset({DriftType.DB_UNSPENT_MINT_SPENT, DriftType.DB_PENDING_MINT_SPENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A drift in the database. ``original`` is the document as it was, ``ys`` the proofs that show the drift."""

    drift: Drift
    user: str
    npub: str
    document: str
    original: Mapping[str, Any]
    ys: tuple[Y, ...]
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of one planted drift. ``why`` is empty where everything is as it must be."""

    planted: Planted
    found: bool
    outcome: str
    severity: str
    why: str

    @property
    def ok(self) -> bool:
        """Found, with the outcome that the rule asks for, and documents and mint agree to that."""
        return self.found and not self.why and self.outcome == self.planted.drift.outcome

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        planted = self.planted
        return {
            "planted": planted.drift.name,
            "type": planted.drift.type.value,
            "npub": planted.npub,
            "document": planted.document,
            "value": planted.value,
            "found": self.found,
            "outcome": self.outcome,
            "expected_outcome": planted.drift.outcome,
            "ok": self.ok,
            **({"why": self.why} if self.why else {}),
        }


def judge(planted: Planted, records: Sequence[Mapping[str, Any]], service: WalletService) -> Judgement:
    """Compare one planted drift with the daemon's records (``GET /v1/discrepancies``) and with the documents."""
    record = next(
        (
            record
            for record in records
            if record["type"] == planted.drift.type and record["subject"] == f"token:{planted.document}"
        ),
        None,
    )
    if record is None:
        return Judgement(planted=planted, found=False, outcome="missing", severity="", why="not found")
    outcome = _outcome(record)
    why = ""
    if set(record["ys"]) != set(planted.ys) or record["value"] != planted.value:
        why = "the record names other proofs or another value"
    elif outcome == planted.drift.outcome:
        why = _look(planted, service)
    return Judgement(planted=planted, found=True, outcome=outcome, severity=record["severity"], why=why)


def unplanted(records: Sequence[Mapping[str, Any]], planted: Sequence[Planted]) -> list[Mapping[str, Any]]:
    """Records of what nobody has planted."""
    known = {(one.drift.type.value, f"token:{one.document}") for one in planted}
    return [record for record in records if (record["type"], record["subject"]) not in known]


def _outcome(record: Mapping[str, Any]) -> str:
    if record["state"] == "corrected":
        return "corrected"
    if record["state"] in {"open", "recurred"}:
        return {"record": "recorded", "watch": "watched"}.get(record["action"], "open")
    return str(record["state"])


def _look(planted: Planted, service: WalletService) -> str:
    """What is wrong with the documents, in one sentence; empty where nothing is."""
    if planted.drift.outcome != "corrected":
        now = service.document(planted.document)
        return "" if now == planted.original else "the document was changed"
    if planted.drift.type in _MARKED:
        return _look_marked(planted, service)
    if planted.drift.type is DriftType.DB_PENDING_MINT_UNSPENT:
        return _look_released(planted, service)
    return _look_reclaimed(planted, service)


def _look_marked(planted: Planted, service: WalletService) -> str:
    now, before = service.document(planted.document), planted.original
    if now["status"] != "spent" or now["spent_at"] is None:
        return "the document is not spent"
    if set(ys_in(now)) != set(planted.ys) or now["total_amount"] != planted.value:
        return "the document holds other proofs than the spent ones"
    rest = set(ys_in(before)) - set(planted.ys)
    if not rest:
        return ""
    keep = service.named(planted.npub, f"{before['transaction_id']}_keep")
    if not keep or set(ys_in(keep)) != rest:
        return "the proofs that are not spent are not in a sibling of their own"
    right = keep["status"] == before["status"] and keep["transaction_type"] == "change"
    parent = keep["metadata"].get("parent_transaction_id") == before["transaction_id"]
    return "" if right and parent else "the sibling is not what a split leaves"


def _look_released(planted: Planted, service: WalletService) -> str:
    now = service.document(planted.document)
    if now["status"] != "unspent":
        return "the document is not unspent"
    return "" if set(ys_in(now)) == set(planted.ys) else "the document holds other proofs"


def _look_reclaimed(planted: Planted, service: WalletService) -> str:
    before, now = planted.original, service.document(planted.document)
    if now != before:
        return "the document was changed, and its status is final"
    made = service.named(planted.npub, f"{before['transaction_id']}_reclaimed")
    if not made:
        return "its value is not in a document of its own"
    if made["status"] != "unspent" or made["transaction_type"] != "change":
        return "what was brought back can't be spent"
    if set(ys_in(made)) & set(ys_in(before)):
        return "the old proofs were stored once more"
    worth = planted.value - made["total_amount"]
    return "" if 0 <= worth <= len(planted.ys) else "its value did not come back"
