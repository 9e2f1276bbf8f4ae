"""One row carried out: a user, a payment, another writer who comes between, and a judge who believes nobody but the mint."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from melt.errors import MeltdError
from melt.model import Actor, EventType, MeltState, ResolveAs
from melt.recovery import look, resolve
from tests.company.deeds import DEEDS, TAKING, Neighbour
from tests.company.life import Between, Died, FastClock, Life, Mint, Store
from tests.support.mint import HttpRefusal, TestWallet
from tests.support.store import insert_token, insert_wallet, npub

if TYPE_CHECKING:
    from pymongo.database import Database

    from melt.ecash import Seed
    from melt.mint import HttpMint
    from melt.model import Melt
    from melt.store import MongoStore, Threads
    from tests.company.rows import Row
    from tests.support.mint import MintProcess

AMOUNT: Final = 100
PATIENT_S: Final = 90.0
REQUESTS_OF_A_PAYMENT: Final = 30
"""What a payment, its swap, its fence and a person's decision ask the mint in all; beyond it, one a second at most."""
TRIES: Final = 5
OPERATOR: Final = Actor(name="socket", uid=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a row ended, and what is wrong with that."""

    row: Row
    state: str
    decided: str | None
    requests: int
    seconds: float
    problems: tuple[str, ...]


@dataclass(kw_only=True)
class Ground:
    """What all rows share."""

    mint: MintProcess
    store: MongoStore
    db: Database[dict[str, Any]]
    threads: Threads
    seed: Seed
    client: HttpMint


@dataclass(kw_only=True)
class Bench:
    """One row."""

    ground: Ground
    row: Row
    owner: str = field(default_factory=npub)
    clock: FastClock = field(default_factory=FastClock)
    holder: str = field(default_factory=lambda: f"row-{secrets.token_hex(6)}")
    funded: int = 0
    refused: str | None = None
    decided: str | None = None
    problems: list[str] = field(default_factory=list)

    async def perform(self) -> Ended:
        """From the first document to the judge."""
        began = monotonic()
        await self._fund()
        script = self.row.story.script
        invoice = await self.ground.mint.invoice(AMOUNT, **script)
        self.other = Neighbour(db=self.ground.db, wallet=TestWallet(self.ground.mint.url), owner=self.owner)
        self.between = Between(point=self.row.point, deed=self._deed, kills=self.row.kills)
        story = self.row.story
        self.mint = Mint(self.ground.client, self.between, self.clock, posts=story.posts, denies=story.denies)
        melt = await self._live(invoice)
        await self._judge(melt, invoice)
        state = "refused" if melt is None else melt.state.value
        return Ended(
            row=self.row,
            state=state,
            decided=self.decided,
            requests=len(self.mint.asked),
            seconds=monotonic() - began,
            problems=tuple(self.problems),
        )

    async def _fund(self) -> None:
        """Two documents, of which the payment needs proofs of both, and leaves one proof over."""
        wallet_id = insert_wallet(self.ground.db, self.owner, self.ground.mint.url)
        wallet = TestWallet(self.ground.mint.url)
        for amounts in ([64, 4], [32, 16]):
            proofs = await _minted(wallet, amounts)
            self.funded += sum(amounts)
            insert_token(self.ground.db, self.owner, proofs, wallet_id=wallet_id, mint_url=self.ground.mint.url)

    def _deed(self) -> None:
        """The other writer's turn."""
        tokens = self.ground.db["cashu_tokens"]
        chosen: dict[str, Any] = {"npub": self.owner}
        if self.row.point != "chosen":
            chosen["reservation"] = {"$exists": True}
        found = sorted(tokens.find(chosen), key=lambda document: -int(document["total_amount"]))
        found = [document for document in found if document.get("proofs")]
        for document in found if self.row.scope == "all" else found[:1]:
            DEEDS[self.row.deed](self.other, document)

    def _start(self) -> Life:
        self.between.dead = False
        store, seed = Store(self.ground.store, self.between), self.ground.seed
        return Life(
            store,
            self.mint,
            threads=self.ground.threads,
            seed=seed,
            clock=self.clock,
            holder=self.holder,
            exact=self.row.story.exact,
        )

    async def _live(self, invoice: Any) -> Melt | None:
        """The entry at its end; None where the request was refused before anything was written."""
        life = self._start()
        key, melt = f"key-{secrets.token_hex(8)}", None
        deadline = monotonic() + PATIENT_S
        resolved = False
        try:
            while True:
                if self.between.dead:
                    await life.end()
                    life = self._start()
                try:
                    melt = melt or await life.pay(self.owner, invoice.invoice, key)
                    melt = await life.entry(melt.id)
                except Died:
                    continue
                except MeltdError as error:
                    if error.melt_id is None:
                        self.refused = error.code.value
                        return None
                if melt is not None and not melt.is_open and not life.engine.is_active(melt.id):
                    return melt
                if melt is not None and melt.state is MeltState.PENDING and self.row.story.then and not resolved:
                    resolved = True
                    await self.ground.mint.resolve(invoice.payment_hash, self.row.story.then)
                if melt is not None and melt.state is MeltState.HELD and self._event(melt) is not None:
                    await self._decide(life, melt)
                if monotonic() > deadline:
                    self.problems.append(f"it does not end: {melt.state if melt else None}, {self.between.passed}")
                    return melt
                await asyncio.sleep(0.03)
        finally:
            self.events = await life.threads(lambda: life.store.events(open_only=False, limit=1000))
            await life.end()

    def _event(self, melt: Melt) -> str | None:
        found = self.ground.db["meltd_events"].find_one({"subject": f"melt:{melt.id}", "open": True})
        return None if found is None else str(found["type"])

    async def _decide(self, life: Life, melt: Melt) -> None:
        """A person does what may be done, the payment first."""
        sight = await look(life.recovery, melt)
        for outcome in (ResolveAs.SETTLED, ResolveAs.RELEASED, ResolveAs.INPUTS_GONE):
            if sight.forbidden[outcome] is None:
                self.decided = outcome.value
                try:
                    await resolve(life.recovery, melt, outcome, reason="seen", actor=OPERATOR, holder=self.holder)
                except MeltdError as error:
                    self.problems.append(f"decided {outcome}, and refused: {error.detail}")
                return

    # --- the judge ---

    async def _judge(self, melt: Melt | None, invoice: Any) -> None:
        paid = (await self.ground.mint.payments()).get(invoice.payment_hash)
        times = 0 if paid is None else paid.paid
        self._require(times <= 1, f"paid {times} times")
        broken = [e for e in self.events if e.type is EventType.INVARIANT_BROKEN and self.owner in e.subject]
        self._require(not broken, f"InvariantBroken: {[event.detail for event in broken]}")
        self._require(self.between.happened, f"{self.row.point} was never passed: {self.between.passed}")
        if melt is None:
            self._require(times == 0, "refused, and paid")
        elif not melt.is_open:
            self._judge_end(melt, times)
        await self._judge_money(melt, times)
        elapsed = self.mint.asked[-1][0] - self.mint.asked[0][0] if self.mint.asked else 0.0
        allowed = REQUESTS_OF_A_PAYMENT + elapsed
        self._require(len(self.mint.asked) <= allowed, f"{len(self.mint.asked)} requests in {elapsed:.0f} s")

    def _judge_end(self, melt: Melt, times: int) -> None:
        raw = self.ground.db["meltd_melts"].find_one({"_id": melt.id}) or {}
        self._require("proofs" not in raw, "the ended entry keeps its proofs")
        still = self.ground.db["meltd_events"].count_documents({"subject": f"melt:{melt.id}", "open": True})
        self._require(not still, "its event is open still")
        left = list(self.ground.db["cashu_tokens"].find({"reservation.melt_id": melt.id}))
        self._require(not left, f"{len(left)} documents carry its reservation")
        if melt.state is MeltState.RELEASED:
            self._require(times == 0, "RELEASED, and paid")
            self._require("claim" not in raw, "RELEASED, and the invoice stays claimed")
            return
        self._require(raw.get("claim") == melt.payment_hash, "the claim on the invoice is gone")
        if melt.inputs_gone:
            self._require(melt.paid_amount is None, f"nobody knows, and {melt.paid_amount} is called paid")
        else:
            self._require(times == 1 and melt.paid_amount == AMOUNT, f"SETTLED, and paid {times} times")
        changed = self.row.deed != "use" and self.row.point != "chosen"
        self._require(not changed or melt.altered or self._harmless(melt), "what the other did is told by nothing")

    def _harmless(self, melt: Melt) -> bool:
        """The deed was done to documents that were none of the entry's any more."""
        ids = {str(ref.token_id) for ref in melt.inputs} | {str(one) for one in melt.source_token_ids}
        return not (self.other.touched & ids)

    async def _judge_money(self, melt: Melt | None, times: int) -> None:
        """All that the mint honours lies in a document, and nothing that it has taken counts, unless that is on record."""
        documents = list(self.ground.db["cashu_tokens"].find({"npub": {"$in": [self.owner, self.other.stranger]}}))
        proofs = {proof["secret"]: proof for document in documents for proof in document["proofs"]}
        wallet = TestWallet(self.ground.mint.url)
        names = list(proofs)
        states = dict(zip(names, await wallet.states([proofs[name] for name in names]), strict=True)) if names else {}
        honoured = sum(int(proofs[name]["amount"]) for name in names if states[name] == "UNSPENT")
        out = self._left(melt, times) + self.other.fees
        if self.row.point == "chosen":  # nothing was reserved yet: that is nobody's loss but its own
            out += self.other.dropped
        expected = self.funded + self.other.minted - out
        self._require(honoured == expected, f"the mint honours {honoured} of what lies there, not {expected}")
        live = [document for document in documents if document["status"] == "unspent"]
        counted = [proof["secret"] for document in live for proof in document["proofs"]]
        self._require(len(counted) == len(set(counted)), "a proof counts twice")
        self._judge_counted(melt, live, states)

    def _left(self, melt: Melt | None, times: int) -> int:
        """What has left the user, as the mint's node tells it."""
        if melt is None:
            return 0
        fee = AMOUNT + 1 + melt.input_fee if times else 0
        lost = 0
        if melt.inputs_gone and times:
            lost = melt.inputs_amount - fee  # the change that the mint denies
        return fee + lost + melt.swap_fee

    def _judge_counted(self, melt: Melt | None, live: Iterable[dict[str, Any]], states: dict[str, str]) -> None:
        known = {str(one.token_id) for one in melt.altered} if melt is not None else set()
        others = self.other.made | self.other.touched if self.row.point == "chosen" or melt is None else self.other.made
        for document in live:
            gone = [proof for proof in document["proofs"] if states[proof["secret"]] == "SPENT"]
            identity = str(document["_id"])
            # What it used, and has not yet written down, is found by a tour like anywhere else.
            used = self.row.deed in TAKING and (
                melt is None or melt.state is MeltState.RELEASED or self.row.point == "chosen"
            )
            if gone and identity not in known | others and not used:
                self.problems.append(f"{len(gone)} proofs count and are SPENT, and nothing tells of it: {identity}")

    def _require(self, holds: object, text: str) -> None:
        if not holds:
            self.problems.append(text)


async def _minted(wallet: TestWallet, amounts: list[int]) -> list[Any]:
    """Real ecash; the mint's own database is now and then too busy with all the other rows."""
    for _ in range(TRIES):
        with contextlib.suppress(HttpRefusal):
            return list(await wallet.mint(sum(amounts), amounts=amounts))
        await asyncio.sleep(0.5)
    return list(await wallet.mint(sum(amounts), amounts=amounts))
