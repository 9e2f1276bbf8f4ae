"""
One whole run: plant, look without touching, sweep until nothing moves, repair, restore, look again, judge.

The dry run comes first and is held to what was then done: the same documents, types, actions and proofs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.drift import judge, specials
from tests.drift.cases import MATRIX, PLANTED, Case, Document, Outcome
from tests.drift.ground import LIVE, Ground
from tests.drift.specials import Special

STATUSES: Final = ["unspent", "pending", "spent", "failed"]
ACTIONS: Final = frozenset({"mark_spent", "release", "reclaim"})
QUIET_TOURS: Final = 2
Action = tuple[str, str, str, frozenset[str]]
"""Document, type, action, proofs."""


@dataclass(kw_only=True)
class Row:
    """A line of the table."""

    type: str
    name: str
    planted: int
    found: int = 0
    corrected: int = 0
    recorded: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Result:
    """What a run has shown. ``problems`` is empty where everything holds."""

    rows: list[Row] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def run(ground: Ground, *, proofs: int, users: int, each: int, patience_s: float) -> Result:
    """Everything, in order. Raises AssertionError where it can't go on."""
    result = Result()
    started = time.monotonic()
    ground.add_users(users)
    ground.found_wallet_service()
    ground.daemon.start()
    ground.say("payments first: change that gets lost, mints that contradict themselves")
    payments = specials.pay(ground, 3)
    ground.daemon.stop()
    others = [*payments.specials, specials.foreign(ground, 5), specials.expiring(ground, 5)]
    doubled, losers = specials.duplicates(ground, each)
    others += doubled
    ground.say("planting")
    ground.plant(proofs // 8, each)
    ground.slow_down()
    before = judge.snapshot(ground)
    for planted in ground.planted:
        planted.raw = before[planted.id]
    melts = {entry["_id"] for entry in ground.db["meltd_melts"].find({}, {"_id": 1})}
    worth = judge.census(ground, before)
    ground.mints["dead"].stop_blocking()
    result.figures["documents"] = len(before)
    result.figures["proofs"] = sum(len(d["proofs"]) for d in before.values() if isinstance(d.get("proofs"), list))
    result.figures["planting_s"] = round(time.monotonic() - started, 1)

    ground.say("a dry run, paused")
    ground.pause_at_start()
    ground.daemon.start()
    predicted = dry_run(ground, result)
    _require(result, judge.snapshot(ground) == before, "the dry run changed documents")

    ground.say("sweeps until nothing moves")
    swept = time.monotonic()
    ground.daemon.post("/v1/resume", {})
    until_quiet(ground, patience_s)
    result.figures["sweeping_s"] = round(time.monotonic() - swept, 1)
    middle = judge.snapshot(ground)
    done = corrected_actions(ground)
    _require(result, predicted == done, _difference(predicted, done))
    wrongly = repaired(ground, result, losers, middle)
    restored(ground, result, payments)

    ground.say("and once more: nothing may change")
    settled = judge.snapshot(ground)
    again = [ground.daemon.reconcile(mint=mint, statuses=STATUSES) for mint in LIVE]
    _require(result, all(report["corrected"] == 0 for report in again), f"a second run corrected: {again}")
    _require(result, judge.snapshot(ground) == settled, "a second run changed documents")

    after = judge.snapshot(ground)
    result.rows = [*rows(ground, before, middle), *(special_row(ground, one) for one in others)]
    result.rows.append(regressed(ground, result))
    for row in result.rows:
        result.problems += row.problems[:3]
    ground.mints["dead"].start_blocking()
    ledger(ground, result, worth, judge.census(ground, after), melts, payments)
    _require(result, not wrongly, f"repair: {wrongly[:5]}")
    _require(result, judge.twice(after) == 0, f"{judge.twice(after)} proofs lie in two documents")
    _require(result, not judge.audit_gaps(ground), f"changes with two audit entries: {judge.audit_gaps(ground)[:3]}")
    result.figures["seconds"] = round(time.monotonic() - started, 1)
    return result


def left_alone(ground: Ground, *, proofs: int, users: int, each: int, patience_s: float) -> Result:
    """
    The same documents under a daemon that leaves alone what has not settled: all of it is found, nothing is written.

    Give the ground settings under which nothing settles meanwhile, such as the defaults.
    """
    result = Result()
    ground.add_users(users)
    ground.found_wallet_service()
    ground.plant(proofs // 8, each)
    before = judge.snapshot(ground)
    ground.mints["dead"].stop_blocking()
    ground.daemon.start()
    for mint in LIVE:
        report = ground.daemon.reconcile(mint=mint, statuses=STATUSES)
        _require(result, report["corrected"] == 0, f"{mint}: {report['corrected']} were corrected")
        _require(result, report["settling"] == report["planned"] > 0, f"{mint}: {report['settling']} settle")
    until_quiet(ground, patience_s)
    _require(result, judge.snapshot(ground) == before, "documents were changed before they had settled")
    _require(result, ground.db["meltd_melts"].count_documents({}) == 0, "proofs were swapped before they had settled")
    records = {
        (record["token_id"], record["type"]): record
        for record in ground.db["meltd_discrepancies"].find({"token_id": {"$ne": None}})
    }
    for planted in ground.planted:
        for kind in planted.case.types if planted.mint in LIVE else ():
            record = records.get((str(planted.id), kind.value))
            if record is None:
                result.problems.append(f"{planted.case.name} {planted.id}: {kind.value} not found")
            elif record["action"] in ACTIONS and (record["state"] != "open" or not record["needs_ms"]):
                result.problems.append(f"{planted.case.name} {planted.id}: {kind.value} is {record['state']}")
    return result


def _require(result: Result, holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        result.problems.append(otherwise)


def _difference(predicted: set[Action], done: set[Action]) -> str:
    missing = [one[:3] for one in sorted(predicted - done, key=str)[:3]]
    surplus = [one[:3] for one in sorted(done - predicted, key=str)[:3]]
    return (
        f"the dry run told {len(predicted)} corrections, {len(done)} were made; "
        f"told and not made {missing}, made and not told {surplus}"
    )


# --- the phases ---


def dry_run(ground: Ground, result: Result) -> set[Action]:
    """What a run would do at the mints that answer, by its own word."""
    predicted: set[Action] = set()
    for mint in LIVE:
        report = ground.daemon.reconcile(mint=mint, statuses=STATUSES, dry_run=True)
        _require(result, len(report["found"]) < 1000, "more was found than one answer holds: plant less of each")
        told = {_action(one) for one in report["found"] if one["action"] in ACTIONS}
        _require(result, len(told) == report["planned"], f"{mint}: {report['planned']} planned, {len(told)} told")
        predicted |= told
    dead = ground.daemon.reconcile(mint="dead", statuses=STATUSES, dry_run=True)
    _require(result, bool(dead["errors"]) and not dead["planned"], f"the dead mint told something: {dead}")
    return predicted


def _action(one: Mapping[str, Any]) -> Action:
    return one["token_id"], one["type"], one["action"], frozenset(one["ys"])


def corrected_actions(ground: Ground) -> set[Action]:
    """What was done, by the records that were closed as corrected."""
    return {
        (record["token_id"], record["type"], record["action"], frozenset(record["ys"]))
        for record in ground.db["meltd_discrepancies"].find({"state": "corrected"})
        if record["action"] in ACTIONS and record["token_id"] is not None
    }


def until_quiet(ground: Ground, patience_s: float) -> None:
    """Until, over whole tours of each live mint, nothing has been written that changes a document."""
    deadline = time.monotonic() + patience_s
    quiet_since = _tours(ground)
    activity = _activity(ground)
    while True:
        assert time.monotonic() < deadline, f"it does not come to rest:\n{ground.daemon.log_tail()}"
        time.sleep(0.5)
        now = _activity(ground)
        tours = _tours(ground)
        if now != activity:
            activity, quiet_since = now, tours
        elif all(tours[mint] >= quiet_since[mint] + QUIET_TOURS for mint in LIVE):
            return


def _activity(ground: Ground) -> tuple[int, int]:
    """Audit entries, and open swaps."""
    moving = {"kind": "reclaim", "state": {"$nin": ["SETTLED", "RELEASED"]}}
    return ground.db["meltd_audit"].count_documents({}), ground.db["meltd_melts"].count_documents(moving)


def _tours(ground: Ground) -> dict[str, int]:
    """Tours of each mint that have ended."""
    ended = dict.fromkeys(LIVE, 0)
    for record in ground.db["meltd_sweeps"].find({"_id": {"$in": list(LIVE)}}):
        ended[record["_id"]] = int(record["tour"]) - (record.get("finished_at") is None)
    return ended


def repaired(
    ground: Ground, result: Result, losers: Mapping[str, Document], before: Mapping[Any, Document]
) -> list[str]:
    """The double count, on approval: what is wrong with the documents afterwards."""
    ground.say("repair of the double count")
    body = {"type": "DUPLICATE_PROOF", "across_users": True}
    told = ground.daemon.post("/v1/repairs", {**body, "dry_run": True})
    assert told.status_code == 200, told.text
    _require(result, judge.snapshot(ground) == before, "the repair's dry run changed documents")
    done = ground.daemon.post("/v1/repairs", {**body, "dry_run": False, "reason": "approved by the lab"})
    assert done.status_code == 200, done.text
    after = judge.snapshot(ground)
    wrong = []
    for key, document in before.items():
        loser = losers.get(str(key))
        if loser is None:
            # The document that keeps a proof is marked, so that two repairs at once can't empty both.
            marks = ("rev", "updatedAt")
            same = _without(after[key], marks) == _without(document, marks)
            wrong += [f"{key} was changed by the repair"] if not same else []
        elif [p["secret"] for p in after[key]["proofs"]] != [p["secret"] for p in document["proofs"][3:]]:
            wrong.append(f"{key} does not hold what it alone holds")
    return wrong


def _without(document: Document, names: tuple[str, ...]) -> Document:
    return {name: value for name, value in document.items() if name not in names}


def restored(ground: Ground, result: Result, payments: specials.Payments) -> None:
    """Change that the database lost comes back to its owners."""
    ground.say("restore of what the database lacks")
    before = judge.snapshot(ground)
    told = ground.daemon.post("/v1/restore", {"dry_run": True})
    assert told.status_code == 200, told.text
    _require(result, judge.snapshot(ground) == before, "the restore's dry run changed documents")
    done = ground.daemon.post("/v1/restore", {})
    assert done.status_code == 200, done.text
    new = [document for key, document in judge.snapshot(ground).items() if key not in before]
    back: dict[tuple[str, str], int] = {}
    names = {ground.url(mint): mint for mint in LIVE}
    for document in new:
        key = (document["npub"], names[document["mint_url"].rstrip("/")])
        back[key] = back.get(key, 0) + int(document["total_amount"])
    _require(result, back == payments.lost, f"restored {sum(back.values())}, lost {sum(payments.lost.values())}")


# --- the table ---


def rows(ground: Ground, before: Mapping[Any, Document], after: Mapping[Any, Document]) -> list[Row]:
    """A row for each kind of document that was planted, the sound ones and the dead mint's in one each."""
    born = judge.children_of(before, after)
    records: dict[str, list[Document]] = {}
    for record in ground.db["meltd_discrepancies"].find({"token_id": {"$ne": None}}):
        records.setdefault(record["token_id"], []).append(record)
    table: dict[str, Row] = {}
    for planted in ground.planted:
        case = planted.case
        for row in _rows_of(table, case):
            row.planted += 1
            about = records.get(str(planted.id), [])
            mine = [one for one in about if row.type in {one["type"], "-"}]
            row.found += bool(mine)
            state = mine[0]["state"] if mine else None
            row.corrected += state == "corrected"
            row.recorded += state in {"open", "recurred"}
            wrong = judge.problems_of(planted, after, born)
            row.wrong += bool(wrong)
            row.problems += [f"{case.name} {planted.id}: {one}" for one in wrong]
            row.problems += _unexpected(case, row, mine, about, str(planted.id))
    return list(table.values())


def _rows_of(table: dict[str, Row], case: Case) -> list[Row]:
    if case.outcome is Outcome.UNSEEN:
        name = "at the dead mint, drift" if case.name.startswith("dead") else "sound documents"
        return [table.setdefault(name, Row(type="-", name=name, planted=0))]
    return [
        table.setdefault(f"{case.name}/{kind}", Row(type=kind.value, name=case.name, planted=0)) for kind in case.types
    ]


def _unexpected(case: Case, row: Row, mine: list[Document], about: list[Document], token_id: str) -> list[str]:
    if case.outcome is Outcome.UNSEEN:
        return [f"{case.name} {token_id}: found {one['type']}" for one in mine]
    others = [one["type"] for one in about if one["type"] not in {kind.value for kind in case.types}]
    told = [f"{case.name} {token_id}: also found {name}" for name in others]
    if not mine:
        return [*told, f"{case.name} {token_id}: {row.type} not found"]
    acts = mine[0]["action"] in ACTIONS
    if case.outcome is Outcome.CORRECTED and acts and mine[0]["state"] != "corrected":
        told.append(f"{case.name} {token_id}: {row.type} is {mine[0]['state']}")
    if case.outcome is Outcome.RECORDED and mine[0]["state"] not in {"open", "recurred"}:
        told.append(f"{case.name} {token_id}: {row.type} is {mine[0]['state']}")
    return told


def special_row(ground: Ground, special: Special) -> Row:
    """By subject, or by document."""
    row = Row(type=special.type.value, name=special.name, planted=special.planted)
    chosen: Document = {"type": special.type.value}
    if special.subjects:
        chosen["subject"] = {"$in": special.subjects}
    else:
        chosen["token_id"] = {"$in": special.token_ids}
    for record in ground.db["meltd_discrepancies"].find(chosen):
        row.found += 1
        row.corrected += record["state"] == "corrected"
        row.recorded += record["state"] in {"open", "recurred"}
    if row.found != row.planted:
        row.problems.append(f"{special.name}: {row.found} of {row.planted} found")
    if special.outcome == "corrected" and row.corrected != row.planted:
        row.problems.append(f"{special.name}: {row.corrected} of {row.planted} corrected")
    return row


def regressed(ground: Ground, result: Result) -> Row:
    """The slow mint takes back a SPENT: nothing may change, one event, and it ends when the lie does."""
    ground.say("a mint that takes back what it said")
    spent = next(p for p in ground.planted if p.case is MATRIX[0] and p.mint == "slow")
    from melt.ecash import y_of

    special, end = specials.regress(ground, [y_of(p["secret"]) for p in spent.raw["proofs"]])
    before = judge.snapshot(ground)
    ground.daemon.reconcile(mint="slow", statuses=STATUSES)
    _wait(lambda: _open_events(ground) != [], ground)
    time.sleep(3)  # some more tours under the lie
    ground.daemon.reconcile(mint="slow", statuses=STATUSES)
    _require(result, judge.snapshot(ground) == before, "a mint that took back a SPENT changed documents")
    row = special_row(ground, special)
    end()
    ground.slow_down()
    _wait(lambda: _open_events(ground) == [], ground)
    _require(result, judge.snapshot(ground) == before, "the end of the lie changed documents")
    return row


def _open_events(ground: Ground) -> list[str]:
    chosen = {"open": True, "mint": "slow", "type": {"$in": ["MINT_STATE_REGRESSED", "SENTINEL_FAILED"]}}
    return [event["type"] for event in ground.db["meltd_events"].find(chosen)]


def _wait(condition: Callable[[], bool], ground: Ground, within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time:\n{ground.daemon.log_tail()}"
        time.sleep(0.2)


def ledger(
    ground: Ground,
    result: Result,
    before: judge.Census,
    after: judge.Census,
    melts: set[str],
    payments: specials.Payments,
) -> None:
    """Per user and mint: what the mint honoured, what it took in fees, what came back, what it honours."""
    fees = judge.fees(ground, melts)
    for key in sorted(before.honoured.keys() | after.honoured.keys()):
        fee, back = fees.get(key, 0), payments.lost.get(key, 0)
        difference = before.honoured[key] - fee + back - after.honoured[key]
        result.ledger.append(
            {
                "npub": key[0],
                "mint": key[1],
                "before": before.honoured[key],
                "fees": fee,
                "restored": back,
                "after": after.honoured[key],
                "conserved": difference == 0,
            }
        )
        if difference:
            result.problems.append(f"{key[0][:16]} at {key[1]}: {difference} sat are missing (negative: too much)")


def cases_planted() -> int:
    """How many kinds of document there are."""
    return len(PLANTED)
