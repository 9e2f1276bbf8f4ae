"""
What users can still reach, counted at the mint: the judge of whether anybody lost a sat.

It asks neither meltd nor the neighbour: it reads raw documents and asks the mint about each proof. ``outstanding`` is the
other side: all that the mint has signed and not taken back. What is outstanding and in nobody's reach is lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.mint import ProofDict, TestWallet

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.support.mint import MintProcess

REACHABLE: Final = ("unspent", "pending")
"""The statuses whose documents a user's ecash can still come from; what was ``failed`` or ``spent`` is nobody's any more."""
_SWAP_INPUTS_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """
    What one user can reach, by what the mint says of it, in the mint's unit: each proof once.

    ``unspent`` is honoured, ``pending`` is in flight, ``spent`` is written down and worth nothing.
    """

    unspent: int = 0
    pending: int = 0
    spent: int = 0


def proofs_in_reach(
    db: Database[dict[str, Any]], mint_url: str, npub: str, handed_out: Iterable[ProofDict] = ()
) -> list[ProofDict]:
    """The proofs of a user's reachable documents at this mint and of the tokens that they handed out, each once."""
    found = {proof["secret"]: proof for proof in handed_out}
    urls = [mint_url.rstrip("/"), mint_url.rstrip("/") + "/"]
    query = {"npub": npub, "mint_url": {"$in": urls}, "status": {"$in": list(REACHABLE)}}
    for document in db["cashu_tokens"].find(query):
        found |= {proof["secret"]: proof for proof in document.get("proofs", ())}
    return list(found.values())


def holdings(
    db: Database[dict[str, Any]],
    mint: MintProcess,
    users: Iterable[str],
    *,
    handed_out: Mapping[str, Sequence[ProofDict]] | None = None,
    known_as: str | None = None,
) -> dict[str, Holding]:
    """
    User by user what they can reach. Two runs of the same load are compared by ``==``.

    ``handed_out`` has the proofs of tokens that a user made for others (``send``'s ``proofs``): the user's own until
    somebody redeems them, when the mint calls them SPENT. ``known_as`` is the mint's URL in the documents where it is another.
    """
    given = handed_out or {}
    wallet = TestWallet(mint.url)
    found = {}
    for user in users:
        proofs = proofs_in_reach(db, known_as or mint.url, user, given.get(user, ()))
        states = asyncio.run(wallet.states(proofs)) if proofs else []
        sums = dict.fromkeys(("UNSPENT", "PENDING", "SPENT"), 0)
        for proof, state in zip(proofs, states, strict=True):
            sums[state] += int(proof["amount"])
        found[user] = Holding(unspent=sums["UNSPENT"], pending=sums["PENDING"], spent=sums["SPENT"])
    return found


def redeem(
    db: Database[dict[str, Any]],
    mint: MintProcess,
    users: Iterable[str],
    *,
    handed_out: Mapping[str, Sequence[ProofDict]] | None = None,
) -> dict[str, int]:
    """
    User by user what the mint really gives for it, input fees added back: the end of a run, since it spends everything.

    An UNSPENT of the mint alone proves nothing, as it says it of made-up proofs too. Raises HttpRefusal for those.
    """
    given = handed_out or {}
    wallet = TestWallet(mint.url)
    worth = {}
    for user in users:
        proofs = proofs_in_reach(db, mint.url, user, given.get(user, ()))
        states = asyncio.run(wallet.states(proofs)) if proofs else []
        good = [proof for proof, state in zip(proofs, states, strict=True) if state == "UNSPENT"]
        worth[user] = 0
        for start in range(0, len(good), _SWAP_INPUTS_MAX):
            part = good[start : start + _SWAP_INPUTS_MAX]
            fee = asyncio.run(wallet.fee(part))
            if sum(proof["amount"] for proof in part) > fee:
                worth[user] += sum(proof["amount"] for proof in asyncio.run(wallet.swap(part))) + fee
    return worth


def outstanding(mint: MintProcess) -> int:
    """All that the mint has signed less all that it has taken back, from its own books, whether it runs or not."""
    with closing(sqlite3.connect(f"file:{mint.folder / 'mint.sqlite3'}?mode=ro", uri=True)) as books:
        (signed,) = books.execute("SELECT coalesce(sum(amount), 0) FROM promises WHERE c_ IS NOT NULL").fetchone()
        (taken,) = books.execute("SELECT coalesce(sum(amount), 0) FROM proofs_used").fetchone()
    return int(signed) - int(taken)


def lost(mint: MintProcess, held: Mapping[str, Holding], *, before: int = 0) -> int:
    """
    What is outstanding and in nobody's reach, once nothing is in flight.

    ``before`` is what :func:`outstanding` was before the first of these users got anything.
    """
    return outstanding(mint) - before - sum(one.unspent + one.pending for one in held.values())


def twice_counted(db: Database[dict[str, Any]]) -> list[tuple[str, str]]:
    """
    Pairs of reachable documents that hold the same proof, by id.

    A copy in a ``spent`` document is no pair: the neighbour keeps proofs that it did not need in a new document.
    """
    seen: dict[str, str] = {}
    pairs = []
    for document in db["cashu_tokens"].find({"status": {"$in": list(REACHABLE)}}).sort("_id"):
        for proof in document.get("proofs", ()):
            earlier = seen.setdefault(proof["secret"], str(document["_id"]))
            if earlier != str(document["_id"]):
                pairs.append((earlier, str(document["_id"])))
    return pairs
