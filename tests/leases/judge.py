"""What must be true in the end, counted here from the database and the mint and not by meltd."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bson import ObjectId

from tests.leases.lab import ALIASES, Lab, Planted, until

QUIET_S = 60.0


@dataclass
class Verdict:
    """Counts, and a sentence for each thing that is wrong."""

    planted: dict[str, int] = field(default_factory=dict)
    corrections: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    tours: dict[str, int] = field(default_factory=dict)
    judged_in_tour: int = 0
    wrong: list[str] = field(default_factory=list)


def wait_until_corrected(lab: Lab) -> None:
    """Until each planted document is as it should be; what is still wrong afterwards is for the judge."""
    until(
        lambda: all(_is_mended(lab, one) for one in lab.planter.planted),
        lambda: f"not mended: {[one for one in lab.planter.planted if not _is_mended(lab, one)][:5]}",
        QUIET_S,
    )


def judge(lab: Lab) -> Verdict:
    """Look at everything."""
    verdict = Verdict()
    audit = list(lab.db["meltd_audit"].find({}))
    by_token: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in audit:
        by_token[entry["token_id"]].append(entry)
    for one in lab.planter.planted:
        verdict.planted[one.kind] = verdict.planted.get(one.kind, 0) + 1
        _once(lab, one, by_token[one.token_id], verdict)
    _in_the_next_tour(lab, by_token, verdict)
    _one_holder_an_epoch(audit, verdict)
    _whole_tours(lab, verdict)
    _no_proof_twice(lab, verdict)
    verdict.corrections = sum(1 for entry in audit if entry["from_status"] is not None)
    return verdict


def _document(lab: Lab, one: Planted) -> dict[str, Any]:
    return lab.db["cashu_tokens"].find_one({"_id": ObjectId(one.token_id)}) or {}


def _reclaims(lab: Lab, one: Planted) -> list[dict[str, Any]]:
    return list(lab.db["meltd_melts"].find({"source_token_ids": one.token_id, "state": "SETTLED"}))


def _is_mended(lab: Lab, one: Planted) -> bool:
    if one.kind == "reclaimed":
        return bool(_reclaims(lab, one))
    return bool(_document(lab, one)["status"] == ("unspent" if one.kind == "released" else "spent"))


def _once(lab: Lab, one: Planted, entries: list[dict[str, Any]], verdict: Verdict) -> None:
    """The correction was applied once: one audit entry, one occurrence, and the money is all there."""
    records = list(lab.db["meltd_discrepancies"].find({"token_id": one.token_id}))
    # Cut off between the mint's swap and our end of it, a reclaim may be finished after a tour saw nothing wrong any more.
    ends = {"corrected", "cleared"} if one.kind == "reclaimed" else {"corrected"}
    if len(records) != 1 or records[0]["state"] not in ends or records[0]["occurrence"] != 1:
        verdict.wrong.append(f"{one.kind} {one.token_id}: records {[(r['state'], r['occurrence']) for r in records]}")
    if one.kind == "reclaimed":
        settled = _reclaims(lab, one)
        new = list(lab.db["cashu_tokens"].find({"transaction_id": {"$regex": f"^{one.transaction_id}_reclaimed"}}))
        if len(settled) != 1 or len(new) != 1 or entries:
            verdict.wrong.append(f"reclaim of {one.token_id}: {len(settled)} settled, {len(new)} new documents")
            return
        worth = sum(int(proof["amount"]) for proof in new[0]["proofs"])
        states = asyncio.run(lab.wallet.states(new[0]["proofs"]))
        fee = settled[0]["swap"]["fee"]
        if worth != one.ys_amount - fee or set(states) != {"UNSPENT"}:
            verdict.wrong.append(f"reclaim of {one.token_id}: {worth} came back, {states}")
        return
    moves = [(entry["from_status"], entry["to_status"]) for entry in entries]
    wanted = ("pending", "unspent") if one.kind == "released" else ("unspent", "spent")
    if moves != [wanted]:
        verdict.wrong.append(f"{one.kind} {one.token_id}: moved {moves}")
    if one.kind == "partly":
        kept = list(lab.db["cashu_tokens"].find({"transaction_id": f"{one.transaction_id}_keep"}))
        if [(k["status"], k["total_amount"]) for k in kept] != [("unspent", 8)]:
            verdict.wrong.append(f"split of {one.token_id}: {[(k['status'], k['total_amount']) for k in kept]}")


def _in_the_next_tour(lab: Lab, by_token: dict[str, list[dict[str, Any]]], verdict: Verdict) -> None:
    """No gap: what was there before a whole tour began was corrected by the end of that tour."""
    for one in lab.planter.planted:
        if one.kind not in {"spent", "partly"}:
            continue
        after = [tour for tour in lab.recorder.tours if tour.alias == one.alias and tour.started_at > one.at]
        first = min(after, key=lambda tour: tour.finished_at, default=None)
        entry = by_token[one.token_id]
        if first is None or not entry:
            continue
        verdict.judged_in_tour += 1
        if entry[0]["at"] > first.finished_at:
            verdict.wrong.append(f"{one.token_id} was passed over by tour {first.number} of {one.alias}")


def _one_holder_an_epoch(audit: list[dict[str, Any]], verdict: Verdict) -> None:
    """No two holders wrote in one epoch, and epochs only rise with time."""
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    by_shard: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for entry in audit:
        fence = entry.get("fence")
        if fence is None:
            if entry.get("melt_id") is None:
                verdict.wrong.append(f"{entry['_id']} was written under no lease")
            continue
        holders[fence["shard"], fence["epoch"]].add(fence["holder"])
        by_shard[fence["shard"]].append((entry["at"], fence["epoch"]))
    verdict.wrong += [f"{key} was written in by {names}" for key, names in holders.items() if len(names) != 1]
    for shard, written in by_shard.items():
        epochs = [epoch for _, epoch in sorted(written)]
        verdict.epochs[shard] = len(set(epochs))
        if epochs != sorted(epochs):
            verdict.wrong.append(f"an old epoch wrote after a newer one in {shard}")


def _whole_tours(lab: Lab, verdict: Verdict) -> None:
    """Each whole tour looked at every document that was there all the time."""
    for alias in ALIASES:
        tours = [tour for tour in lab.recorder.tours if tour.alias == alias]
        verdict.tours[alias] = len(tours)
        verdict.wrong += [
            f"tour {tour.number} of {alias} saw {tour.documents} documents"
            for tour in tours
            if tour.started_at > lab.filled_at and tour.documents < lab.documents
        ]


def _no_proof_twice(lab: Lab, verdict: Verdict) -> None:
    seen: set[str] = set()
    for document in lab.db["cashu_tokens"].find({}):
        for proof in document["proofs"]:
            if proof["secret"] in seen:
                verdict.wrong.append(f"a proof of {document['_id']} lies in another document too")
            seen.add(proof["secret"])
