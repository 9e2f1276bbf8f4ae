"""The store over MongoDB, put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from melt.store.cases import Cases
from melt.store.connect import Collections, check_server, connect, database_of, open_database
from melt.store.faults import store_method
from melt.store.findings import Findings
from melt.store.holdings import Holdings
from melt.store.inputs import Inputs
from melt.store.leases import LeaseStore
from melt.store.plans import Plans
from melt.store.records import Records
from melt.store.repairs import Repairs
from melt.store.restore import Restores
from melt.store.schema import UniqueProofs, ensure_schema
from melt.store.sentinels import SpentEvidence
from melt.store.sessions import SessionBook
from melt.store.settlement import Settlement
from melt.store.summaries import Summaries
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
        PlanStore,
        RestoreStore,
        SpentRecords,
        Store,
        SummaryStore,
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
    Records,
    Repairs,
    Summaries,
    Watching,
    Holdings,
    Plans,
    Cases,
    SpentEvidence,
    LeaseStore,
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
    ) -> None:
        self.telemetry = telemetry
        self.unique_proofs_indexed = False
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
        self._sessions = SessionBook(sessions_file)
        self._transactions = Transactions(self._client, deadline_s=transaction_deadline_s, sessions=self._sessions)

    @store_method
    def ensure_schema(self, unique_proofs: UniqueProofs = "auto") -> bool:
        """
        Check the server and make what is missing; sets and returns ``unique_proofs_indexed``.

        Call it at start, before traffic: see :func:`melt.store.schema.ensure_schema`. Raises
        :class:`melt.errors.ConfigError` for a server without transactions.
        """
        check_server(self._client)
        ended = self._sessions.end_left_behind(self._client)
        if ended:
            _log.info("sessions of an earlier run ended", sessions=ended)
        self.unique_proofs_indexed = ensure_schema(self._database, self._c, unique_proofs)
        return self.unique_proofs_indexed

    def close(self) -> None:
        """Close the connections. Methods that run may fail."""
        self._client.close()


def _chooses_what_to_watch(store: MongoStore) -> WatchStore:
    """Likewise."""
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


def _keeps_the_leases(store: MongoStore) -> Leases:
    return store
