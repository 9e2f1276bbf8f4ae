"""
The forward path of one melt (DESIGN section 4), from the quote to the mint's answer.

What is persisted before each request that a mint could act on (I2):

- the melt quote moves nothing and needs nothing;
- before a swap: the swap with its inputs, amounts and counters (SWAPPING);
- before the POST: inputs, blanks, quote (RESERVED or READY), and that it is about to leave (MELTING).

A failure before T1 leaves the database as it was. A failure after it leaves an entry that recovery takes to its end.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import structlog

from melt.errors import Code, InvariantBroken, LostRace, MintError, MintUnreachable, MintUntrusted, Refusal
from melt.model import (
    Ambiguous,
    Melt,
    MeltId,
    MeltState,
    Paid,
    PostOutcome,
    Refused,
    StillPending,
)
from melt.recovery.swaps import active_keyset, load_proofs
from melt.saga.choice import NotEnough, choose
from melt.selection import blank_count, input_fee, split_amount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from melt.invoice import Invoice
    from melt.model import Discrepancy, Keyset, KeysetId, MeltAnswer, MeltQuote, MintAlias, Token, TokenId
    from melt.ports import Clock, Entropy, Mint, Outputs, Store, StoreThreads, Telemetry
    from melt.preflight import Checked, Preflight
    from melt.recovery import Recovery
    from melt.saga.admission import Gate
    from melt.saga.choice import Choice
    from melt.saga.request import MeltRequest

_log = structlog.get_logger("melt.saga")
RESELECT_MAX = 8
"""How often proofs are chosen anew after somebody else took them or the mint called them PENDING (I11)."""
SWAP_STEPS_MAX = 3
PROOFS_CHECKED_MAX = 1000
"""How many proofs beyond the chosen ones a check asks about, where much of a wallet turned out to be in use (I11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltPolicy:
    """
    Budgets and limits of a melt. Seconds, and amounts in the melt's unit.

    ``swap_when_overpay_exceeds``: swap to exact change first where more than this would be locked beyond the fee
    reserve; 0 means never. ``max_fee_percent`` and ``max_fee_floor`` bound the fee reserve that a mint may ask for.
    """

    post_timeout_s: float = 120.0
    reserve_wait_s: float = 20.0
    swap_when_overpay_exceeds: int = 0
    max_fee_percent: float = 5.0
    max_fee_floor: int = 100
    in_flight_max: int = 64
    in_flight_per_mint_max: int = 32
    in_flight_of_mint: Mapping[MintAlias, int] = field(default_factory=dict)
    """Mints that have a bound of their own."""
    quote_timeout_s: float = 15.0
    preflight_timeout_s: float = 30.0

    def in_flight_at(self, mint: MintAlias) -> int:
        """How many melts may be under way at a mint."""
        return self.in_flight_of_mint.get(mint, self.in_flight_per_mint_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Takes one admitted request forward. Holds no state: the journal does."""

    store: Store
    threads: StoreThreads
    outputs: Outputs
    clock: Clock
    entropy: Entropy
    telemetry: Telemetry
    preflight: Preflight
    recovery: Recovery
    policy: MeltPolicy
    holder: str

    # --- before T1 ---

    async def quote(self, mint: Mint, request: MeltRequest, invoice: Invoice) -> MeltQuote:
        """
        Ask the mint for its price and check it.

        Raises:
            Refusal: FEE_TOO_HIGH. MintUntrusted: the quoted amount is not the invoice's. MintError.
        """
        started = self.clock.monotonic()
        async with _within(self.policy.quote_timeout_s, "the quote"):
            quote = await mint.melt_quote(invoice.text, request.unit)
        self.telemetry.melt_phase(mint.alias, "quote", self.clock.monotonic() - started)
        amount = invoice.amount(request.unit)
        if quote.amount != amount:
            raise MintUntrusted(f"the mint quotes {quote.amount} {request.unit} for an invoice of {amount}")
        allowed = max(self.policy.max_fee_floor, int(amount * self.policy.max_fee_percent / 100))
        if request.max_fee is not None:
            allowed = min(allowed, request.max_fee)
        if quote.fee_reserve > allowed:
            raise Refusal(
                Code.FEE_TOO_HIGH,
                f"the mint reserves {quote.fee_reserve} {request.unit} for fees, at most {allowed} are allowed",
                quote_id=quote.id,
                hint="raise max_fee in the request, or melt.max_fee_percent in the configuration",
            )
        return quote

    async def reserve(
        self, mint: Mint, request: MeltRequest, invoice: Invoice, quote: MeltQuote, gate: Gate, melt_id: MeltId
    ) -> Melt:
        """
        Choose proofs, check them at the mint, and commit T1.

        One wallet's melts do this one after another. Where the money does not reach now but the change of melts in
        flight could make it, wait for them, ``reserve_wait_s`` at most.

        Raises:
            Refusal: INSUFFICIENT_FUNDS, FUNDS_SETTLING, MELT_BLOCKED_BY_RECONCILIATION, HIGH_SEVERITY_DISCREPANCIES,
                FEE_TOO_HIGH.
            LostRace, DuplicateMelt, MintError, StoreError.
        """
        need = quote.amount + quote.fee_reserve
        deadline = self.clock.monotonic() + self.policy.reserve_wait_s
        while True:
            changed = gate.changed
            try:
                async with gate.lock:
                    return await self._choose_and_reserve(mint, request, invoice, quote, gate, melt_id)
            except NotEnough as short:
                left = deadline - self.clock.monotonic()
                if left <= 0 or short.available + sum(gate.coming_back.values()) < need:
                    raise
                gate.waiting += 1
                try:
                    await self.clock.wait(changed, left)
                finally:
                    gate.waiting -= 1

    async def _choose_and_reserve(
        self, mint: Mint, request: MeltRequest, invoice: Invoice, quote: MeltQuote, gate: Gate, melt_id: MeltId
    ) -> Melt:
        async with _within(self.policy.preflight_timeout_s, "its keysets"):
            keysets = await mint.keysets()
            info = await mint.info()
        drift = _DriftMet()
        for attempt in range(RESELECT_MAX):
            tokens = await self.threads(lambda: self.store.spendable(request.npub, (mint.url,), request.unit))
            try:
                choice = await choose(
                    self.store,
                    self.threads,
                    tokens,
                    keysets=keysets,
                    unit=request.unit,
                    need=quote.amount + quote.fee_reserve,
                    inputs_max=info.max_array_length,
                    met=drift.records,
                    out=frozenset(drift.out),
                    now=self.clock.now(),
                )
            except NotEnough as short:
                if drift.corrected:
                    raise drift.refusal(short, request.unit) from short
                raise
            self._check_fee(request, quote, choice)
            started = self.clock.monotonic()
            async with _within(self.policy.preflight_timeout_s, "the states of the proofs"):
                looked = drift.to_check(choice.tokens, tokens)
                checked = await self.preflight.check(mint, looked, unit=request.unit, actor=request.actor)
            self.telemetry.melt_phase(mint.alias, "preflight", self.clock.monotonic() - started)
            if checked.out:
                drift.meet(checked)
                continue
            started = self.clock.monotonic()
            try:
                reserved = await self._commit(mint, request, invoice, quote, choice, melt_id, keysets=keysets)
            except LostRace:
                if attempt + 1 == RESELECT_MAX:
                    raise
                await self.clock.sleep(self.entropy.uniform(0.005, 0.05))
                continue
            self.telemetry.melt_phase(mint.alias, "reserve", self.clock.monotonic() - started)
            gate.coming_back[reserved.id] = reserved.overpaid
            return reserved
        raise Refusal(
            Code.CONCURRENT_OPERATION, "the wallet's proofs are being used by other operations", hint="retry shortly"
        )

    def _check_fee(self, request: MeltRequest, quote: MeltQuote, choice: Choice) -> None:
        if request.max_fee is not None and quote.fee_reserve + choice.selection.input_fee > request.max_fee:
            raise Refusal(
                Code.FEE_TOO_HIGH,
                f"fee reserve {quote.fee_reserve} and input fee {choice.selection.input_fee} {request.unit} "
                f"exceed max_fee {request.max_fee}",
                quote_id=quote.id,
            )

    async def _commit(
        self,
        mint: Mint,
        request: MeltRequest,
        invoice: Invoice,
        quote: MeltQuote,
        choice: Choice,
        melt_id: MeltId,
        *,
        keysets: Mapping[KeysetId, Keyset],
    ) -> Melt:
        """T1."""
        now = self.clock.now()
        first = next(iter(choice.tokens.values()))
        intent = Melt(
            id=melt_id,
            state=MeltState.RESERVED,
            rev=0,
            holder=self.holder,
            idempotency_key=request.idempotency_key,
            request_digest=request.digest(),
            npub=request.npub,
            wallet_id=first.wallet_id,
            mint=mint.alias,
            mint_url=first.mint_url,
            unit=request.unit,
            transaction_id=f"tx_melt_{int(now.timestamp())}_{self.entropy.token(6)}",
            payment_hash=invoice.payment_hash,
            invoice=invoice.text,
            quote_id=quote.id,
            quote_expiry=quote.expiry,
            amount=quote.amount,
            fee_reserve=quote.fee_reserve,
            input_fee=choice.selection.input_fee,
            inputs=choice.refs,
            source_token_ids=tuple(choice.tokens),
            blanks=None,
            actor=request.actor,
            created_at=now,
            updated_at=now,
        )
        blanks = blank_count(intent.overpaid)
        keyset = active_keyset(keysets, request.unit) if blanks else None
        if keyset is not None:
            await self.recovery.fresh_counters(mint, keyset.id)
        reserved = await self.threads(
            lambda: self.store.reserve(
                intent, blanks=None if keyset is None else (keyset.id, blanks), seed_id=self.outputs.seed_id
            )
        )
        _log.debug("melt reserved", melt_id=melt_id, inputs=len(choice.refs), overpay=choice.selection.overpay)
        return reserved

    # --- after T1 ---

    async def exact(self, mint: Mint, melt: Melt) -> Melt:
        """Swap to exact amounts first where paying as it is would lock too much; READY, or ended, or SWAPPING still."""
        limit = self.policy.swap_when_overpay_exceeds
        if not limit or melt.overpaid - melt.fee_reserve <= limit:
            return melt
        if await self._is_disturbed(melt):
            return await self._leave(mint, melt)
        started = self.clock.monotonic()
        planned = await self._plan_exact(mint, melt)
        if planned is None:
            return melt
        for _ in range(SWAP_STEPS_MAX):
            planned = await self.recovery.step(planned)
            if planned.state is not MeltState.SWAPPING:
                break
        self.telemetry.melt_phase(mint.alias, "swap", self.clock.monotonic() - started)
        return planned

    async def _is_disturbed(self, melt: Melt) -> bool:
        """Whether another writer has taken a reserved document for itself, so that its proofs are no longer ours to pay with."""
        return bool(await self.threads(lambda: self.store.strayed_inputs(melt)))

    async def _leave(self, mint: Mint, melt: Melt) -> Melt:
        """Nothing has been sent, and nothing is: give back what is still ours."""
        _log.warning("another writer has changed the reserved documents", melt_id=melt.id, mint=mint.alias)
        detail = "another writer changed the reserved documents before the payment was sent; nothing was paid"
        return await self.recovery.never_sent(mint, melt, Code.CONCURRENT_OPERATION, detail)

    async def _plan_exact(self, mint: Mint, melt: Melt) -> Melt | None:
        keysets = await mint.keysets()
        keyset = active_keyset(keysets, melt.unit)
        denominations = list(await mint.keys(keyset.id))
        fee = input_fee([ref.keyset_id for ref in melt.inputs], {k: v.input_fee_ppk for k, v in keysets.items()})
        pay: tuple[int, ...] = ()
        for _ in range(8):  # the pay proofs' own input fee depends on how many they are; it settles at once
            pay_fee = -(-keyset.input_fee_ppk * len(pay) // 1000)
            again = split_amount(melt.amount + melt.fee_reserve + pay_fee, denominations)
            if len(again) == len(pay):
                pay = again
                break
            pay = again
        keep_amount = melt.inputs_amount - fee - sum(pay)
        if keep_amount <= 0:
            return None
        keep = split_amount(keep_amount, denominations)
        await self.recovery.fresh_counters(mint, keyset.id)
        return await self.threads(
            lambda: self.store.plan_swap(
                melt,
                MeltState.SWAPPING,
                inputs=melt.inputs,
                amounts=(*keep, *pay),
                keep=len(keep),
                fee=fee,
                keyset_id=keyset.id,
                seed_id=self.outputs.seed_id,
                fence=False,
            )
        )

    async def pay(self, mint: Mint, melt: Melt) -> Melt:
        """
        The one POST of this melt (I1), and what follows from its answer: SETTLED, or PENDING for the watcher. It does not
        leave where another writer has taken a reserved document for itself: then the melt is released.

        Raises:
            StoreUnavailable: nothing was sent (the entry is RESERVED, READY or MELTING), or T3 could not be committed
            after the mint had paid; recovery finishes either.
            MintError: paid, but the change can't be told yet; the entry is PENDING.
        """
        if melt.post is not PostOutcome.NOT_SENT:
            raise InvariantBroken(f"melt {melt.id} was sent before ({melt.post}) and would be sent again (I1)")
        if await self._is_disturbed(melt):
            return await self._leave(mint, melt)
        proofs = await load_proofs(self.store, self.threads, melt, melt.inputs)
        blanks = self.outputs.blinded(melt.blanks) if melt.blanks is not None else ()
        keysets = await mint.keysets()
        fee = input_fee([ref.keyset_id for ref in melt.inputs], {k: v.input_fee_ppk for k, v in keysets.items()})
        melting = await self.threads(
            lambda: self.store.advance(
                melt, MeltState.MELTING, post=PostOutcome.IN_FLIGHT, posted_at=self.clock.now(), input_fee=fee
            )
        )
        if melting.state is not MeltState.MELTING or melting.post is not PostOutcome.IN_FLIGHT:
            raise InvariantBroken(f"melt {melt.id} would be sent without its intent in the journal (I2)")
        if melting.quote_id is None:
            raise InvariantBroken(f"melt {melt.id} has no quote")
        started = self.clock.monotonic()
        answer = await mint.melt(melting.quote_id, proofs, blanks, timeout_s=self.policy.post_timeout_s)
        self.telemetry.melt_phase(mint.alias, "pay", self.clock.monotonic() - started)
        if isinstance(answer, Paid):
            try:
                return await self.recovery.settle(melting, answer.quote)
            except MintError:
                return await self._note_answer(melting, PostOutcome.PAID, None)
        outcome, code = _outcome(answer)
        return await self._note_answer(melting, outcome, code)

    async def _note_answer(self, melting: Melt, outcome: PostOutcome, code: int | None) -> Melt:
        noted = await self.threads(lambda: self.store.advance(melting, MeltState.PENDING, post=outcome, post_code=code))
        _log.info("melt is being followed", melt_id=noted.id, mint=noted.mint, answer=outcome.value, mint_code=code)
        return noted


@dataclass(slots=True)
class _DriftMet:
    """What the checks of one request have found in its way so far."""

    out: set[TokenId] = field(default_factory=set)
    records: list[Discrepancy] = field(default_factory=list)
    corrected: int = 0
    rounds: int = 0

    def to_check(self, chosen: Mapping[TokenId, Token], tokens: Sequence[Token]) -> Mapping[TokenId, Token]:
        """
        The documents that are asked about: those that were chosen, and once that failed twice the others, too.

        A wallet much of which somebody else has spent would else be asked about a few documents at a time, round after round.
        """
        if self.rounds < 2:
            return chosen
        wider = dict(chosen)
        proofs = sum(len(token.proofs) for token in chosen.values())
        for token in tokens:
            proofs += len(token.proofs)
            if proofs > PROOFS_CHECKED_MAX:
                break
            if token.id not in self.out:
                wider[token.id] = token
        return wider

    def meet(self, checked: Checked) -> None:
        """These documents are out."""
        self.out |= checked.out
        self.records += checked.records
        self.corrected += checked.corrected
        self.rounds += 1

    def refusal(self, short: NotEnough, unit: str) -> Refusal:
        """The money does not reach because of what was marked spent a moment ago."""
        return Refusal(
            Code.HIGH_SEVERITY_DISCREPANCIES,
            f"proofs worth {self.corrected} {unit} that were counted as unspent are already spent at the mint; they have "
            f"been corrected, and {short.available} {unit} can be used now",
            hint="the balance is right now: ask for less, or fund the wallet",
        )


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    """A step's deadline, before anything is reserved. Raises MintUnreachable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise MintUnreachable(f"the mint did not give {what} in {seconds:g} s") from error


def _outcome(answer: MeltAnswer) -> tuple[PostOutcome, int | None]:
    match answer:
        case Paid():
            return PostOutcome.PAID, None
        case StillPending():
            return PostOutcome.PENDING, None
        case Refused(mint_code=code, payment_tried=tried):
            return (PostOutcome.FAILED if tried else PostOutcome.REFUSED), code
        case Ambiguous(mint_code=code):
            return PostOutcome.AMBIGUOUS, code
        case _:
            assert_never(answer)
