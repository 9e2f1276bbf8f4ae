"""A mint that keeps change back and gives it later: booked as missing, then restored by command, by the real daemon."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from tests.support.front_mint import FrontMint
from tests.support.scripted_mint import Asked, Say
from tests.support.store import insert_wallet, npub

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System

INPUT, CHANGE, OWED = 128, 26, 25


class KeepsChange:
    """Takes the change out of every answer while ``on``."""

    def __init__(self, front: FrontMint) -> None:
        self.on = True
        forward = front._forward

        def edited(asked: Asked) -> Say:
            answer = forward(asked)
            if not self.on or answer.status != 200:
                return answer
            if asked.path == "/v1/restore":
                return Say(body={"outputs": [], "signatures": []})
            if asked.path.startswith("/v1/melt/"):
                return Say(body={**answer.body, "change": []})
            return answer

        front.server.rules._forward = edited  # type: ignore[attr-defined]


def test_change_that_came_late_is_restored_by_command_and_told_by_metrics(
    make_system: Callable[..., System], mint: Any
) -> None:
    with FrontMint(upstream=mint.url) as front:
        keeps = KeepsChange(front)
        system = make_system(mint, start=False)
        system.daemon._mints = {"main": front.url}
        system.daemon.start()
        owner = npub()
        system.wallets[owner] = insert_wallet(system.db, owner, front.url)
        system.fund(owner, INPUT, amounts=[INPUT], mint_url=front.url)
        invoice = system.invoice(100, fee_sat=1)
        paid = system.daemon.melt(npub=owner, mint="main", invoice=invoice.invoice, key=secrets.token_hex(4)).json()
        assert (paid["state"], paid["shortfall"], paid["change_amount"]) == ("SETTLED", OWED, 0)
        assert system.daemon.post("/v1/restore", {"melt": paid["id"]}).json()["found"] == []

        keeps.on = False
        predicted = system.daemon.post("/v1/restore", {"mint": "main", "dry_run": True}).json()
        assert system.truth(owner) == 0
        report = system.daemon.post("/v1/restore", {"mint": "main"}).json()

        assert predicted["imported_amounts"] == report["imported_amounts"] == {"sat": CHANGE}
        assert [one["finding"]["ys"] for one in predicted["found"]] == [one["finding"]["ys"] for one in report["found"]]
        assert system.truth(owner) == CHANGE
        after = system.daemon.get(f"/v1/melts/{paid['id']}").json()
        assert (after["shortfall"], after["change_amount"], after["fees_paid"]) == (0, CHANGE, 1)
        states = {one["type"]: one["state"] for one in system.db["meltd_discrepancies"].find({})}
        assert states == {"CHANGE_SHORTFALL": "corrected", "PROOF_NOT_IN_DB": "corrected"}
        metrics = system.daemon.metrics()
        assert f'meltd_restored_late_change_amount_total{{mint="main",unit="sat"}} {CHANGE}.0' in metrics
        log = system.daemon.log_path.read_text()
        for document in system.db["cashu_tokens"].find({"npub": owner}):
            for proof in document["proofs"]:
                assert proof["secret"] not in log
                assert proof["C"] not in log
