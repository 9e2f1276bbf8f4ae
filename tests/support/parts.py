"""One daemon's engine in this process, put together by the daemon's own composition, over the real store and a given mint."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import settings as settings_of
from daemon.bootstrap import looking
from daemon.bootstrap.ground import Ground, lay_ground
from daemon.bootstrap.paying import Paying, make_paying
from melt.caps import CapPolicy, Caps
from melt.ecash import Seed
from melt.model import Actor, MintAlias, TokenStatus
from melt.reconcile import Outcome
from melt.saga import MeltRequest
from tests.support.store import insert_token, insert_wallet, npub

if TYPE_CHECKING:
    from bson import ObjectId

    from melt.model import Melt
    from tests.support.played_mint import PlayedMint

QUICK: dict[str, Any] = {
    "melt": {"release_confirm_s": 0.05, "post_grace_s": 0.2, "reserve_wait_s": 0.3, "post_timeout_s": 5},
    # Nobody else writes this database: nothing has to settle.
    "sweep": {
        "confirm_after_s": 0.05,
        "spent_confirm_s": 0.01,
        "signature_sample_share": 0,
        "correct_after_s": 0,
        "alert_after_s": 0,
    },
}
MAIN = MintAlias("main")
EVERYTHING = tuple(TokenStatus)


@dataclass
class Parts:
    """The engine, its watcher at work, and what a test needs to arrange and to judge."""

    ground: Ground
    paying: Paying
    mint: PlayedMint
    db: Any
    wallets: dict[str, ObjectId] = field(default_factory=dict)

    def user(self, unit: str = "sat") -> str:
        """A new user with a wallet document."""
        owner = npub()
        self.wallets[owner] = insert_wallet(self.db, owner, self.mint.url, unit)
        return owner

    def hold(self, owner: str, *proofs: dict[str, Any], **more: Any) -> str:
        """One document with these proofs; its id."""
        more.setdefault("mint_url", self.mint.url)
        return insert_token(self.db, owner, proofs, wallet_id=self.wallets[owner], **more)

    async def fund(self, *amounts: int, **more: Any) -> str:
        """A new user with good ecash in one document."""
        owner = self.user()
        self.hold(owner, *self.mint.issue(*amounts, **more))
        return owner

    async def pay(self, owner: str, invoice: str, *, wait_s: float = 20.0, **more: Any) -> Melt:
        """Pay, and wait for the end. Raises MeltdError."""
        request = MeltRequest(
            idempotency_key=secrets.token_hex(8),
            npub=owner,
            mint="main",
            invoice=invoice,
            actor=Actor(name="test"),
            **more,
        )
        return await self.paying.engine.melt(request, wait_s=wait_s)

    async def tour(self, outcome: Outcome | None = None) -> Outcome:
        """One look at every document, by the daemon's own reconciler."""
        outcome = Outcome() if outcome is None else outcome
        reconciler = looking._reconciler(self.ground, self.paying, Caps(CapPolicy()))
        mint = self.ground.mints[MAIN]
        await reconciler.meet(mint)
        tour = self.ground.store.tour(EVERYTHING, (mint.url,), None)
        while page := await self.ground.threads(lambda: tour.next_page(100)):
            await reconciler.page(mint, page, outcome, dry_run=False, actor=Actor(name="sweep"))
        tour.close()
        return outcome

    # --- judging ---

    def documents(self, owner: str) -> list[dict[str, Any]]:
        return list(self.db["cashu_tokens"].find({"npub": owner}))

    def counted(self, owner: str) -> int:
        """What the wallet service shows its user: the sum of what is unspent."""
        return sum(
            int(proof["amount"])
            for document in self.documents(owner)
            if document["status"] == "unspent"
            for proof in document["proofs"]
        )

    def honoured(self, owner: str) -> int:
        """What the mint still honours of it."""
        return sum(
            int(proof["amount"])
            for document in self.documents(owner)
            if document["status"] == "unspent"
            for proof in document["proofs"]
            if self.mint.honours(proof)
        )

    def events(self, *, open_only: bool = True) -> list[str]:
        return [event.type.value for event in self.ground.store.events(open_only=open_only, limit=100)]

    def drift(self, *, of: str | None = None) -> list[Any]:
        """Open records."""
        found = self.ground.store.discrepancies(states=(), types=(), severities=(), npub=None, limit=100)
        return [one for one in found if of is None or one.type.value == of]

    def melts(self) -> list[Melt]:
        return list(self.ground.store.list_melts(npub=None, states=(), limit=100))


@contextlib.asynccontextmanager
async def parts(
    mint: PlayedMint, *, uri: str, db: Any, folder: Path, settings: dict[str, Any] | None = None
) -> AsyncIterator[Parts]:
    """The engine over ``db`` and a mint that is up already."""
    given = {section: {**QUICK.get(section, {}), **(settings or {}).get(section, {})} for section in QUICK}
    given |= {name: value for name, value in (settings or {}).items() if name not in QUICK}
    loaded = settings_of.load(
        environ={},
        config=folder / "none.toml" if (folder / "none.toml").exists() else None,
        overrides={
            "data_dir": folder,
            "mongo": {"uri": uri, "database": db.name, "retry_writes": False},
            "mints": {"main": {"url": mint.url, **given.pop("mint", {})}},
            **given,
        },
    )
    ground = lay_ground(loaded, seed=Seed(secrets.token_bytes(32)), uri=uri, holder=secrets.token_hex(4), version="0")
    await ground.threads(lambda: ground.store.ensure_schema("auto"))
    await ground.mode.refresh()
    paying = make_paying(ground)
    watching = asyncio.create_task(_watch(ground, paying))
    try:
        yield Parts(ground=ground, paying=paying, mint=mint, db=db)
    finally:
        await paying.engine.drain(1.0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await paying.watcher.stop()
        for one in ground.mints.values():
            await one.aclose()
        await ground.work.aclose()
        await ground.threads.aclose()
        ground.store.close()


async def until(what: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Poll until it is so; what it was then."""
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.02)
    return found


async def _watch(ground: Ground, paying: Paying) -> None:
    """As the daemon's loop does."""
    while True:
        paying.engine.followed.clear()
        delay = await paying.watcher.tick()
        await ground.clock.wait(paying.engine.followed, min(delay, 0.5))
