"""
The demo from its first step to its last. Read :func:`Show.play` down.

Before and after are counted past the daemon: the documents are read as the wallet service reads them, and the mint is
asked about every proof in them (:mod:`daemon.demo.accounts`).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from daemon.cli.ends import EXIT_OK, EXIT_REFUSED, AnswerLost, NoDaemon
from daemon.demo import accounts, telling
from daemon.demo.interrupt import Interrupt
from daemon.demo.mending import Judgement, Planted, judge, unplanted
from daemon.demo.mint_child import HttpRefusal
from daemon.demo.payments import ALIAS, Payer
from daemon.demo.planting import WalletService
from daemon.demo.scenario import DOCUMENTS, USERS, at_mint
from daemon.demo.screen import STYLES, Screen
from daemon.demo.stage import DaemonEnded, Stage
from daemon.demo.wallet import DemoWallet
from melt.ecash import y_of
from melt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.cli.client import Client
    from daemon.demo import MintKind
    from daemon.demo.payments import Paid
    from daemon.demo.scenario import DocumentPlan
    from daemon.demo.wallet import ProofDict
    from melt.model import Y

MEND_S_MAX: Final = 45.0
_POLL_S: Final = 0.3


class DemoFailed(Exception):
    """A step of the demo can't go on."""


def run(*, once: bool, as_json: bool, mint: MintKind) -> int:
    """See :func:`daemon.demo.run`."""
    screen = Screen(as_json=as_json)
    interrupt = Interrupt()
    with interrupt, Stage(mint) as stage:
        try:
            return asyncio.run(_main(screen, stage, interrupt, once=once))
        except asyncio.CancelledError:
            screen.say("Stopped; everything is being removed.", style="yellow")
            return 128 + interrupt.signal_number


async def _main(screen: Screen, stage: Stage, interrupt: Interrupt, *, once: bool) -> int:
    interrupt.watch(asyncio.get_running_loop(), asyncio.current_task())
    show = Show(screen, stage)
    try:
        ok = await show.play()
        return EXIT_OK if (once or await show.stay()) and ok else EXIT_REFUSED
    except ConfigError:
        raise
    except asyncio.CancelledError:
        # Now, not on leaving the stage: threads that wait for an answer would be waited for before that.
        stage.end()
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the parts are ended
        why = _told(error)
        screen.say(f"The demo failed: {why}", style="bold red")
        if end := stage.log_end():
            screen.say(f"The end of the daemon's log:\n{end}", style="dim")
        screen.result({"ok": False, "error": why})
        return EXIT_REFUSED
    finally:
        show.close()


def _told(error: Exception) -> str:
    """An error in words. A driver's own could quote a document (I10), so of others only kind and place are told."""
    if isinstance(error, (DemoFailed, DaemonEnded, NoDaemon, AnswerLost, HttpRefusal)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


@dataclass(slots=True)
class Show:
    """The acts. What one needs of an earlier one is kept here."""

    screen: Screen
    stage: Stage
    started: float = field(default_factory=time.monotonic)
    npubs: list[str] = field(default_factory=list)
    planted: list[Planted] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    _wallet: DemoWallet | None = None
    _service: WalletService | None = None
    _client: Client | None = None

    async def play(self) -> bool:
        """Everything up to the ledger; whether it all came out as it must."""
        self.screen.say("meltd demo: a throw-away database, a real mint, and drift planted between them", style="bold")
        await self._start_parts()
        await self._plant()
        with self.screen.step("ask the mint about every proof") as told:
            stored, states = await self._look()
            others = accounts.elsewhere(stored, states)
            before = accounts.count(stored, states, others)
            told.append(f"{len(stored)} proofs in {len(DOCUMENTS)} documents")
        await self._start_daemon()
        judgements = await self._mend()
        paid = await self._pay()
        with self.screen.step("ask the mint about every proof again") as told:
            stored, states = await self._look()
            after = accounts.count(stored, states, others)
            told.append(f"{len(stored)} proofs")
            judgements, strays, left = await self._look_back(judgements)
            told.append(f"{left} left to mend")
        ledgers, faults = await self._ledgers(before, after, paid, stored, states)
        ok = (
            all(judgement.ok for judgement in judgements)
            and not strays
            and left == 0
            and all(one.ok for one in paid)
            and all(ledger.conserved and ledger.agreed for ledger in ledgers)
            and not faults
        )
        result = telling.Result(
            ok=ok,
            names=dict(zip(self.npubs, USERS, strict=True)),
            ledgers=ledgers,
            judgements=judgements,
            strays=strays,
            paid=paid,
            faults=faults,
            left=left,
            seconds=time.monotonic() - self.started,
            urls=self.urls,
        )
        telling.show(self.screen, result)
        self.screen.result(telling.as_json(result))
        return ok

    async def stay(self) -> bool:
        """Stay up until a signal comes; False where a part ended by itself."""
        invoices = [(await self.stage.mint.invoice(amount, expiry_s=86_400)).invoice for amount in (21, 42)]
        telling.invite(self.screen, self.urls, self.npubs[0], ALIAS, invoices)
        try:
            while True:
                self.stage.check_children()
                await asyncio.sleep(1)
        except DaemonEnded as error:
            self.screen.say(f"The demo ends: {error}", style="bold red")
            return False
        except asyncio.CancelledError:
            self.screen.say("Ending; everything is being removed.")
            return True

    def close(self) -> None:
        """Let go of database and socket."""
        for held in (self._service, self._client):
            if held is not None:
                held.close()

    # --- the parts ---

    @property
    def wallet(self) -> DemoWallet:
        """The second wallet, and whoever fills the service's."""
        if self._wallet is None:
            raise DemoFailed("the mint was not started")
        return self._wallet

    @property
    def service(self) -> WalletService:
        """The wallet service."""
        if self._service is None:
            raise DemoFailed("the store was not started")
        return self._service

    @property
    def client(self) -> Client:
        """The daemon's socket."""
        if self._client is None:
            raise DemoFailed("the daemon was not started")
        return self._client

    async def _start_parts(self) -> None:
        stage = self.stage
        with self.screen.step("start a database and a mint") as told:
            stage.store.start()
            await stage.mint.start()
            self._wallet = DemoWallet(stage.mint.url)
            self._service = WalletService(stage.store.uri, stage.mint.url)
            told.append(f"embedded store on port {stage.store.port}, {stage.mint_name} at {stage.mint.url}")

    async def _start_daemon(self) -> None:
        with self.screen.step("start the daemon") as told:
            self.stage.start_daemon()
            self._client = self.stage.client()
            status = await asyncio.to_thread(self.stage.wait_ready, self._client)
            metrics = str(status["metrics_url"])
            self.urls = {
                "socket": str(self.stage.socket),
                "metrics": metrics,
                "health": metrics.removesuffix("/metrics") + "/readyz",
                "mint": self.stage.mint.url,
                "log": str(self.stage.log_path),
            }
            told.append("meltd run, a round every 2 s")

    # --- planting ---

    async def _plant(self) -> None:
        with self.screen.step("mint ecash for three users") as told:
            wanted = [
                [amount for plan in DOCUMENTS if plan.user == user for amount in plan.amounts]
                for user in range(len(USERS))
            ]
            purses: list[list[ProofDict]] = await asyncio.gather(
                *(self.wallet.mint(sum(amounts), amounts=amounts) for amounts in wanted)
            )
            self.npubs += [self.service.add_user() for _ in USERS]
            told += [f"{user} {sum(amounts)} sat" for user, amounts in zip(USERS, wanted, strict=True)]
        with self.screen.step("store it, and make database and mint disagree") as told:
            for plan in DOCUMENTS:
                await self._plant_document(plan, purses[plan.user])
            told.append(f"{len(DOCUMENTS)} documents, {len(self.planted)} of them wrong or under way")

    async def _plant_document(self, plan: DocumentPlan, purse: list[ProofDict]) -> None:
        proofs = [_take(purse, amount) for amount in plan.amounts]
        npub = self.npubs[plan.user]
        document = self.service.add_document(npub, plan, proofs)
        states = at_mint(plan)
        spent = [proof for proof, state in zip(proofs, states, strict=True) if state == "SPENT"]
        held = [proof for proof, state in zip(proofs, states, strict=True) if state == "PENDING"]
        if spent:
            await self.wallet.spend(spent)
        if held:
            await self._hold(held)
        if plan.drift is None:
            return
        touched = proofs[: plan.drift.touched]
        self.planted.append(
            Planted(
                drift=plan.drift,
                user=USERS[plan.user],
                npub=npub,
                document=document,
                original=self.service.document(document),
                ys=tuple(y_of(proof["secret"]) for proof in touched),
                value=sum(proof["amount"] for proof in touched),
            )
        )

    async def _hold(self, proofs: Sequence[ProofDict]) -> None:
        """Another wallet pays with them, and its payment never ends."""
        worth = sum(proof["amount"] for proof in proofs)
        invoice = await self.stage.mint.invoice(worth * 3 // 4, pay="PENDING", status="PENDING")
        if await self.wallet.hold(proofs, invoice.invoice) != "PENDING":
            raise DemoFailed("a payment that was to hang has ended")

    # --- looking ---

    async def _look(self) -> tuple[list[accounts.Stored], dict[Y, str]]:
        """Every proof of every document, and what the mint calls it."""
        keysets = await self.wallet.keysets()
        keys = {keyset["id"]: await self.wallet.keys(keyset["id"]) for keyset in keysets}
        stored = await asyncio.to_thread(self.service.proofs, keys)
        ys = list(dict.fromkeys(proof.y for proof in stored))
        return stored, dict(zip(ys, await self.wallet.states_of(ys), strict=True))

    async def _records(self) -> list[dict[str, Any]]:
        reply = await asyncio.to_thread(self.client.get, "/v1/discrepancies", limit=1000)
        if not reply.ok:
            raise DemoFailed(f"the daemon refuses its discrepancies: {reply.body.get('detail')}")
        records: list[dict[str, Any]] = reply.body["discrepancies"]
        return records

    async def _mend(self) -> list[Judgement]:
        """Follow the sweep until everything that was planted has come to its end."""
        with self.screen.step("watch the sweep find and mend it") as told:
            shown: dict[str, str] = {}
            deadline = time.monotonic() + MEND_S_MAX
            while True:
                records = await self._records()
                judgements = [judge(one, records, self.service) for one in self.planted]
                for judgement in judgements:
                    self._show_news(judgement, shown)
                if all(judgement.ok for judgement in judgements):
                    break
                if time.monotonic() > deadline:
                    told.append("not everything came to the end that was expected")
                    break
                self.stage.check_children()
                await asyncio.sleep(_POLL_S)
            told.append(f"{sum(judgement.ok for judgement in judgements)} of {len(judgements)}")
        return judgements

    def _show_news(self, judgement: Judgement, shown: dict[str, str]) -> None:
        planted = judgement.planted
        if not judgement.found or shown.get(planted.document) == judgement.outcome:
            return
        shown[planted.document] = judgement.outcome
        word = "found" if judgement.outcome == "open" else judgement.outcome
        self.screen.note(
            Text.assemble(
                (f"{word:<11}", STYLES.get(judgement.outcome, "")),
                f"{planted.user:<7}",
                (f"{planted.drift.type.value:<24}", STYLES.get(judgement.severity, "")),
                f"{planted.value:>4} sat  ",
                (planted.drift.name, "dim"),
            )
        )

    async def _look_back(self, judgements: Sequence[Judgement]) -> tuple[list[Judgement], list[Mapping[str, Any]], int]:
        """
        Once more at the end: what is only watched or recorded must be untouched still, nothing else was found.

        What was corrected was judged before the payments, which may have spent it since. The number is of the
        corrections that a dry run over everything would still make.
        """
        records = await self._records()
        again = [
            one if one.planted.drift.outcome == "corrected" else judge(one.planted, records, self.service)
            for one in judgements
        ]
        scope = {"dry_run": True, "statuses": ["unspent", "pending", "spent", "failed"]}
        reply = await asyncio.to_thread(self.client.post, "/v1/reconcile", scope)
        if not reply.ok or reply.body["errors"]:
            raise DemoFailed("the daemon could not look at everything once more")
        return again, unplanted(records, self.planted), int(reply.body["planned"])

    # --- paying ---

    async def _pay(self) -> list[Paid]:
        with self.screen.step("pay five invoices through the socket") as told:
            paid = await Payer(self.client, self.stage.mint).pay_all(self.stage.invoices, self.npubs)
            told.append(", ".join(f"{one.plan.amount} {one.melt.get('state')}" for one in paid))
        return paid

    # --- the books ---

    async def _ledgers(
        self,
        before: Mapping[str, accounts.Count],
        after: Mapping[str, accounts.Count],
        paid: Sequence[Paid],
        stored: Sequence[accounts.Stored],
        states: Mapping[Y, str],
    ) -> tuple[list[accounts.Ledger], list[str]]:
        ppk = {keyset["id"]: int(keyset.get("input_fee_ppk") or 0) for keyset in await self.wallet.keysets()}
        operations = await asyncio.to_thread(self.service.operations)
        ys = list(dict.fromkeys(y for operation in operations for y in operation.ys))
        spent = dict(zip(ys, await self.wallet.states_of(ys), strict=True))
        owners = {proof.y: proof.npub for proof in stored}
        fees, faults = accounts.input_fees(operations, {**states, **spent}, ppk, owners)
        ledgers = [
            accounts.Ledger(
                npub=npub,
                before=before.get(npub, accounts.Count()),
                after=after.get(npub, accounts.Count()),
                paid=sum(one.plan.amount * one.times_left for one in paid if one.npub == npub),
                lightning_fees=sum(one.plan.fee * one.times_left for one in paid if one.npub == npub),
                input_fees=fees.get(npub, 0),
                shortfall=sum(int(one.melt.get("shortfall") or 0) for one in paid if one.npub == npub),
            )
            for npub in self.npubs
        ]
        return ledgers, faults


def _take(purse: list[ProofDict], amount: int) -> ProofDict:
    """One proof of that amount out of the purse."""
    index = next(index for index, proof in enumerate(purse) if proof["amount"] == amount)
    return purse.pop(index)
