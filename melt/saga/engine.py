"""
The atomic melt engine (DESIGN section 4): admission, idempotency, waiting, and the end of each melt.

A melt runs in a task of its own. Its caller may stop waiting: the melt goes on, and whoever asks again with the same key
gets the same melt. After the POST has been answered with anything but PAID, the watcher follows the entry.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import (
    Code,
    DuplicateMelt,
    InvariantBroken,
    LostRace,
    MeltdError,
    MintError,
    MintUnreachable,
    Refusal,
    StoreError,
    StoreUnavailable,
)
from melt.invoice import read_invoice
from melt.model import MeltId, MeltState, PostOutcome
from melt.saga.admission import Gates, check_npub, resolve_mint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from melt.breaker import Breaker
    from melt.invoice import Invoice
    from melt.model import Melt, MintAlias
    from melt.ports import Clock, Entropy, Mint, Store, StoreThreads, Telemetry
    from melt.saga.forward import Forward, MeltPolicy
    from melt.saga.request import MeltRequest

_log = structlog.get_logger("melt.saga")

DRAIN_READ_S: Final = 1.0
"""How long a caller's last look at the journal may take when the process stops."""


@dataclass(slots=True)
class _Running:
    """A melt that this process is taking forward."""

    melt_id: MeltId
    digest: str
    payment_hash: str
    mint: MintAlias
    started: float
    reserved: asyncio.Future[None]
    melt: Melt | None = None
    problem: MeltdError | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Engine:
    """Pays invoices with a wallet's ecash. One per process; safe to call from any number of tasks."""

    def __init__(
        self,
        *,
        store: Store,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        forward: Forward,
        clock: Clock,
        entropy: Entropy,
        telemetry: Telemetry,
        policy: MeltPolicy,
        is_paused: Callable[[MintAlias], str | None] = lambda _: None,
        observing: Callable[[], str | None] = lambda: None,
        breakers: Mapping[MintAlias, Breaker] | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._mints = mints
        self._forward = forward
        self._clock = clock
        self._entropy = entropy
        self._telemetry = telemetry
        self._policy = policy
        self._is_paused = is_paused
        self._observing = observing
        self._breakers = breakers or {}
        self._gates = Gates()
        self._running: dict[str, _Running] = {}
        self._endings: dict[MeltId, asyncio.Event] = {}
        self._draining = False
        self.followed = asyncio.Event()
        """Set when an entry needs the watcher's look now."""

    # --- what the watcher needs ---

    def is_active(self, melt_id: MeltId) -> bool:
        """Whether a task of this process is taking the melt forward, so that nobody else should."""
        return any(running.melt_id == melt_id for running in self._running.values())

    def note_end(self, melt_id: MeltId) -> None:
        """A melt reached its end, here or elsewhere: wake whoever waits for it or for its change."""
        self._gates.ended(melt_id)
        ending = self._endings.pop(melt_id, None)
        if ending is not None:
            ending.set()

    def expected_ends(self) -> frozenset[MeltId]:
        """Melts whose end somebody here waits for."""
        return frozenset(self._endings) | frozenset(self._gates.in_flight())

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def under_way(self, mint: MintAlias, *, younger_than_s: float) -> bool:
        """Whether a melt at this mint began less than so long ago: an older one waits for Lightning, not for us."""
        since = self._clock.monotonic() - younger_than_s
        return any(running.mint == mint and running.started > since for running in self._running.values())

    # --- melts ---

    async def melt(self, request: MeltRequest, *, wait_s: float) -> Melt:
        """
        Pay an invoice, or join the melt that already does.

        Returns:
            The journal entry as it is when it ends or when ``wait_s`` seconds have passed after its reservation.

        Raises:
            Refusal: nothing was written or sent (codes of DESIGN section 7).
            MeltdError: CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS or STORE_UNAVAILABLE after the reservation; it carries
                the ids, and recovery goes on.
        """
        try:
            return await self._melt(request, wait_s)
        except MeltdError as error:
            self._telemetry.melt_refused(error.code.value)
            raise

    async def _melt(self, request: MeltRequest, wait_s: float) -> Melt:
        if self._draining:
            raise Refusal(Code.SHUTTING_DOWN, "meltd is shutting down", hint="retry with the same Idempotency-Key")
        digest = request.digest()
        earlier = await self._threads(lambda: self._store.melt_by_key(request.idempotency_key))
        if earlier is not None:
            return await self._join(earlier, digest, wait_s)
        try:
            running = self._running.get(request.idempotency_key) or await self._admit(request, digest)
            if running.digest != digest:
                raise self._other_body(running.melt_id)
            await asyncio.shield(running.reserved)
        except (DuplicateMelt, LostRace, MintError, Refusal):
            # The same request may have come first, at another instance or since our look at the key. Then what stands
            # in the way (the claim on the invoice, the proofs that it took, the mint's no to a second quote) is that
            # melt's own, and it is the answer.
            earlier = await self._threads(lambda: self._store.melt_by_key(request.idempotency_key))
            if earlier is None or earlier.request_digest != digest:
                raise
            return await self._join(earlier, digest, wait_s)
        return await self._wait(running, wait_s)

    async def _admit(self, request: MeltRequest, digest: str) -> _Running:
        """Begin the melt, unless something forbids it; or the one that an identical request has begun meanwhile."""
        mint = resolve_mint(self._mints, request.mint)
        check_npub(request.npub)
        observing = self._observing()
        if observing is not None:
            raise Refusal(
                Code.OBSERVING,
                f"no melt is begun: {observing}",
                hint="meltd adopt shows what is there, and switches to correct on a yes",
            )
        paused = self._is_paused(mint.alias)
        if paused is not None:
            raise Refusal(Code.PAUSED, f"melts at this mint are paused: {paused}", hint="meltd resume")
        self._check_frozen(request.npub, mint.alias)
        invoice = read_invoice(request.invoice, now=self._clock.now())
        invoice.amount(request.unit)
        await self._check_store(request, invoice)
        # From here to the entry in _running nothing awaits: two identical requests can't both start.
        return self._running.get(request.idempotency_key) or self._start(request, digest, mint, invoice)

    def _check_frozen(self, npub: str, mint: MintAlias) -> None:
        distrusted = self._forward.recovery.events.distrusted(mint)
        if distrusted is not None:
            raise MeltdError(
                Code.CRITICAL_MINT_UNTRUSTED,
                f"{distrusted}; no melt is begun there until it answers sanely",
                hint="meltd events shows what was seen; meltd looks again every few seconds",
            )
        frozen = self._forward.recovery.events.frozen(npub, mint)
        if frozen is not None:
            raise MeltdError(
                Code.CRITICAL_MELT_FAILURE,
                f"{frozen}; no melt is begun until a person has looked",
                requires_manual_intervention=True,
                hint="meltd events shows what was seen; meltd events --resolve ID --reason TEXT lifts it",
            )

    def _check_room(self, mint: MintAlias) -> None:
        """Backpressure: bounded melts in all and at each mint, and none at a mint that gives no usable answer."""
        at_mint = sum(1 for other in self._running.values() if other.mint == mint)
        if len(self._running) >= self._policy.in_flight_max or at_mint >= self._policy.in_flight_at(mint):
            raise Refusal(Code.TOO_MANY_MELTS, "too many melts are in flight", hint="retry in a few seconds")
        breaker = self._breakers.get(mint)
        wait_s = None if breaker is None else breaker.admit()
        if wait_s is not None:
            raise MintUnreachable(
                f"mint {mint} gave no usable answer several times in a row; it is tried again soon",
                retry_after_s=wait_s,
            )

    async def _check_store(self, request: MeltRequest, invoice: Invoice) -> None:
        claimed = await self._threads(lambda: self._store.melt_by_payment_hash(invoice.payment_hash))
        if claimed is not None:
            raise _already_claimed(claimed.id)
        if not await self._threads(lambda: self._store.npub_known(request.npub)):
            raise Refusal(Code.WALLET_UNKNOWN, "no wallet and no token belongs to this npub")

    def _start(self, request: MeltRequest, digest: str, mint: Mint, invoice: Invoice) -> _Running:
        for other in self._running.values():
            if other.payment_hash == invoice.payment_hash:
                raise _already_claimed(other.melt_id)
        self._check_room(mint.alias)
        running = _Running(
            melt_id=MeltId(f"melt_{self._entropy.token(12)}"),
            digest=digest,
            payment_hash=invoice.payment_hash,
            mint=mint.alias,
            started=self._clock.monotonic(),
            reserved=asyncio.get_running_loop().create_future(),
        )
        self._running[request.idempotency_key] = running
        self._endings[running.melt_id] = asyncio.Event()
        running.task = asyncio.create_task(self._run(running, request, mint, invoice), name=running.melt_id)
        return running

    async def _run(self, running: _Running, request: MeltRequest, mint: Mint, invoice: Invoice) -> None:
        structlog.contextvars.bind_contextvars(melt_id=running.melt_id)
        self._telemetry.melt_started(mint.alias)
        try:
            try:
                gate = self._gates.of(request.npub, mint.alias, request.unit)
                quote = await self._forward.quote(mint, request, invoice)
                running.melt = await self._forward.reserve(mint, request, invoice, quote, gate, running.melt_id)
            except BaseException as error:  # noqa: BLE001 - a task's outermost edge: the waiting caller gets it
                if isinstance(error, InvariantBroken):
                    await self._freeze(error, request.npub, mint.alias, running.melt_id)
                self._not_started(running, error, request, mint)
                return
            running.reserved.set_result(None)
            await self._after_reservation(running, mint, request.max_fee)
        except Exception:  # noqa: BLE001 - a task's outermost edge
            # The entry is in the journal: the watcher takes it to its end.
            _log.exception("melt left to recovery", mint=mint.alias)
        finally:
            self._running.pop(request.idempotency_key, None)
            self.followed.set()

    def _not_started(self, running: _Running, error: BaseException, request: MeltRequest, mint: Mint) -> None:
        """T1 was not committed, as far as we know: nothing is reserved and nothing was sent."""
        self._telemetry.melt_ended(mint.alias, "refused", self._clock.monotonic() - running.started)
        if isinstance(error, MeltdError):
            _log.info("melt refused", code=error.code.value, detail=error.detail, mint=mint.alias, npub=request.npub)
        elif not isinstance(error, asyncio.CancelledError):
            _log.error("melt failed before its reservation", mint=mint.alias, exc_info=error)
        self.note_end(running.melt_id)
        if not running.reserved.done():
            if isinstance(error, asyncio.CancelledError):
                error = Refusal(
                    Code.SHUTTING_DOWN, "meltd is shutting down", hint="retry with the same Idempotency-Key"
                )
            elif not isinstance(error, MeltdError):
                error = MeltdError(Code.INTERNAL, "the melt failed before anything was sent", melt_id=running.melt_id)
            running.reserved.set_exception(error)
            running.reserved.exception()  # whoever waits gets it; nobody waiting is no reason to warn

    async def _after_reservation(self, running: _Running, mint: Mint, max_fee: int | None) -> None:
        if running.melt is None:
            raise AssertionError("reserved without an entry")
        melt = running.melt
        try:
            melt = running.melt = await self._forward.exact(mint, melt, max_fee=max_fee)
            if melt.state in {MeltState.RESERVED, MeltState.READY}:
                melt = running.melt = await self._forward.pay(mint, melt)
        except StoreUnavailable as error:
            running.problem = _store_problem(melt, error)
        except InvariantBroken as error:
            await self._freeze(error, melt.npub, melt.mint, melt.id)
            running.problem = _broken(melt, error)
        except MeltdError as error:
            _log.warning("melt left to recovery", code=error.code.value, detail=error.detail)
        if melt.is_open:
            if melt.post is PostOutcome.PENDING:
                self._gates.ended(melt.id)  # it may take days: nobody should wait for its change
            _log.info("melt open", state=melt.state.value, mint=melt.mint, quote_id=melt.quote_id)
        else:
            self.report_end(melt, self._clock.monotonic() - running.started)
        if running.problem is not None:
            ending = self._endings.get(melt.id)
            if ending is not None:
                ending.set()

    async def _freeze(self, error: InvariantBroken, npub: str, mint: MintAlias, melt_id: MeltId) -> None:
        """Nothing new is begun for this wallet at this mint; the rest goes on."""
        await self._forward.recovery.events.invariant_broken(error, npub=npub, mint=mint, melt_id=melt_id)

    def report_end(self, melt: Melt, seconds: float) -> None:
        """One line and one sample for a melt that has ended, and everybody who waits for it is woken."""
        self._telemetry.melt_ended(melt.mint, melt.state.value.lower(), seconds)
        _log.info(
            "melt ended",
            melt_id=melt.id,
            state=melt.state.value,
            mint=melt.mint,
            unit=melt.unit,
            paid=melt.paid_amount,
            lightning_fee=melt.fees_paid,
            input_fee=melt.input_fee,
            change=melt.change_amount,
            shortfall=melt.shortfall,
            inputs=len(melt.inputs),
            code=melt.error_code,
            seconds=round(seconds, 3),
        )
        self.note_end(melt.id)

    # --- joining and waiting ---

    async def _join(self, earlier: Melt, digest: str, wait_s: float) -> Melt:
        if earlier.request_digest != digest:
            raise self._other_body(earlier.id)
        if not earlier.is_open:
            return earlier
        return await self._wait_end(earlier.id, wait_s, earlier)

    async def _wait(self, running: _Running, wait_s: float) -> Melt:
        if running.melt is None:
            raise AssertionError("reserved without an entry")
        melt = await self._wait_end(running.melt_id, wait_s, running.melt, running)
        if running.problem is not None and melt.is_open:
            raise running.problem
        return melt

    async def _wait_end(self, melt_id: MeltId, wait_s: float, known: Melt, running: _Running | None = None) -> Melt:
        followed = running is None or running.task is None or running.task.done()
        if (
            wait_s > 0
            and (running is None or running.melt is None or running.melt.is_open)
            and not (self._draining and followed)
        ):
            ending = self._endings.setdefault(melt_id, asyncio.Event())
            await self._clock.wait(ending, wait_s)
        if running is not None and running.melt is not None and not running.melt.is_open:
            return running.melt
        try:
            async with asyncio.timeout(DRAIN_READ_S if self._draining else None):
                fresh = await self._threads(lambda: self._store.melt(melt_id))
        except (StoreError, TimeoutError):
            fresh = None  # the problem, if there is one, is the caller's answer
        return fresh or (running.melt if running is not None and running.melt is not None else known)

    def _other_body(self, melt_id: MeltId) -> MeltdError:
        return DuplicateMelt("the Idempotency-Key was used for another request", melt_id=melt_id)

    # --- the end ---

    async def drain(self, deadline_s: float) -> int:
        """
        Refuse new melts and let those in flight end; what remains after ``deadline_s`` is left in the journal.

        Whoever waits for a melt that is only followed is answered at once with where it stands, and whoever waits for
        one that is left behind when it is. Returns how many were left.
        """
        self._draining = True
        for melt_id, ending in list(self._endings.items()):
            if not self.is_active(melt_id):
                ending.set()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            _log.info("draining", melts=len(tasks), deadline_s=deadline_s)
            await asyncio.wait(tasks, timeout=deadline_s)
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for ending in list(self._endings.values()):
            ending.set()
        return len(left)


def _already_claimed(melt_id: MeltId) -> DuplicateMelt:
    return DuplicateMelt("the invoice is already being paid, or has been, by another melt", melt_id=melt_id)


def _store_problem(melt: Melt, error: StoreUnavailable) -> MeltdError:
    """What to tell the caller when the store went away after the reservation."""
    _log.error("the store went away in mid-melt", state=melt.state.value, code=error.code.value)
    detail = (
        "the mint has paid, but the database could not be updated yet; meltd goes on trying"
        if error.code is Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS
        else "the database went away after the reservation; the melt is taken to its end when it is back"
    )
    return MeltdError(
        error.code,
        detail,
        quote_id=melt.quote_id,
        transaction_id=melt.transaction_id,
        melt_id=melt.id,
        hint=f"ask GET /v1/melts/{melt.id} later; do not pay the invoice in another way",
    )


def _broken(melt: Melt, error: InvariantBroken) -> MeltdError:
    """What to tell the caller of a melt in whose middle an invariant was found broken."""
    return MeltdError(
        error.code,
        error.detail,
        requires_manual_intervention=True,
        quote_id=melt.quote_id,
        transaction_id=melt.transaction_id,
        melt_id=melt.id,
        hint=f"ask GET /v1/melts/{melt.id} later; do not pay the invoice in another way",
    )
