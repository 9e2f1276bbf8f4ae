"""
A mint that plays any implementation: real keys and curves, the protocol's books, and every answer can be bent.

It is honest until a test bends it: ``bend[path]`` is given the request and the honest answer's body, and returns the answer
that is sent. ``before[path]`` may answer in its place (None: go on). What money it has paid out is in ``paid``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import bolt11
from bolt11 import Bolt11, Feature, Features, FeatureState, MilliSatoshi, TagChar, Tags
from cashu.core.crypto.b_dhke import step2_bob
from cashu.core.crypto.secp import PrivateKey, PublicKey

from melt.ecash import blind, y_of
from tests.support.scripted_mint import Asked, Rule, Say, ScriptedMint

DENOMINATIONS = tuple(1 << bit for bit in range(16))
QUOTE, MELT, SWAP, STATES = "/v1/melt/quote/bolt11", "/v1/melt/bolt11", "/v1/swap", "/v1/checkstate"
RESTORE, KEYSETS, INFO = "/v1/restore", "/v1/keysets", "/v1/info"
PAYEE = hashlib.sha256(b"payee").hexdigest()

Json = dict[str, Any]


class No(Exception):
    """The mint refuses: HTTP 400 with a code."""

    def __init__(self, code: int, detail: str = "no") -> None:
        super().__init__(code)
        self.say = Say(status=400, body={"detail": detail, "code": code})


def id_v1(keys: dict[int, str]) -> str:
    """NUT-02, version 00."""
    raw = b"".join(bytes.fromhex(keys[amount]) for amount in sorted(keys))
    return "00" + hashlib.sha256(raw).hexdigest()[:14]


def id_v2(keys: dict[int, str], *, unit: str, ppk: int, expiry: int | None) -> str:
    """NUT-02, version 01."""
    text = ",".join(f"{amount}:{keys[amount]}" for amount in sorted(keys)) + f"|unit:{unit}"
    text += f"|input_fee_ppk:{ppk}" if ppk else ""
    text += f"|final_expiry:{expiry}" if expiry is not None else ""
    return "01" + hashlib.sha256(text.encode()).hexdigest()


@dataclass
class PlayedKeyset:
    """A keyset with its private keys. ``listed`` are fields of ``/v1/keysets`` that replace or add to the honest ones."""

    unit: str = "sat"
    ppk: int = 0
    active: bool = True
    expiry: int | None = None
    version: int = 1
    listed: Json = field(default_factory=dict)
    id: str = ""
    denominations: Sequence[int] = DENOMINATIONS
    seed: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.private = {a: PrivateKey(hashlib.sha256(f"{self.seed} {a}".encode()).digest()) for a in self.denominations}
        self.keys = {a: key.public_key.format().hex() for a, key in self.private.items()}
        if not self.id:
            derived = {"unit": self.unit, "ppk": self.ppk, "expiry": self.expiry}
            self.id = id_v1(self.keys) if self.version == 1 else id_v2(self.keys, **derived)

    def entry(self) -> Json:
        """As ``/v1/keysets`` has it."""
        honest: Json = {"id": self.id, "unit": self.unit, "active": self.active, "input_fee_ppk": self.ppk}
        if self.expiry is not None:
            honest["final_expiry"] = self.expiry
        return {**honest, **self.listed}


def invoice_of(amount_msat: int | None, preimage: bytes | None = None) -> tuple[str, str]:
    """An invoice of a payee outside, and its preimage as hex."""
    secret = secrets.token_bytes(32) if preimage is None else preimage
    tags = Tags()
    tags.add(TagChar.payment_hash, hashlib.sha256(secret).hexdigest())
    tags.add(TagChar.payment_secret, "22" * 32)
    tags.add(TagChar.description, "coffee")
    tags.add(TagChar.expire_time, 3600)
    tags.add(TagChar.features, Features.from_feature_list({Feature.payment_secret: FeatureState.required}))
    amount = None if amount_msat is None else MilliSatoshi(amount_msat)
    made = Bolt11(currency="bc", date=int(time.time()) - 10, amount_msat=amount, tags=tags)
    return bolt11.encode(made, PAYEE), secret.hex()


class PlayedMint(ScriptedMint):
    """
    The mint. ``fee`` is what Lightning takes, ``reserve`` what a quote asks for, ``rounds`` makes msat into the unit.

    ``inputs_max`` bounds inputs, ``ys_max`` the Ys of one question. ``lightning`` says per payment "PAID", "PENDING" or
    "FAILED".
    """

    def __init__(self, *keysets: PlayedKeyset, **settings: Any) -> None:
        super().__init__()
        self.sets = {one.id: one for one in keysets or (PlayedKeyset(),)}
        self.reserve: int = settings.get("reserve", 2)
        self.fee: int = settings.get("fee", 1)
        self.rounds: Callable[[int], int] = settings.get("rounds", lambda msat: -(-msat // 1000))
        self.inputs_max: int = settings.get("inputs_max", 1000)
        self.ys_max: int = settings.get("ys_max", 1000)
        self.expired_code = settings.get("expired_code", 12003)
        self.info: Json = {"name": "played", "version": "played/1", "nuts": {}, **settings.get("info", {})}
        self.lightning = "PAID"
        self.dleq = True
        self.spent: set[str] = set()
        self.pending: set[str] = set()
        self.signed: dict[str, Json] = {}
        self.quotes: dict[str, Json] = {}
        self.paid: Counter[str] = Counter()
        self.preimages: dict[str, str] = {}
        self.before: dict[str, Callable[[Asked], Say | None]] = {}
        self.bend: dict[str, Callable[[Asked, Json], Json | Say]] = {}
        self.now: Callable[[], float] = time.time
        self.rules = _All(self._answer)

    # --- what a wallet has of it ---

    @property
    def active(self) -> PlayedKeyset:
        return next(one for one in self.sets.values() if one.active and one.unit == "sat")

    def rotate(self, **more: Any) -> PlayedKeyset:
        """A new active keyset; those of its unit become inactive."""
        made = PlayedKeyset(**more)
        for one in self.sets.values():
            one.active = one.active and one.unit != made.unit
        self.sets[made.id] = made
        return made

    def issue(self, *amounts: int, keyset: PlayedKeyset | None = None, dleq: bool = False) -> list[Json]:
        """Proofs as a wallet service stores them."""
        keyset = keyset or self.active
        return [self._issue(amount, keyset, dleq=dleq) for amount in amounts]

    def _issue(self, amount: int, keyset: PlayedKeyset, *, dleq: bool) -> Json:
        secret = secrets.token_hex(32)
        point = PublicKey(bytes.fromhex(y_of(secret)))
        c = point.multiply(keyset.private[amount].secret).format().hex()
        proof: Json = {"id": keyset.id, "amount": amount, "secret": secret, "C": c}
        if dleq:
            r = secrets.token_bytes(32)
            _, e, s = step2_bob(PublicKey(bytes.fromhex(blind(secret, r))), keyset.private[amount])
            proof["dleq"] = {"e": e.to_hex(), "s": s.to_hex(), "r": r.hex()}
        return proof

    def invoice(self, amount: int, *, msat: int | None = None) -> str:
        """An invoice whose preimage this mint's node learns by paying it."""
        text, preimage = invoice_of(amount * 1000 if msat is None else msat)
        self.preimages[text] = preimage
        return text

    def honours(self, proof: Json) -> bool:
        """Whether it would take this proof now: the only oracle of value."""
        return self._is_signed(proof) and str(y_of(proof["secret"])) not in self.spent

    def _is_signed(self, proof: Json) -> bool:
        keyset = self.sets.get(proof["id"])
        if keyset is None or proof["amount"] not in keyset.private:
            return False
        key = keyset.private[proof["amount"]]
        return bool(PublicKey(bytes.fromhex(y_of(proof["secret"]))).multiply(key.secret).format().hex() == proof["C"])

    # --- answering ---

    def _answer(self, asked: Asked) -> Say:
        path = asked.path if not asked.path.startswith(QUOTE + "/") else QUOTE + "/"
        path = "/v1/keys/" if path.startswith("/v1/keys/") else path
        early = self.before.get(path)
        said = early(asked) if early is not None else None
        if said is not None:
            return said
        handler = self._handlers().get(path)
        if handler is None:
            return Say(status=404, body={"detail": "Not Found"})
        try:
            body = handler(asked)
        except No as no:
            return no.say
        bent = self.bend.get(path)
        if bent is not None:
            body = bent(asked, json.loads(json.dumps(body)))
        return body if isinstance(body, Say) else Say(body=body)

    def _handlers(self) -> dict[str, Callable[[Asked], Any]]:
        return {
            INFO: lambda _: self.info,
            KEYSETS: lambda _: {"keysets": [one.entry() for one in self.sets.values()]},
            "/v1/keys/": self._keys,
            QUOTE: self._quote,
            QUOTE + "/": lambda asked: self._told(self._found(asked.path.rsplit("/", 1)[1])),
            MELT: self._melt,
            SWAP: self._swap,
            STATES: self._states,
            RESTORE: self._restore,
        }

    def _keys(self, asked: Asked) -> Json:
        keyset = self.sets.get(asked.path.rsplit("/", 1)[1])
        if keyset is None:
            raise No(12001)
        keys = {str(amount): key for amount, key in keyset.keys.items()}
        return {"keysets": [{"id": keyset.id, "unit": keyset.unit, "keys": keys}]}

    def _states(self, asked: Asked) -> Json:
        if len(asked.body["Ys"]) > self.ys_max:
            raise No(11014)
        return {"states": [{"Y": y, "state": self._state(y), "witness": None} for y in asked.body["Ys"]]}

    def _state(self, y: str) -> str:
        return "SPENT" if y in self.spent else "PENDING" if y in self.pending else "UNSPENT"

    def _checked(self, inputs: Sequence[Json], outputs: Sequence[Json]) -> tuple[list[str], int]:
        """The Ys of the inputs, and what they are worth less their fee."""
        if max(len(inputs), len(outputs)) > self.inputs_max:
            raise No(11014)
        for one in inputs:
            keyset = self.sets.get(one["id"])
            if keyset is None:
                raise No(12001)
            if keyset.expiry and keyset.expiry <= self.now():
                raise No(self.expired_code)
            if not self._is_signed(one):
                raise No(10001)
        ys = [str(y_of(one["secret"])) for one in inputs]
        if self.spent & set(ys):
            raise No(11001)
        if self.pending & set(ys):
            raise No(11002)
        for one in outputs:
            keyset = self.sets.get(one["id"])
            if keyset is None or not keyset.active:
                raise No(12001 if keyset is None else 12002)
            if keyset.expiry and keyset.expiry <= self.now():
                raise No(self.expired_code)
            if one["B_"] in self.signed:
                raise No(11008)
        fee = -(-sum(self.sets[one["id"]].ppk for one in inputs) // 1000)
        return ys, sum(one["amount"] for one in inputs) - fee

    def sign(self, output: Json, amount: int, keyset: PlayedKeyset | None = None) -> Json:
        """A signature over ``amount``, by default of the keyset that the output names; remembered for a restore."""
        keyset = keyset or self.sets[output["id"]]
        c_, e, s = step2_bob(PublicKey(bytes.fromhex(output["B_"])), keyset.private[amount])
        made: Json = {"id": keyset.id, "amount": amount, "C_": c_.format().hex()}
        if self.dleq:
            made["dleq"] = {"e": e.to_hex(), "s": s.to_hex()}
        self.signed[output["B_"]] = made
        return made

    def _swap(self, asked: Asked) -> Json:
        inputs, outputs = asked.body["inputs"], asked.body["outputs"]
        ys, worth = self._checked(inputs, outputs)
        if worth != sum(one["amount"] for one in outputs):
            raise No(11005)
        self.spent |= set(ys)
        return {"signatures": [self.sign(one, one["amount"]) for one in outputs]}

    def _restore(self, asked: Asked) -> Json:
        known = [one for one in asked.body["outputs"] if one["B_"] in self.signed]
        signatures = [self.signed[one["B_"]] for one in known]
        outputs = [{**one, "amount": s["amount"]} for one, s in zip(known, signatures, strict=True)]
        return {"outputs": outputs, "signatures": signatures}

    def _quote(self, asked: Asked) -> Json:
        msat = int(bolt11.decode(asked.body["request"]).amount_msat or 0)
        amount = msat if asked.body["unit"] == "msat" else self.rounds(msat)
        quote: Json = {
            "quote": secrets.token_hex(8),
            "amount": amount,
            "fee_reserve": self.reserve,
            "state": "UNPAID",
            "expiry": int(self.now()) + 600,
            "request": asked.body["request"],
            "unit": asked.body["unit"],
            "payment_preimage": None,
            "change": None,
        }
        self.quotes[quote["quote"]] = quote
        return self._told(quote)

    def _found(self, quote_id: str) -> Json:
        if quote_id not in self.quotes:
            raise No(0)
        return self.quotes[quote_id]

    @staticmethod
    def _told(quote: Json) -> Json:
        return {name: value for name, value in quote.items() if value is not None or name == "payment_preimage"}

    def _melt(self, asked: Asked) -> Json:
        quote, outputs = self._found(asked.body["quote"]), asked.body.get("outputs") or []
        if quote["state"] != "UNPAID":
            raise No(20006 if quote["state"] == "PAID" else 20005)
        ys, worth = self._checked(asked.body["inputs"], outputs)
        if worth < quote["amount"] + quote["fee_reserve"]:
            raise No(11005)
        if self.lightning == "FAILED":
            raise No(20004)
        if self.lightning == "PENDING":
            self.pending |= set(ys)
            quote |= {"state": "PENDING", "held": (ys, worth, outputs)}
            return {**self._told(quote), "held": None, "change": []}
        return self.settle(quote, ys, worth, outputs)

    def settle(self, quote: Json, ys: Sequence[str], worth: int, outputs: Sequence[Json]) -> Json:
        """The payment went out."""
        self.paid[quote["request"]] += 1
        self.pending -= set(ys)
        self.spent |= set(ys)
        owed = worth - quote["amount"] - min(self.fee, quote["fee_reserve"])
        amounts = [a for a in reversed(DENOMINATIONS) if owed & a]
        change = [self.sign(o, a, self._change_keyset(o)) for o, a in zip(outputs, amounts, strict=False)]
        quote |= {"state": "PAID", "change": change, "payment_preimage": self.preimages.get(quote["request"])}
        quote.pop("held", None)
        return self._told(quote)

    def _change_keyset(self, output: Json) -> PlayedKeyset:
        """Whose keys sign change."""
        return self.sets[output["id"]]


class _All(dict[str, Rule]):
    """One rule for every path."""

    def __init__(self, answer: Callable[[Asked], Say]) -> None:
        super().__init__()
        self._answer = answer

    def get(self, path: str, default: Any = None) -> Any:
        return super().get(path, self._answer)
