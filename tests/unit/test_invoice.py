"""Invoices: what is read, and that whatever else comes is refused and nothing more."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import bolt11
import pytest
from bolt11 import Bolt11, Feature, Features, FeatureState, MilliSatoshi, TagChar, Tags
from hypothesis import given, settings
from hypothesis import strategies as st

from melt.errors import Code, Refusal
from melt.invoice import INVOICE_LENGTH_MAX, read_invoice

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MADE = int(NOW.timestamp()) - 100
KEY = hashlib.sha256(b"payee").hexdigest()
PREIMAGE = b"p" * 32
HASH = hashlib.sha256(PREIMAGE).hexdigest()


def make(amount_msat=21_000, *, expiry=3600, made=MADE, currency="bc", payment_hash=HASH, description="coffee"):
    tags = Tags()
    if payment_hash is not None:
        tags.add(TagChar.payment_hash, payment_hash)
    tags.add(TagChar.payment_secret, "22" * 32)
    tags.add(TagChar.description, description)
    if expiry is not None:
        tags.add(TagChar.expire_time, expiry)
    features = Features.from_feature_list({Feature.payment_secret: FeatureState.required})
    tags.add(TagChar.features, features)
    amount = None if amount_msat is None else MilliSatoshi(amount_msat)
    made_up = Bolt11(currency=currency, date=made, amount_msat=amount, tags=tags)
    return bolt11.encode(made_up, KEY, ignore_exceptions=payment_hash is None)


def refusal(text, now=NOW):
    with pytest.raises(Refusal) as caught:
        read_invoice(text, now=now)
    return caught.value


@pytest.mark.parametrize("currency", ["bc", "tb", "bcrt"])
def test_an_invoice_is_read(currency):
    text = make(currency=currency)
    found = read_invoice(text, now=NOW)
    assert (found.text, found.payment_hash, found.amount_msat) == (text, HASH, 21_000)
    assert found.expires_at == MADE + 3600


@pytest.mark.parametrize(
    "dress",
    [
        str.upper,
        lambda text: f"  {text}\n",
        lambda text: f"lightning:{text}",
        lambda text: f"LIGHTNING:{text.upper()}",
        lambda text: f" Lightning:{text}",
    ],
    ids=["upper case", "spaces", "prefix", "prefix upper case", "prefix and space"],
)
def test_the_same_invoice_in_another_dress_is_the_same(dress):
    text = make()
    assert read_invoice(dress(text), now=NOW) == read_invoice(text, now=NOW)


@pytest.mark.parametrize(
    ("msat", "sat"), [(1, 1), (999, 1), (1000, 1), (1001, 2), (21_000, 21), (2_100_000_000, 2_100_000)]
)
def test_millisats_are_rounded_up_to_sats_as_mints_do(msat, sat):
    found = read_invoice(make(msat), now=NOW)
    assert (found.amount("msat"), found.amount("sat")) == (msat, sat)


@pytest.mark.parametrize("unit", ["usd", "", "SAT", "btc"])
def test_a_unit_whose_price_can_not_be_checked_is_refused(unit):
    found = read_invoice(make(), now=NOW)
    with pytest.raises(Refusal) as caught:
        found.amount(unit)
    assert caught.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize("amount", [None, 0])
def test_an_invoice_without_an_amount_is_refused(amount):
    assert refusal(make(amount)).code is Code.INVOICE_AMOUNTLESS


@pytest.mark.parametrize(("seconds", "expired"), [(3599, False), (3600, True), (3601, True)])
def test_an_invoice_expires_at_its_second(seconds, expired):
    now = datetime.fromtimestamp(MADE + seconds, UTC)
    if expired:
        assert refusal(make(), now).code is Code.INVOICE_EXPIRED
    else:
        assert read_invoice(make(), now=now).amount_msat == 21_000


def test_without_an_expiry_it_is_an_hour():
    assert read_invoice(make(expiry=None), now=NOW).expires_at == MADE + 3600


def test_an_invoice_without_a_payment_hash_is_refused():
    assert refusal(make(payment_hash=None)).code is Code.INVOICE_INVALID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "lightning:",
        "lnbc",
        "lnbc1",
        "lnbc21u1",
        "lnurl1dp68gurn8ghj7",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        "lightning:lightning:lnbc1",
        "lnbc1" + "q" * 7_000,
        "q" * (INVOICE_LENGTH_MAX + 1),
        "ｌｎｂｃ１",
        "lnbc1\x00",
        "💥",
    ],
)
def test_what_is_no_invoice_is_refused(text):
    assert refusal(text).code is Code.INVOICE_INVALID


def test_a_single_changed_character_is_refused():
    text = make()
    for at in range(len("lnbc"), len(text)):
        changed = text[:at] + ("q" if text[at] != "q" else "p") + text[at + 1 :]
        assert refusal(changed).code is Code.INVOICE_INVALID


def test_a_refusal_does_not_repeat_what_was_sent():
    text = "lnbc1" + "secretlookingthing" * 3
    error = refusal(text)
    assert "secretlooking" not in f"{error} {error.detail} {error.hint}"


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200) | st.text("lnbctr01qpzry9x8gf2tvdw0s3jn54khce6mua7l", max_size=400).map("lnbc".__add__))
def test_junk_is_refused_and_nothing_else_happens(text):
    assert refusal(text).code is Code.INVOICE_INVALID


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mangled_invoice_is_refused_or_the_same_money(data):
    text = make()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    mangled = text[:start] + data.draw(st.text(max_size=20)) + text[end:]
    try:
        found = read_invoice(mangled, now=NOW)
    except Refusal:
        return
    assert (found.payment_hash, found.amount_msat) == (HASH, 21_000)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**14 - 1))  # below 1000 BTC, which the library's encoder shortens to 1
def test_every_amount_is_read_as_it_was_written(msat):
    assert read_invoice(make(msat), now=NOW).amount_msat == msat
