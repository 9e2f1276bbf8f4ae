"""
A long tour that is killed in its middle: ``python -m tests.sweeps.long [--proofs 200000] [--page 100]``.

Plants token documents of eight proofs each in a store of its own, starts the daemon, kills it with SIGKILL when half of
the tour is done, starts it again, and counts at the mint's door which proofs were asked about before and after. Prints
where it went on, what was asked twice, and the daemon's memory over time; ends with 1 where more than one page was
repeated, anything was left out, or the memory grew. No mint has heard of the proofs: they read UNSPENT.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId
from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from melt.ecash import y_of
from melt.store import MongoStore
from tests.support.daemon import DaemonProcess
from tests.support.front_mint import FrontMint
from tests.support.mint import MintProcess, TestWallet
from tests.support.store import SystemClock, fake_proof, npub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymongo.database import Database

PROOFS_OF_DOCUMENT: Final = 8
BATCH: Final = 100
"""Documents of one insert (STORE.md: at most so many)."""
USERS: Final = 200
POLL_S: Final = 0.1
TOUR_S_MAX: Final = 1800.0
RSS_GROWTH_MAX: Final = 1.15
"""Between the first tenth of the documents and the end, the daemon's memory may not grow by more than this."""


@dataclass(kw_only=True)
class Sample:
    """The daemon at one moment: seconds since its start, documents done, resident memory in MiB."""

    at: float
    documents: int
    rss: float


@dataclass(kw_only=True)
class Life:
    """One life of the daemon, from its start to the kill or to the end of the tour."""

    record: dict[str, Any] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    samples: list[Sample] = field(default_factory=list)


def plant(db: Database[dict[str, Any]], documents: int, mint_url: str, keyset_id: str) -> list[list[str]]:
    """Insert documents in the order of their ids; the Ys of each."""
    owners = [npub() for _ in range(USERS)]
    planted: list[list[str]] = []
    for start in range(0, documents, BATCH):
        batch = []
        for number in range(start, min(start + BATCH, documents)):
            proofs = [fake_proof(1 << bit, keyset_id=keyset_id) for bit in range(PROOFS_OF_DOCUMENT)]
            planted.append([str(y_of(proof["secret"])) for proof in proofs])
            batch.append(
                {
                    "_id": ObjectId(),
                    "npub": owners[number % USERS],
                    "proofs": proofs,
                    "mint_url": mint_url,
                    "status": "unspent",
                    "transaction_type": "minted",
                    "transaction_id": f"tx_minted_{ObjectId()}",
                    "metadata": {"source": "lightning"},
                    "spent_at": None,
                    "total_amount": (1 << PROOFS_OF_DOCUMENT) - 1,
                }
            )
        db["cashu_tokens"].insert_many(batch)
    return planted


def live(
    daemon: DaemonProcess, front: FrontMint, db: Database[dict[str, Any]], enough: Callable[[dict[str, Any]], bool]
) -> Life:
    """Start the daemon and watch it until ``enough`` of its record; then kill it with SIGKILL."""
    before = len(front.asked)
    life = Life()
    daemon.start()
    started = time.monotonic()
    while True:
        record = db["meltd_sweeps"].find_one({"_id": "main"}) or {}
        life.samples.append(
            Sample(at=time.monotonic() - started, documents=record.get("documents", 0), rss=rss_of(daemon))
        )
        if enough(record):
            break
        if life.samples[-1].at > TOUR_S_MAX:
            raise AssertionError(f"the tour does not end: {record}\n{daemon.log_tail()}")
        time.sleep(POLL_S)
    daemon.kill()
    life.record = db["meltd_sweeps"].find_one({"_id": "main"}) or {}
    life.asked = {y for one in front.asked[before:] if one.path == "/v1/checkstate" for y in one.body["Ys"]}
    return life


def rss_of(daemon: DaemonProcess) -> float:
    """Resident memory, in MiB."""
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass(kw_only=True)
class Result:
    """What became of a tour that was killed at ``stopped`` documents."""

    documents: int
    page: int
    first: Life
    second: Life
    repeated: int
    left_out: int
    misplaced: int
    """Documents that the position says are done, and that nobody has asked about."""

    def problems(self) -> list[str]:
        """Sentences; none where all is well."""
        found = []
        if self.repeated > self.page:
            found.append(f"{self.repeated} documents were asked about twice: more than a page of {self.page}")
        if self.left_out or self.misplaced:
            found.append(f"{self.left_out} documents were never asked about, {self.misplaced} were passed over")
        if self.second.record.get("documents") != self.documents:
            found.append(f"the record counts {self.second.record.get('documents')} of {self.documents} documents")
        if self.second.record.get("tour") != self.first.record.get("tour"):
            found.append("it began a tour of its own")
        return found


def judge(planted: Sequence[Sequence[str]], first: Life, second: Life, ids: Sequence[str], page: int) -> Result:
    """Compare what was asked before the kill and after it with what there is."""
    stopped = ids.index(first.record["position"]) + 1
    before = {index for index, ys in enumerate(planted) if first.asked.intersection(ys)}
    after = {index for index, ys in enumerate(planted) if second.asked.intersection(ys)}
    return Result(
        documents=len(planted),
        page=page,
        first=first,
        second=second,
        repeated=len(before & after),
        left_out=len(planted) - len(before | after),
        misplaced=len(set(range(stopped)) - before),
    )


def main() -> int:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweeps.long", description=__doc__.split("\n\n")[0])
    parser.add_argument("--proofs", type=int, default=200_000)
    parser.add_argument("--page", type=int, default=100, help="documents of a page (default: %(default)s)")
    options = parser.parse_args()
    documents = max(2, options.proofs // PROOFS_OF_DOCUMENT)
    with (
        tempfile.TemporaryDirectory(prefix="meltd-long-") as name,
        EmbeddedStore(Path(name) / "store", cache_size="2G") as embedded,
        MintProcess(Path(name) / "mint") as mint,
        FrontMint(upstream=mint.url) as front,
        MongoClient(embedded.uri, tz_aware=True) as client,
    ):
        db = client["long"]
        store = MongoStore(embedded.uri, "long", clock=SystemClock(), retry_writes=False)
        store.ensure_schema()
        store.close()
        began = time.monotonic()
        planted = plant(db, documents, front.url, asyncio.run(TestWallet(mint.url).active_keyset()))
        print(
            f"planted     {documents} documents, {documents * PROOFS_OF_DOCUMENT} proofs in {time.monotonic() - began:.0f} s"
        )
        ids = [str(raw["_id"]) for raw in db["cashu_tokens"].find({}, {"_id": 1}).sort("_id", 1)]
        daemon = DaemonProcess(
            Path(name) / "daemon",
            mints={"main": front.url},
            mongo_uri=embedded.uri,
            database="long",
            settings={
                "sweep.page_documents": options.page,
                "sweep.interval_s": 3600,
                "sweep.signature_sample_share": 0,
                "sweep.duty_min": 1,
                "sweep.duty_max": 1,
                "log.level": "INFO",
            },
        )
        first = live(daemon, front, db, lambda record: record.get("documents", 0) >= documents // 2)
        second = live(daemon, front, db, lambda record: record.get("finished_at") is not None)
        return tell(judge(planted, first, second, ids, options.page))


def tell(result: Result) -> int:
    """Print the numbers; the exit code."""
    stopped = result.first.record["documents"]
    print(
        f"killed at   {stopped} documents, position {result.first.record['position']}, tour {result.first.record['tour']}"
    )
    print(f"repeated    {result.repeated} documents (a page has {result.page}); left out {result.left_out}")
    print(f"ended with  {result.second.record['documents']} documents, {result.second.record['proofs']} proofs counted")
    problems = result.problems()
    for name, life in (("first life", result.first), ("second life", result.second)):
        touring = [one for one in life.samples if one.documents > life.samples[0].documents]
        done = touring[-1].documents - touring[0].documents
        rate = PROOFS_OF_DOCUMENT * done / (touring[-1].at - touring[0].at) if len(touring) > 1 else 0.0
        print(f"{name:<11} {rate:.0f} proofs/s; first page after {touring[0].at:.1f} s")
        shown = touring[:: max(1, len(touring) // 8)]
        print("  RSS MiB   " + "  ".join(f"{one.rss:.0f}@{one.at:.0f}s" for one in shown))
        warm = next(one.rss for one in touring if one.documents - touring[0].documents >= done / 10)
        most = max(one.rss for one in touring)
        print(f"  grown by  {100 * (most / warm - 1):.1f} % after its first tenth")
        if most > warm * RSS_GROWTH_MAX:
            problems.append(f"{name}: memory grew from {warm:.0f} to {most:.0f} MiB")
    for problem in problems:
        print(f"PROBLEM     {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
