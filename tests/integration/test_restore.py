"""Value that our outputs hold at the mint and the database lacks: found with NUT-09 and imported, once, to its owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from melt.caps import CapPolicy, Caps
from melt.ecash import Seed
from melt.errors import Code, DuplicateSecret, InvariantBroken, LostRace, Refusal, StateRegressed
from melt.model import EventType, MeltId, Owner, Signed
from melt.model.restore import RestoreImport, RestoreScope
from melt.restore import RestorePolicy
from melt.store.atomic import check_books
from tests.support.restore import ACTOR, CHANGE, INPUT, MAIN, REFUNDED, RestoreBench, found_of, ys_of
from tests.support.store import assert_no_secret_twice, assert_totals, insert_token, insert_wallet, new_proof, npub

if TYPE_CHECKING:
    from melt.model import Melt, Y


@pytest.fixture
async def bench(store: Any, db: Any, mint: Any) -> AsyncIterator[RestoreBench]:
    made = RestoreBench(store=store, db=db, process=mint)
    yield made
    await made.aclose()


def adds_up(melt: Melt) -> None:
    check_books(melt, change=melt.change_amount, shortfall=melt.shortfall, fees_paid=melt.fees_paid or 0)


# --- change that came late ---


async def test_change_that_the_mint_kept_back_is_imported_and_the_shortfall_closed(bench: RestoreBench) -> None:
    bench.mint.keeps_change = True
    melt = await bench.payment()
    assert (melt.shortfall, melt.change_amount, bench.unspent(melt.npub)) == (REFUNDED, 0, 0)
    assert (await bench.restore()).discoveries == (), "the mint still keeps it"

    bench.mint.keeps_change = False
    report = await bench.restore()

    assert (report.imported, report.imported_amounts, report.errors) == (1, {"sat": CHANGE}, ())
    assert bench.unspent(melt.npub) == await bench.honoured(melt.npub) == CHANGE
    after = bench.store.melt(melt.id)
    assert after is not None
    assert (after.change_amount, after.shortfall, after.fees_paid) == (CHANGE, 0, 1)
    adds_up(after)
    (shortfall,) = bench.records("CHANGE_SHORTFALL")
    assert (shortfall["state"], shortfall["value"], shortfall["evidence"]["came_back"]) == (
        "corrected",
        REFUNDED,
        CHANGE,
    )
    (record,) = bench.records()
    assert (record["state"], record["subject"], record["npub"]) == ("corrected", f"melt:{melt.id}", melt.npub)
    labels = {"mint": MAIN, "severity": "MEDIUM", "type": "CHANGE_SHORTFALL"}
    assert bench.metric("meltd_discrepancies_corrected_total", **labels) == 1
    assert bench.metric("meltd_restored_amount_total", mint=MAIN, unit="sat") == CHANGE
    assert bench.metric("meltd_restored_late_change_amount_total", mint=MAIN, unit="sat") == CHANGE


async def test_a_part_that_comes_back_leaves_the_rest_of_the_shortfall_open(bench: RestoreBench) -> None:
    bench.mint.keeps_change = True
    melt = await bench.payment()
    bench.mint.keeps_change = False
    bench.mint.edit_restored = lambda found: [one for one in found if one.signature.amount == 16]
    await bench.restore(melt=melt.id)
    after = bench.store.melt(melt.id)
    assert after is not None
    assert (after.change_amount, after.shortfall) == (16, REFUNDED - 16)
    adds_up(after)
    (shortfall,) = bench.records("CHANGE_SHORTFALL")
    assert (shortfall["state"], shortfall["value"]) == ("open", REFUNDED - 16)

    bench.mint.edit_restored = None
    report = await bench.restore(melt=melt.id)

    assert report.imported_amounts == {"sat": CHANGE - 16}
    assert bench.unspent(melt.npub) == CHANGE
    after = bench.store.melt(melt.id)
    assert after is not None
    assert (after.change_amount, after.shortfall, after.fees_paid) == (CHANGE, 0, 1)
    (shortfall,) = bench.records("CHANGE_SHORTFALL")
    assert (shortfall["state"], shortfall["evidence"]["came_back"]) == ("corrected", CHANGE)
    (record,) = bench.records()
    assert (record["state"], record["occurrence"]) == ("corrected", 2)


# --- documents that were lost ---


async def test_a_document_deleted_after_settlement_comes_back_to_its_owner(bench: RestoreBench) -> None:
    melt = await bench.payment()
    lost = bench.lose(melt.change_token_id)
    assert bench.unspent(melt.npub) == 0

    report = await bench.restore()

    assert found_of(report) == [(f"melt:{melt.id}", CHANGE, ys_of(lost), None)]
    (document,) = bench.db["cashu_tokens"].find({"npub": melt.npub, "status": "unspent"})
    assert document["transaction_id"] == f"{melt.transaction_id}_restored"
    assert (document["transaction_type"], document["total_amount"]) == ("change", CHANGE)
    assert document["metadata"]["parent_transaction_id"] == melt.transaction_id
    assert str(document["wallet_id"]) == melt.wallet_id
    assert {p["secret"]: p["C"] for p in document["proofs"]} == {p["secret"]: p["C"] for p in lost}
    entry = bench.db["meltd_audit"].find_one({"token_id": str(document["_id"])})
    assert (entry["from_status"], entry["to_status"], entry["amount"]) == (None, "unspent", CHANGE)
    assert (entry["reason"], entry["melt_id"], entry["actor"]["name"]) == ("restored", melt.id, "test")
    assert await bench.honoured(melt.npub) == CHANGE
    # The books had this change already: it is not counted a second time.
    after = bench.store.melt(melt.id)
    assert after is not None
    assert (after.change_amount, after.fees_paid, after.rev) == (melt.change_amount, melt.fees_paid, melt.rev)
    assert bench.metric("meltd_restored_late_change_amount_total", mint=MAIN, unit="sat") == 0


async def test_the_outputs_of_a_reclaim_come_back_too(bench: RestoreBench) -> None:
    entry = await bench.reclaimed()
    (made,) = entry.keep_token_ids
    lost = bench.lose(made)
    report = await bench.restore(melt=entry.id)
    assert found_of(report) == [(f"melt:{entry.id}", entry.keep_amount, ys_of(lost), None)]
    assert await bench.honoured(entry.npub) == entry.keep_amount > 0


async def test_a_fencing_swap_that_a_mint_takes_beside_the_payment_is_imported(bench: RestoreBench) -> None:
    """A mint that calls the invoice paid and honours the inputs may still sign the fence, when its request comes late."""
    melt = await bench.payment(fenced=True)
    assert melt.fence is not None
    assert melt.fence.outputs.amount == INPUT - 1
    _, others = await bench.user(INPUT)
    answer = await bench.mint.swap(others.proofs, bench.seed.blinded(melt.fence.outputs), timeout_s=10)
    assert isinstance(answer, Signed), "this mint can't be had to take the same inputs twice, so others stand for them"

    report = await bench.restore()

    assert report.imported_amounts == {"sat": melt.fence.outputs.amount}
    assert bench.unspent(melt.npub) == await bench.honoured(melt.npub) == CHANGE + melt.fence.outputs.amount
    after = bench.store.melt(melt.id)
    assert after is not None
    assert (after.state, after.change_amount, after.shortfall) == (melt.state, CHANGE, 0), "it is no change"
    assert (await bench.restore()).imported == 0


async def test_a_second_run_changes_nothing(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    await bench.restore()
    before = bench.dump()
    report = await bench.restore()
    assert (report.discoveries, report.imported, report.errors) == ((), 0, ())
    assert report.signed == 3
    assert bench.dump() == before
    assert_no_secret_twice(bench.db)
    assert_totals(bench.db)


async def test_a_dry_run_predicts_what_is_done_and_writes_nothing(bench: RestoreBench) -> None:
    first, second = await bench.payment(), await bench.payment()
    bench.lose(first.change_token_id)
    bench.lose(second.change_token_id)
    bench.caps = Caps(CapPolicy(share_per_run=1.0, count_per_run=1))
    bench.restores = bench.restores_with(bench.policy)
    before = bench.dump()

    predicted = await bench.restore(dry_run=True)
    assert bench.dump() == before
    again = await bench.restore(dry_run=True)
    done = await bench.restore()

    assert found_of(predicted) == found_of(again) == found_of(done)
    assert predicted.imported == done.imported == 1, "the cap is part of the prediction"
    assert predicted.imported_amounts == done.imported_amounts == {"sat": CHANGE}
    assert bench.unspent(first.npub) + bench.unspent(second.npub) == CHANGE


async def test_what_lies_in_any_document_of_anyone_is_not_imported(bench: RestoreBench) -> None:
    melt = await bench.payment()
    lost = bench.lose(melt.change_token_id)
    insert_token(bench.db, npub(), lost, status="spent", mint_url=bench.process.url)
    report = await bench.restore(melt=melt.id)
    assert (report.discoveries, report.signed) == ((), 3)
    assert bench.records() == []


async def test_spent_outputs_are_no_value(bench: RestoreBench) -> None:
    melt = await bench.payment()
    lost = bench.lose(melt.change_token_id)
    await bench.wallet.spend(lost)
    report = await bench.restore(melt=melt.id)
    assert (report.discoveries, report.signed) == ((), 3)
    assert bench.records() == []


async def test_a_record_is_cleared_once_nothing_is_lacking_any_more(bench: RestoreBench) -> None:
    melt = await bench.payment()
    lost = bench.lose(melt.change_token_id)
    bench.paused = "looking"
    await bench.restore(melt=melt.id)
    assert [record["state"] for record in bench.records()] == ["open"]
    await bench.wallet.spend(lost)
    await bench.restore(melt=melt.id)
    assert [record["state"] for record in bench.records()] == ["cleared"]


# --- what is only recorded ---


async def test_while_paused_value_is_recorded_and_nothing_imported(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    bench.paused = "moving"
    report = await bench.restore(melt=melt.id)
    assert report.imported == 0
    assert [one.kept_out for one in report.discoveries] == ["paused: moving"]
    (record,) = bench.records()
    assert (record["state"], record["value"], record["action"]) == ("open", CHANGE, "import")
    bench.paused = None
    assert (await bench.restore(melt=melt.id)).imported == 1
    assert [record["state"] for record in bench.records()] == ["corrected"]


async def test_a_frozen_wallet_gets_nothing_until_a_person_resolves_it(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    await bench.events.invariant_broken(InvariantBroken("seen"), npub=melt.npub, mint=MAIN)
    report = await bench.restore(melt=melt.id)
    assert [(one.kept_out or "")[:7] for one in report.discoveries] == ["frozen:"]
    assert bench.unspent(melt.npub) == 0


async def test_what_a_person_has_acknowledged_is_left_alone(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    bench.paused = "looking"
    await bench.restore(melt=melt.id)
    bench.paused = None
    bench.db["meltd_discrepancies"].update_many({"type": "PROOF_NOT_IN_DB"}, {"$set": {"state": "acknowledged"}})
    for dry_run in (True, False):
        report = await bench.restore(dry_run=dry_run, melt=melt.id)
        assert [one.kept_out for one in report.discoveries] == ["a person has acknowledged it"]
    assert bench.unspent(melt.npub) == 0


def _regressed(y: Y) -> Callable[[list[Any]], list[Any]]:
    def edit(_: list[Any]) -> list[Any]:
        raise StateRegressed("the mint calls a proof UNSPENT that it called SPENT before", (y,))

    return edit


async def test_a_mint_whose_sentinel_fails_is_not_believed(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    # It calls an input of the settled melt UNSPENT, which its client finds out: tests/contract/test_mint_hostile.py.
    bench.mint.edit_states = _regressed(melt.inputs[0].y)
    report = await bench.restore(melt=melt.id)
    assert report.imported == 0
    assert [one.found.value for one in report.discoveries] == [CHANGE]
    assert bench.unspent(melt.npub) == 0
    assert [event.type for event in bench.store.events(open_only=True, limit=5)] == [EventType.MINT_STATE_REGRESSED]

    bench.mint.edit_states = None
    assert (await bench.restore(melt=melt.id)).imported == 1
    assert bench.store.events(open_only=True, limit=5) == ()


# --- signatures that are none ---


async def test_a_signature_with_a_wrong_proof_is_no_value(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)

    def rotated(found: list[Any]) -> list[Any]:
        others = found[1:] + found[:1]
        return [
            replace(one, signature=replace(one.signature, dleq_e=o.signature.dleq_e, dleq_s=o.signature.dleq_s))
            for one, o in zip(found, others, strict=True)
        ]

    bench.mint.edit_restored = rotated
    report = await bench.restore(melt=melt.id)
    assert (report.refused, report.discoveries) == (3, ())
    assert bench.unspent(melt.npub) == 0


@pytest.mark.parametrize(("times", "restored"), [(1, CHANGE), (4, 0)])
async def test_amounts_without_proof_are_believed_up_to_what_was_overpaid(
    bench: RestoreBench, times: int, restored: int
) -> None:
    bench.mint.keeps_change = True
    melt = await bench.payment()
    bench.mint.keeps_change = False
    bench.mint.edit_restored = lambda found: [
        replace(one, signature=replace(one.signature, dleq_e=None, dleq_s=None, amount=one.signature.amount * times))
        for one in found
    ]
    await bench.restore(melt=melt.id)
    assert bench.unspent(melt.npub) == restored


async def test_signatures_are_matched_by_b_in_whatever_order_they_come(bench: RestoreBench) -> None:
    melt = await bench.payment()
    lost = bench.lose(melt.change_token_id)
    bench.mint.edit_restored = lambda found: found[::-1]
    await bench.restore(melt=melt.id)
    (document,) = bench.db["cashu_tokens"].find({"npub": melt.npub, "status": "unspent"})
    assert {p["secret"]: p["C"] for p in document["proofs"]} == {p["secret"]: p["C"] for p in lost}


async def test_entries_of_another_seed_are_counted_and_left(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    bench.restores = bench.restores_with(bench.policy, seed=Seed(b"another one " * 3))
    report = await bench.restore(melt=melt.id)
    assert (report.foreign, report.outputs, report.discoveries) == (1, 0, ())


async def test_a_mint_without_nut_09_is_not_asked(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    bench.mint.nuts = frozenset({7, 8})
    asked = bench.mint.restores
    report = await bench.restore()
    assert report.errors == ("main: the mint can't restore (it does not list NUT-09)",)
    assert bench.mint.restores == asked
    await bench.restores.load()
    await bench.restores.round(lambda: False, lambda: None)
    assert bench.restores.records[MAIN].error == "the mint can't restore (it does not list NUT-09)"
    assert bench.metric("meltd_restore_rounds_total", mint=MAIN, outcome="unsupported") == 1


# --- counters of no entry ---


def forget(bench: RestoreBench, melt: Melt) -> None:
    """As after a restore of a backup from before the melt: its entry, its documents and its counters were never there."""
    bench.db["meltd_melts"].delete_many({"_id": melt.id})
    bench.db["cashu_tokens"].delete_many({"transaction_id": {"$regex": f"^{melt.transaction_id}"}})
    bench.db["meltd_audit"].delete_many({"melt_id": melt.id})
    bench.db["meltd_counters"].delete_many({})


async def test_value_of_a_lost_journal_entry_is_recorded_and_nobody_gets_it(bench: RestoreBench) -> None:
    melt = await bench.payment()
    assert melt.blanks is not None
    forget(bench, melt)
    report = await bench.restore()
    subject = f"counter:{bench.seed.seed_id}:{melt.blanks.keyset_id}:0-99"
    assert [(one.found.subject, one.found.value, one.found.npub) for one in report.discoveries] == [
        (subject, CHANGE, None)
    ]
    assert report.imported == 0
    (record,) = bench.records()
    assert (record["state"], record["action"], record["evidence"]["outputs"]) == ("open", "record", 3)
    assert await bench.restore() is not None
    assert len(bench.records()) == 1, "the same value is the same record"


async def test_value_of_a_lost_journal_entry_goes_to_the_operator_who_is_named(bench: RestoreBench) -> None:
    melt = await bench.payment()
    operator = npub()
    wallet_id = insert_wallet(bench.db, operator, bench.process.url + "/")
    forget(bench, melt)
    bench.restores = bench.restores_with(RestorePolicy(operator_npub=operator))

    predicted = await bench.restore(dry_run=True)
    report = await bench.restore()

    assert found_of(predicted) == found_of(report)
    assert (report.imported, report.imported_amounts) == (1, {"sat": CHANGE})
    (document,) = bench.db["cashu_tokens"].find({"npub": operator})
    assert (document["wallet_id"], document["status"], document["total_amount"]) == (wallet_id, "unspent", CHANGE)
    assert document["mint_url"] == bench.process.url
    assert await bench.honoured(operator) == CHANGE
    before = bench.dump()
    assert (await bench.restore()).discoveries == ()
    assert bench.dump() == before


async def test_a_melt_that_begins_while_the_mint_is_asked_is_not_taken_for_lost(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    entry = bench.db["meltd_melts"].find_one({"_id": melt.id})
    bench.db["meltd_melts"].delete_one({"_id": melt.id})
    # Its intent is committed before its request leaves, and both happen between our look into the journal and the mint's answer.
    bench.mint.before_restore = lambda: bench.db["meltd_melts"].replace_one({"_id": melt.id}, entry, upsert=True)
    bench.restores = bench.restores_with(RestorePolicy(operator_npub=npub()))
    report = await bench.restore()
    assert (report.signed, report.discoveries) == (3, ())
    assert bench.records() == []


# --- the import itself ---


def an_import(melt: Melt, **changes: Any) -> RestoreImport:
    base = RestoreImport(
        discrepancy_id=f"PROOF_NOT_IN_DB:melt:{melt.id}",
        occurrence=1,
        owner=Owner(npub=melt.npub, wallet_id=melt.wallet_id, mint_url=melt.mint_url),
        name=f"{melt.transaction_id}_restored",
        parent=melt.transaction_id,
        proofs=(new_proof(4),),
        change_ys=frozenset(),
        owned_by_melt=melt.id,
        actor=ACTOR,
    )
    return replace(base, **changes)


async def test_a_repeated_import_equals_once(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    bench.paused = "so that the record stays open"
    await bench.restore(melt=melt.id)
    one = an_import(melt)
    results = await asyncio.gather(*(asyncio.to_thread(bench.store.import_restored, one) for _ in range(4)))
    assert sorted(result.again for result in results) == [False, True, True, True]
    assert len({(result.token_ids, result.amount) for result in results}) == 1
    assert bench.unspent(melt.npub) == 4


async def test_an_import_without_its_open_record_or_of_a_known_proof_is_refused(bench: RestoreBench) -> None:
    melt = await bench.payment()
    with pytest.raises(LostRace):
        bench.store.import_restored(an_import(melt))
    lost = bench.lose(melt.change_token_id)
    bench.paused = "so that the record stays open"
    await bench.restore(melt=melt.id)
    with pytest.raises(LostRace):
        bench.store.import_restored(an_import(melt, occurrence=2))
    held = new_proof(8)
    insert_token(bench.db, melt.npub, [{"id": held.keyset_id, "amount": 8, "secret": held.secret, "C": held.c}])
    before = bench.dump()
    with pytest.raises(DuplicateSecret):
        bench.store.import_restored(an_import(melt, proofs=(held,)))
    assert bench.dump() == before
    assert lost


# --- scope, and rounds ---


async def test_what_is_asked_for_must_exist_and_have_ended(bench: RestoreBench) -> None:
    _, token = await bench.user(8)
    from tests.support.store import make_melt

    still_open = bench.store.reserve(make_melt([token], mint=MAIN), blanks=None, seed_id=bench.seed.seed_id)
    for scope, code in (
        (RestoreScope(melt=still_open.id), Code.WRONG_STATE),
        (RestoreScope(mint=MAIN.__class__("nowhere")), Code.MINT_UNKNOWN),
    ):
        with pytest.raises(Refusal) as refused:
            await bench.restores.restore(scope=scope, dry_run=False, actor=ACTOR)
        assert refused.value.code is code
    nothing = await bench.restores.restore(scope=RestoreScope(melt=MeltId("no")), dry_run=False, actor=ACTOR)
    assert nothing is None


async def test_rounds_walk_the_journal_in_pieces_and_go_on_where_they_were(
    bench: RestoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.restore.PAGE_ENTRIES", 1)
    melts = [await bench.payment() for _ in range(3)]
    for melt in melts:
        bench.lose(melt.change_token_id)
    rounds = bench.restores_with(bench.policy, requests_max_per_round=4)
    await rounds.load()
    imported = []
    for _ in range(6):
        await rounds.round(lambda: False, lambda: None)
        imported.append(sum(bench.unspent(melt.npub) == CHANGE for melt in melts))
        # A new process reads the position from the database.
        rounds = bench.restores_with(bench.policy, requests_max_per_round=4)
        await rounds.load()
    assert imported[0] < 3, "one round may not do all of it"
    assert imported[-1] == 3
    record = rounds.records[MAIN]
    assert (record.rounds, record.error) == (6, None)
    assert record.recent_passes >= 1
    assert record.counters is not None or record.counters_passes >= 1


async def test_old_entries_are_reached_by_the_slow_walk(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    rounds = bench.restores_with(bench.policy, window_s=0.001)
    await rounds.load()
    await asyncio.sleep(0.01)
    await rounds.round(lambda: False, lambda: None)
    assert bench.unspent(melt.npub) == CHANGE
    record = rounds.records[MAIN]
    assert (record.past_passes, record.past, record.error) == (1, None, None)


async def test_a_round_that_a_stop_interrupts_ends_at_once(bench: RestoreBench) -> None:
    melt = await bench.payment()
    bench.lose(melt.change_token_id)
    rounds = bench.restores
    await rounds.load()
    await rounds.round(lambda: True, lambda: None)
    assert bench.unspent(melt.npub) == 0


async def test_a_round_is_overdue_when_the_process_was_down_for_the_interval(bench: RestoreBench) -> None:
    rounds = bench.restores_with(bench.policy, interval_s=0.05)
    await rounds.load()
    assert not bench.restores_with(bench.policy).is_overdue()
    await asyncio.sleep(0.1)
    assert rounds.is_overdue()
    await rounds.round(lambda: False, lambda: None)
    assert rounds.records[MAIN].finished_at is not None
