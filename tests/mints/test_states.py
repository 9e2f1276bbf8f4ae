"""NUT-07 as mints answer it: nothing rests on what a mint was never obliged to do, and nothing is asked that it may refuse."""

from __future__ import annotations

import pytest

from melt.ecash import y_of
from melt.errors import MintError, MintUntrusted, StateRegressed
from melt.mint.client import GUARDED_MIN
from melt.model import MeltState, MintState
from tests.support.mint_client import http_mint
from tests.support.played_mint import STATES, No, PlayedMint
from tests.support.scripted_mint import Say

SPENT, UNSPENT, PENDING = MintState.SPENT, MintState.UNSPENT, MintState.PENDING


def ys(count, *, seed="y"):
    return [y_of(f"{seed}{number}") for number in range(count)]


# --- equal Ys in one question ---


def second_reads(word):
    """cdk's habit until 2025: of two equal Ys in one request only the first is looked up."""

    def answer(_, body):
        seen = set()
        for one in body["states"]:
            if one["Y"] in seen:
                one["state"] = word
            seen.add(one["Y"])
        return body

    return answer


def once(_, body):
    """Equal Ys are answered once."""
    return {"states": list({one["Y"]: one for one in body["states"]}.values())}


HABITS = {
    "the second reads UNSPENT": second_reads("UNSPENT"),
    "the second reads PENDING": second_reads("PENDING"),
    "the second reads SPENT": second_reads("SPENT"),
    "answered once": once,
    "answered in another order": lambda _, body: {"states": sorted(body["states"], key=lambda one: one["Y"])},
    "refused": lambda asked, body: (
        body if len(set(asked.body["Ys"])) == len(asked.body["Ys"]) else No(10000, "duplicate").say
    ),
}


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("repeated", [1, 2, 7])
async def test_equal_ys_are_asked_about_once(habit, repeated):
    spent, *others = ys(4)
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.spent.add(spent)
        mint.bend[STATES] = HABITS[habit]
        found = await client.check_states([spent, *others, *[spent] * repeated], spent=[spent])
        assert [one.state for one in found] == [SPENT, UNSPENT, UNSPENT, UNSPENT, *[SPENT] * repeated]
        for asked in mint.asked_of(STATES):
            assert len(set(asked.body["Ys"])) == len(asked.body["Ys"])


@pytest.mark.parametrize("habit", HABITS)
async def test_a_mint_with_such_a_habit_pays_and_its_drift_is_seen(playing, habit):
    async with playing() as house:
        house.mint.bend[STATES] = HABITS[habit]
        owner = await house.fund(16, 16)
        assert (await house.pay(owner, house.mint.invoice(20))).state is MeltState.SETTLED
        robbed = await house.fund(8)
        (document,) = house.documents(robbed)
        house.mint.spent |= {str(y_of(proof["secret"])) for proof in document["proofs"]}
        await house.tour()
        assert (house.counted(robbed), house.events()) == (0, [])
        assert (await house.pay(owner, house.mint.invoice(5))).state is MeltState.SETTLED


async def test_the_probe_of_memory_and_of_the_never_issued_stays():
    known, asked = ys(2)
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        with pytest.raises(StateRegressed):
            await client.check_states([asked], spent=[known])
        mint.bend[STATES] = lambda _, body: {"states": [one | {"state": "SPENT"} for one in body["states"]]}
        for spent in ([known], []):
            with pytest.raises(MintUntrusted, match="never issued"):
                await client.check_states([asked], spent=spent)


# --- words for a state ---


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("spent", SPENT),
        (" Spent ", SPENT),
        ("RESERVED", PENDING),
        ("PENDING_SPENT", PENDING),
        ("IN_FLIGHT", PENDING),
        ("unknown", PENDING),
        ("Unspent", UNSPENT),
    ],
)
async def test_an_odd_word_costs_that_proof_alone(word, state):
    odd, *others = ys(3)

    def bent(_, body):
        return {"states": [one | ({"state": word} if one["Y"] == odd else {}) for one in body["states"]]}

    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.bend[STATES] = bent
        found = await client.check_states([odd, *others], spent=[])
    assert [one.state for one in found] == [state, UNSPENT, UNSPENT]


async def test_a_proof_in_a_state_that_no_nut_knows_is_neither_chosen_nor_marked(playing):
    async with playing() as house:
        owner = await house.fund(32)
        (document,) = house.documents(owner)
        odd = {str(y_of(proof["secret"])) for proof in document["proofs"]}
        house.hold(owner, *house.mint.issue(32))
        house.mint.bend[STATES] = lambda _, body: {
            "states": [one | ({"state": "RESERVED"} if one["Y"] in odd else {}) for one in body["states"]]
        }
        assert (await house.pay(owner, house.mint.invoice(20))).state is MeltState.SETTLED
        await house.tour()
        assert house.honoured(owner) == house.counted(owner) == 64 - 20 - 1


# --- how many at a time ---


def refusing(limit, how):
    """A front that lets through questions about so many Ys at most."""
    return lambda asked: how if len(asked.body["Ys"]) > limit else None


FRONTS = {
    "400 with a code": Say(status=400, body={"detail": "too many", "code": 11014}),
    "400 / 10000": Say(status=400, body={"detail": "too many", "code": 10000}),
    "413 and a page": Say(status=413, body=b"<html>Request Entity Too Large</html>"),
    "422 as FastAPI": Say(status=422, body={"detail": [{"msg": "too long"}]}),
    "403 of a firewall": Say(status=403, body=b"<html>blocked</html>"),
    "414": Say(status=414, body=b""),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("limit", [120, 5, GUARDED_MIN])
async def test_the_size_of_a_batch_is_learned_from_refusals_and_kept(front, limit):
    asked = ys(260)
    spent = asked[3]
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.spent.add(spent)
        mint.before[STATES] = refusing(limit, FRONTS[front])
        found = await client.check_states(asked, spent=[spent])
        assert [one.y for one in found if one.state is SPENT] == [spent]
        refused = sum(len(one.body["Ys"]) > limit for one in mint.asked_of(STATES))
        assert 1 <= refused <= 8, "by halves"
        mint.asked.clear()
        await client.check_states(asked, spent=[spent])
        assert all(len(one.body["Ys"]) <= limit for one in mint.asked_of(STATES)), "and kept"


@pytest.mark.parametrize("count", [0, 1, 2, 10, 118])
async def test_a_question_is_not_made_longer_than_what_is_known_to_go_through(count):
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.before[STATES] = refusing(count + 2, FRONTS["413 and a page"])
        mint.spent.add(ys(1)[0])
        asked = ys(count, seed="asked")
        assert [one.y for one in await client.check_states(asked, spent=ys(1))] == asked
        assert len(mint.asked_of(STATES)) == 1, "nothing was refused"


@pytest.mark.parametrize("counts", [(1, 2, 3, 5, 8), (240, 1, 40, 100), (16, 17, 15), (249, 248), (3, 64, 3, 64)])
async def test_what_is_known_to_go_through_is_filled_up_to_few_sizes(counts):
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        for count in (*counts, *counts):
            await client.check_states(ys(count), spent=[])
        sizes = {len(one.body["Ys"]) for one in mint.asked_of(STATES)[len(counts) :]}
        assert len(sizes) <= len({max(8, 1 << count.bit_length()) for count in counts}) + 1
        assert max(sizes) <= 250


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_mint_that_grows_sick_with_long_questions_is_asked_short_ones(status):
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        await client.check_states(ys(20), spent=[])
        mint.before[STATES] = refusing(40, Say(status=status, body=b"<html>"))
        assert len(await client.check_states(ys(200), spent=[])) == 200


@pytest.mark.parametrize("how", [*FRONTS.values(), Say(status=503, body=b"")])
async def test_a_mint_that_refuses_every_question_is_not_asked_for_ever_and_nothing_is_learned(how):
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.before[STATES] = lambda _: how
        with pytest.raises(MintError):
            await client.check_states(ys(200), spent=[])
        assert len(mint.asked_of(STATES)) <= 8
        del mint.before[STATES]
        mint.asked.clear()
        await client.check_states(ys(200), spent=[])
        assert len(mint.asked_of(STATES)) == 1


@pytest.mark.parametrize("limit", [120, 40, 7])
async def test_a_tour_and_a_payment_come_out_right_behind_such_a_front(playing, limit):
    async with playing() as house:
        house.mint.before[STATES] = refusing(limit, FRONTS["400 / 10000"])
        owner = await house.fund(*[1] * 150)
        house.hold(owner, *house.mint.issue(64))
        outcome = await house.tour()
        assert (outcome.proofs, house.events()) == (151, [])
        assert (await house.pay(owner, house.mint.invoice(50))).state is MeltState.SETTLED
