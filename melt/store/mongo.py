"""The store over MongoDB, put together from its parts."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import structlog

from melt.model.mode import Mode, ModeChoice, more_careful
from melt.settling import SettlePolicy, Stopwatch
from melt.store.cases import Cases
from melt.store.connect import Collections, check_server, connect, database_of, open_database
from melt.store.faults import store_method
from melt.store.findings import Findings
from melt.store.holdings import Holdings
from melt.store.indexes import WalletIndexes, refuse_duplicates
from melt.store.inputs import Inputs
from melt.store.leases import LeaseStore
from melt.store.mode import Modes
from melt.store.plans import Plans
from melt.store.records import Records
from melt.store.repairs import Repairs
from melt.store.restore import Restores
from melt.store.schema import UniqueProofs, ensure_own_schema, ensure_wallet_collections, wants_unique_proofs
from melt.store.sentinels import SpentEvidence
from melt.store.sessions import SessionBook
from melt.store.settlement import Settlement
from melt.store.settling import Settling
from melt.store.summaries import Summaries
from melt.store.survey import SurveyReads
from melt.store.tokens import TokenReads
from melt.store.transactions import Transactions
from melt.store.warm import WarmReads
from melt.store.watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from melt.ports import (
        CaseStore,
        Clock,
        LargeTokens,
        Leases,
        ModeStore,
        PlanStore,
        RestoreStore,
        SettleStore,
        SpentRecords,
        Store,
        SummaryStore,
        SurveyStore,
        Telemetry,
        WatchStore,
    )
    from melt.ports import Holdings as HoldingsPort

CONNECTIONS_MAX = 16

_log = structlog.get_logger("melt.store")


class MongoStore(
    TokenReads,
    WarmReads,
    Restores,
    Settlement,
    Inputs,
    Findings,
    Settling,
    Records,
    Repairs,
    Summaries,
    Watching,
    Holdings,
    Plans,
    Cases,
    SpentEvidence,
    LeaseStore,
    Modes,
    SurveyReads,
):
    """
    Implements :class:`melt.ports.Store` with the synchronous driver: one code for SecantusDB and real MongoDB.

    Args:
        uri: of a replica set, a sharded cluster or the embedded store.
        database: its name; None takes the one in the URI's path, else ``meltd``.
        clock: for the times of records.
        telemetry: told of each call; None for nobody.
        retry_writes: the driver's own retries: true on a replica set, false on SecantusDB.
        transaction_deadline_s: how long one transaction may try, its retries included.
        tokens_collection, wallets_collection: the wallet service's names.
        sessions_file: where the ids of this instance's sessions are kept, so that its next life can end transactions
            that were open when it was killed; None: the server ends them, after a minute.
        holder: this instance, whose looks at a record count its time. settle: how long a document stands still before a
            rule writes it; the default is for a database that nobody else spends from.

    Methods block and are safe to call from several threads; run them through :class:`melt.store.Threads`. Nothing is
    contacted before the first call; call :meth:`ensure_schema` once, before any traffic.
    """

    def __init__(
        self,
        uri: str,
        database: str | None = None,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
        retry_writes: bool = True,
        transaction_deadline_s: float = 20.0,
        tokens_collection: str = "cashu_tokens",
        wallets_collection: str = "cashu_wallets",
        server_selection_s: float = 5.0,
        socket_timeout_s: float = 30.0,
        sessions_file: Path | None = None,
        holder: str = "",
        settle: SettlePolicy | None = None,
    ) -> None:
        self.telemetry = telemetry
        self._settle = settle or SettlePolicy()
        self._stopwatch = Stopwatch(holder, secrets.token_hex(8), clock.monotonic, self._settle.step_max_ms)
        self.unique_proofs_indexed = False
        self.setting_mode: Mode | None = None
        self._clock = clock
        self._client = connect(
            uri,
            retry_writes=retry_writes,
            server_selection_s=server_selection_s,
            socket_timeout_s=socket_timeout_s,
            connections_max=CONNECTIONS_MAX,
        )
        self._database = open_database(self._client, database or database_of(uri))
        self._c = Collections.of(self._database, tokens=tokens_collection, wallets=wallets_collection)
        self._indexes = WalletIndexes(self._c)
        self._urls_met: set[str] = set()
        self._sessions = SessionBook(sessions_file)
        self._transactions = Transactions(self._client, deadline_s=transaction_deadline_s, sessions=self._sessions)

    @store_method
    def ensure_schema(self, unique_proofs: UniqueProofs = "auto", mode: Mode | None = None) -> ModeChoice:
        """
        Check the server, make what is missing of meltd's own, and settle the mode; ``mode`` is an explicit setting.

        Only in ``correct`` the wallet's two collections and the indexes in them are made, the unique one on a yes of its own.
        Call it at start, before traffic. Raises :class:`melt.errors.ConfigError` for a server without transactions and for
        an index that has to be unique and is not, :class:`melt.errors.StoreError` where ``unique_proofs`` is ``on`` and
        duplicates forbid it.
        """
        self._indexes.embedded = check_server(self._client)
        ended = self._sessions.end_left_behind(self._client)
        if ended:
            _log.info("sessions of an earlier run ended", sessions=ended)
        ensure_own_schema(self._database, self._c)
        choice = self.settle_mode(mode)
        changes = more_careful(choice.mode, mode) is Mode.CORRECT
        if changes:
            ensure_wallet_collections(self._database, self._c)
        wanted = wants_unique_proofs(self._c, unique_proofs)
        report = self._look(make=changes, unique=wanted, starting=True)
        if changes and unique_proofs == "on" and not any(one.unique_stands for one in report.standings):
            # A server that does not know the filter refuses it, too: that is told, and no reason not to start.
            refuse_duplicates(self._c.tokens)
        return choice

    def close(self) -> None:
        """Close the connections. Methods that run may fail."""
        self._client.close()


def _chooses_what_to_watch(store: MongoStore) -> WatchStore:
    """Likewise."""
    return store


def _looks_at_what_settles(store: MongoStore) -> SettleStore:
    return store


def _keeps_plans(store: MongoStore) -> PlanStore:
    return store


def _keeps_cases(store: MongoStore) -> CaseStore:
    return store


def _keeps_the_contract(store: MongoStore) -> Store:
    """Lets the type checker hold the class to the port."""
    return store


def _keeps_summaries(store: MongoStore) -> SummaryStore:
    return store


def _keeps_the_contract_of_restores(store: MongoStore) -> RestoreStore:
    """Likewise."""
    return store


def _keeps_the_warm_contract(store: MongoStore) -> LargeTokens:
    return store


def _tells_holdings(store: MongoStore) -> HoldingsPort:
    return store


def _knows_what_was_spent(store: MongoStore) -> SpentRecords:
    return store


def _can_be_surveyed(store: MongoStore) -> SurveyStore:
    return store


def _knows_its_mode(store: MongoStore) -> ModeStore:
    return store


def _keeps_the_leases(store: MongoStore) -> Leases:
    return store
