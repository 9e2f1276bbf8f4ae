"""Keysets as mints list them: one that can't be used costs itself alone, and what the change needs is had before the payment."""

from __future__ import annotations

import time

import pytest

from melt.errors import MeltdError
from melt.model import KeysetId, MeltState
from tests.support.mint_client import http_mint
from tests.support.played_mint import KEYSETS, MELT, QUOTE, RESTORE, SWAP, No, PlayedKeyset, PlayedMint

SOON, PAST = 10**10, 10**9


async def refusal(house, owner, amount=40, **more):
    with pytest.raises(MeltdError) as caught:
        await house.pay(owner, house.mint.invoice(amount), **more)
    return caught.value


# --- no expiry ---


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("given", [0, None, "absent", False, "", "never", -1, 0.0, [], 2**64])
async def test_what_is_no_expiry_is_none(playing, version, given):
    keyset = PlayedKeyset(version=version, listed={} if given == "absent" else {"final_expiry": given})
    async with playing(PlayedMint(keyset)) as house:
        owner = await house.fund(64)
        invoice = house.mint.invoice(40)
        assert (await house.pay(owner, invoice)).state is MeltState.SETTLED
        assert (house.mint.paid[invoice], house.counted(owner), house.honoured(owner)) == (1, 23, 23)


async def test_an_id_that_commits_to_the_0_itself_is_good_too():
    keyset = PlayedKeyset(version=2, expiry=0)
    keyset.listed = {"final_expiry": 0}
    async with PlayedMint(keyset) as mint, http_mint(mint.url) as client:
        assert len(await client.keys(KeysetId(keyset.id))) == len(keyset.keys)


# --- ids that their keys do not give ---

WRONG_IDS = {
    "of other keys": lambda: PlayedKeyset(id="00" + "ab" * 7),
    "draft of version 2, short": lambda: PlayedKeyset(id="01" + "ab" * 7),
    "version 2 of other keys": lambda: PlayedKeyset(id="01" + "ab" * 32),
    "version 2 of another fee": lambda: PlayedKeyset(version=2, ppk=100, listed={"input_fee_ppk": 200}),
    "version 2 of another expiry": lambda: PlayedKeyset(version=2, expiry=SOON, listed={"final_expiry": SOON + 1}),
    "a later version": lambda: PlayedKeyset(id="02" + "ab" * 32),
    "base64 of old mints": lambda: PlayedKeyset(id="I2yN+iRYfkzT"),
    "a word": lambda: PlayedKeyset(id="main-keyset"),
}


@pytest.mark.parametrize("kind", WRONG_IDS)
async def test_a_melt_that_needs_change_on_a_wrong_keyset_is_refused_by_that_name(playing, kind):
    async with playing(PlayedMint(WRONG_IDS[kind]())) as house:
        owner = await house.fund(64)
        error = await refusal(house, owner)
        assert error.code.value == "KEYSET_UNUSABLE"
        assert house.mint.paid.total() == 0
        assert not house.mint.asked_of(MELT), "before anything is paid"
        assert house.counted(owner) == 64


@pytest.mark.parametrize("kind", WRONG_IDS)
async def test_an_exact_payment_needs_no_change_and_goes_through(playing, kind):
    async with playing(PlayedMint(WRONG_IDS[kind](), reserve=0, fee=0)) as house:
        if house.mint.active.ppk or house.mint.active.listed.get("input_fee_ppk"):
            return
        owner = await house.fund(32, 8)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        assert house.counted(owner) == 0


@pytest.mark.parametrize("kind", WRONG_IDS)
async def test_change_goes_to_another_keyset_where_there_is_one(playing, kind):
    good = PlayedKeyset(ppk=100)
    async with playing(PlayedMint(WRONG_IDS[kind](), good, reserve=4)) as house:
        owner = house.user()
        house.hold(owner, *house.mint.issue(64, keyset=house.mint.active))
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        change = [p for d in house.documents(owner) if d["status"] == "unspent" for p in d["proofs"]]
        assert {proof["id"] for proof in change} == {good.id}
        assert house.honoured(owner) == house.counted(owner) > 0


# --- entries that can't be used ---

BROKEN = [
    {"id": None, "unit": "sat", "active": True},
    {"id": 7, "unit": "sat", "active": True},
    {"id": "00aaaaaaaaaaaaaa", "unit": None, "active": True},
    {"id": "00aaaaaaaaaaaaaa", "unit": "sat", "active": "yes"},
    {"id": "00aaaaaaaaaaaaaa", "unit": "sat", "active": True, "input_fee_ppk": "free"},
    {"id": "00aaaaaaaaaaaaaa", "unit": "sat", "active": True, "input_fee_ppk": -1},
    {"id": "00aaaaaaaaaaaaaa", "unit": "sat", "active": True, "input_fee_ppk": 2**70},
    {"id": "x" * 5000, "unit": "sat", "active": True},
    {"id": "00\naaaaaaaaaaaa", "unit": "sat", "active": True},
    "00aaaaaaaaaaaaaa",
    None,
    [],
    {},
]


@pytest.mark.parametrize("entry", BROKEN, ids=lambda entry: str(entry)[:60])
async def test_one_entry_that_cant_be_used_costs_itself_alone_and_is_named(playing, entry):
    async with playing() as house:
        house.mint.bend[KEYSETS] = lambda _, body: {"keysets": [entry, *body["keysets"], entry]}
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        report = house.ground.mints["main"].report()
        assert (report.keysets, report.unusable_count, len(report.unusable)) == (1, 2, 2)
        assert house.counted(owner) == house.honoured(owner)


@pytest.mark.parametrize(
    "twin", [{"active": False}, {"unit": "msat"}, {"input_fee_ppk": 7}, {"final_expiry": SOON}, {"active": True}]
)
async def test_a_keyset_listed_twice_with_other_words_is_none(twin):
    first, other = PlayedKeyset(), PlayedKeyset()
    async with PlayedMint(first, other) as mint, http_mint(mint.url) as client:
        mint.bend[KEYSETS] = lambda _, body: {"keysets": [*body["keysets"], first.entry() | twin]}
        assert set(await client.keysets()) == ({first.id, other.id} if twin == {"active": True} else {other.id})


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_what_can_t_be_used_is_counted_and_the_first_are_named(count):
    async with PlayedMint() as mint, http_mint(mint.url) as client:
        mint.bend[KEYSETS] = lambda _, body: {"keysets": [*body["keysets"], *[{"id": f"bad{i}"} for i in range(count)]]}
        await client.keysets()
        report = client.report()
        assert report.unusable_count == count
        assert len(report.unusable) == min(count, 32)
        assert all("bad" in named for named in report.unusable)


@pytest.mark.parametrize(
    "nuts",
    [
        {"5": {"methods": [None, 7, {"method": 5}, {"method": "bolt11", "unit": "sat", "max_amount": "lots"}]}},
        {"5": "yes", "17": [], "19": 7, "21": None, "22": {"protected_endpoints": "all"}},
        {"x": {}, "": None, "5": {"methods": {}}},
        {"5": {"methods": [{"method": "bolt11", "unit": "sat", "min_amount": -5, "max_amount": 0}]}},
        [],
        7,
    ],
)
async def test_odd_settings_forbid_nothing(playing, nuts):
    async with playing(PlayedMint(info={"nuts": nuts, "max_array_length": "1000", "time": "now", "name": 5})) as house:
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED


# --- expired ---


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("version", [1, 2])
async def test_an_expired_keyset_pays_nothing_and_the_good_ecash_does(playing, active, version):
    old = PlayedKeyset(version=version, expiry=PAST, active=active)
    async with playing(PlayedMint(PlayedKeyset(), old)) as house:
        owner = house.user()
        house.hold(owner, *house.mint.issue(64, 32, keyset=old))
        house.hold(owner, *house.mint.issue(64, keyset=next(iter(house.mint.sets.values()))))
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        error = await refusal(house, owner)
        assert error.code.value == "INSUFFICIENT_FUNDS"
        assert "96 sat lie on a keyset that has expired" in error.detail


@pytest.mark.parametrize("ends_in", [-(10**8), -3600, -1, 0])
async def test_an_expired_active_keyset_takes_no_blanks(playing, ends_in):
    keyset = PlayedKeyset(expiry=int(time.time()) + ends_in)
    good = PlayedKeyset(active=False)
    async with playing(PlayedMint(good, keyset)) as house:
        owner = house.user()
        house.hold(owner, *house.mint.issue(64, keyset=good))
        started = time.monotonic()
        error = await refusal(house, owner)
        assert (error.code.value, "has expired" in error.detail) == ("KEYSET_UNUSABLE", True)
        assert time.monotonic() - started < 5, "told at once"
        assert not house.mint.asked_of(MELT)


@pytest.mark.parametrize("code", [12003, 12001, 12002])
async def test_an_input_that_the_mint_takes_for_expired_is_told_as_that(playing, code):
    """Its list does not say so, so that nobody could know before."""
    async with playing() as house:
        house.mint.before[MELT] = lambda _: No(code).say
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40))
        assert (melt.state, melt.error_code) == (MeltState.RELEASED, "KEYSET_UNUSABLE")
        assert "Lightning" not in (melt.error_detail or "")
        assert house.counted(owner) == 64


# --- a list that is too old ---


@pytest.mark.parametrize("rotations", [1, 2, 5])
@pytest.mark.parametrize("version", [1, 2])
async def test_ecash_of_a_keyset_that_is_newer_than_the_list_can_be_used_at_once(playing, rotations, version):
    async with playing() as house:
        await house.ground.mints["main"].keysets()
        for _ in range(rotations):
            house.mint.rotate(version=version)
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 23


@pytest.mark.parametrize("strangers", [1, 5, 50])
async def test_ids_that_nobody_knows_do_not_make_meltd_ask_for_ever(playing, strangers):
    async with playing() as house:
        owner = await house.fund(64)
        for number in range(strangers):
            house.hold(owner, {**house.mint.issue(1)[0], "id": f"00{number:014x}"})
        for _ in range(3):
            await refusal(house, owner, 60_000)
        assert len(house.mint.asked_of(KEYSETS)) <= 3


# --- restarted with a new keyset ---


@pytest.mark.parametrize("code", [12001, 12002, 12003])
@pytest.mark.parametrize("ppk", [0, 100])
async def test_a_payment_goes_on_with_outputs_of_the_keyset_that_signs_now(playing, code, ppk):
    async with playing(PlayedMint(PlayedKeyset(ppk=ppk))) as house:
        owner = await house.fund(64, 32)
        await house.pay(owner, house.mint.invoice(20))
        old = house.mint.active
        new = house.mint.rotate(ppk=ppk)

        def refuses(asked):
            return No(code).say if any(o["id"] == old.id for o in asked.body.get("outputs", ())) else None

        house.mint.before[MELT] = house.mint.before[SWAP] = refuses
        started = time.monotonic()
        invoice = house.mint.invoice(40)
        before = house.counted(owner)
        melt = await house.pay(owner, invoice)
        assert (melt.state, house.mint.paid[invoice]) == (MeltState.SETTLED, 1)
        assert time.monotonic() - started < 5, "the caller notices nothing"
        assert melt.blanks is not None
        assert melt.blanks.keyset_id == new.id
        assert house.counted(owner) == house.honoured(owner) == before - 40 - 1 - melt.input_fee
        assert house.events() == []


@pytest.mark.parametrize(
    "truth", ["quote PAID", "quote PENDING", "inputs PENDING", "inputs SPENT", "quote can't be asked", "quote UNKNOWN"]
)
async def test_no_second_payment_leaves_where_the_first_may_have_gone_through(playing, truth):
    async with playing(melt={"post_grace_s": 60}) as house:
        owner = await house.fund(64)
        old = house.mint.active

        def refuses(asked):
            """The mint refuses, and yet something has happened."""
            house.mint.rotate()
            ys = {str(y) for y in _ys(asked)}
            quote = house.mint.quotes[asked.body["quote"]]
            if truth.startswith("quote") and truth.split()[1].isupper():
                quote["state"] = truth.split()[1]
            elif truth.startswith("quote"):
                house.mint.before[QUOTE + "/"] = lambda _: No(0).say
            elif truth == "inputs PENDING":
                house.mint.pending |= ys
            else:
                house.mint.spent |= ys
            return No(12002).say

        house.mint.before[MELT] = refuses
        await house.pay(owner, house.mint.invoice(40), wait_s=0.5)
        assert len(house.mint.asked_of(MELT)) == 1, "I1"
        assert old.id != house.mint.active.id


def _ys(asked):
    from melt.ecash import y_of

    return [y_of(one["secret"]) for one in asked.body["inputs"]]


async def test_a_mint_that_refuses_for_ever_is_sent_one_more_payment_and_no_third(playing):
    async with playing() as house:
        owner = await house.fund(64)

        def refuses(_):
            house.mint.rotate()
            return No(12002).say

        house.mint.before[MELT] = refuses
        melt = await house.pay(owner, house.mint.invoice(40))
        assert (melt.state, melt.error_code) == (MeltState.RELEASED, "KEYSET_UNUSABLE")
        assert len(house.mint.asked_of(MELT)) == 2
        assert house.counted(owner) == house.honoured(owner) == 64


@pytest.mark.parametrize("code", [12001, 12002, 12003])
async def test_a_swap_to_exact_amounts_is_planned_anew(playing, code):
    async with playing(melt={"swap_when_overpay_exceeds": 4}) as house:
        owner = await house.fund(64)
        old = house.mint.active
        await house.ground.mints["main"].keysets()
        new = house.mint.rotate()
        house.mint.before[SWAP] = lambda asked: (
            No(code).say if any(one["id"] == old.id for one in asked.body["outputs"]) else None
        )
        melt = await house.pay(owner, house.mint.invoice(20))
        assert melt.state is MeltState.SETTLED
        assert melt.swap is not None
        assert melt.swap.outputs.keyset_id == new.id
        assert house.counted(owner) == house.honoured(owner) == 64 - 20 - 1


@pytest.mark.parametrize("code", [12001, 12002, 12003, 11000])
async def test_a_fence_is_planned_anew(playing, code):
    async with playing() as house:
        owner = await house.fund(64)
        old = house.mint.active

        def goes(_):
            house.mint.rotate()
            return No(50000).say

        house.mint.before[MELT] = goes
        house.mint.before[SWAP] = lambda asked: (
            No(code).say if any(one["id"] == old.id for one in asked.body["outputs"]) else None
        )
        melt = await house.pay(owner, house.mint.invoice(20))
        assert melt.state is MeltState.RELEASED
        assert house.counted(owner) == house.honoured(owner) == 64
        assert house.events() == []


@pytest.mark.parametrize("how", ["none active", "none of the unit", "all expired", "no keys", "wrong keys"])
async def test_no_keyset_that_takes_outputs_is_told_as_that_at_once(playing, how):
    async with playing() as house:
        owner = await house.fund(64)
        keyset = house.mint.active
        match how:
            case "none active":
                keyset.active = False
            case "none of the unit":
                house.mint.rotate(unit="usd")
                keyset.active = False
            case "all expired":
                old, keyset = keyset, PlayedKeyset(expiry=PAST)
                old.active = False
                house.mint.sets[keyset.id] = keyset
            case "no keys":
                house.mint.before["/v1/keys/"] = lambda _: No(12001).say
            case "wrong keys":
                house.mint.bend["/v1/keys/"] = lambda _, body: {
                    "keysets": [one | {"keys": PlayedKeyset().keys} for one in body["keysets"]]
                }
        started = time.monotonic()
        error = await refusal(house, owner)
        assert error.code.value == "KEYSET_UNUSABLE"
        assert time.monotonic() - started < 5
        assert (house.counted(owner), len(house.mint.asked_of(MELT))) == (64, 0)


# --- a witness where there is nothing to witness ---


@pytest.mark.parametrize("witness", ["", " ", "{}", "null", '{"signatures":[]}', "[]", '""', "\t\n", '{"preimage":""}'])
@pytest.mark.parametrize("how", [No(11000).say, No(10000).say])
async def test_a_stored_witness_goes_with_a_condition_and_with_nothing_else(playing, witness, how):
    async with playing(melt={"swap_when_overpay_exceeds": 4}) as house:
        picky = lambda asked: how if any("witness" in one for one in asked.body["inputs"]) else None  # noqa: E731
        house.mint.before[MELT] = house.mint.before[SWAP] = picky
        owner = house.user()
        house.hold(owner, *[one | {"witness": witness} for one in house.mint.issue(64)])
        assert (await house.pay(owner, house.mint.invoice(20))).state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 64 - 20 - 1


async def test_nothing_that_restore_says_of_others_is_taken(playing):
    """What was not asked for, comes twice or can't be read costs itself alone."""
    async with playing() as house:
        house.mint.bend[MELT] = lambda _, body: {**body, "change": None}
        house.mint.bend[QUOTE + "/"] = lambda _, body: {**body, "change": None}
        house.mint.bend[RESTORE] = lambda _, body: {
            "outputs": [*body["outputs"], {"B_": "02" + "ab" * 32}, {"B_": None}, None][: len(body["outputs"]) + 3],
            "signatures": [*body["signatures"], {"id": "x"}, None, 7][: len(body["outputs"]) + 3],
        }
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40))
        assert melt.state is MeltState.SETTLED
