"""Points, blinding, DLEQ proofs and NUT-13 outputs, against the NUTs' vectors, cashu's wallet and a simulated mint."""

from __future__ import annotations

import json
import pickle
import secrets
import subprocess
import sys

import pytest
from cashu.core.crypto.b_dhke import carol_verify_dleq, hash_to_curve, step2_bob, verify
from cashu.core.crypto.secp import PrivateKey, PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from melt.ecash import Seed, blind, dleq_holds, is_point, is_scalar, proof_dleq_holds, unblind, y_of
from melt.errors import InvariantBroken, MintUntrusted
from melt.model import KeysetId, OutputPlan

WORDS = "half depart obvious quality work element tank gorilla view sugar picture humble"
V1 = KeysetId("009a1f293253e41e")
V2 = KeysetId("015ba18a8adcd02e715a58358eb618da4a4b3791151a4bee5e968bb88406ccf76a")
LEGACY = KeysetId("yjzQhxghPdrr")
V1_VECTORS = [  # NUT-13 test vectors, version 1: secret, r
    (
        "485875df74771877439ac06339e284c3acfcd9be7abf3bc20b516faeadfe77ae",
        "ad00d431add9c673e843d4c2bf9a778a5f402b985b8da2d5550bf39cda41d679",
    ),
    (
        "8f2b39e8e594a4056eb1e6dbb4b0c38ef13b1b2c751f64f810ec04ee35b77270",
        "967d5232515e10b81ff226ecf5a9e2e2aff92d66ebc3edf0987eb56357fd6248",
    ),
    (
        "bc628c79accd2364fd31511216a0fab62afd4a18ff77a20deded7b858c9860c8",
        "b20f47bb6ae083659f3aa986bfa0435c55c6d93f687d51a01f26862d9b9a4899",
    ),
    (
        "59284fd1650ea9fa17db2b3acf59ecd0f2d52ec3261dd4152785813ff27a33bf",
        "fb5fca398eb0b1deb955a2988b5ac77d32956155f1c002a373535211a2dfdc29",
    ),
    (
        "576c23393a8b31cc8da6688d9c9a96394ec74b40fdaf1f693a6bb84284334ea0",
        "5f09bfbfe27c439a597719321e061e2e40aad4a36768bb2bcc3de547c9644bf9",
    ),
]
V2_VECTORS = [  # version 2
    (
        "db5561a07a6e6490f8dadeef5be4e92f7cebaecf2f245356b5b2a4ec40687298",
        "6d26181a3695e32e9f88b80f039ba1ae2ab5a200ad4ce9dbc72c6d3769f2b035",
    ),
    (
        "b70e7b10683da3bf1cdf0411206f8180c463faa16014663f39f2529b2fda922e",
        "bde4354cee75545bea1a2eee035a34f2d524cee2bb01613823636e998386952e",
    ),
    (
        "78a7ac32ccecc6b83311c6081b89d84bb4128f5a0d0c5e1af081f301c7a513f5",
        "f40cc1218f085b395c8e1e5aaa25dccc851be3c6c7526a0f4e57108f12d6dac4",
    ),
    (
        "094a2b6c63bfa7970bc09cda0e1cfc9cd3d7c619b8e98fabcfc60aea9e4963e5",
        "099ed70fc2f7ac769bc20b2a75cb662e80779827b7cc358981318643030577d0",
    ),
    (
        "5e89fc5d30d0bf307ddf0a3ac34aa7a8ee3702169dafa3d3fe1d0cae70ecd5ef",
        "5550337312d223ba62e3f75cfe2ab70477b046d98e3e71804eade3956c7b98cf",
    ),
]
NO_POINT = "02" + "ff" * 32
ORDER_HEX = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"


@pytest.fixture(scope="module")
def seed() -> Seed:
    return Seed.from_mnemonic(WORDS)


def plan(seed: Seed, *amounts: int, keyset_id: KeysetId = V2, counter: int = 0) -> OutputPlan:
    return OutputPlan(keyset_id=keyset_id, counter=counter, amounts=amounts, seed_id=seed.seed_id)


def signed(b_: str, key: PrivateKey) -> tuple[str, tuple[str, str]]:
    """What a mint answers: C_ and (e, s)."""
    c_, e, s = step2_bob(PublicKey(bytes.fromhex(b_)), key)
    return c_.format().hex(), (e.to_hex(), s.to_hex())


def public(key: PrivateKey) -> str:
    return key.public_key.format().hex()


# --- Y ---


@pytest.mark.parametrize(
    ("message", "y"),
    [  # NUT-00 vectors for hash_to_curve, whose messages are bytes; these are text too
        ("\x00" * 32, "024cce997d3b518f739663b757deaec95bcd9473c30a14ac2fd04023a739d1a725"),
        ("\x00" * 31 + "\x01", "022e7158e11c9506f1aa4248bf531298daa7febd6194f003edcd9b93ade6253acf"),
        ("\x00" * 31 + "\x02", "026cdbe15362df59cd1dd3c9c11de8aedac2106eca69236ecd9fbe117af897be4f"),
    ],
)
def test_y_follows_the_nut_00_vectors(message, y):
    assert y_of(message) == y


@given(st.text(max_size=200))
@example("")
@example('["P2PK",{"nonce":"ß"}]')
def test_y_is_cashus_hash_to_curve_of_the_utf8_bytes(secret):
    try:
        raw = secret.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="surrogates"):
            y_of(secret)
    else:
        assert y_of(secret) == hash_to_curve(raw).format().hex()


def test_a_secret_without_a_utf8_form_has_no_y():
    with pytest.raises(ValueError, match="surrogates"):
        y_of("\ud800")


# --- blinding and unblinding ---


@settings(deadline=None, max_examples=60)
@given(
    secret=st.text(st.characters(codec="utf-8"), max_size=64),
    r=st.binary(min_size=32, max_size=32),
    k=st.integers(1, 2**250),
)
def test_what_a_mint_signs_unblinds_to_a_valid_proof(secret, r, k):
    if not 0 < int.from_bytes(r, "big") < int(ORDER_HEX, 16):
        with pytest.raises(ValueError, match="scalar"):
            blind(secret, r)
        return
    key = PrivateKey(k.to_bytes(32, "big"))
    b_ = blind(secret, r)
    c_, (e, s) = signed(b_, key)
    c = unblind(c_, r, public(key))
    assert verify(key, PublicKey(bytes.fromhex(c)), secret)
    assert dleq_holds(b_, c_, e, s, public(key))
    assert proof_dleq_holds(secret, c, e, s, r.hex(), public(key))
    assert carol_verify_dleq(
        secret,
        PrivateKey(r),
        PublicKey(bytes.fromhex(c)),
        PrivateKey(bytes.fromhex(e)),
        PrivateKey(bytes.fromhex(s)),
        key.public_key,
    )


def test_a_dleq_proof_of_anything_else_does_not_hold():
    key, other, r = PrivateKey(), PrivateKey(), secrets.token_bytes(32)
    b_ = blind("a", r)
    c_, (e, s) = signed(b_, key)
    c = unblind(c_, r, public(key))
    assert not dleq_holds(b_, c_, e, s, public(other))
    assert not dleq_holds(blind("b", r), c_, e, s, public(key))
    assert not dleq_holds(b_, signed(b_, other)[0], e, s, public(key))
    assert not dleq_holds(b_, c_, s, e, public(key))
    assert not proof_dleq_holds("b", c, e, s, r.hex(), public(key))
    assert not proof_dleq_holds("a", c, e, s, secrets.token_hex(32), public(key))
    assert not proof_dleq_holds("\ud800", c, e, s, r.hex(), public(key))


@pytest.mark.parametrize(
    "bad", ["", "02", "zz" * 33, NO_POINT, "04" + "00" * 64, "05" + "11" * 32, "０" * 66, " " * 66, None, 7, "00" * 33]
)
def test_points_that_are_none_are_refused_without_odd_exceptions(bad):
    key, r = PrivateKey(), secrets.token_bytes(32)
    b_ = blind("a", r)
    c_, (e, s) = signed(b_, key)
    c = unblind(c_, r, public(key))
    assert not is_point(bad)
    assert not dleq_holds(bad, c_, e, s, public(key))
    assert not dleq_holds(b_, bad, e, s, public(key))
    assert not dleq_holds(b_, c_, e, s, bad)
    assert not proof_dleq_holds("a", bad, e, s, r.hex(), public(key))
    assert not proof_dleq_holds("a", c, e, s, r.hex(), bad)
    with pytest.raises(MintUntrusted):
        unblind(bad, r, public(key))
    with pytest.raises(MintUntrusted):
        unblind(c_, r, bad)


@pytest.mark.parametrize("bad", ["", "00" * 32, ORDER_HEX, "ff" * 32, "1" * 63, "zz" * 32, "０" * 64, None, 7])
def test_scalars_that_are_none_are_refused_without_odd_exceptions(bad):
    key, r = PrivateKey(), secrets.token_bytes(32)
    b_ = blind("a", r)
    c_, (e, s) = signed(b_, key)
    c = unblind(c_, r, public(key))
    assert not is_scalar(bad)
    assert not dleq_holds(b_, c_, bad, s, public(key))
    assert not dleq_holds(b_, c_, e, bad, public(key))
    assert not proof_dleq_holds("a", c, e, s, bad, public(key))


@pytest.mark.parametrize("r", [b"", b"\x01", b"\x01" * 31, b"\x01" * 33, b"\x00" * 32, b"\xff" * 32])
def test_a_blinding_factor_that_is_no_scalar_is_refused(r):
    point = public(PrivateKey())
    with pytest.raises(ValueError, match="scalar"):
        blind("a", r)
    with pytest.raises(ValueError, match="scalar"):
        unblind(point, r, point)


def test_a_signature_that_unblinds_to_no_point_is_untrusted():
    key, r = PrivateKey(), secrets.token_bytes(32)
    r_times_a = key.public_key.multiply(r).format().hex()
    with pytest.raises(MintUntrusted):
        unblind(r_times_a, r, public(key))


# --- the seed ---


@pytest.mark.parametrize(("keyset_id", "vectors"), [(V1, V1_VECTORS), (V2, V2_VECTORS)])
def test_outputs_derive_as_in_the_nut_13_vectors(seed, keyset_id, vectors):
    derived = [seed.derive(keyset_id, counter) for counter in range(len(vectors))]
    assert [(secret, r.hex()) for secret, r in derived] == vectors


def test_outputs_derive_as_in_cashus_own_wallet(seed):
    ids = [V1, V2, LEGACY, "00ffffffffffffff"]
    counters = [0, 1, 77, 2**31 - 1]
    script = f"""
import asyncio, json
from bip32 import BIP32
from mnemonic import Mnemonic
from cashu.wallet.secrets import WalletSecrets
wallet = WalletSecrets()
wallet.seed = Mnemonic("english").to_seed({WORDS!r})
wallet.bip32 = BIP32.from_seed(wallet.seed)
async def derive():
    return [[[part.hex() for part in (await wallet.generate_determinstic_secret(c, k))[:2]] for c in {counters}] for k in {ids}]
print(json.dumps(asyncio.run(derive())))
"""
    # A process of its own, with nothing of our environment: cashu's wallet rewrites it.
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"HOME": "/nonexistent"},
        cwd="/",
        capture_output=True,
        check=True,
        timeout=60,
    )
    theirs = json.loads(ran.stdout)
    ours = [[[secret, r.hex()] for secret, r in (seed.derive(k, c) for c in counters)] for k in ids]
    assert ours == theirs


@pytest.mark.parametrize(
    "keyset_id", ["", "01", V2[:16], V2.upper(), "02" + "ab" * 32, V1 + "00", "../../v1/keys", "no base64!!"]
)
def test_unknown_keyset_ids_derive_nothing(seed, keyset_id):
    with pytest.raises(InvariantBroken):
        seed.derive(keyset_id, 0)


@pytest.mark.parametrize(("keyset_id", "counter"), [(V1, -1), (V1, 2**31), (V2, -1), (V2, 2**63)])
def test_counters_outside_of_the_range_derive_nothing(seed, keyset_id, counter):
    with pytest.raises(InvariantBroken):
        seed.derive(keyset_id, counter)


def test_words_are_read_in_any_case_and_spacing_and_checked(seed):
    assert Seed.from_mnemonic(f"  {WORDS.upper()}\n".replace(" ", "  ")).seed_id == seed.seed_id
    for bad in ["", "half", WORDS + " humble", WORDS.replace("humble", "half"), "x " * 12]:
        with pytest.raises(ValueError, match="BIP39") as caught:
            Seed.from_mnemonic(bad)
        assert "gorilla" not in str(caught.value)


def test_new_words_make_a_new_seed():
    one, two = Seed.generate_mnemonic(), Seed.generate_mnemonic()
    assert one != two
    assert len(one.split()) == 12
    assert Seed.from_mnemonic(one).seed_id != Seed.from_mnemonic(two).seed_id


def test_a_seed_shows_its_fingerprint_and_nothing_else(seed):
    assert repr(seed) == f"Seed(seed_id='{seed.seed_id}')"
    assert len(seed.seed_id) == 16
    with pytest.raises(TypeError):
        pickle.dumps(seed)


# --- the port ---


@pytest.mark.parametrize("keyset_id", [V1, V2, LEGACY])
def test_planned_outputs_round_trip_through_a_mint(seed, keyset_id):
    key = PrivateKey()
    outputs = plan(seed, 1, 2, 0, keyset_id=keyset_id, counter=5)
    blinded = seed.blinded(outputs)
    assert [message.amount for message in blinded] == [1, 2, 0]
    assert len({message.b_ for message in blinded}) == 3
    for index, (message, amount) in enumerate(zip(blinded, [1, 2, 8], strict=True)):
        c_, dleq = signed(message.b_, key)
        assert [seed.match(outputs, i, c_, public(key), dleq) for i in range(3)] == [i == index for i in range(3)]
        proof = seed.unblind(outputs, index, amount, c_, public(key), dleq)
        assert proof.amount == amount
        assert proof.keyset_id == keyset_id
        assert proof.secret == seed.derive(keyset_id, 5 + index)[0]
        assert verify(key, PublicKey(bytes.fromhex(proof.c)), proof.secret)
        assert proof.dleq is not None
        assert proof_dleq_holds(proof.secret, proof.c, proof.dleq.e, proof.dleq.s, proof.dleq.r, public(key))
        assert seed.unblind(outputs, index, amount, c_, public(key), None).dleq is None


def test_the_same_plan_gives_the_same_outputs_in_any_process(seed):
    outputs = plan(seed, 1, 0, 4)
    assert Seed.from_mnemonic(WORDS).blinded(outputs) == seed.blinded(outputs)


def test_a_plan_of_another_seed_is_refused(seed):
    foreign = plan(Seed.from_mnemonic(Seed.generate_mnemonic()), 1)
    with pytest.raises(InvariantBroken):
        seed.blinded(foreign)
    with pytest.raises(InvariantBroken):
        seed.unblind(foreign, 0, 1, NO_POINT, NO_POINT, None)
    with pytest.raises(InvariantBroken):
        seed.match(foreign, 0, NO_POINT, NO_POINT, ("", ""))


def test_signatures_with_a_wrong_amount_proof_or_point_are_untrusted(seed):
    key = PrivateKey()
    outputs = plan(seed, 4, 0)
    c_, dleq = signed(seed.blinded(outputs)[0].b_, key)
    for amount in [2, 0, -1, 2**63]:
        with pytest.raises(MintUntrusted):
            seed.unblind(outputs, 0, amount, c_, public(key), dleq)
    with pytest.raises(MintUntrusted):
        seed.unblind(outputs, 0, 4, c_, public(PrivateKey()), dleq)
    with pytest.raises(MintUntrusted):
        seed.unblind(outputs, 0, 4, NO_POINT, public(key), None)
    with pytest.raises(MintUntrusted):
        seed.unblind(outputs, 1, 0, c_, public(key), None)
    with pytest.raises(InvariantBroken):
        seed.unblind(outputs, 2, 4, c_, public(key), dleq)


def test_errors_and_representations_hold_no_secret(seed):
    outputs = plan(seed, 4)
    secret, r = seed.derive(V2, 0)
    key = PrivateKey()
    c_, dleq = signed(seed.blinded(outputs)[0].b_, key)
    proof = seed.unblind(outputs, 0, 4, c_, public(key), dleq)
    with pytest.raises(MintUntrusted) as caught:
        seed.unblind(outputs, 0, 4, c_, public(PrivateKey()), dleq)
    shown = f"{proof!r} {seed!r} {caught.value!r} {caught.value.detail}"
    assert not any(hidden in shown for hidden in (secret, r.hex(), proof.c, c_, *dleq))
