"""A payment at the real mint over the real store, up to its end in the journal, and a restore of what was lost of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from daemon.metrics import Metrics
from daemon.restore import Restores, RoundPolicy
from daemon.system import SystemClock, SystemEntropy
from melt.caps import CapPolicy, Caps
from melt.corrections import Corrections
from melt.ecash import Seed, y_of
from melt.events import CriticalEvents
from melt.mint import HttpMint
from melt.model import Actor, BlindedMessage, MeltState, MintAlias, PostOutcome, ProofState, QuoteState, Restored, Token
from melt.model.restore import RestoreReport, RestoreScope
from melt.reconcile import ReconcilePolicy, Reconciler
from melt.recovery import Patience, Recovery, RecoveryPolicy
from melt.recovery.reclaim import reclaim
from melt.restore import RestorePolicy, Restorer
from melt.sentinels import Sentinels
from melt.store import Threads
from tests.support.mint import TestWallet
from tests.support.store import insert_token, insert_wallet, make_melt, npub, warrant_of, written_off

if TYPE_CHECKING:
    from melt.model import Melt, MintInfo, QuoteId
    from melt.store import MongoStore
    from tests.support.mint import MintProcess

MAIN = MintAlias("main")
INPUT = 128
"""One proof that pays 100: 26 come back as change, in three signatures, at a Lightning fee of 1 and an input fee of 1."""
CHANGE = 26
REFUNDED = 25
"""Of it owed in any case: what is overpaid less the fee reserve of 2."""
ACTOR = Actor(name="test")


class WilfulMint:
    """The real mint's client, except for what a test makes it say."""

    def __init__(self, real: HttpMint) -> None:
        self.real = real
        self.keeps_change = False
        self.nuts: frozenset[int] | None = None
        self.edit_restored: Callable[[list[Restored]], list[Restored]] | None = None
        self.edit_states: Callable[[list[ProofState]], list[ProofState]] | None = None
        self.before_restore: Callable[[], None] | None = None
        self.restores = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def info(self) -> MintInfo:
        info = await self.real.info()
        return info if self.nuts is None else replace(info, nuts=self.nuts)

    async def melt_quote_state(self, quote_id: QuoteId) -> Any:
        quote = await self.real.melt_quote_state(quote_id)
        return replace(quote, change=(), change_known=False) if self.keeps_change else quote

    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        self.restores += 1
        if self.keeps_change:
            return ()
        if self.before_restore is not None:
            self.before_restore()
        found = list(await self.real.restore(outputs))
        return tuple(found if self.edit_restored is None else self.edit_restored(found))

    async def check_states(self, ys: Sequence[Any], *, spent: Sequence[Any] | None = None) -> tuple[ProofState, ...]:
        found = list(await self.real.check_states(ys, spent=spent))
        return tuple(found if self.edit_states is None else self.edit_states(found))


@dataclass
class RestoreBench:
    """Everything between a payment and the restore of what was lost of it."""

    store: MongoStore
    db: Any
    process: MintProcess
    seed: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    policy: RestorePolicy = field(default_factory=RestorePolicy)
    caps: Caps = field(default_factory=lambda: Caps(CapPolicy(share_per_run=1.0)))
    paused: str | None = None

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.metrics = Metrics(version="0")
        self.metrics.declare([MAIN])
        self.threads = Threads(2)
        real = HttpMint(MAIN, self.process.url, telemetry=self.metrics, clock=self.clock, entropy=self.entropy)
        self.mint: Any = WilfulMint(real)
        self.events = CriticalEvents(self.store, self.threads, self.metrics, clock=self.clock)
        self.recovery = Recovery(
            store=self.store,
            threads=self.threads,
            mints={MAIN: self.mint},
            outputs=self.seed,
            clock=self.clock,
            telemetry=self.metrics,
            events=self.events,
            policy=RecoveryPolicy(patience=Patience(post_grace_s=1, confirm_s=1), swap_timeout_s=10),
        )
        self.restores = self.restores_with(self.policy)

    def restores_with(self, policy: RestorePolicy, *, seed: Seed | None = None, **rounds: Any) -> Restores:
        """The daemon's part, with another policy, seed or bounds of a round."""
        reconciler = Reconciler(
            store=self.store,
            threads=self.threads,
            corrections=Corrections(self.store, self.threads, self.metrics),
            recovery=self.recovery,
            events=self.events,
            sentinels=Sentinels(
                records=self.store,
                store=self.store,
                threads=self.threads,
                events=self.events,
                clock=self.clock,
                entropy=self.entropy,
            ),
            clock=self.clock,
            entropy=self.entropy,
            telemetry=self.metrics,
            policy=ReconcilePolicy(),
            caps=self.caps,
            holder="test",
        )
        bounds = {"interval_s": 3600, "window_s": 86_400, "requests_max_per_round": 100, "requests_max_on_request": 100}
        return Restores(
            store=self.store,
            restores=self.store,
            threads=self.threads,
            mints={MAIN: self.mint},
            restorer=Restorer(
                store=self.store,
                restores=self.store,
                threads=self.threads,
                outputs=seed or self.seed,
                states=reconciler.states,
                events=self.events,
                clock=self.clock,
                telemetry=self.metrics,
                caps=self.caps,
                policy=policy,
                is_paused=lambda _: self.paused,
            ),
            events=self.events,
            metrics=self.metrics,
            clock=self.clock,
            policy=RoundPolicy(**{**bounds, "pause_s": 0, **rounds}),
            on_found=lambda: None,
        )

    async def aclose(self) -> None:
        await self.mint.real.aclose()
        await self.threads.aclose()

    # --- arranging ---

    @property
    def wallet(self) -> TestWallet:
        return TestWallet(self.process.url)

    async def user(self, *amounts: int, **more: Any) -> tuple[str, Token]:
        """A user with one document of real ecash."""
        owner = npub()
        wallet_id = insert_wallet(self.db, owner, self.process.url)
        proofs = await self.wallet.mint(sum(amounts), amounts=list(amounts))
        token_id = insert_token(self.db, owner, proofs, wallet_id=wallet_id, mint_url=self.process.url, **more)
        token = self.store.tokens([token_id])[0]
        assert isinstance(token, Token)
        return owner, token

    async def payment(self, *, fenced: bool = False) -> Melt:
        """
        Pay 100 out of 128 with the seed's blanks; the entry as it is in the journal, SETTLED.

        ``fenced``: its inputs were to be swapped before the payment turned out to be alive, and the plan is still there.
        """
        _, token = await self.user(INPUT)
        keyset_id = token.proofs[0].keyset_id
        payee = await self.process.invoice(100, fee_sat=1)
        quote = await self.mint.melt_quote(payee.invoice, "sat")
        intent = make_melt(
            [token],
            amount=100,
            fee_reserve=quote.fee_reserve,
            input_fee=1,
            mint=MAIN,
            quote_id=quote.id,
            payment_hash=payee.payment_hash,
        )
        blanks = (keyset_id, 5)
        reserved = self.store.reserve(intent, blanks=blanks, seed_id=self.seed.seed_id)
        melting = self.store.advance(reserved, MeltState.MELTING, post=PostOutcome.IN_FLIGHT)
        outputs = self.seed.blinded(melting.blanks)
        answer = await self.mint.melt(quote.id, token.proofs, outputs, timeout_s=20)
        paid = answer.quote
        assert paid.state is QuoteState.PAID
        if self.mint.keeps_change:
            paid = replace(paid, change=(), change_known=False)
        if fenced:
            pending = self.store.advance(melting, MeltState.PENDING, post=PostOutcome.AMBIGUOUS)
            melting = self.store.advance(await self.recovery.fence(pending, ()), MeltState.PENDING)
        settled = await self.recovery.settle(melting, paid)
        assert settled.state is MeltState.SETTLED
        return settled

    async def reclaimed(self) -> Melt:
        """Value behind documents called spent, brought back by a swap to the seed's outputs; the entry, SETTLED."""
        _, token = await self.user(16, 4, status="spent")
        (record,) = self.store.record([written_off(token)])
        entry = await reclaim(
            self.recovery,
            self.mint,
            token,
            [proof.y for proof in token.proofs],
            warrant=warrant_of(record, token),
            unit="sat",
            actor=ACTOR,
            holder="test",
            clock=self.clock,
            entropy=self.entropy,
        )
        assert entry is not None
        assert entry.state is MeltState.SETTLED
        return entry

    def lose(self, token_id: str | None) -> list[dict[str, Any]]:
        """Delete a document behind meltd's back; its proofs."""
        raw_id = self.store.tokens([token_id])[0].id  # type: ignore[list-item]
        document = next(one for one in self.db["cashu_tokens"].find({}) if str(one["_id"]) == raw_id)
        self.db["cashu_tokens"].delete_one({"_id": document["_id"]})
        proofs: list[dict[str, Any]] = document["proofs"]
        return proofs

    # --- acting and looking ---

    async def restore(self, *, dry_run: bool = False, **scope: Any) -> RestoreReport:
        report = await self.restores.restore(scope=RestoreScope(**scope), dry_run=dry_run, actor=ACTOR)
        assert report is not None
        return report

    def unspent(self, owner: str) -> int:
        return sum(
            int(proof["amount"])
            for document in self.db["cashu_tokens"].find({"npub": owner, "status": "unspent"})
            for proof in document["proofs"]
        )

    async def honoured(self, owner: str) -> int:
        """What the mint still honours of a user's unspent documents."""
        proofs = [
            proof
            for document in self.db["cashu_tokens"].find({"npub": owner, "status": "unspent"})
            for proof in document["proofs"]
        ]
        states = await self.wallet.states(proofs) if proofs else []
        return sum(int(p["amount"]) for p, state in zip(proofs, states, strict=True) if state == "UNSPENT")

    def records(self, drift: str = "PROOF_NOT_IN_DB") -> list[dict[str, Any]]:
        return sorted(self.db["meltd_discrepancies"].find({"type": drift}), key=lambda record: record["_id"])

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """All that a dry run, and a second run, must not change."""
        names = ("cashu_tokens", "meltd_melts", "meltd_audit", "meltd_discrepancies", "meltd_counters")
        return {name: sorted(self.db[name].find({}), key=lambda d: str(d["_id"])) for name in names}


def found_of(report: RestoreReport) -> list[tuple[str, int, frozenset[str], str | None]]:
    """What a report says of its discoveries, whether they were recorded or only looked at."""
    return sorted(
        (one.found.subject, one.found.value, frozenset(one.found.ys), one.kept_out) for one in report.discoveries
    )


def ys_of(proofs: Sequence[dict[str, Any]]) -> frozenset[str]:
    return frozenset(y_of(proof["secret"]) for proof in proofs)
