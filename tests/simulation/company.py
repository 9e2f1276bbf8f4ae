"""
Another writer in the world: it does to documents that a melt has reserved what services do every day.

It fails what has been pending for long, calls it spent or unspent, deletes it, stores it anew, moves a part of it into a
document of its own, or writes back what it read before the reservation. It never asks the mint for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from melt.model import Token, TokenStatus

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOKS: Final = 120
"""How often it looks for something to do."""


async def keep_company(world: World) -> None:
    """Now and then, while the storm lasts, something to one document or to all of one melt."""
    for _ in range(LOOKS):
        await asyncio.sleep(world.rng.choice((0.02, 0.2, 2.0)) * world.rng.random())
        found = _reserved(world)
        if not world.storm:
            return
        if not found:
            continue
        deed = world.rng.choice(tuple(DEEDS))
        first = world.rng.choice(found)
        same = [token for token in found if token.reservation == first.reservation]
        for token in same if world.rng.random() < 0.5 else [first]:
            world.trace(f"another writer: {deed} of {token.id}")
            _write(world, token, DEEDS[deed])


def _reserved(world: World) -> list[Token]:
    tables = world.store.tables
    return [
        token
        for token in tables.tokens.values()
        if isinstance(token, Token) and token.reservation is not None and token.proofs
    ]


def _write(world: World, token: Token, deed: Callable[[World, Token], None]) -> None:
    world.books.external = True
    try:
        with world.store.tables.transaction():
            deed(world, token)
    finally:
        world.books.external = False


def _set(world: World, token: Token, status: TokenStatus) -> None:
    """As Mongoose does: no ``rev``, and the reservation stays as an unknown field."""
    world.store.tables.put_token(token.id, replace(token, status=status, updated_at=world.clock.now()))
    if status in {TokenStatus.SPENT, TokenStatus.FAILED}:
        world.books.called_final.add(token.id)


def _store(world: World, like: Token, proofs: tuple[object, ...]) -> None:
    tables = world.store.tables
    held = tuple(proof for proof in like.proofs if proof in proofs)
    made = replace(
        like,
        id=tables.new_id(),
        status=TokenStatus.UNSPENT,
        proofs=held,
        total_amount=sum(proof.amount for proof in held),
        reservation=None,
        rev=None,
        transaction_id=f"tx_other_{world.rng.getrandbits(48):012x}",
    )
    tables.put_token(made.id, made)


def _fail(world: World, token: Token) -> None:
    _set(world, token, TokenStatus.FAILED)


def _spend(world: World, token: Token) -> None:
    _set(world, token, TokenStatus.SPENT)


def _unspend(world: World, token: Token) -> None:
    _set(world, token, TokenStatus.UNSPENT)


def _delete(world: World, token: Token) -> None:
    world.books.dropped.append(token)
    world.store.tables.drop_token(token.id)


def _replace(world: World, token: Token) -> None:
    world.store.tables.drop_token(token.id)
    _store(world, token, token.proofs)


def _split(world: World, token: Token) -> None:
    half = len(token.proofs) // 2
    if not half:
        return
    kept = token.proofs[half:]
    world.store.tables.put_token(
        token.id, replace(token, proofs=kept, total_amount=sum(proof.amount for proof in kept))
    )
    _store(world, token, token.proofs[:half])


def _unreserve(world: World, token: Token) -> None:
    world.books.unreserved.update(proof.y for proof in token.proofs)
    world.store.tables.put_token(token.id, replace(token, reservation=None))


def _take_back(world: World, token: Token) -> None:
    world.store.tables.put_token(token.id, replace(token, reservation=None, status=TokenStatus.UNSPENT))


DEEDS: Final[dict[str, Callable[[World, Token], None]]] = {
    "fail": _fail,
    "spend": _spend,
    "unspend": _unspend,
    "delete": _delete,
    "replace": _replace,
    "split": _split,
    "unreserve": _unreserve,
    "take back": _take_back,
}
