"""
Speed of the ecash primitives: ``python tests/bench/bench_ecash.py``.

Prints microseconds on this machine and, since machines differ, each as a multiple of one SHA-256 of 64 bytes. Next
to ours stands what cashu's own function or wallet takes for the same, from the same text.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bip32 import BIP32
from cashu.core.crypto.b_dhke import alice_verify_dleq, hash_to_curve, step1_alice, step2_bob, step3_alice
from cashu.core.crypto.secp import PrivateKey, PublicKey
from mnemonic import Mnemonic

from melt.ecash import Seed, blind, dleq_holds, proof_dleq_holds, unblind, y_of
from melt.mint import wire

WORDS = "half depart obvious quality work element tank gorilla view sugar picture humble"
V1, V2 = "009a1f293253e41e", "015ba18a8adcd02e715a58358eb618da4a4b3791151a4bee5e968bb88406ccf76a"
ROUNDS = 5


def best_us(work: Callable[[int], object], count: int) -> float:
    """Microseconds for one call: the best of several rounds, since other programs share the machine."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for index in range(count):
            work(index)
        best = min(best, time.perf_counter() - started)
    return best / count * 1e6


def point(text: str) -> PublicKey:
    return PublicKey(bytes.fromhex(text))


def scalar(text: str) -> PrivateKey:
    return PrivateKey(bytes.fromhex(text))


def main() -> None:
    count = 500
    names = [secrets.token_hex(32) for _ in range(count)]
    key, r = PrivateKey(), secrets.token_bytes(32)
    public_hex = key.public_key.format().hex()
    b_hex = blind(names[0], r)
    c_, e, s = step2_bob(point(b_hex), key)
    c_hex, e_hex, s_hex = c_.format().hex(), e.to_hex(), s.to_hex()
    c = unblind(c_hex, r, public_hex)
    seed = Seed.from_mnemonic(WORDS)
    root = BIP32.from_seed(Mnemonic.to_seed(WORDS))
    page = ("[" + ",".join(f'{{"Y":"{y_of(name)}","state":"UNSPENT","witness":null}}' for name in names) + "]").encode()
    states = b'{"states":' + page + b"}"

    def wallet_v1(counter: int) -> None:
        for leaf in (0, 1):
            root.get_privkey_from_path(f"m/129372'/0'/864559728'/{counter}'/{leaf}")

    rows: list[tuple[str, Callable[[int], object], Callable[[int], object] | None, int]] = [
        ("Y", lambda i: y_of(names[i]), lambda i: hash_to_curve(names[i].encode()).format().hex(), count),
        (
            "blind",
            lambda i: blind(names[i], r),
            lambda i: step1_alice(names[i], PrivateKey(r))[0].format().hex(),
            count,
        ),
        (
            "unblind",
            lambda _: unblind(c_hex, r, public_hex),
            lambda _: step3_alice(point(c_hex), PrivateKey(r), point(public_hex)).format().hex(),
            count,
        ),
        (
            "verify DLEQ of a signature",
            lambda _: dleq_holds(b_hex, c_hex, e_hex, s_hex, public_hex),
            lambda _: alice_verify_dleq(point(b_hex), point(c_hex), scalar(e_hex), scalar(s_hex), point(public_hex)),
            count,
        ),
        (
            "verify DLEQ of a stored proof",
            lambda _: proof_dleq_holds(names[0], c, e_hex, s_hex, r.hex(), public_hex),
            None,
            count,
        ),
        ("NUT-13 v1 (BIP32)", lambda i: seed.derive(V1, i), wallet_v1, 100),
        ("NUT-13 v2 (HMAC)", lambda i: seed.derive(V2, i), None, count),
        (f"read a page of {count} states", lambda _: wire.states(states), None, 20),
    ]
    unit = best_us(lambda i: hashlib.sha256(names[i].encode()).digest(), count)
    print(f"{'':32}{'us':>9}{'x sha256':>10}{'cashu us':>10}{'ours/cashu':>12}")
    for name, ours, theirs, times in rows:
        mine = best_us(ours, times)
        other = best_us(theirs, times) if theirs is not None else None
        compared = f"{other:10.1f}{mine / other:12.2f}" if other is not None else ""
        print(f"{name:32}{mine:9.1f}{mine / unit:10.0f}{compared}")


if __name__ == "__main__":
    main()
