"""Deterministic outputs from the operator's seed (NUT-13)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import OrderedDict
from threading import Lock
from typing import Final, NoReturn, Self

from bip32 import BIP32, HARDENED_INDEX
from mnemonic import Mnemonic

from melt.ecash.curve import ORDER, blind, dleq_holds, unblind
from melt.ecash.keyset_id import KeysetIdVersion, keyset_id_version
from melt.errors import InvariantBroken, MintUntrusted
from melt.model import AMOUNT_MAX, BlindedMessage, Dleq, KeysetId, NewProof, OutputPlan

PURPOSE: Final = 129372 | HARDENED_INDEX
COIN: Final = 0 | HARDENED_INDEX
KEYSET_MODULUS: Final = 2**31 - 1
BIP32_COUNTERS: Final = 2**31
HMAC_COUNTERS: Final = 2**63
KDF_LABEL: Final = b"Cashu_KDF_HMAC_SHA256"
SEED_ID_LABEL: Final = b"meltd seed id v1"
PARENTS_MAX: Final = 64
OUTPUTS_MAX: Final = 4096


class Seed:
    """
    The operator's seed and what derives from it; implements :class:`melt.ports.Outputs`.

    Thread-safe. Neither its representation nor its errors show anything but the fingerprint, and it can't be pickled.
    """

    __slots__ = ("_lock", "_outputs", "_parents", "_root", "_seed", "_seed_id")

    def __init__(self, seed: bytes) -> None:
        if len(seed) < 16:
            raise ValueError("a seed has at least 16 bytes")
        self._seed = seed
        self._seed_id = hmac.new(seed, SEED_ID_LABEL, hashlib.sha256).hexdigest()[:16]
        self._root = BIP32.from_seed(seed)
        self._parents: OrderedDict[int, BIP32] = OrderedDict()
        self._outputs: OrderedDict[tuple[str, int], tuple[str, bytes, str]] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def from_mnemonic(cls, words: str) -> Self:
        """The seed of BIP39 words in English, in any case and spacing. Raises ValueError, without the words, when they are none."""
        text = " ".join(words.lower().split())
        bip39 = Mnemonic("english")
        if not bip39.check(text):
            raise ValueError("not a BIP39 mnemonic: wrong word, wrong number of words or wrong checksum")
        return cls(Mnemonic.to_seed(text))

    @staticmethod
    def generate_mnemonic() -> str:
        """Twelve new BIP39 words (128 bits of the system's randomness)."""
        return str(Mnemonic("english").generate(strength=128))

    @property
    def seed_id(self) -> str:
        """Fingerprint of the seed: 16 hex characters, safe to log."""
        return self._seed_id

    def __repr__(self) -> str:
        return f"Seed(seed_id={self._seed_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a seed is not serialised")

    # --- the Outputs port ---

    def blinded(self, plan: OutputPlan) -> tuple[BlindedMessage, ...]:
        """The outputs of a plan, in order. Raises InvariantBroken where ``plan.seed_id`` is another seed's."""
        self._check_seed(plan)
        return tuple(
            BlindedMessage(
                keyset_id=plan.keyset_id, amount=amount, b_=self._output(plan.keyset_id, plan.counter + index)[2]
            )
            for index, amount in enumerate(plan.amounts)
        )

    def unblind(
        self,
        plan: OutputPlan,
        index: int,
        signature_amount: int,
        c_: str,
        public_key: str,
        dleq: tuple[str, str] | None,
        *,
        keyset_id: KeysetId | None = None,
    ) -> NewProof:
        """
        Unblind the signature on output ``index``; ``public_key`` is the mint's for ``signature_amount`` in the keyset that
        the signature names (``keyset_id``, by default the plan's).

        With ``dleq`` (e, s) it is verified first. Raises MintUntrusted when it is wrong, when a point is none, or when
        the amount is not the one asked for (a blank takes any); InvariantBroken for an index outside of the plan.
        """
        secret, r, b_ = self._planned(plan, index)
        asked = plan.amounts[index]
        if not 0 < signature_amount <= AMOUNT_MAX or (asked and signature_amount != asked):
            raise MintUntrusted(f"a signature over {signature_amount} came for an output of {asked}")
        if dleq is not None and not dleq_holds(b_, c_, dleq[0], dleq[1], public_key):
            raise MintUntrusted("the DLEQ proof of a signature does not hold")
        return NewProof(
            keyset_id=keyset_id or plan.keyset_id,
            amount=signature_amount,
            secret=secret,
            c=unblind(c_, r, public_key),
            dleq=None if dleq is None else Dleq(e=dleq[0], s=dleq[1], r=r.hex()),
        )

    def match(self, plan: OutputPlan, index: int, c_: str, public_key: str, dleq: tuple[str, str]) -> bool:
        """Whether the DLEQ proof shows that ``c_`` signs output ``index`` of the plan (NUT-12)."""
        return dleq_holds(self._planned(plan, index)[2], c_, dleq[0], dleq[1], public_key)

    # --- derivation ---

    def derive(self, keyset_id: str, counter: int) -> tuple[str, bytes]:
        """
        Secret (64 hex characters) and blinding factor of a counter (NUT-13).

        Raises InvariantBroken on a counter or a keyset id that nothing derives from.
        """
        version = keyset_id_version(keyset_id)
        if version is None:
            raise InvariantBroken(f"no outputs derive from keyset id {keyset_id!r}")
        limit = HMAC_COUNTERS if version is KeysetIdVersion.V2 else BIP32_COUNTERS
        if not 0 <= counter < limit:
            raise InvariantBroken(f"counter {counter} of keyset {keyset_id} is outside of 0..{limit - 1}")
        if version is KeysetIdVersion.V2:
            return self._derive_v2(bytes.fromhex(keyset_id), counter)
        return self._derive_v1(keyset_id, counter, legacy=version is KeysetIdVersion.LEGACY)

    def _derive_v2(self, keyset_id: bytes, counter: int) -> tuple[str, bytes]:
        base = KDF_LABEL + keyset_id + counter.to_bytes(8, "big")
        secret = hmac.digest(self._seed, base + b"\x00", "sha256")
        r = int.from_bytes(hmac.digest(self._seed, base + b"\x01", "sha256"), "big") % ORDER
        if r == 0:
            raise InvariantBroken(f"counter {counter} derives no blinding factor")
        return secret.hex(), r.to_bytes(32, "big")

    def _derive_v1(self, keyset_id: str, counter: int, *, legacy: bool) -> tuple[str, bytes]:
        raw = base64.b64decode(keyset_id) if legacy else bytes.fromhex(keyset_id)
        parent = self._parent(int.from_bytes(raw, "big") % KEYSET_MODULUS)
        node = BIP32(*parent.get_extended_privkey_from_path([counter | HARDENED_INDEX]))
        # A BIP32 node knows its public key, but the package derives it again for each child: twice 30 us.
        return node.get_privkey_from_path([0]).hex(), bytes(node.get_privkey_from_path([1]))

    def _parent(self, keyset: int) -> BIP32:
        """The node m/129372'/0'/keyset', kept: it is half of the work."""
        with self._lock:
            parent = self._parents.get(keyset)
            if parent is None:
                path = [PURPOSE, COIN, keyset | HARDENED_INDEX]
                parent = BIP32(*self._root.get_extended_privkey_from_path(path))
                self._parents[keyset] = parent
                if len(self._parents) > PARENTS_MAX:
                    self._parents.popitem(last=False)
            return parent

    def _output(self, keyset_id: str, counter: int) -> tuple[str, bytes, str]:
        """Secret, blinding factor and B_; the last few thousand are kept, since recovery asks again for each signature."""
        key = (keyset_id, counter)
        with self._lock:
            known = self._outputs.get(key)
        if known is None:
            secret, r = self.derive(keyset_id, counter)
            known = (secret, r, blind(secret, r))
            with self._lock:
                self._outputs[key] = known
                if len(self._outputs) > OUTPUTS_MAX:
                    self._outputs.popitem(last=False)
        return known

    def _planned(self, plan: OutputPlan, index: int) -> tuple[str, bytes, str]:
        self._check_seed(plan)
        if not 0 <= index < len(plan.amounts):
            raise InvariantBroken(f"output {index} of a plan of {len(plan.amounts)}")
        return self._output(plan.keyset_id, plan.counter + index)

    def _check_seed(self, plan: OutputPlan) -> None:
        if not hmac.compare_digest(plan.seed_id, self._seed_id):
            raise InvariantBroken(f"the plan's outputs derive from seed {plan.seed_id}, this is seed {self._seed_id}")
