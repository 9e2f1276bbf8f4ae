"""
One world: wallets, invoices, mints, instances, weather and accidents, all drawn from one seed.

It runs in three parts. In the first everything happens: melts are asked for, and faults, crashes, restarts, rotations and
thefts meet them. In the second the faults stop, every mint and one instance are up, and open melts come to their
end. In the third tours look at every document. Then the books are read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import melt.recovery.reclaim as reclaim_module
import melt.saga.engine as engine_module
from melt.caps import CapPolicy
from melt.errors import Code, MeltdError
from melt.model import (
    Actor,
    BlindedMessage,
    DiscrepancyState,
    MalformedToken,
    Melt,
    MeltState,
    MintAlias,
    MintState,
    Proof,
    QuoteId,
    ResolveAs,
    Token,
    TokenStatus,
)
from melt.saga import MeltRequest
from melt.settling import SettlePolicy
from tests.simulation import logs
from tests.simulation.books import Books, Violation
from tests.simulation.company import keep_company
from tests.simulation.instance import Died, Instance, Tuning
from tests.simulation.lightning import Lightning
from tests.simulation.model_ecash import ModelOutputs, fast_y, looks_like_a_point, read_invoice
from tests.simulation.model_mint import GENERATIONS, Manners, ModelMint
from tests.simulation.model_store import ModelStore
from tests.simulation.neighbour import Neighbour
from tests.simulation.ports import EPOCH, Life, Observations, SimClock, SimSpool, Weather
from tests.simulation.virtual_loop import VirtualLoop

STORM_S = 40.0
LONG_S = 120.0
"""What settles later than this is looked at less often: the virtual time of a world is what it costs."""
REST_S_MAX = 3600.0
CRASHES_MAX = 12
KEYSETS_MAX = 4


engine_module.read_invoice = read_invoice  # type: ignore[attr-defined]
reclaim_module.is_point = looks_like_a_point  # type: ignore[attr-defined]


@dataclass(slots=True)
class Report:
    """How a world went."""

    seed: int
    violations: list[str]
    states: dict[str, int]
    steps: int
    virtual_s: float
    trace: list[str]


@dataclass(slots=True)
class World:
    """Everything of one seed."""

    seed: int
    tracing: bool = False
    rng: Random = field(init=False)
    trace_lines: list[str] = field(default_factory=list)
    loop: VirtualLoop = field(init=False)
    instances: list[Instance] = field(default_factory=list)
    clients: list[asyncio.Task[None]] = field(default_factory=list)
    store: ModelStore = field(init=False)
    books: Books = field(init=False)
    weather: Weather = field(init=False)
    mints: dict[MintAlias, tuple[ModelMint, str]] = field(default_factory=dict)
    lightning: Lightning = field(init=False)
    outputs: ModelOutputs = field(init=False)
    seen: Observations = field(default_factory=Observations)
    tuning: Tuning = field(init=False)
    clock: SimClock = field(init=False)
    spools: dict[str, SimSpool] = field(default_factory=dict)
    lies: bool = False
    wild: bool = False
    accompanied: bool = False
    """Another writer is at work on what melts have reserved."""
    crashes: int = 0
    started: int = 0
    users: list[str] = field(default_factory=list)
    """Whom meltd pays from."""
    wallets: dict[tuple[str, MintAlias], str] = field(default_factory=dict)
    neighbour: Neighbour | None = None
    ahead_s: dict[str, float] = field(default_factory=dict)
    storm: bool = True

    def __post_init__(self) -> None:
        self.rng = rng = Random(self.seed)
        self.lies = rng.random() < 0.3
        self.wild = rng.random() < 0.9
        self.loop = VirtualLoop(Random(rng.random()) if rng.random() < 0.5 else None)
        self.clock = SimClock(self.loop)
        self.weather = Weather(rng=rng, trace=self.trace)
        self.lightning = Lightning(rng=rng, lies=self.lies, slow=self.wild)
        self.outputs = ModelOutputs(f"seed of {self.seed}")
        settle = self._settle_policy()
        self.store = ModelStore(clock=self.clock, y_of=fast_y, settle=settle)
        # Not beside a mint that calls paid what it goes on honouring: such value may well come back.
        self.accompanied = self.wild and not self.lies and rng.random() < (0.25 if settle.waits else 0.5)
        self.tuning = Tuning(
            swap_when_overpay_exceeds=rng.choice((0, 0, 1, 8)),
            post_grace_s=rng.choice((8.0, 15.0)),
            settle=settle,
            # The other writer leaves more behind than a cap would let a tour put right.
            cap_share=1.0 if self.accompanied else CapPolicy().share_per_run,
        )
        self._make_mints()
        self.books = Books(
            store=self.store,
            mints={alias: mint for alias, (mint, _) in self.mints.items()},
            outputs=self.outputs,
            seen=self.seen,
            confirm_s=self.tuning.confirm_s,
            now=self.loop.time,
            settle=settle,
            urls={url: alias for alias, (_, url) in self.mints.items()},
        )
        self.seen.on_post = self._on_post
        self.seen.on_swap = self._on_swap
        self.seen.on_refused = self._on_refused
        self.store.tables.on_commit = self._on_commit
        self._make_users()
        if settle.waits and not self.accompanied and rng.random() < 0.8:
            self.neighbour = self._make_neighbour()

    # --- what happened ---

    def trace(self, text: str) -> None:
        """A line of the story."""
        if self.tracing:
            self.trace_lines.append(f"{self.loop.time():9.3f} s  {text}")

    def _heard(self, level: str, event: MutableMapping[str, Any]) -> None:
        wrong = logs.complaint(event)
        if wrong is not None:
            self.books.say(wrong)
        if self.tracing:
            facts = " ".join(f"{k}={v}" for k, v in event.items() if k not in {"event", "exc_info"})
            self.trace(f"log {level}: {event['event']} {facts}")

    def _on_commit(self, commit: object) -> None:
        if self.tracing:
            for melt_id, old in commit.melts.items():  # type: ignore[attr-defined]
                new = self.store.tables.melts[melt_id]
                was = "-" if old is None else old.state.value
                self.trace(f"store: {melt_id[:12]} {was} -> {new.state} post={new.post} by {new.holder} rev {new.rev}")
        self.books.on_commit(commit)  # type: ignore[arg-type]

    # --- making it ---

    def _settle_policy(self) -> SettlePolicy:
        """Of a database that nobody else spends from, or of one that others spend from too."""
        rng = self.rng
        if rng.random() < 0.5:
            return SettlePolicy()
        correct_after_s = rng.choice((60.0, rng.uniform(60.0, 200.0), rng.uniform(60.0, 600.0)))
        return SettlePolicy(
            correct_after_s=correct_after_s,
            alert_after_s=30.0,
            look_s=30.0 if correct_after_s > LONG_S else rng.choice((5.0, 10.0, 30.0)),
            pending_grace_s=rng.choice((0.0, 60.0)),
        )

    def _make_neighbour(self) -> Neighbour:
        """A wallet service that pays from users of its own, from all of ours, or from both."""
        shared, mine = (), ()
        how = self.rng.random()
        if how < 0.6:
            mine = tuple(self._make_user(f"n{number}") for number in range(self.rng.choice((1, 1, 2))))
        if how > 0.5:
            shared = tuple(self.users)
        return Neighbour(
            store=self.store,
            mints=self.mints,
            books=self.books,
            rng=self.rng,
            clock=self.clock,
            external=self._external,
            trace=self.trace,
            wallets=self.wallets,
            users=(*shared, *mine),
            shared=frozenset(shared),
            correct_after_s=self.store.settle_policy.correct_after_s,
        )

    def _make_mints(self) -> None:
        rng = self.rng
        for number in range(rng.choice((1, 1, 2))):
            name = f"m{number}"
            manners = Manners(
                generation=rng.randrange(len(GENERATIONS)),
                change_missing_in_post=rng.choice((0.0, 0.0, 0.3)),
                change_without_dleq=rng.choice((0.0, 0.0, 0.3)),
                change_wrong_dleq=rng.choice((0.0, 0.0, 0.2)),
                change_withheld=0.15 if self.lies else 0.0,
                wrong_preimage=0.1 if self.lies else 0.0,
                says_paid_unpaid=0.2 if self.lies else 0.0,
                paid_but_unspent=rng.choice((0.0, 0.1, 0.6)) if self.lies else 0.0,
                change_too_much=rng.choice((0.0, 0.1)) if self.lies else 0.0,
                slow_hand=rng.choice((0.0, 0.05, 2.0)),
                backend_check_s=rng.choice((0.0, 10.0)),
                caches_replays=rng.random() < 0.3,
            )
            mint = ModelMint(name, rng, self.lightning, manners, ppk=rng.choice((0, 100, 100, 1000)))
            mint.trace = self.trace
            self.mints[MintAlias(name)] = (mint, f"https://{name}.example")

    def _make_users(self) -> None:
        rng = self.rng
        for number in range(rng.choice((1, 1, 2, 3))):
            self.users.append(self._make_user(str(number)))

    def _make_user(self, number: str) -> str:
        rng = self.rng
        npub = "npub1" + number.rjust(58, "q")
        for alias, (_, url) in self.mints.items():
            wallet = self.wallets[npub, alias] = self.store.plant_wallet(npub, url)
            for _ in range(rng.randint(1, 4)):
                self._deposit(npub, alias, wallet, [1 << rng.randrange(9) for _ in range(rng.randint(1, 6))])
            self._plant_junk(npub, url)
            if rng.random() < 0.25:
                gone = rng.choice((TokenStatus.SPENT, TokenStatus.FAILED))
                self._deposit(npub, alias, wallet, [1 << rng.randrange(7) for _ in range(rng.randint(1, 4))], gone)
        return npub

    def _plant_junk(self, npub: str, url: str) -> None:
        """What old code has left: a document that can't be read, and spent proofs that no mint has signed."""
        rng = self.rng
        if rng.random() < 0.1:
            junk = MalformedToken(
                id=self.store.tables.new_id(), reasons=("junk",), npub=npub, mint_url=url, status="unspent"
            )
            self._external(lambda: self.store.plant(junk))
        if rng.random() < 0.1:
            mint = self.mints[self.books.urls[url]][0]
            forged = tuple(replace(mint.issue(1 << rng.randrange(6)), c="02" + "0" * 64) for _ in range(2))
            self._plant_token(npub, None, url, forged, TokenStatus.SPENT, "received")

    def _deposit(
        self, npub: str, alias: MintAlias, wallet: str, amounts: list[int], status: TokenStatus = TokenStatus.UNSPENT
    ) -> None:
        mint, url = self.mints[alias]
        kind = "minted" if status is TokenStatus.UNSPENT else self.rng.choice(("received", "sent"))
        self._plant_token(npub, wallet, url, tuple(mint.issue(amount) for amount in amounts), status, kind)
        if status is not TokenStatus.UNSPENT:
            return
        deposits = self.books.deposits
        deposits[npub, alias] = deposits.get((npub, alias), 0) + sum(amounts)

    def _plant_token(
        self, npub: str, wallet: str | None, url: str, proofs: tuple[Proof, ...], status: TokenStatus, kind: str
    ) -> None:
        token = Token(
            id=self.store.tables.new_id(),
            npub=npub,
            wallet_id=wallet,
            mint_url=url,
            status=status,
            transaction_type=kind,
            transaction_id=f"tx_{self.rng.getrandbits(48):012x}",
            proofs=proofs,
            total_amount=sum(proof.amount for proof in proofs),
            created_at=EPOCH,
            updated_at=EPOCH,
        )
        self._external(lambda: self.store.plant(token))
        if status is not TokenStatus.UNSPENT:
            self.books.unclaimed.add(token.id)

    def _external(self, write: Callable[[], object]) -> None:
        self.books.external = True
        write()
        self.books.external = False

    def _start_instance(self, holder: str) -> None:
        self.started += 1
        ahead_s = self.ahead_s.setdefault(holder, self.rng.choice((0.0, 0.0, 0.0, 3600.0)))
        life = Life(holder=holder, weather=self.weather, name=str(self.started))
        self.trace(f"{holder}: starts")
        self.instances.append(
            Instance(
                life,
                store=self.store,
                mints=self.mints,
                outputs=self.outputs,
                seen=self.seen,
                clock=SimClock(self.loop, ahead_s=ahead_s),
                rng=self.rng,
                tuning=self.tuning,
                spool=self.spools.setdefault(holder, SimSpool()),
            )
        )
        self.clients.append(self.loop.create_task(self._mourn(life)))

    async def _mourn(self, life: Life) -> None:
        """A killed instance comes back, as itself or under another name."""
        await life.died.wait()
        self.crashes += 1
        if self.crashes >= CRASHES_MAX:
            self.weather.crash = 0.0
        await asyncio.sleep(self.rng.choice((0.0, 0.5, 5.0, 30.0)))
        same = self.rng.random() < 0.7
        self._start_instance(life.holder if same else f"i{self.started}")

    def _alive(self) -> list[Instance]:
        return [instance for instance in self.instances if not instance.life.dead]

    # --- running it ---

    def run(self) -> Report:
        """From the start to the books."""
        logs.sink[:] = [self._heard]
        try:
            self.loop.run_until_complete(self._play())
            if not self.books.broken:
                self.books.at_rest()
        except Violation:
            pass
        except Exception as error:  # the engine or the model let something out: that is a failure, too
            self.books.say(f"{type(error).__name__}: {error}")
            if self.tracing:
                raise
        for task in self.clients:
            if task.done() and not task.cancelled() and (died := task.exception()) is not None:
                self.books.say(f"a part of the world died: {type(died).__name__}: {died}")
        for context in self.loop.errors:
            error = context.get("exception")
            self.books.say(f"loop: {context.get('message')}: {type(error).__name__}: {error}")
        self.loop.bury()
        states: dict[str, int] = {}
        for melt in self.store.tables.melts.values():
            word = melt.state.value if melt.kind.value == "melt" else f"reclaim {melt.state.value}"
            states[word] = states.get(word, 0) + 1
        if self.neighbour is not None:
            states |= {"neighbour paid": self.neighbour.paid, "neighbour refused": self.neighbour.refused}
            closed = [one for one in self.store.tables.discrepancies.values() if one.needs_ms]
            states["settled and corrected"] = sum(one.state is DiscrepancyState.CORRECTED for one in closed)
        return Report(self.seed, self.books.broken, states, self.loop.steps, self.loop.time(), self.trace_lines)

    async def _play(self) -> None:
        rng = self.rng
        self._forecast()
        for number in range(rng.choice((1, 1, 1, 2, 2, 3))):
            self._start_instance(f"i{number}")
        burst_s = rng.uniform(0.0, STORM_S / 2) if rng.random() < 0.3 else None
        for _ in range(rng.randint(2, 6)):
            at_s = rng.uniform(0.0, STORM_S * 0.6) if burst_s is None else burst_s + rng.uniform(0.0, 0.05)
            self.clients.append(self.loop.create_task(self._client(at_s)))
        if self.wild:
            accidents = (
                self._mint_restarts,
                self._store_outages,
                self._rotations,
                self._thieves,
                self._service,
                self._operator,
                self._stops,
            )
            for accident in accidents:
                if rng.random() < 0.35:
                    self.clients.append(self.loop.create_task(accident()))
            for _ in range(rng.randrange(3)):
                self.clients.append(self.loop.create_task(self._sweep_sometime()))
            if self.accompanied:
                self.clients.append(self.loop.create_task(keep_company(self)))
        theirs = None
        if self.neighbour is not None:
            theirs = self.loop.create_task(self.neighbour.live(STORM_S))
            self.clients += [theirs, self.loop.create_task(self._tours(theirs))]
        await self._until(lambda: False, STORM_S)
        await self._calm(theirs)

    def _forecast(self) -> None:
        rng, weather = self.rng, self.weather
        if self.wild:
            weather.net = rng.choice((0.0, 0.1, 0.3, 0.6))
            weather.store = rng.choice((0.0, 0.0, 0.02, 0.1))
            weather.crash = rng.choice((0.0, 0.0, 0.003, 0.02))
        self.trace(
            f"seed {self.seed}: lies={self.lies} wild={self.wild} net={weather.net} store={weather.store} "
            f"crash={weather.crash} mints={[GENERATIONS[m.manners.generation] for m, _ in self.mints.values()]} "
            f"{self.tuning}"
        )

    async def _until(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Let time pass; ends the world at the first violation."""
        deadline = self.loop.time() + within_s
        while not holds():
            if self.books.broken:
                raise Violation
            if self.loop.time() >= deadline:
                return False
            await asyncio.sleep(min(10.0 if self.weather.calm else 2.0, deadline - self.loop.time()))
        return True

    async def _calm(self, theirs: asyncio.Task[None] | None) -> None:
        self.storm = False
        weather = self.weather
        weather.net = weather.store = weather.crash = 0.0
        weather.calm = True
        weather.store_down = False
        for mint, _ in self.mints.values():
            if not mint.up:
                mint.start()
        self.trace("world: faults stop")
        ended = await self._until(self._all_ended, REST_S_MAX)
        self.trace(f"world: {'all ended' if ended else 'some melts never ended'}")
        await self._operator()
        await self._until(self._all_ended, 600.0)
        if theirs is not None:
            await self._until(theirs.done, REST_S_MAX)
        settle = self.tuning.settle
        for last in (False, False, True):
            if last and settle.waits and not self._settling():
                break
            for alias in self.mints:
                with contextlib.suppress(Died):
                    await self._alive()[0].sweep(alias)
            await self._until(lambda: False, self.tuning.confirm_after_s + 1)
            if settle.waits:  # what one round leaves behind settles anew
                rest_s = max(settle.correct_after_s, settle.pending_grace_s)
                await self._until(lambda: False, 1.1 * rest_s + 8 * settle.look_s)
        await self._until(self._all_ended, 600.0)
        await self._until(lambda: False, 0.1)

    def _settling(self) -> bool:
        """Whether anything is still to be carried out."""
        return any(one.needs_ms and one.closed_at is None for one in self.store.tables.discrepancies.values())

    async def _operator(self) -> None:
        """A person looks at what is HELD, and decides what may be decided, or leaves it."""
        if self.storm:
            await asyncio.sleep(self.rng.uniform(STORM_S / 3, STORM_S))
        alive = self._alive()
        if not alive:
            return
        for melt in [m for m in self.store.tables.melts.values() if m.state is MeltState.HELD]:
            outcome = self.rng.choice((None, *ResolveAs))
            if outcome is None:
                continue
            self.trace(f"operator: {melt.id} is {outcome}")
            with contextlib.suppress(MeltdError, Died):
                await self.rng.choice(alive).decide(melt, outcome)

    def _all_ended(self) -> bool:
        if any(not task.done() for task in self.seen.server_tasks) or not self._alive():
            return False
        return all(
            not melt.is_open or melt.state is MeltState.HELD for melt in self.store.tables.melts.values()
        ) and all(not instance.engine.in_flight for instance in self._alive())

    # --- those who ask for melts ---

    async def _client(self, at_s: float) -> None:
        """A user with an invoice, who asks again when a connection breaks, and sometimes otherwise."""
        rng = self.rng
        await asyncio.sleep(at_s)
        alias = rng.choice(list(self.mints))
        amount = rng.choice((rng.randint(1, 40), rng.randint(1, 300)))
        request = MeltRequest(
            idempotency_key=f"k{rng.getrandbits(48):012x}",
            npub=rng.choice(self.users),
            mint=alias,
            invoice=f"ln:{self.lightning.new_hash()}:{amount}",
            actor=Actor(name="client"),
        )
        twice = rng.random()
        if twice < 0.15:
            self.clients.append(self.loop.create_task(self._ask(request)))
        elif twice < 0.3:
            other = replace(request, idempotency_key=request.idempotency_key + "b", npub=rng.choice(self.users))
            self.clients.append(self.loop.create_task(self._ask(other)))
        await self._ask(request)

    async def _ask(self, request: MeltRequest) -> None:
        rng = self.rng
        for number in range(4):
            while not self._alive():  # noqa: ASYNC110 - time is virtual, polling is free
                await asyncio.sleep(1.0)
            instance = rng.choice(self._alive())
            try:
                melt = await instance.melt(request, rng.choice((0.0, 1.0, 30.0)))
            except Died:
                await asyncio.sleep(rng.uniform(0.0, 10.0))
                continue
            except MeltdError as error:
                self.trace(f"client: {request.idempotency_key} is told {error.code} ({error.detail})")
                if error.code is Code.CRITICAL_MELT_FAILURE:
                    self.books.say(f"client: {error.detail}")
                if rng.random() < 0.4 or number == 3:
                    return
                await asyncio.sleep(rng.uniform(0.0, 10.0))
                continue
            self._told(melt)
            if not melt.is_open and (melt.state is MeltState.SETTLED or rng.random() < 0.5):
                return
            if melt.state is MeltState.RELEASED:
                request = replace(request, idempotency_key=f"{request.idempotency_key}r{number}")
            await asyncio.sleep(rng.uniform(0.0, 20.0))

    def _told(self, melt: Melt) -> None:
        """What a client is told is not taken back."""
        self.trace(f"client: {melt.idempotency_key} is told {melt.state}")
        stored = self.store.tables.melts[melt.id]
        if not melt.is_open and stored.state is not melt.state:
            self.books.say(f"a client was told {melt.state} of {melt.id}, which is {stored.state}")

    # --- accidents ---

    async def _mint_restarts(self) -> None:
        for mint, _ in self.mints.values():
            await asyncio.sleep(self.rng.uniform(0.0, STORM_S / 2))
            if self.storm:
                mint.stop()
                await asyncio.sleep(self.rng.choice((0.5, 5.0, 20.0)))
                if not mint.up:
                    mint.start()

    async def _store_outages(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            await asyncio.sleep(self.rng.uniform(0.0, STORM_S / 3))
            if self.storm:
                self.trace("store: down")
                self.weather.store_down = True
                await asyncio.sleep(self.rng.choice((0.2, 3.0, 20.0)))
                self.weather.store_down = False
                self.trace("store: up again")

    async def _rotations(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, STORM_S))
        self.rng.choice(list(self.mints.values()))[0].rotate()

    def _some_token(self) -> Token | None:
        """A document whose money is not gone, rather one that a melt holds."""
        gone = {TokenStatus.SPENT, TokenStatus.FAILED}
        tokens = [
            t for t in self.store.tables.tokens.values() if isinstance(t, Token) and t.proofs and t.status not in gone
        ]
        held = [token for token in tokens if token.reservation is not None]
        chosen = held if held and self.rng.random() < 0.6 else tokens
        return self.rng.choice(chosen) if chosen else None

    def _on_refused(self, mint: ModelMint, inputs: Sequence[Proof]) -> None:
        """Others like to come just when a payment has failed."""
        if not self.wild or not self.storm or self.rng.random() > 0.15:
            return

        async def come() -> None:
            await asyncio.sleep(self.rng.uniform(0.0, 4.0))
            proof = self.rng.choice(inputs)
            if self.rng.random() < 0.5:
                mint.take(proof)
            else:
                await mint.borrow(proof, self.rng.uniform(3.0, 15.0), spends=self.rng.random() < 0.3)

        self.clients.append(self.loop.create_task(come()))

    def _on_post(
        self, mint: ModelMint, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]
    ) -> None:
        self.books.on_post(mint, quote_id, inputs, outputs)
        self._disturb(mint, inputs)

    def _on_swap(self, mint: ModelMint, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> None:
        self.books.on_swap(inputs, outputs)
        self._disturb(mint, inputs)

    def _disturb(self, mint: ModelMint, inputs: Sequence[Proof]) -> None:
        """What may happen just before a request arrives: its keyset is rotated away, somebody else uses an input."""
        rng = self.rng
        if not self.wild or not self.storm:
            return
        draw = rng.random()
        if draw < 0.03 and len(mint.keysets) < KEYSETS_MAX:
            mint.rotate()
        elif draw < 0.06:
            borrowed = mint.borrow(rng.choice(inputs), rng.uniform(0.5, 8.0), spends=rng.random() < 0.3)
            self.clients.append(self.loop.create_task(borrowed))

    async def _thieves(self) -> None:
        """Somebody else has a copy of a proof, and spends it."""
        for _ in range(self.rng.randint(1, 4)):
            await asyncio.sleep(self.rng.uniform(0.0, STORM_S / 4))
            token = self._some_token()
            if token is None or not self.storm:
                return
            mint, proof = self.mints[self.books.urls[token.mint_url]][0], self.rng.choice(token.proofs)
            if self.rng.random() < 0.5:
                mint.take(proof)
            else:
                await mint.borrow(proof, self.rng.uniform(0.5, 15.0), spends=self.rng.random() < 0.5)

    async def _service(self) -> None:
        """The wallet service spends a document of its own accord, and writes it down at once or a while later."""
        for _ in range(self.rng.randint(1, 3)):
            await asyncio.sleep(self.rng.uniform(0.0, STORM_S / 3))
            token = self._some_token()
            if token is None or token.status is not TokenStatus.UNSPENT or not self.storm:
                continue
            mint = self.mints[self.books.urls[token.mint_url]][0]
            if any(mint.state(proof.y) is not MintState.UNSPENT for proof in token.proofs):
                continue
            for proof in token.proofs:
                mint.take(proof)
            await asyncio.sleep(self.rng.choice((0.0, 0.01, 3.0)))
            present = self.store.tables.tokens.get(token.id)
            if isinstance(present, Token) and present.status is token.status and present.proofs == token.proofs:
                spent = replace(present, status=TokenStatus.SPENT, spent_at=self.clock.now())
                self._external(lambda spent=spent: self.store.plant(spent))
                self.trace(f"service: {token.id} is spent")

    async def _stops(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, STORM_S))
        alive = self._alive()
        if alive:
            await self.rng.choice(alive).stop(self.rng.choice((0.0, 0.5, 5.0)))

    async def _tours(self, theirs: asyncio.Task[None]) -> None:
        """Tours, as long as another service is at work."""
        while not theirs.done():
            await asyncio.sleep(self.rng.choice((3.0, 20.0, 60.0)))
            alive = self._alive()
            if alive:
                with contextlib.suppress(Died):
                    await self.rng.choice(alive).sweep(self.rng.choice(list(self.mints)))

    async def _sweep_sometime(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, STORM_S))
        alive = self._alive()
        if alive:
            with contextlib.suppress(Died):
                await self.rng.choice(alive).sweep(self.rng.choice(list(self.mints)))


def play(seed: int, *, tracing: bool = False) -> Report:
    """Run one seed."""
    return World(seed, tracing=tracing).run()
