"""
An entry of meltd's ends, whatever the neighbour does to its documents: by the neighbour's own program.

``python -m tests.company`` has the whole table of such deeds; here they are done by somebody else's code.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.neighbour.beside import meltd, wait_until
from tests.neighbour.ledger import holdings, lost, outstanding
from tests.neighbour.load import fund
from tests.support.daemon import DaemonProcess
from tests.support.mint import TestWallet
from tests.support.proxy import Act, Fault, MintProxy, ProxyThread
from tests.support.store import npub

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore
    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

    Documents = Database[dict[str, Any]]


@pytest.fixture
def proxy(mint: MintProcess) -> Iterator[MintProxy]:
    """The mint as both know it: what meltd sends can be held on its way."""
    thread = ProxyThread()
    made = MintProxy(thread, mint.port)
    yield made
    made.close()
    thread.close()


@pytest.fixture
def neighbour(start_neighbour: Callable[..., Neighbour], proxy: MintProxy) -> Neighbour:
    return start_neighbour(mint_url=proxy.url)


@pytest.fixture
def daemon(
    proxy: MintProxy, mint: MintProcess, store_process: EmbeddedStore, database_name: str, tmp_path: Path
) -> Iterator[DaemonProcess]:
    made = meltd(
        tmp_path / "meltd",
        mint=mint,
        mongo_uri=store_process.uri,
        database=database_name,
        correct_after_s=None,
        **{"melt.stuck_after_s": 5},
    )
    made.url_of("main", proxy.url)
    yield made
    made.__exit__()


@pytest.mark.parametrize(("status", "state"), [("SETTLED", "SETTLED"), ("FAILED", "RELEASED")])
def test_a_poller_that_fails_old_pending_documents_keeps_no_payment_from_its_end(
    neighbour: Neighbour, daemon: DaemonProcess, db: Documents, mint: MintProcess, status: str, state: str
) -> None:
    """The two-year-old habit: a clean-up that sets pending documents failed by age, whoever reserved them."""
    before = outstanding(mint)
    user = npub()
    fund(neighbour, [user], shapes=[(300,)])
    daemon.start()
    invoice = asyncio.run(mint.invoice(100, pay="PENDING", status="PENDING"))
    melt = daemon.melt(user, "main", invoice.invoice, wait=0).json()
    daemon.wait_state(melt["id"], "PENDING")
    assert neighbour.cleanup(age_s=0) >= 1

    asyncio.run(mint.resolve(invoice.payment_hash, status))
    ended = daemon.wait_state(melt["id"], state, within_s=90)
    assert "marked failed" in ended["altered"][0]["what"]
    held = holdings(db, mint, [user], known_as=daemon.mints["main"])
    assert lost(mint, held, before=before) == 0
    assert db["meltd_events"].count_documents({"type": "INVARIANT_BROKEN"}) == 0
    assert not list(db["cashu_tokens"].find({"npub": user, "reservation": {"$exists": True}}))


def test_inputs_that_the_neighbour_took_before_the_request_left_are_never_called_paid(
    neighbour: Neighbour, daemon: DaemonProcess, db: Documents, mint: MintProcess, proxy: MintProxy
) -> None:
    """It chose the same document, and swaps it between meltd's reservation and its POST; nothing was ever paid for us."""
    user = npub()
    fund(neighbour, [user], shapes=[(64,)])
    daemon.start()
    theirs = neighbour.melt(user, asyncio.run(mint.invoice(9)).invoice, hold={"before_swap": True})
    theirs.reached("before_swap")
    late = Fault(endpoint="melt", act=Act.HOLD_REQUEST)
    proxy.add(late)
    ours = asyncio.run(mint.invoice(50))
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(
        target=lambda: answers.append(daemon.melt(user, "main", ours.invoice, key="held", wait=20).json())
    )
    asking.start()
    wait_until(late.seen.is_set, daemon.log_tail)
    theirs.go("before_swap")
    wait_until(lambda: _swapped(mint, db, user), daemon.log_tail)
    late.release.set()
    asking.join(60)

    (melt,) = db["meltd_melts"].find({"npub": user})
    daemon.wait_state(melt["_id"], "HELD", "RELEASED", within_s=90)
    body = daemon.get(f"/v1/melts/{melt['_id']}").json()
    assert not body["paid_amount"]
    payment = asyncio.run(mint.payments()).get(ours.payment_hash)
    assert payment is None or payment.paid == 0
    if body["state"] == "HELD":
        events = [e for e in daemon.get("/v1/events").json()["events"] if e["subject"] == f"melt:{melt['_id']}"]
        assert events
        done = daemon.post(
            f"/v1/melts/{melt['_id']}/resolve", {"action": "inputs_gone", "reason": "the wallet beside us took them"}
        )
        assert done.status_code in {200, 202}, done.text
        ended = daemon.get(f"/v1/melts/{melt['_id']}").json()
        assert (ended["state"], ended["paid_amount"]) == ("SETTLED", None)
        again = daemon.melt(user, "main", ours.invoice, key="another")
        assert again.json()["code"] == "DUPLICATE_OPERATION", (
            "the claim on the invoice stays, so that nobody pays it twice"
        )


def _swapped(mint: MintProcess, db: Documents, user: str) -> bool:
    """Whether the mint has taken the proofs of the user's reserved document."""
    proofs = [proof for raw in db["cashu_tokens"].find({"npub": user, "status": "pending"}) for proof in raw["proofs"]]
    return "SPENT" in asyncio.run(TestWallet(mint.url).states(proofs)) if proofs else False
