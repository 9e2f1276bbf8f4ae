"""The connection: client options, and the refusal of a server without transactions (DESIGN section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from melt.errors import ConfigError, StoreUnavailable
from melt.store.transactions import MAJORITY

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database

Document: TypeAlias = dict[str, Any]

IDLE_MS_MAX = 240_000
"""Idle connections are closed before a server or a firewall in between does it."""
VERSION_MIN = (6, 0)
DATABASE_DEFAULT = "meltd"
EMBEDDED_SET = "secantus"
"""How SecantusDB calls its replica set."""


def connect(
    uri: str, *, retry_writes: bool, server_selection_s: float, socket_timeout_s: float, connections_max: int
) -> MongoClient[Document]:
    """
    A client; connects on first use. Raises :class:`melt.errors.ConfigError` on a URI that can't be read.

    Reads are at majority and writes at majority with journal even outside transactions: what was read can't be
    rolled back later.
    """
    try:
        return MongoClient(
            uri,
            appname="meltd",
            tz_aware=True,
            retryWrites=retry_writes,
            retryReads=True,
            maxIdleTimeMS=IDLE_MS_MAX,
            serverSelectionTimeoutMS=int(server_selection_s * 1000),
            connectTimeoutMS=int(server_selection_s * 1000),
            socketTimeoutMS=int(socket_timeout_s * 1000),
            waitQueueTimeoutMS=int(socket_timeout_s * 1000),
            maxPoolSize=connections_max,
            readConcernLevel="majority",
            w="majority",
            journal=True,
        )
    except (ConfigurationError, InvalidURI, ValueError, TypeError):
        # Not chained: the driver's message may quote the URI with its password.
        reason = "the MongoDB URI can't be used; expected mongodb://host:port/?replicaSet=name"
    raise ConfigError(reason)


def database_of(uri: str) -> str:
    """The database that the URI's path names, else the default one."""
    try:
        name = parse_uri(uri).get("database")
    except PyMongoError:
        name = None
    return str(name) if name else DATABASE_DEFAULT


TOLERANT: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""Years of other services' data may hold broken UTF-8 and dates beyond the year 9999; neither may end a tour."""


def open_database(client: MongoClient[Document], name: str) -> Database[Document]:
    """The database, read tolerantly, with explicit concerns."""
    return client.get_database(
        name, codec_options=TOLERANT, read_concern=ReadConcern("majority"), write_concern=MAJORITY
    )


def check_server(client: MongoClient[Document]) -> bool:
    """
    Refuse a server without transactions or too old to trust with them; whether it is the embedded kind.

    Raises :class:`melt.errors.ConfigError` for a wrong server, :class:`melt.errors.StoreUnavailable` for none.
    """
    try:
        hello = client.admin.command("hello")
        version = client.admin.command("buildInfo").get("versionArray") or []
    except PyMongoError as error:
        failure = type(error).__name__
    else:
        _check_answers(hello, version)
        return hello.get("setName") == EMBEDDED_SET
    raise StoreUnavailable(f"the database can't be reached: {failure}")


def _check_answers(hello: Document, version: list[int]) -> None:
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        msg = "this MongoDB server has no transactions: it must be a replica set or a sharded cluster (rs.initiate())"
        raise ConfigError(msg)
    if hello.get("logicalSessionTimeoutMinutes") is None:
        msg = "this MongoDB server has no sessions, hence no transactions"
        raise ConfigError(msg)
    if version and tuple(version[:2]) < VERSION_MIN:
        found = ".".join(str(part) for part in version[:3])
        msg = f"MongoDB {found} is too old: {VERSION_MIN[0]}.{VERSION_MIN[1]} or newer is needed"
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collections:
    """The wallet's two collections and meltd's own."""

    tokens: Collection[Document]
    wallets: Collection[Document]
    melts: Collection[Document]
    discrepancies: Collection[Document]
    audit: Collection[Document]
    seals: Collection[Document]
    events: Collection[Document]
    leases: Collection[Document]
    counters: Collection[Document]
    sweeps: Collection[Document]
    summaries: Collection[Document]
    restores: Collection[Document]
    wishes: Collection[Document]
    mode: Collection[Document]
    plans: Collection[Document]

    @classmethod
    def of(cls, database: Database[Document], *, tokens: str, wallets: str) -> Collections:
        """The handles; nothing is made by this."""
        return cls(
            tokens=database[tokens],
            wallets=database[wallets],
            melts=database["meltd_melts"],
            discrepancies=database["meltd_discrepancies"],
            audit=database["meltd_audit"],
            seals=database["meltd_seals"],
            events=database["meltd_events"],
            leases=database["meltd_leases"],
            counters=database["meltd_counters"],
            sweeps=database["meltd_sweeps"],
            summaries=database["meltd_summaries"],
            restores=database["meltd_restores"],
            wishes=database["meltd_wishes"],
            mode=database["meltd_mode"],
            plans=database["meltd_plans"],
        )
