"""
A wallet service beside meltd, which pays from the same database in its own way.

It chooses whole ``unspent`` documents, swaps, waits for Lightning with the new proofs in its memory alone, and comes back to
its source documents: where one is not as it was, it stops and throws its money away. Proofs that the swap does not need are
kept unchanged, so that they lie in the spent source and in the new document. It hands tokens out, mints with a pending document
that its poller fills or fails, and is killed now and then. It writes no ``rev``, and knows nothing of meltd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from melt.model import MintAlias, MintState, Proof, Token, TokenId, TokenStatus
from melt.ports import Clock
from tests.simulation.books import Books
from tests.simulation.model_mint import DENOMINATIONS, ModelMint
from tests.simulation.model_store import ModelStore

UNSPENT, PENDING, SPENT, FAILED = TokenStatus.UNSPENT, TokenStatus.PENDING, TokenStatus.SPENT, TokenStatus.FAILED
KILLED = 0.12
"""Chance that a payment's owner dies at a step."""


@dataclass(slots=True)
class Neighbour:
    """One service. ``shared`` are users whom meltd pays from, too: there the two may lose to each other, as two copies of it would."""

    store: ModelStore
    mints: dict[MintAlias, tuple[ModelMint, str]]
    books: Books
    rng: Random
    clock: Clock
    external: Callable[[Callable[[], object]], None]
    trace: Callable[[str], None]
    wallets: dict[tuple[str, MintAlias], str]
    users: Sequence[str]
    shared: frozenset[str]
    correct_after_s: float
    paid: int = 0
    refused: int = 0
    lost: int = 0
    number: int = field(default=0)

    async def live(self, storm_s: float) -> None:
        """Everything that it does; ends with its last payment."""
        rng = self.rng
        tasks = [self._sometime(storm_s, self._pay) for _ in range(rng.randint(1, 5))]
        tasks += [self._sometime(storm_s, self._send) for _ in range(rng.randint(0, 2))]
        tasks += [self._sometime(storm_s, self._mint) for _ in range(rng.randint(0, 2))]
        tasks += [self._sometime(storm_s, self._leave_pending) for _ in range(rng.randint(0, 1))]
        tasks += [self._touch(storm_s) for _ in range(rng.randint(0, 1))]
        await asyncio.gather(*tasks)

    async def _sometime(self, storm_s: float, what: Callable[[str, MintAlias], object]) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, storm_s))
        done = what(self.rng.choice(list(self.users)), self.rng.choice(list(self.mints)))
        await done  # type: ignore[misc]

    async def _latency(self) -> None:
        await asyncio.sleep(self.rng.choice((0.001, 0.01, 0.05, 1.0)))

    def _lightning_s(self) -> float:
        """Mostly soon; a held invoice as long as it is held, which a careful operator has asked about before."""
        rng, settles_s = self.rng, self.correct_after_s
        longest = rng.choice((0.95, 0.95, 1.5, 3.0)) * settles_s
        return rng.choice((0.0, rng.uniform(0.0, 15.0), rng.uniform(0.0, 0.95 * settles_s), longest))

    # --- its database ---

    def _unspent(self, npub: str, alias: MintAlias) -> list[Token]:
        url = self.mints[alias][1]
        mine = [
            token
            for token in self.store.tables.tokens.values()
            if isinstance(token, Token)
            and token.npub == npub
            and token.mint_url == url
            and token.status is UNSPENT
            and token.transaction_type != "sent"
            and token.proofs
        ]
        return sorted(mine, key=lambda token: (token.created_at or self.clock.now(), token.id))

    def _plant(
        self, npub: str, alias: MintAlias, proofs: Sequence[Proof], status: TokenStatus, kind: str, name: str
    ) -> TokenId:
        now = self.clock.now()
        token = Token(
            id=self.store.tables.new_id(),
            npub=npub,
            wallet_id=self.wallets[npub, alias],
            mint_url=self.mints[alias][1],
            status=status,
            transaction_type=kind,
            transaction_id=name,
            proofs=tuple(proofs),
            total_amount=sum(proof.amount for proof in proofs),
            created_at=now,
            updated_at=now,
        )
        self.external(lambda: self.store.plant(token))
        return token.id

    def _set(self, token_id: TokenId, **changes: object) -> None:
        present = self.store.tables.tokens[token_id]
        changed = replace(present, updated_at=self.clock.now(), **changes)  # type: ignore[call-overload]
        self.external(lambda: self.store.plant(changed))

    def _as_it_was(self, source: Token) -> bool:
        present = self.store.tables.tokens[source.id]
        return isinstance(present, Token) and present.status is UNSPENT and present.proofs == source.proofs

    def _issue(self, mint: ModelMint, amount: int) -> list[Proof]:
        return [mint.issue(bit) for bit in DENOMINATIONS if amount & bit]

    # --- steps ---

    async def _choose(self, npub: str, alias: MintAlias, amount: int) -> list[Token]:
        """Step 1: whole documents, the oldest first; none where the mint calls one of their proofs anything but UNSPENT."""
        chosen: list[Token] = []
        for token in self._unspent(npub, alias):
            if sum(one.amount for one in chosen) >= amount:
                break
            chosen.append(token)
        await self._latency()
        mint = self.mints[alias][0]
        if not mint.up or sum(one.amount for one in chosen) < amount:
            return []
        good = all(mint.state(proof.y) is MintState.UNSPENT for token in chosen for proof in token.proofs)
        return chosen if good else []

    def _swap(self, mint: ModelMint, sources: Sequence[Token], amount: int) -> tuple[list[Proof], list[Proof], int]:
        """
        Step 2: what is swapped is SPENT from here on, while its documents say ``unspent``.

        What was not needed and is kept as it is, what was swapped, and what the swap gives back beyond ``amount``.
        """
        pool = [proof for token in sources for proof in token.proofs]
        if not mint.up or any(mint.state(proof.y) is not MintState.UNSPENT for proof in pool):
            return [], [], 0
        self.rng.shuffle(pool)
        swapped: list[Proof] = []
        while pool and sum(proof.amount for proof in swapped) < amount:
            swapped.append(pool.pop())
        for proof in swapped:
            mint.take(proof)
        return pool, swapped, sum(proof.amount for proof in swapped) - amount

    def _spend_sources(
        self, name: str, npub: str, sources: Sequence[Token], swapped: Sequence[Proof], at_s: float
    ) -> bool:
        """Step 4: where one is not as it was, everything in memory is thrown away."""
        alias = self.books.urls[sources[0].mint_url]
        if not all(map(self._as_it_was, sources)):
            self._loses(name, npub, sources, at_s)
            return False
        gone = {proof.y for proof in swapped}
        for source in sources:
            self._set(source.id, status=SPENT, spent_at=self.clock.now())
            self.books.leaves(npub, alias, [proof for proof in source.proofs if proof.y not in gone])
        return True

    def _loses(self, name: str, npub: str, sources: Sequence[Token], at_s: float) -> None:
        took_s = self.books.now() - at_s
        by_us = [one.id for one in sources if self.books.standing.ours_s.get(one.id, -1.0) >= at_s]
        self.refused += 1
        self.trace(f"neighbour: {name} is refused after {took_s:.1f} s, and its change is gone")
        if by_us and npub not in self.shared:
            self.lost += 1
            allowed = took_s >= self.correct_after_s
            self.books.require(allowed, f"I13: the neighbour lost {name} after {took_s:.1f} s: we wrote {by_us[0]}")

    def _keep(self, npub: str, alias: MintAlias, proofs: Sequence[Proof], name: str) -> None:
        if proofs:
            self._plant(npub, alias, proofs, UNSPENT, "change", name)
            self.books.arrives(npub, alias, proofs)

    def _name(self, what: str) -> str:
        self.number += 1
        return f"tx_{what}_{self.number}"

    # --- what it does ---

    async def _pay(self, npub: str, alias: MintAlias) -> None:
        rng, mint, name = self.rng, self.mints[alias][0], self._name("pay")
        amount = rng.choice((rng.randint(1, 40), rng.randint(1, 300)))
        sources = await self._choose(npub, alias, amount)
        if not sources:
            return
        await self._latency()
        kept, swapped, left = self._swap(mint, sources, amount)
        if not swapped:
            return
        at_s = self.books.now()
        fresh = self._issue(mint, max(0, left - 1))
        lasts_s = self._lightning_s()
        self.trace(f"neighbour: {name} pays {amount} from {[one.id[-4:] for one in sources]} in {lasts_s:.1f} s")
        await asyncio.sleep(lasts_s)
        if rng.random() < KILLED:
            self.trace(f"neighbour: {name} is killed before it writes")
            return
        if not self._spend_sources(name, npub, sources, swapped, at_s) or rng.random() < KILLED / 4:
            return
        self.paid += 1
        await self._latency()
        self._keep(npub, alias, [*kept, *fresh], f"{name}_keep")
        if rng.random() < KILLED / 4:
            return
        await self._latency()
        self._keep(npub, alias, self._issue(mint, rng.choice((0, 1, 2, 5))), f"{name}_melt_change")

    async def _send(self, npub: str, alias: MintAlias) -> None:
        """A token for somebody: in one piece where it can be, else swapped; called unspent by old code, spent by new."""
        rng, mint, name = self.rng, self.mints[alias][0], self._name("send")
        sources = await self._choose(npub, alias, rng.randint(1, 60))
        if not sources:
            return
        held = [proof for source in sources for proof in source.proofs]
        if rng.random() < 0.4:
            swapped, handed, kept = [], held[:1], held[1:]
        else:
            kept, swapped, left = self._swap(mint, sources, sum(proof.amount for proof in held[:1]))
            if not swapped:
                return
            handed = self._issue(mint, sum(proof.amount for proof in held[:1]))
            kept = [*kept, *self._issue(mint, left)]
        if not self._spend_sources(name, npub, sources, swapped, self.books.now()):
            return
        await self._latency()
        self._plant(npub, alias, handed, rng.choice((UNSPENT, UNSPENT, SPENT)), "sent", name)
        await self._latency()
        self._keep(npub, alias, kept, f"{name}_keep")
        if rng.random() < 0.7:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 30.0), rng.uniform(0.0, 2 * self.correct_after_s))))
            for proof in handed if rng.random() < 0.7 else handed[: len(handed) // 2]:
                mint.take(proof)
            self.trace(f"neighbour: {name} is redeemed")

    async def _mint(self, npub: str, alias: MintAlias) -> None:
        """A pending document without proofs, which the poller fills, or fails by its age."""
        rng, mint, name = self.rng, self.mints[alias][0], self._name("mint")
        token_id = self._plant(npub, alias, (), PENDING, "minted", name)
        await asyncio.sleep(rng.uniform(0.0, 180.0))
        if rng.random() < 0.4:
            self._set(token_id, status=FAILED)
            return
        proofs = self._issue(mint, rng.randint(1, 200))
        self._set(token_id, status=UNSPENT, proofs=tuple(proofs), total_amount=sum(proof.amount for proof in proofs))
        self.books.arrives(npub, alias, proofs)

    async def _leave_pending(self, npub: str, alias: MintAlias) -> None:
        """A document left pending; a clean-up sets it failed by its age, wherever meltd's own look has come to."""
        rng, mint, name = self.rng, self.mints[alias][0], self._name("left")
        proofs = self._issue(mint, rng.randint(1, 100))
        token_id = self._plant(npub, alias, proofs, PENDING, "received", name)
        self.books.arrives(npub, alias, proofs)
        await asyncio.sleep(rng.uniform(0.0, 1.5 * self.correct_after_s))
        present = self.store.tables.tokens[token_id]
        if isinstance(present, Token) and present.status is PENDING and present.reservation is None:
            self.trace(f"neighbour: {name} is failed by its age")
            self._set(token_id, status=FAILED)
            self.books.leaves(npub, alias, present.proofs)

    async def _touch(self, storm_s: float) -> None:
        """Fields of its own, written all the time."""
        for _ in range(20):
            await asyncio.sleep(storm_s / 5)
            tokens = [token.id for token in self.store.tables.tokens.values() if isinstance(token, Token)]
            if tokens:
                self._set(self.rng.choice(tokens))
