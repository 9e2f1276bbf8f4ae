"""
A mint in memory with the bookkeeping of a real one, and the behaviour of four generations of them (MINTS.md).

It is honest about its own ecash: nobody else makes its signatures, no proof is consumed twice, what goes in comes out less
the fees. What it believes of Lightning is what its backend says (:mod:`tests.simulation.lightning`), with the faults that
were measured: a GET of the quote that rolls a running payment back, a lost answer, change that is permuted, short of
DLEQ proofs, or withheld. Whoever has to judge reads ``lied``: the quotes about which it has said what was not so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from melt.mint.transport import Answer
from melt.model import (
    BlindedMessage,
    BlindSignature,
    Keyset,
    KeysetId,
    MeltQuote,
    MintState,
    Proof,
    ProofState,
    QuoteId,
    QuoteState,
    Restored,
    Y,
)
from tests.simulation.lightning import Attempt, Lightning, Says
from tests.simulation.model_ecash import dleq_of, fast_y, signature_of, unblinded

GENERATIONS = ("0.16.5", "0.18.2", "0.20.2", "0.21.0")
_CODES = {
    "spent": (11001, 11001, 11001, 11001),
    "pending": (11000, 11000, 11002, 11002),
    "signed": (10002, 10002, 11003, 11003),
    "outputs_pending": (None, 10002, 11004, 11004),
    "quote_pending": (11000, 11000, 11000, 20005),
    "quote_paid": (11000, 11000, 11000, 20006),
    "failed": (20000, 20004, 20004, 20004),
    "inactive": (11000, 11000, 11000, 12002),
    "bad_signature": (10003, 10003, 10001, 10001),
    "unbalanced": (11002, 11002, 11005, 11005),
    "internal": (0, 0, 0, 0),
}
DENOMINATIONS = tuple(1 << bit for bit in range(20))


class Gone(Exception):
    """The mint was killed in the middle of a request: the connection breaks."""


class No(Exception):
    """The mint refuses: HTTP 400 with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def answer(self) -> Answer:
        """As it comes over the network."""
        body = json.dumps({"detail": "no", "code": self.code}).encode()
        return Answer(status=400, body=body, retry_after_s=None)


@dataclass(slots=True)
class Quote:
    """A melt quote and all that the mint knows of it."""

    id: QuoteId
    invoice: str
    payment_hash: str
    amount: int
    fee_reserve: int
    state: QuoteState = QuoteState.UNPAID
    inputs: tuple[Y, ...] = ()
    input_amount: int = 0
    input_fee: int = 0
    outputs: tuple[BlindedMessage, ...] = ()
    change: tuple[BlindSignature, ...] = ()
    attempt: Attempt | None = None
    posts: int = 0
    """POSTs that are being worked on."""
    asked_s: float = -1e9
    owed: int = 0
    """What its change should have come to."""


@dataclass(slots=True, kw_only=True)
class Manners:
    """How this mint behaves, by the seed."""

    generation: int
    change_without_dleq: float = 0.0
    change_wrong_dleq: float = 0.0
    change_missing_in_post: float = 0.0
    change_withheld: float = 0.0
    wrong_preimage: float = 0.0
    says_paid_unpaid: float = 0.0
    slow_hand: float = 0.0
    """Seconds between its marking of inputs and of quotes, at most."""
    paid_but_unspent: float = 0.0
    """A lie: PAID, and the inputs are free again."""
    change_too_much: float = 0.0
    backend_check_s: float = 0.0
    """A quote's backend is asked at most so often."""
    caches_replays: bool = False


@dataclass(slots=True)
class ModelMint:
    """The server's side. Times come from the running loop."""

    name: str
    rng: Random
    lightning: Lightning
    manners: Manners
    keysets: dict[KeysetId, Keyset] = field(default_factory=dict)
    ppk: int = 100
    states: dict[Y, MintState] = field(default_factory=dict)
    spent_by: dict[Y, str] = field(default_factory=dict)
    spent_s: dict[Y, float] = field(default_factory=dict)
    """When a proof became SPENT."""
    issued: dict[str, tuple[KeysetId, int]] = field(default_factory=dict)
    """B_ to keyset and amount: everything that was ever signed."""
    quotes: dict[QuoteId, Quote] = field(default_factory=dict)
    lied: set[QuoteId] = field(default_factory=set)
    up: bool = True
    lives: int = 0
    trace: Callable[[str], None] = lambda _: None
    _replays: dict[str, tuple[BlindSignature, ...]] = field(default_factory=dict)
    _in_flight: set[str] = field(default_factory=set)
    _pending_for: dict[Y, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rotate()

    # --- keysets and issuing ---

    def rotate(self) -> None:
        """A new keyset; the one before becomes inactive."""
        for keyset_id, old in list(self.keysets.items()):
            self.keysets[keyset_id] = Keyset(
                id=old.id, unit=old.unit, active=False, input_fee_ppk=old.input_fee_ppk, final_expiry=None
            )
        keyset_id = KeysetId(f"00{self.rng.getrandbits(56):014x}")
        self.keysets[keyset_id] = Keyset(id=keyset_id, unit="sat", active=True, input_fee_ppk=self.ppk)
        self.trace(f"mint {self.name}: keyset {keyset_id} is the active one")

    def key(self, keyset_id: KeysetId, amount: int) -> str:
        """A public key."""
        return f"02{self.name}:{keyset_id}:{amount}"

    def active(self) -> KeysetId:
        """The keyset that signs."""
        return next(k for k, keyset in self.keysets.items() if keyset.active)

    def issue(self, amount: int) -> Proof:
        """A proof that some wallet got in the usual way."""
        keyset_id = self.active()
        secret = self.rng.randbytes(32).hex()
        return Proof(
            keyset_id=keyset_id,
            amount=amount,
            secret=secret,
            c=unblinded(secret, self.key(keyset_id, amount)),
            y=fast_y(secret),
        )

    def state(self, y: Y) -> MintState:
        """NUT-07: what was never heard of reads UNSPENT."""
        return self.states.get(y, MintState.UNSPENT)

    def is_good(self, proof: Proof) -> bool:
        """Whether the mint would take it, were it unspent."""
        return proof.keyset_id in self.keysets and proof.c == unblinded(
            proof.secret, self.key(proof.keyset_id, proof.amount)
        )

    def code(self, what: str) -> int:
        """The error code of this generation."""
        return _CODES[what][self.manners.generation] or 0

    def no(self, what: str) -> No:
        """A refusal."""
        return No(self.code(what))

    def _fee(self, proofs: Sequence[Proof]) -> int:
        return -(-sum(self.keysets[proof.keyset_id].input_fee_ppk for proof in proofs) // 1000)

    # --- checks ---

    def _check_inputs(self, inputs: Sequence[Proof]) -> None:
        if len({proof.y for proof in inputs}) != len(inputs) or not all(map(self.is_good, inputs)):
            raise self.no("bad_signature")
        states = {self.state(proof.y) for proof in inputs}
        if MintState.SPENT in states:
            raise self.no("spent")
        if MintState.PENDING in states:
            raise self.no("pending")

    def _check_outputs(self, outputs: Sequence[BlindedMessage]) -> None:
        if any(not self.keysets[output.keyset_id].active for output in outputs):
            raise self.no("inactive")
        if any(output.b_ in self.issued for output in outputs):
            raise self.no("signed")
        if any(output.b_ in self._in_flight for output in outputs) and self.manners.generation > 0:
            raise self.no("outputs_pending")

    def _sign(self, output: BlindedMessage, amount: int) -> BlindSignature:
        key = self.key(output.keyset_id, amount)
        c_ = signature_of(output.b_, key)
        e, s = dleq_of(output.b_, c_, key)
        self.issued[output.b_] = (output.keyset_id, amount)
        return BlindSignature(keyset_id=output.keyset_id, amount=amount, c_=c_, dleq_e=e, dleq_s=s)

    # --- NUT-03, 07, 09 ---

    def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], who: str) -> tuple[BlindSignature, ...]:
        """NUT-03; at once, as the mint's database does it."""
        request = "|".join([proof.y for proof in inputs] + [output.b_ for output in outputs])
        if self.manners.caches_replays and request in self._replays:
            return self._replays[request]
        self._check_inputs(inputs)
        self._check_outputs(outputs)
        if sum(p.amount for p in inputs) - self._fee(inputs) != sum(o.amount for o in outputs):
            raise self.no("unbalanced")
        self._spend([proof.y for proof in inputs], who)
        signed = tuple(self._sign(output, output.amount) for output in outputs)
        self._replays[request] = signed
        self.trace(f"mint {self.name}: swap of {sum(p.amount for p in inputs)} for {who} done")
        return signed

    def take(self, proof: Proof) -> bool:
        """Another wallet with a copy of the proof spends it."""
        if self.state(proof.y) is not MintState.UNSPENT:
            return False
        self._spend([proof.y], "another wallet")
        self.trace(f"mint {self.name}: another wallet spends {proof.amount} ({proof.y[:10]})")
        return True

    async def borrow(self, proof: Proof, seconds: float, *, spends: bool) -> None:
        """Another wallet pays with a copy of the proof, and it takes a while: PENDING, then SPENT or as it was."""
        if self.state(proof.y) is not MintState.UNSPENT:
            return
        self.states[proof.y] = MintState.PENDING
        self._pending_for[proof.y] = "another wallet"
        self.trace(f"mint {self.name}: another wallet pays with {proof.amount} ({proof.y[:10]})")
        await asyncio.sleep(seconds)
        self._free([proof.y], "another wallet")
        if spends:
            self.take(proof)

    def _spend(self, ys: Sequence[Y], who: str) -> None:
        now_s = asyncio.get_running_loop().time()
        for y in ys:
            self.states[y] = MintState.SPENT
            self.spent_by[y] = who
            self.spent_s[y] = now_s

    def check(self, ys: Sequence[Y]) -> tuple[ProofState, ...]:
        """NUT-07."""
        return tuple(ProofState(y=y, state=self.state(y)) for y in ys)

    def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        """NUT-09: matched by B_, with the mint's id and amount."""
        found = []
        for output in outputs:
            known = self.issued.get(output.b_)
            if known is not None:
                keyset_id, amount = known
                key = self.key(keyset_id, amount)
                c_ = signature_of(output.b_, key)
                e, s = dleq_of(output.b_, c_, key)
                signature = BlindSignature(keyset_id=keyset_id, amount=amount, c_=c_, dleq_e=e, dleq_s=s)
                found.append(Restored(b_=output.b_, signature=signature))
        return tuple(found)

    # --- NUT-05 ---

    def quote(self, invoice: str, payment_hash: str, amount: int) -> MeltQuote:
        """A new quote."""
        quote = Quote(
            id=QuoteId(f"q{len(self.quotes)}_{self.rng.getrandbits(32):08x}"),
            invoice=invoice,
            payment_hash=payment_hash,
            amount=amount,
            fee_reserve=max(2, amount // 50) if self.rng.random() < 0.9 else 0,
        )
        self.quotes[quote.id] = quote
        return self._told(quote, posted=False)

    def _told(self, quote: Quote, *, posted: bool) -> MeltQuote:
        paid = quote.state is QuoteState.PAID
        silent = posted and self.rng.random() < self.manners.change_missing_in_post
        settled = quote.attempt is not None and quote.attempt.script.settles
        preimage = self.lightning.preimages[quote.payment_hash] if paid and settled else None
        if preimage is not None and self.rng.random() < self.manners.wrong_preimage:
            preimage = "00" * 32
        return MeltQuote(
            id=quote.id,
            state=quote.state,
            amount=quote.amount,
            fee_reserve=quote.fee_reserve,
            expiry=None,
            preimage=preimage,
            change=() if silent or not paid else self._dressed(quote.change),
            change_known=not silent and (paid or posted),
        )

    def _dressed(self, change: tuple[BlindSignature, ...]) -> tuple[BlindSignature, ...]:
        """Change as this mint sends it: in any order, and not always with a DLEQ proof that holds."""
        found = list(change)
        if self.rng.random() < 0.3:
            self.rng.shuffle(found)
        dressed = []
        for one in found:
            draw, e, s = self.rng.random(), one.dleq_e, one.dleq_s
            if draw < self.manners.change_without_dleq:
                e = s = None
            elif draw < self.manners.change_without_dleq + self.manners.change_wrong_dleq:
                e = "00" * 32
            dressed.append(BlindSignature(keyset_id=one.keyset_id, amount=one.amount, c_=one.c_, dleq_e=e, dleq_s=s))
        return tuple(dressed)

    async def melt(self, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> MeltQuote:
        """The handler of the melt POST. Raises No."""
        quote = self.quotes.get(quote_id)
        if quote is None:
            raise self.no("internal")
        if quote.posts:
            raise self.no("quote_pending")
        if quote.state is not QuoteState.UNPAID:
            raise self.no("quote_pending" if quote.state is QuoteState.PENDING else "quote_paid")
        self._check_outputs(outputs)
        self._check_inputs(inputs)
        fee = self._fee(inputs)
        if sum(p.amount for p in inputs) - fee < quote.amount + quote.fee_reserve:
            raise self.no("unbalanced")
        quote.inputs = tuple(proof.y for proof in inputs)
        quote.input_amount, quote.input_fee = sum(p.amount for p in inputs), fee
        quote.outputs = tuple(outputs)
        quote.posts += 1
        self.states.update(dict.fromkeys(quote.inputs, MintState.PENDING))
        self._pending_for.update(dict.fromkeys(quote.inputs, quote.id))
        self._in_flight |= {output.b_ for output in outputs}
        life = self.lives
        try:
            if self.manners.slow_hand:  # the inputs are marked first, and the quote a moment later
                await asyncio.sleep(self.rng.uniform(0.0, self.manners.slow_hand))
                if life != self.lives:
                    raise Gone
            quote.state = QuoteState.PENDING
            return await self._pay(quote)
        finally:
            if life == self.lives:
                quote.posts -= 1

    async def _pay(self, quote: Quote) -> MeltQuote:
        now = asyncio.get_running_loop().time
        attempt = quote.attempt = self.lightning.start(quote.payment_hash, quote.id, quote.fee_reserve, now())
        script = attempt.script
        self.trace(
            f"mint {self.name}: pays {quote.amount} of {quote.id} ({script.name}, "
            f"{'will leave' if script.settles else 'will fail'} in {script.decided_s:.2f} s)"
        )
        if self.rng.random() < self.manners.says_paid_unpaid and not script.settles:
            self._finish(quote)
            return self._told(quote, posted=True)
        life = self.lives
        await asyncio.sleep(script.returns_s)
        if life != self.lives:
            raise Gone
        if quote.state is QuoteState.PAID:
            raise self.no("internal")  # somebody's GET has settled it meanwhile
        if quote.state is QuoteState.UNPAID:
            self._late(quote, script.answer)
            raise self.no("failed" if quote.state is QuoteState.UNPAID else "internal")
        answer = script.answer
        if answer in {Says.FAILED, Says.UNKNOWN, Says.RAISES}:
            checked = attempt.check(now())
            if checked in {Says.FAILED, Says.UNKNOWN}:
                self._roll_back(quote)
                raise self.no("failed")
            answer = Says.PENDING
        if answer is Says.SETTLED:
            self._finish(quote)
        return self._told(quote, posted=True)

    def _late(self, quote: Quote, answer: Says) -> None:
        """The payment ends after a GET has rolled the quote back."""
        if answer is not Says.SETTLED or any(self.state(y) is not MintState.UNSPENT for y in quote.inputs):
            return
        if self.manners.generation <= 1:
            self._spend(quote.inputs, quote.id)
            self.trace(f"mint {self.name}: {quote.id} paid after its rollback: UNPAID, SPENT, no change")
        else:
            self._finish(quote)

    def get(self, quote_id: QuoteId) -> MeltQuote:
        """GET of the quote: asks the backend where it is PENDING. Raises No."""
        quote = self.quotes.get(quote_id)
        if quote is None:
            raise self.no("internal")
        now_s = asyncio.get_running_loop().time()
        if (
            quote.state is QuoteState.PENDING
            and quote.attempt is not None
            and now_s - quote.asked_s >= self.manners.backend_check_s
        ):
            quote.asked_s = now_s
            match quote.attempt.check(now_s):
                case Says.SETTLED:
                    self._finish(quote)
                case Says.FAILED:
                    self._roll_back(quote)
                case Says.UNKNOWN:
                    if self.manners.generation <= 1:
                        self._roll_back(quote)
                case Says.RAISES:
                    raise self.no("internal")
                case Says.PENDING:
                    pass
        return self._told(quote, posted=False)

    def _roll_back(self, quote: Quote) -> None:
        if quote.attempt is not None and quote.attempt.script.settles:
            self.lied.add(quote.id)
        self.trace(f"mint {self.name}: {quote.id} rolled back to UNPAID" + self._a_lie(quote))
        quote.state = QuoteState.UNPAID
        self._in_flight -= {output.b_ for output in quote.outputs}
        inputs, slow = quote.inputs, self.manners.slow_hand
        if slow and self.rng.random() < 0.5:  # the quote is told first, and the inputs are freed a moment later
            asyncio.get_running_loop().call_later(self.rng.uniform(0.0, slow), self._free, inputs, quote.id)
        else:
            self._free(inputs, quote.id)

    def _free(self, ys: Sequence[Y], whose: str) -> None:
        for y in ys:
            if self.states.get(y) is MintState.PENDING and self._pending_for[y] == whose:
                del self.states[y]

    def _finish(self, quote: Quote) -> None:
        attempt = quote.attempt
        if attempt is None or not attempt.script.settles:
            self.lied.add(quote.id)
        fee = 0 if attempt is None else attempt.script.fee
        quote.state = QuoteState.PAID
        self._mark_paid(quote)
        self._in_flight -= {output.b_ for output in quote.outputs}
        quote.owed = max(0, quote.input_amount - quote.input_fee - quote.amount - fee)
        owed = quote.owed
        if owed and self.rng.random() < self.manners.change_withheld:
            owed = self.rng.randrange(owed)
            self.lied.add(quote.id)
        elif self.rng.random() < self.manners.change_too_much:
            owed += self.rng.randint(1, 8)
            self.lied.add(quote.id)
        amounts = [bit for bit in reversed(DENOMINATIONS) if owed & bit]
        quote.change = tuple(self._sign(output, amount) for output, amount in zip(quote.outputs, amounts, strict=False))
        self.trace(
            f"mint {self.name}: {quote.id} PAID, change {sum(c.amount for c in quote.change)} of {quote.owed}"
            + self._a_lie(quote)
        )

    def _mark_paid(self, quote: Quote) -> None:
        """The inputs of a paid quote become SPENT: at once, a moment later, or (a lie) not at all."""
        if self.rng.random() < self.manners.paid_but_unspent:
            self.lied.add(quote.id)
            self._free(quote.inputs, quote.id)
        elif self.manners.slow_hand and self.rng.random() < 0.5:
            delay_s = self.rng.uniform(0.0, self.manners.slow_hand)
            asyncio.get_running_loop().call_later(delay_s, self._spend, quote.inputs, quote.id)
        else:
            self._spend(quote.inputs, quote.id)

    def _a_lie(self, quote: Quote) -> str:
        return " (a lie)" if quote.id in self.lied else ""

    # --- restarting ---

    def stop(self) -> None:
        """Kill -9: the handlers that run are gone, what Lightning does is not."""
        self.up = False
        self.lives += 1
        self._in_flight.clear()
        for quote in self.quotes.values():
            quote.posts = 0
        self.trace(f"mint {self.name}: killed")

    def start(self) -> None:
        """Follows its backend's status at start."""
        self.up = True
        self.trace(f"mint {self.name}: starts")
        now_s = asyncio.get_running_loop().time()
        for quote in self.quotes.values():
            if quote.state is QuoteState.PENDING and quote.attempt is not None:
                match quote.attempt.check(now_s):
                    case Says.SETTLED:
                        self._finish(quote)
                    case Says.FAILED:
                        self._roll_back(quote)
                    case _:
                        pass
            elif quote.state is QuoteState.UNPAID and quote.inputs:
                self._free(quote.inputs, quote.id)  # killed between the one mark and the other
