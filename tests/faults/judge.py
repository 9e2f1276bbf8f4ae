"""
What must hold when a case has ended, counted afresh from the mint, its node and the raw documents.

Nothing here asks meltd. Money is what the mint still honours of a user's documents; what left is counted by the node that
paid, by the mint's price list for inputs that it calls SPENT, and by the shortfall that the journal owns up to.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from melt.ecash import y_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from daemon.demo.mint_child import MeltPost
    from tests.faults.bench import Bench, Bill
    from tests.faults.lab import Station
    from tests.support.proxy import Passed

OPEN_STATES: Final = frozenset({"RESERVED", "SWAPPING", "READY", "MELTING", "PENDING", "FENCING", "HELD"})
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expect:
    """
    How a case has to end. ``state`` is of every melt of the user; ``payments`` of every invoice: 0 or 1.

    ``events`` are the CRITICAL events that have to be open at the end. ``lost_to_mint`` is what the mint's lies cost the
    user beyond fees; it must be booked as a shortfall. ``mint_pays``: the money has left, and the mint, not the user,
    bears it. ``doubled``: the proxy delivers the melt POST twice, so that two may run at the mint.
    ``asked_in_flight``: the quote is asked while the POST may run, because its grace time is over.
    """

    state: str | tuple[str, ...] = "SETTLED"
    payments: int | None = None
    events: tuple[str, ...] = ()
    lost_to_mint: int = 0
    mint_pays: bool = False
    doubled: bool = False
    asked_in_flight: bool = False
    refusals: tuple[str, ...] | None = None

    @property
    def states(self) -> tuple[str, ...]:
        return (self.state,) if isinstance(self.state, str) else self.state


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was found: payments and states for the table, and everything that is wrong."""

    payments: tuple[int, ...]
    states: tuple[str, ...]
    difference: int
    problems: tuple[str, ...]


def judge(bench: Bench, expect: Expect) -> Judgement:
    """Every invariant over one user."""
    db = bench.station.db
    documents = list(db["cashu_tokens"].find({"npub": bench.owner}))
    journal = list(db["meltd_melts"].find({"npub": bench.owner}))
    melts = [entry for entry in journal if entry["kind"] == "melt"]
    events = [event for event in db["meltd_events"].find({"open": True}) if _is_about(event, journal)]
    payments = asyncio.run(bench.station.mint.payments())
    paid = [payments[bill.payment_hash].paid if bill.payment_hash in payments else 0 for bill in bench.bills]
    states = _states(bench, documents, journal)
    problems = [
        *_payments(bench.bills, paid, melts, expect),
        *_ends(melts, events, expect),
        *_documents(documents, melts),
        *_audit(list(db["meltd_audit"].find({"npub": bench.owner})), documents),
        *_posts(bench, melts, expect),
    ]
    if expect.refusals is not None and not set(expect.refusals) <= set(bench.refusals):
        problems.append(f"refused with {bench.refusals}, expected {expect.refusals}")
    difference, wrong = _ledger(bench, documents, journal, states, expect)
    return Judgement(
        payments=tuple(paid),
        states=tuple(sorted(entry["state"] for entry in melts)) or ("none",),
        difference=difference,
        problems=(*problems, *wrong),
    )


# --- payments and ends ---


def _payments(bills: Sequence[Bill], paid: Sequence[int], melts: Sequence[Document], expect: Expect) -> Iterable[str]:
    for bill, times in zip(bills, paid, strict=True):
        settled = sum(1 for m in melts if m["payment_hash"] == bill.payment_hash and m["state"] == "SETTLED")
        if times > 1 or settled > 1:
            yield f"paid {times} times, settled {settled} times"
        if times != settled and not expect.mint_pays:
            yield f"money left {times} times and {settled} melts are SETTLED"
        if expect.payments is not None and times != expect.payments:
            yield f"{times} payments, expected {expect.payments}"


def _ends(melts: Sequence[Document], events: Sequence[Document], expect: Expect) -> Iterable[str]:
    found = {str(melt["state"]) for melt in melts} or {"none"}
    if not found <= set(expect.states):
        yield f"ended {sorted(found)}, expected {sorted(expect.states)}"
    open_types = sorted(str(event["type"]) for event in events)
    if open_types != sorted(expect.events):
        yield f"open events {open_types}, expected {sorted(expect.events)}"
    for melt in melts:
        if melt["state"] == "HELD" and not any(event["subject"] == f"melt:{melt['_id']}" for event in events):
            yield "HELD without an open CRITICAL event"


def _is_about(event: Document, journal: Sequence[Document]) -> bool:
    return any(event["subject"] == f"melt:{entry['_id']}" for entry in journal)


# --- documents ---


def _documents(documents: Sequence[Document], melts: Sequence[Document]) -> Iterable[str]:
    open_ids = {melt["_id"] for melt in melts if melt["state"] in OPEN_STATES}
    places: dict[str, int] = defaultdict(int)
    for document in documents:
        reservation = document.get("reservation")
        holder = None if reservation is None else reservation["melt_id"]
        if document["status"] == "pending" and holder not in open_ids:
            yield "a pending document that no open melt holds"
        if holder is not None and holder not in open_ids:
            yield "a reservation of a melt that is over"
        if document["transaction_type"] == "melted":
            yield "a melted document"
        if (document["status"] == "spent") != (document.get("spent_at") is not None):
            yield f"spent_at of a {document['status']} document"
        if document["total_amount"] != sum(int(proof["amount"]) for proof in document["proofs"]):
            yield "total_amount is not what the proofs add up to"
        for proof in document["proofs"]:
            places[proof["secret"]] += 1
    if any(count > 1 for count in places.values()):
        yield "a proof lies in two documents"


def _audit(entries: Sequence[Document], documents: Sequence[Document]) -> Iterable[str]:
    """One entry per change: each document's entries follow each other from its making to its present status."""
    by_token: dict[str, list[Document]] = defaultdict(list)
    for entry in entries:
        by_token[entry["token_id"]].append(entry)
    for document in documents:
        moves = by_token.pop(str(document["_id"]), [])
        steps = [(move["from_status"], move["to_status"]) for move in moves]
        inserted = not any(start is None for start, _ in steps)
        status: str | None = document["metadata"].get("inserted_as", "unspent") if inserted else None
        while steps:
            following = [step for step in steps if step[0] == status]
            if not following:
                yield f"the audit of a document breaks off at {status}: {steps}"
                break
            # A document may be reserved and released several times: any order that uses every entry once will do.
            step = _next_step(following, steps, document["status"])
            steps.remove(step)
            status = step[1]
        if status != document["status"] and not steps:
            yield f"a document is {document['status']}, its audit ends with {status}"
    if by_token:
        yield "audit entries of documents that are not there"


def _next_step(following: Sequence[tuple[Any, Any]], steps: Sequence[tuple[Any, Any]], final: str) -> tuple[Any, Any]:
    """Prefer a move that is not the last one."""
    return next((step for step in following if step[1] != final or len(steps) == 1), following[0])


# --- requests ---


def _posts(bench: Bench, melts: Sequence[Document], expect: Expect) -> Iterable[str]:
    """At most one melt POST per quote, from the daemon and unresolved at the mint; and no GET while it runs."""
    mint = bench.station.mint
    at_mint = asyncio.run(mint.posts()) if mint.counts_posts else {}
    for melt in melts:
        quote = str(melt["quote_id"])
        sent = [one for one in bench.proxy.passed if one.endpoint == "melt" and one.quote == quote]
        if len(sent) > 1:
            yield f"{len(sent)} melt POSTs for one quote"
        arrived = sorted(at_mint.get(quote, ()), key=lambda post: post.at)
        for earlier, later in pairwise(arrived):
            if (earlier.ended_at is None or later.at < earlier.ended_at) and not expect.doubled:
                yield "two melt POSTs for one quote ran at the mint at once"
        if len(arrived) > 1 and not expect.doubled:
            yield f"{len(arrived)} melt POSTs for one quote arrived at the mint"
        for get in bench.proxy.passed:
            if get.endpoint != "melt_quote_state" or get.quote != quote or expect.asked_in_flight:
                continue
            if any(post.at <= get.at < _over_at(post, arrived) for post in sent):
                yield "the quote was asked while its POST was running"


def _over_at(post: Passed, arrived: Sequence[MeltPost]) -> float:
    """
    When, by the monotonic clock, a POST no longer ran at the mint: by the mint's own word, or when its answer passed.

    An answer that the proxy holds back is no payment that runs: the inputs have left PENDING by then.
    """
    through = math.inf if post.ended_at is None else post.ended_at
    ends = [one.ended_at for one in arrived]
    if not ends or None in ends:
        return through
    return min(through, max(end for end in ends if end is not None) - time.time() + time.monotonic())


# --- money ---


def _states(bench: Bench, documents: Sequence[Document], journal: Sequence[Document]) -> dict[str, str]:
    """The mint's word about every proof of the user's documents and of the journal."""
    ys = {y_of(proof["secret"]) for document in documents for proof in document["proofs"]}
    for entry in journal:
        for refs in (entry["inputs"], *((entry[plan] or {}).get("inputs", ()) for plan in ("swap", "fence"))):
            ys |= {ref["y"] for ref in refs}
    asked = sorted(ys)
    return dict(zip(asked, asyncio.run(bench.station.wallet.states_of(asked)), strict=True)) if asked else {}


def _ledger(
    bench: Bench,
    documents: Sequence[Document],
    journal: Sequence[Document],
    states: Mapping[str, str],
    expect: Expect,
) -> tuple[int, list[str]]:
    """What is missing (positive) or too much, and what else is wrong about the money."""
    proofs = {y_of(p["secret"]): int(p["amount"]) for document in documents for p in document["proofs"]}
    honoured = {y for y in proofs if states[y] != "SPENT"}
    after = sum(proofs[y] for y in honoured)
    by_hash = {bill.payment_hash: bill for bill in bench.bills}
    paid = fees = booked = costs = 0
    for melt in journal:
        if melt["kind"] != "melt" or melt["state"] != "SETTLED":
            continue
        bill = by_hash[melt["payment_hash"]]
        overpaid = sum(ref["amount"] for ref in melt["inputs"]) - melt["amount"] - melt["input_fee"]
        paid += bill.amount
        costs += min(bill.fee, overpaid)
        fees += melt["fees_paid"]
        booked += melt["shortfall"]
    input_fees, problems = _input_fees(bench, journal, states)
    difference = bench.funded - bench.taken - after - paid - costs - expect.lost_to_mint - input_fees
    if fees + booked != costs + expect.lost_to_mint:
        problems.append(f"booked {fees} as fees and {booked} as shortfall, it cost {costs + expect.lost_to_mint}")
    if difference:
        problems.append(f"{difference} sat are missing (negative: too much)")
    held = {entry["_id"] for entry in journal if entry["state"] in OPEN_STATES}
    counted = {
        y_of(proof["secret"])
        for document in documents
        if document["status"] in {"unspent", "pending"}
        and (document.get("reservation") or {}).get("melt_id") not in held
        for proof in document["proofs"]
    }
    honoured -= {ref["y"] for entry in journal if entry["_id"] in held for ref in entry["inputs"]}
    if counted != honoured:
        gone = sum(proofs[y] for y in counted - honoured)
        missed = sum(proofs[y] for y in honoured - counted)
        problems.append(f"documents count {gone} sat that are spent and miss {missed} that are there")
    return difference, problems


def _input_fees(bench: Bench, journal: Sequence[Document], states: Mapping[str, str]) -> tuple[int, list[str]]:
    """What the mint took for inputs, by its own price list; an input must be SPENT and consumed once."""
    ppk = {k["id"]: int(k.get("input_fee_ppk") or 0) for k in asyncio.run(bench.station.wallet.keysets())}
    total, problems = 0, []
    consumed: set[str] = set()
    for refs in _operations(journal):
        ys = [ref["y"] for ref in refs]
        if any(states[y] != "SPENT" for y in ys):
            problems.append("an input that was consumed is not SPENT at the mint")
        if consumed & set(ys):
            problems.append("an input was consumed by two operations")
        consumed |= set(ys)
        total += -(-sum(ppk[ref["keyset_id"]] for ref in refs) // 1000)
    return total, problems


def _operations(journal: Sequence[Document]) -> Iterable[Sequence[Document]]:
    """The inputs of each request that the mint carried out for us."""
    for entry in journal:
        swapped = entry["swap"] is not None and entry["swap_fee"] > 0 and _swap_went_through(entry)
        if swapped:
            yield entry["swap"]["inputs"]
        if entry["kind"] == "melt" and entry["state"] == "SETTLED":
            yield entry["inputs"]
        elif entry["fence"] is not None and entry["state"] == "RELEASED" and _fence_went_through(entry):
            yield entry["fence"]["inputs"]


def _swap_went_through(entry: Document) -> bool:
    ys = {ref["y"] for ref in entry["swap"]["inputs"]}
    return entry["kind"] == "reclaim" or not ys & {ref["y"] for ref in entry["inputs"]}


def _fence_went_through(entry: Document) -> bool:
    fee = int(entry["fence"]["fee"])
    return int(entry["swap_fee"]) >= fee > 0


# --- what must stay secret ---

_HEX = re.compile(r"[0-9a-f]{64,66}")


def leaks(station: Station) -> list[str]:
    """Secrets of any user, and preimages of invoices that are not paid, in the log or in a record (I10)."""
    secret: dict[str, str] = {}
    for document in station.db["cashu_tokens"].find({}):
        for proof in document["proofs"]:
            secret[proof["secret"]] = "a proof's secret"
            secret[proof["C"]] = "a proof's C"
            if proof.get("dleq", {}).get("r"):
                secret[proof["dleq"]["r"]] = "a blinding factor"
    node = station.mint.folder / "node.json"  # written with the first invoice
    book: dict[str, Any] = json.loads(node.read_text()) if node.exists() else {"payments": {}}
    report = asyncio.run(station.mint.payments())
    for payment_hash, payment in book["payments"].items():
        known = report.get(payment_hash)
        if payment["preimage"] and (known is None or known.paid == 0):
            secret[payment["preimage"]] = "the preimage of an unpaid invoice"
    texts = {"the log": station.daemon.log_path.read_text(errors="replace")}
    for name in ("meltd_audit", "meltd_events", "meltd_melts", "meltd_discrepancies"):
        texts[name] = "\n".join(str(document) for document in station.db[name].find({}))
    for file in sorted((station.folder / "data").rglob("*")):
        if file.is_file() and "spool" in file.parts:
            texts[f"spool/{file.name}"] = file.read_text(errors="replace")
    return [
        f"{secret[found]} in {where}"
        for where, text in texts.items()
        for found in sorted(set(_HEX.findall(text)) & secret.keys())
    ][:10]
