"""Keyset ids commit to their keys (NUT-02)."""

from __future__ import annotations

import pytest
from cashu.core.crypto.keys import derive_keyset_id, derive_keyset_id_deprecated, derive_keyset_id_v2
from cashu.core.crypto.secp import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from melt.ecash import KeysetIdVersion, keyset_id_matches, keyset_id_version

NUT_02_KEYS = {
    1: "03a40f20667ed53513075dc51e715ff2046cad64eb68960632269ba7f0210e38bc",
    2: "03fd4ce5a16b65576145949e6f99f445f8249fee17c606b688b504a849cdc452de",
    4: "02648eccfa4c026960966276fa5a4cae46ce0fd432211a4f449bf84f13aa5f8303",
    8: "02fdfd6796bfeac490cbee12f778f867f0a2c68f6508d17c649759ea0dc3547528",
}


def test_the_nut_02_vector_matches_in_any_order_of_keys():
    assert keyset_id_matches("00456a94ab4e1c46", dict(reversed(NUT_02_KEYS.items())), unit="sat")


@pytest.mark.parametrize(
    "tampered", [{}, {1: NUT_02_KEYS[1]}, NUT_02_KEYS | {4: NUT_02_KEYS[8]}, NUT_02_KEYS | {1: "zz"}]
)
def test_other_keys_do_not_match(tampered):
    assert not keyset_id_matches("00456a94ab4e1c46", tampered, unit="sat")


@settings(deadline=None, max_examples=30)
@given(
    bits=st.sets(st.integers(0, 63), min_size=1, max_size=6),
    unit=st.sampled_from(["sat", "msat", "usd"]),
    fee=st.integers(0, 5000),
    expiry=st.none() | st.integers(0, 2**40),
)
def test_ids_of_every_generation_are_those_that_cashu_derives(bits, unit, fee, expiry):
    points = {1 << bit: PrivateKey((bit + 1).to_bytes(32, "big")).public_key for bit in bits}
    keys = {amount: point.format().hex() for amount, point in points.items()}
    v2 = derive_keyset_id_v2(points, unit, expiry, fee)
    assert keyset_id_matches(v2, keys, unit=unit, input_fee_ppk=fee, final_expiry=expiry)
    assert not keyset_id_matches(v2, keys, unit=unit, input_fee_ppk=fee + 1, final_expiry=expiry)
    assert not keyset_id_matches(v2, keys, unit="eur", input_fee_ppk=fee, final_expiry=expiry)
    assert not keyset_id_matches(v2, keys, unit=unit, input_fee_ppk=fee, final_expiry=(expiry or 0) + 1)
    for derived in (derive_keyset_id(points), derive_keyset_id_deprecated(points)):
        assert keyset_id_matches(derived, keys, unit=unit)
        assert not keyset_id_matches(derived, keys | {2**63: NUT_02_KEYS[1]}, unit=unit)


@pytest.mark.parametrize(
    ("keyset_id", "version"),
    [
        ("009a1f293253e41e", KeysetIdVersion.V1),
        ("01" + "ab" * 32, KeysetIdVersion.V2),
        ("yjzQhxghPdrr", KeysetIdVersion.LEGACY),
        ("L3zxxRB/I8uE", KeysetIdVersion.LEGACY),
        ("01ab34ab34ab34ab", None),
        ("02" + "ab" * 32, None),
        ("01" + "AB" * 32, None),
        ("", None),
        ("../../../etc", None),
    ],
)
def test_kinds_of_keyset_ids_are_told_apart(keyset_id, version):
    assert keyset_id_version(keyset_id) is version
    if version is None:
        assert not keyset_id_matches(keyset_id, NUT_02_KEYS, unit="sat")
