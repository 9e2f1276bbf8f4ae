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
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import structlog

from melt.errors import (
    Code,
    InvariantBroken,
    LostRace,
    MintError,
    MintRejected,
    MintUnreachable,
    MintUntrusted,
    Refusal,
)
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
from melt.recovery.keysets import signing_keyset
from melt.recovery.swaps import exact_amounts, load_proofs
from melt.refusals import LIST_IS_OLD
from melt.saga import gather, pricing
from melt.saga.again import with_new_blanks
from melt.saga.choice import NotEnough, TooMany, choose
from melt.saga.gather import SwapsBefore
from melt.saga.met import DriftMet
from melt.selection import blank_count, input_fee

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping

    from melt.invoice import Invoice
    from melt.model import KeysetId, MeltAnswer, MeltQuote, MintAlias, MintInfo
    from melt.ports import Clock, Entropy, Mint, Outputs, Store, StoreThreads, Telemetry
    from melt.preflight import Preflight
    from melt.recovery import Recovery
    from melt.saga.admission import Gate
    from melt.saga.choice import Choice
    from melt.saga.request import MeltRequest

_log = structlog.get_logger("melt.saga")

RESELECT_MAX = 8
"""How often proofs are chosen anew after somebody else took them or the mint called them PENDING (I11)."""
SWAP_STEPS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltPolicy:
    """
    Budgets and limits of a melt. Seconds, and amounts in the melt's unit.

    ``swap_when_overpay_exceeds``: swap to exact change first where more than this would be locked beyond the fee
    reserve; 0 means never. ``max_fee_percent`` and ``max_fee_floor`` bound everything beyond the amount: the fee reserve, the
    inputs' fees, and those of swaps before the payment.
    """

    post_timeout_s: float = 120.0
    reserve_wait_s: float = 20.0
    swap_when_overpay_exceeds: int = 0
    max_fee_percent: float = 5.0
    max_fee_floor: int = 20
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
            Refusal: FEE_TOO_HIGH, or what the mint does not do, by its settings or by its answer (:mod:`melt.refusals`).
            MintUntrusted: the quoted amount is not the invoice's. MintError.
        """
        started = self.clock.monotonic()
        async with _within(self.policy.quote_timeout_s, "the quote"):
            info = await _announced(mint)
            if info is not None:
                pricing.check_announced(info, mint.alias, invoice, request.unit)
            try:
                quote = await mint.melt_quote(invoice.text, request.unit)
            except MintRejected as error:
                refused = pricing.refused_quote(error, info, mint.alias, request.unit)
                raise (error if refused is None else refused) from error
        self.telemetry.melt_phase(mint.alias, "quote", self.clock.monotonic() - started)
        pricing.check_quote(quote, invoice, request.unit, mint.alias)
        allowed = self._allowed(quote.amount, request.max_fee)
        if quote.fee_reserve > allowed:
            raise pricing.too_dear(request, quote, 0, allowed)
        return quote

    def _allowed(self, amount: int, max_fee: int | None) -> int:
        return pricing.fees_allowed(
            amount, max_fee, percent=self.policy.max_fee_percent, floor=self.policy.max_fee_floor
        )

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
        swaps, drift = SwapsBefore(), DriftMet()
        while True:
            changed = gate.changed
            try:
                async with gate.lock:
                    try:
                        return await self._choose_and_reserve(
                            mint, request, invoice, quote, gate, melt_id, swaps, drift
                        )
                    except TooMany as many:
                        await self._gather(mint, request, quote, melt_id, many, swaps, drift)
                        continue
            except NotEnough as short:
                left = deadline - self.clock.monotonic()
                coming = sum(gate.coming_back.values())
                if left <= 0 or not coming or short.available + coming < need:
                    raise
                gate.waiting += 1
                try:
                    await self.clock.wait(changed, left)
                finally:
                    gate.waiting -= 1
                drift = DriftMet()  # what was out may be in again

    async def _gather(
        self,
        mint: Mint,
        request: MeltRequest,
        quote: MeltQuote,
        melt_id: MeltId,
        many: TooMany,
        swaps: SwapsBefore,
        drift: DriftMet,
    ) -> None:
        """See :func:`melt.saga.gather.swap_smallest`. Raises ``many`` where no swap would help."""
        async with _within(self.policy.preflight_timeout_s, "what a swap needs"):
            info, keysets = await mint.info(), await mint.keysets()
        fee_max = self._allowed(quote.amount, request.max_fee) - quote.fee_reserve - swaps.fees
        await gather.swap_smallest(
            self.recovery,
            self.preflight,
            mint,
            request,
            many,
            need=quote.amount + quote.fee_reserve,
            limit=min(info.inputs_max or info.max_array_length, info.max_array_length),
            ppk={k: v.input_fee_ppk for k, v in keysets.items()},
            fee_max=fee_max,
            swaps=swaps,
            drift=drift,
            melt_id=melt_id,
            holder=self.holder,
        )

    async def _choose_and_reserve(
        self,
        mint: Mint,
        request: MeltRequest,
        invoice: Invoice,
        quote: MeltQuote,
        gate: Gate,
        melt_id: MeltId,
        swaps: SwapsBefore,
        drift: DriftMet,
    ) -> Melt:
        async with _within(self.policy.preflight_timeout_s, "its settings"):
            info = await mint.info()
        allowed = self._allowed(quote.amount, request.max_fee) - swaps.fees
        for attempt in range(RESELECT_MAX):
            tokens = await self.threads(lambda: self.store.spendable(request.npub, (mint.url,)))
            async with _within(self.policy.preflight_timeout_s, "its keysets"):
                held = {proof.keyset_id for token in tokens for proof in token.proofs}
                keysets = await mint.keysets_with(held)
                denominations = await _denominations(mint, held & set(keysets))
            try:
                choice = await choose(
                    self.store,
                    self.threads,
                    tokens,
                    keysets=keysets,
                    unit=request.unit,
                    need=quote.amount + quote.fee_reserve,
                    inputs_max=min(info.inputs_max or info.max_array_length, info.max_array_length),
                    met=drift.records,
                    out=frozenset(drift.out),
                    now=self.clock.now(),
                    denominations=denominations,
                    fee_max=allowed - quote.fee_reserve,
                )
            except NotEnough as short:
                if drift.corrected:
                    raise drift.refusal(short, request.unit) from short
                raise
            if quote.fee_reserve + choice.selection.input_fee > allowed:
                raise pricing.too_dear(request, quote, choice.selection.input_fee + swaps.fees, allowed + swaps.fees)
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
                reserved = await self._commit(mint, request, invoice, quote, choice, melt_id)
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

    async def _commit(
        self,
        mint: Mint,
        request: MeltRequest,
        invoice: Invoice,
        quote: MeltQuote,
        choice: Choice,
        melt_id: MeltId,
    ) -> Melt:
        """T1. What it takes to store the change is had before it."""
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
        keyset = None
        if blanks:
            async with _within(self.policy.preflight_timeout_s, "the keys of its change"):
                keyset = await signing_keyset(mint, request.unit, now=now)
                await self.recovery.fresh_counters(mint, keyset.id)
        reserved = await self.threads(
            lambda: self.store.reserve(
                intent, blanks=None if keyset is None else (keyset.id, blanks), seed_id=self.outputs.seed_id
            )
        )
        _log.debug("melt reserved", melt_id=melt_id, inputs=len(choice.refs), overpay=choice.selection.overpay)
        return reserved

    # --- after T1 ---

    async def exact(self, mint: Mint, melt: Melt, *, max_fee: int | None = None) -> Melt:
        """
        Swap to exact amounts first where paying as it is would lock too much; READY, or ended, or SWAPPING still.

        Not where the swap would cost more than everything beyond the amount may (``max_fee`` is the caller's bound).
        """
        limit = self.policy.swap_when_overpay_exceeds
        if not limit or melt.overpaid - melt.fee_reserve <= limit:
            return melt
        if await self._is_disturbed(melt):
            return await self._leave(mint, melt)
        started = self.clock.monotonic()
        planned = await self._plan_exact(mint, melt, self._allowed(melt.amount, max_fee))
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

    async def _plan_exact(self, mint: Mint, melt: Melt, allowed: int) -> Melt | None:
        keyset = await signing_keyset(mint, melt.unit, now=self.clock.now())
        amounts = await exact_amounts(mint, keyset, melt.inputs, melt.amount + melt.fee_reserve)
        if amounts is None:
            return None
        mint_fees = amounts.fee + -(-keyset.input_fee_ppk * len(amounts.pay) // 1000)
        if melt.fee_reserve + mint_fees > allowed:
            return None
        await self.recovery.fresh_counters(mint, keyset.id)
        return await self.threads(
            lambda: self.store.plan_swap(
                melt,
                MeltState.SWAPPING,
                inputs=melt.inputs,
                amounts=(*amounts.keep, *amounts.pay),
                keep=len(amounts.keep),
                fee=amounts.fee,
                keyset_id=keyset.id,
                seed_id=self.outputs.seed_id,
                fence=False,
            )
        )

    async def pay(self, mint: Mint, melt: Melt, *, again: bool = True) -> Melt:
        """
        The one POST of this melt (I1), and what follows from its answer: SETTLED, or PENDING for the watcher. It does not
        leave where another writer has taken a reserved document for itself: then the melt is released.

        A refusal that is about keysets is no attempt to pay: once (``again``) it is sent with outputs of the keyset that
        the mint signs with now (:mod:`melt.saga.again`).

        Raises:
            StoreUnavailable: nothing was sent (the entry is RESERVED, READY or MELTING), or T3 could not be committed
            after the mint had paid; recovery finishes either.
            MintError: paid, but the change can't be told yet; the entry is PENDING.
        """
        if melt.post is not PostOutcome.NOT_SENT:
            raise InvariantBroken(f"melt {melt.id} was sent before ({melt.post}) and would be sent again (I1)")
        if await self._is_disturbed(melt):
            if melt.state is MeltState.MELTING:
                # It was refused before any payment, and is not sent once more: it ends like any other refusal.
                return await self._note_answer(melt, PostOutcome.REFUSED, melt.post_code)
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
        if outcome is PostOutcome.REFUSED and code in LIST_IS_OLD:
            refused = await self.threads(
                lambda: self.store.advance(melting, MeltState.MELTING, post=outcome, post_code=code)
            )
            renewed = await with_new_blanks(self.recovery, mint, refused) if again else None
            if renewed is not None:
                return await self.pay(mint, renewed, again=False)
            melting = refused
        return await self._note_answer(melting, outcome, code)

    async def _note_answer(self, melting: Melt, outcome: PostOutcome, code: int | None) -> Melt:
        noted = await self.threads(lambda: self.store.advance(melting, MeltState.PENDING, post=outcome, post_code=code))
        _log.info("melt is being followed", melt_id=noted.id, mint=noted.mint, answer=outcome.value, mint_code=code)
        return noted


async def _announced(mint: Mint) -> MintInfo | None:
    """What the mint says of itself; None where it does not say it, which forbids nothing."""
    try:
        return await mint.info()
    except MintRejected:
        return None


async def _denominations(mint: Mint, ids: Iterable[KeysetId]) -> dict[KeysetId, Collection[int]]:
    """The amounts of the keysets whose keys can be had; the others' proofs are taken as they are."""
    found: dict[KeysetId, Collection[int]] = {}
    for keyset_id in sorted(ids):
        with suppress(MintRejected, MintUntrusted):
            found[keyset_id] = await mint.keys(keyset_id)
    return found


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
