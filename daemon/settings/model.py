"""
Every setting of meltd, with its bounds and its meaning (DESIGN section 2, "daemon").

The descriptions are the documentation: ``docs/configuration.md`` is generated from them. Times are seconds and
their names end in ``_s``; amounts are in the unit of the wallet they apply to.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.settings.sources import EnvironmentSource, FilesSource, TomlSource, inputs
from melt.errors import ConfigError
from melt.model import normalise_mint_url
from melt.model.mode import Mode as OperatingMode
from melt.settling import SettlePolicy

ALIAS: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
MASK: Final = "***"
LOOK_S_MIN: Final = 0.2
_PRIVATE_NAMES: Final = ("localhost", ".localhost", ".onion")

Seconds = Annotated[float, Field(gt=0, le=86_400 * 31)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]


def _octal(value: object) -> object:
    """A file mode as people write it: ``"0660"`` or ``"660"`` is octal; an int is taken as it is."""
    if isinstance(value, str):
        if not re.fullmatch(r"(0o)?[0-7]{3,4}", value):
            raise ValueError('must be an octal file mode such as "0660"')
        return int(value, 8)
    return value


Mode = Annotated[int, BeforeValidator(_octal), Field(ge=0, le=0o777)]


class Section(BaseModel):
    """A table of the configuration file: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, allow_inf_nan=False
    )


class MongoSettings(Section):
    """The database that holds the wallet's documents."""

    uri: SecretStr | None = Field(
        default=None,
        description="Connection string of a replica set or a sharded cluster. Needed unless the embedded store runs.",
    )
    database: str = Field(
        default="cashu",
        min_length=1,
        max_length=63,
        pattern=r'^[^/\\. "$*<>:|?\x00]+$',
        description="Name of the database that holds `cashu_tokens`.",
    )
    retry_writes: bool | None = Field(
        default=None,
        description="The driver's own retries of single writes. Left out: on, and off with the embedded store.",
    )
    unique_proofs: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="The unique index on `proofs.secret` over counted documents, made at start only. auto: after "
        "`meltd adopt --unique-index`; on: a yes by setting, refuse to start where duplicates forbid it; off: never.",
    )

    @field_validator("uri")
    @classmethod
    def _scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must start with mongodb:// or mongodb+srv://")
        return value


class SocketSettings(Section):
    """The local API."""

    path: Path | None = Field(
        default=None,
        description="Where the socket is. Left out: `meltd.sock` in `$RUNTIME_DIRECTORY`, else in `data_dir`.",
    )
    mode: Mode = Field(default=0o660, description="File mode of the socket, octal.")
    owner: str | None = Field(default=None, description="User name or uid that owns the socket. Left out: unchanged.")
    group: str | None = Field(default=None, description="Group name or gid of the socket. Left out: unchanged.")
    allow_uids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="Peers with one of these uids may use the API. With `allow_gids` empty too, the file mode decides.",
    )
    allow_gids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="Peers whose primary gid is one of these may use the API."
    )
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=256, description="Connections at a time; further ones are closed at once."
    )
    idle_timeout_s: Seconds = Field(
        default=10, description="A connection that has sent no whole request by then is closed."
    )
    body_bytes_max: Annotated[int, Field(ge=1024, le=1_048_576)] = Field(
        default=65_536, description="Largest request body."
    )


class HttpSettings(Section):
    """Metrics and health over TCP. Serves no money and no ids; still, keep it off public interfaces."""

    host: str = Field(default="127.0.0.1", description="Address of `/metrics`, `/healthz` and `/readyz`.")
    port: Port = Field(default=9464, description="Port; 0 takes any free one and logs it.")


class MintSettings(Section):
    """One mint. The table's name is its alias: `[mints.main]`."""

    url: str = Field(description="Base URL. Plain http only for loopback, private addresses and `.onion`.")
    allow_insecure: bool = Field(default=False, description="Permit plain http to any host.")
    checkstate_batch: Annotated[int, Field(ge=10, le=1000)] = Field(
        default=250, description="Proofs in one NUT-07 request. Fixed sizes are fastest; mints refuse more than 1000."
    )
    max_in_flight_melts: Count | None = Field(
        default=None, description="Melts under way at this mint at a time. Left out: `melt.in_flight_per_mint_max`."
    )
    connect_timeout_s: Seconds = Field(default=10, description="To connect.")
    request_timeout_s: Seconds = Field(default=30, description="For one answer; payments have `melt.post_timeout_s`.")

    @model_validator(mode="after")
    def _safe_url(self) -> Self:
        check_mint_url(self.url, allow_insecure=self.allow_insecure)
        return self


class SweepSettings(Section):
    """The tour of all documents, and what it may change by itself."""

    interval_s: Seconds = Field(default=300, description="From the start of one tour to the start of the next.")
    hot_interval_s: Seconds = Field(default=5, description="How often open melts are looked at.")
    page_documents: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=100, description="Documents that are read, checked and corrected together."
    )
    pending_grace_s: Seconds = Field(
        default=3600,
        description="A pending document without a melt is released no sooner than this after its last change, and after it has "
        "been watched standing still for as long.",
    )
    correct_after_s: Annotated[float, Field(ge=0, le=366 * 24 * 3600)] = Field(
        default=86_400,
        description="So long a document must be watched standing still before a rule writes it, splits it or swaps its proofs. "
        "Longer than the longest payment of the wallet beside meltd: see docs/beside-a-wallet.md. 0 is for a database that "
        "nobody else spends from, and the default with the embedded store.",
    )
    alert_after_s: Annotated[float, Field(ge=0, le=366 * 24 * 3600)] = Field(
        default=3600,
        description="Before a record has been watched for so long it is *settling*: shown, counted and valued, and no alert. "
        "CRITICAL ones alert at once. 0 is the default with the embedded store.",
    )
    look_s: Annotated[float, Field(ge=0.2, le=60)] = Field(
        default=60,
        description="How often the document of each open record is read. A look adds at most twice this to the time that a "
        "document was watched, whatever the clocks say.",
    )
    confirm_after_s: Seconds = Field(
        default=60, description="Between the two sightings that an irreversible correction needs."
    )
    spent_confirm_s: Annotated[float, Field(ge=0, le=300)] = Field(
        default=2, description="Between the two looks of a sweep after which a proof is marked spent, which is final."
    )
    spent_sample_share: Share = Field(default=0.02, description="Share of the spent documents that each tour looks at.")
    lag_target_s: Seconds | None = Field(
        default=None,
        description="The detection lag (age of the oldest verification of an unspent sat) that the sweep keeps within, "
        "per mint: it goes faster above it and slower below half of it. Left out: twice `interval_s`.",
    )
    duty_min: Annotated[float, Field(ge=0.01, le=1)] = Field(
        default=0.1, description="Least share of a mint's time that its tour takes; it rests for the remainder."
    )
    duty_max: Annotated[float, Field(ge=0.01, le=1)] = Field(
        default=0.9, description="Largest share. 1: no rests while the detection lag is above its target."
    )
    yield_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.5, description="A page waits for melts that have just begun at its mint, this long at most."
    )
    warm_interval_s: Seconds = Field(
        default=120, description="How often new and large documents are looked at, beside the tour."
    )
    warm_new_s: Seconds = Field(default=900, description="Documents made since so long ago are new.")
    warm_documents: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2000,
        description="At most so many new documents, and as many large ones, in one round of the warm lane; the next "
        "round goes on from there.",
    )
    large_amount: Annotated[int, Field(ge=1, le=2**63 - 1)] = Field(
        default=100_000, description="From this `total_amount` on, in its own unit, a document is large."
    )
    signature_sample_share: Share = Field(
        default=0.05,
        description="Share of the documents whose signatures (DLEQ) a tour verifies; each has its turn in 1 / share tours.",
    )
    corrections_max_count_per_cycle: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=1000, description="Over this many corrections in a tour, meltd only reports."
    )
    corrections_max_count_per_hour: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=5000, description="Likewise in an hour."
    )
    corrections_max_value_per_cycle: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        default=10_000_000, description="Over this value in a tour, per unit, meltd only reports."
    )
    corrections_max_share_per_cycle: Share = Field(
        default=0.25,
        description="Over this share of a mint's documents in a tour, or of a page in what reads spent, meltd only reports. From 10 documents on; 5 corrections are always allowed.",
    )
    four_eyes: bool = Field(
        default=False,
        description="A plan is approved by another uid than its maker's; one that the sweep made by two of them.",
    )
    plan_expires_s: Annotated[float, Field(ge=1, le=366 * 24 * 3600)] = Field(
        default=7 * 24 * 3600, description="A plan that is not applied within this time can't be any more."
    )

    @model_validator(mode="after")
    def _duties(self) -> Self:
        if self.duty_min > self.duty_max:
            raise ValueError("duty_min must not be above duty_max")
        return self

    @property
    def lag_target(self) -> float:
        """``lag_target_s`` with its default resolved."""
        return 2 * self.interval_s if self.lag_target_s is None else self.lag_target_s


class SubscriptionSettings(Section):
    """
    Hints from mints over a websocket (NUT-17). They make meltd look sooner; what it does is decided as ever, and a mint
    without them is polled as ever.
    """

    enabled: bool = Field(default=True, description="Subscribe at mints that offer it.")
    proofs_max: Annotated[int, Field(ge=0, le=900)] = Field(
        default=500,
        description="Proofs of the largest and the newest unspent documents that are watched at each mint. Mints take "
        "about 1000 filters a connection.",
    )
    refresh_s: Seconds = Field(default=60, description="How often it is chosen anew which documents are watched.")
    settle_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.5,
        description="A document is checked this long after a hint: a service that spent it itself has then written "
        "that down, and it is no drift.",
    )
    checks_per_s: Annotated[float, Field(gt=0, le=100)] = Field(
        default=5, description="Checks at one mint because of hints, at most, however many it sends."
    )


class MeltSettings(Section):
    """Paying invoices: budgets and bounds. See DESIGN section 4 for what each step does."""

    wait_s_max: Seconds = Field(default=120, description="Longest `wait` that a caller may ask for.")
    wait_s_default: Seconds = Field(default=30, description="How long a caller waits who does not say.")
    quote_timeout_s: Seconds = Field(default=15, description="To get a quote.")
    post_timeout_s: Seconds = Field(
        default=120, description="For the answer to a payment; after it, the melt is followed."
    )
    preflight_timeout_s: Seconds = Field(
        default=30, description="For the checks at the mint before anything is reserved: keysets, states of the proofs."
    )
    swap_timeout_s: Seconds = Field(default=30, description="For the answer to a swap.")
    release_confirm_s: Seconds = Field(default=5, description="Between the two looks that a release needs.")
    post_grace_s: Seconds = Field(
        default=120,
        description="After an unanswered payment request, the quote is not asked for this long (only NUT-07 is).",
    )
    stuck_after_s: Seconds = Field(
        default=600,
        description="An open melt that has not got on for so long, although database and mint answer, opens MELT_STUCK.",
    )
    reserve_wait_s: Seconds = Field(
        default=20, description="How long a melt tries again when another one takes the proofs that it chose."
    )
    swap_when_overpay_exceeds: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        default=0, description="Swap to exact amounts first when the overpay would be larger than this. 0: never."
    )
    max_fee_percent: Annotated[float, Field(ge=0, le=100)] = Field(
        default=5,
        description="Everything beyond the amount together (fee reserve, input fees, fees of swaps before the payment) may be "
        "this percentage of it, or the floor; a melt that would cost more is refused.",
    )
    max_fee_floor: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        default=20, description="Up to this, in the melt's unit, everything beyond the amount is always accepted."
    )
    in_flight_max: Count = Field(default=64, description="Melts under way at a time; further ones are refused.")
    in_flight_per_mint_max: Count = Field(default=32, description="Likewise at one mint.")
    breaker_failures: Count = Field(
        default=5,
        description="After so many unusable answers of a mint in a row, new melts there are refused until it answers.",
    )
    breaker_pause_s: Seconds = Field(
        default=5, description="How long at first, until one melt may try; twice as long after each try that fails."
    )
    breaker_pause_s_max: Seconds = Field(default=120, description="How long at most.")

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if self.wait_s_default > self.wait_s_max:
            raise ValueError("wait_s_default must not be above wait_s_max")
        if self.in_flight_per_mint_max > self.in_flight_max:
            raise ValueError("in_flight_per_mint_max must not be above in_flight_max")
        return self


class RestoreSettings(Section):
    """Looking for value that our outputs hold at a mint and the database lacks (NUT-09)."""

    interval_s: Seconds = Field(default=86_400, description="From one round over all mints to the next.")
    window_s: Seconds = Field(
        default=86_400 * 30,
        description="Melts that ended within this time are asked about first in each round; older ones slowly, in turn.",
    )
    requests_max_per_round: Annotated[int, Field(ge=4, le=1_000_000)] = Field(
        default=2000, description="At most so many requests to a mint in a round; the next one goes on from there."
    )
    requests_max_on_request: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=20_000,
        description="Likewise to a mint when asked for by command; the answer says so when it is reached.",
    )
    batch_outputs: Annotated[int, Field(ge=1, le=1000)] = Field(default=100, description="Outputs in one request.")
    pause_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.1, description="Between two requests of a round, so that payments go first."
    )
    operator_npub: str | None = Field(
        default=None,
        pattern=r"^npub1[a-z0-9]{58,63}$",
        description="Whose becomes value at counters that no entry of this database planned (another database with the same "
        "seed, or a backup that was restored). Left out: such value is only recorded.",
    )


class StoreSettings(Section):
    """How meltd uses the database."""

    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="Threads that talk to the database.")
    transaction_deadline_s: Seconds = Field(
        default=20, description="After this a transaction is given up and reported."
    )


class SummarySettings(Section):
    """The daily summaries of mints and users."""

    interval_s: Seconds = Field(
        default=3600,
        description="How often today's summary is brought up to date; each time the holdings are added up. A day that is "
        "over is closed by the first round after it.",
    )


class LogSettings(Section):
    """The log, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is written."
    )
    format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="`auto` is pretty on a terminal and JSON lines elsewhere."
    )

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class WebhookSettings(Section):
    """Where CRITICAL events are posted as JSON, beside the log and the metrics."""

    url: SecretStr | None = Field(
        default=None, description="Receives a POST per event. Left out: none. May hold a token."
    )
    timeout_s: Seconds = Field(default=10, description="For one delivery; it is tried again with growing pauses.")

    @field_validator("url")
    @classmethod
    def _http(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must start with https:// or http://")
        return value


class DebugSettings(Section):
    """For meltd's own tests. Never set these where money is."""

    failpoint: str | None = Field(
        default=None, description="End the process with SIGKILL at a named boundary, `name` or `name@count`."
    )
    break_payments_on_purpose: bool = Field(default=False, description="Say that you mean it: needed for `failpoint`.")

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if self.failpoint is not None and not self.break_payments_on_purpose:
            raise ValueError("failpoint kills the daemon in the middle of payments: it needs break_payments_on_purpose")
        return self


class Settings(BaseSettings):
    """All settings. Made by :func:`daemon.settings.load`; frozen afterwards."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
        env_prefix="MELTD_",
    )
    computed_defaults: ClassVar[dict[str, str]] = {
        "data_dir": "`$STATE_DIRECTORY`, else `/var/lib/meltd` where it can be written, else `$XDG_STATE_HOME/meltd`",
    }

    data_dir: Path = Field(
        default_factory=lambda: default_data_dir(os.environ),
        description="State of this instance (id, seed, embedded store, spool). Made with mode 0700.",
    )
    embedded: bool = Field(
        default=False, description="Run the embedded store under `data_dir` instead of `mongo.uri`. For trying out."
    )
    seed: SecretStr | None = Field(
        default=None,
        description="Mnemonic (BIP-39) that outputs derive from (NUT-13). Left out: read from, or made in, `data_dir`. "
        "Also taken from the systemd credential `meltd-seed`. Lose it and change that is still at a mint is lost.",
    )
    drain_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=25, description="After SIGTERM, open work may take this long. Keep systemd's TimeoutStopSec above it."
    )
    lease_s: Annotated[float, Field(ge=2, le=3600)] = Field(
        default=15,
        description="An instance that shows no sign of life for this long loses its open melts to another one on the "
        "same database.",
    )
    mode: OperatingMode | None = Field(
        default=None,
        description="`observe` changes nothing in the wallet's collections, `correct` corrects by rule. It decides where the "
        "database holds no choice yet (`meltd adopt`); where both speak, the more careful holds. Unset: `observe` on a database "
        "whose documents meltd did not make, else `correct`.",
    )
    mongo: MongoSettings = Field(default_factory=MongoSettings, description="The database.")
    socket: SocketSettings = Field(default_factory=SocketSettings, description="The local API.")
    http: HttpSettings = Field(default_factory=HttpSettings, description="Metrics and health.")
    mints: dict[str, MintSettings] = Field(
        default_factory=dict,
        description="The mints that meltd talks to, by alias. It contacts no other.",
        max_length=1000,
    )
    sweep: SweepSettings = Field(default_factory=SweepSettings, description="Reconciliation.")
    summary: SummarySettings = Field(default_factory=SummarySettings, description="Daily summaries.")
    restore: RestoreSettings = Field(default_factory=RestoreSettings, description="Restoring lost value.")
    subscriptions: SubscriptionSettings = Field(default_factory=SubscriptionSettings, description="Hints from mints.")
    melt: MeltSettings = Field(default_factory=MeltSettings, description="Paying invoices.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="Use of the database.")
    log: LogSettings = Field(default_factory=LogSettings, description="The log.")
    debug: DebugSettings = Field(default_factory=DebugSettings, description="For tests of meltd itself.")
    webhook: WebhookSettings = Field(default_factory=WebhookSettings, description="Notification of CRITICAL events.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours knows *_FILE, unknown names and lists
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a daemon reads no .env of the folder it starts in
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = inputs()
        if given is None:
            return (init_settings,)
        return (
            init_settings,
            EnvironmentSource(settings_cls, given),
            FilesSource(settings_cls, given),
            TomlSource(settings_cls, given),
        )

    @field_validator("mints")
    @classmethod
    def _aliases(cls, value: dict[str, MintSettings]) -> dict[str, MintSettings]:
        for alias in value:
            if not ALIAS.match(alias):
                raise ValueError(
                    f"alias {alias!r} must be 1 to 32 of a-z, 0-9, _ and -, starting with a letter or digit"
                )
            if alias in {"all", "unconfigured"}:
                raise ValueError(f"alias {alias!r} has a meaning in metrics: choose another")
        seen: dict[str, str] = {}
        for alias, mint in value.items():
            key = normalise_mint_url(mint.url)
            if key in seen:
                raise ValueError(f"{alias!r} and {seen[key]!r} have the same url")
            seen[key] = alias
        return value

    @field_validator("mode", mode="before")
    @classmethod
    def _mode_that_is_one(cls, value: object) -> object:
        """``ending`` is a state of the database, nobody's to set."""
        if value in {None, ""}:
            return None
        if value not in {OperatingMode.OBSERVE.value, OperatingMode.CORRECT.value}:
            raise ValueError("mode must be observe or correct")
        return OperatingMode(str(value))

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def socket_path(self) -> Path:
        """Where the socket is bound and looked for."""
        if self.socket.path is not None:
            return self.socket.path.expanduser().absolute()
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        return (Path(runtime) if runtime else self.data_dir) / "meltd.sock"

    @property
    def mode_setting(self) -> OperatingMode | None:
        """``mode`` with its default resolved: the embedded store is meltd's own, and nobody has to choose there."""
        return OperatingMode.CORRECT if self.mode is None and self.embedded else self.mode

    @property
    def settle_policy(self) -> SettlePolicy:
        """When drift has settled, with the defaults resolved: the embedded store is nobody else's."""
        sweep = self.sweep
        given = sweep.model_fields_set
        alone = self.embedded
        correct_after_s = 0.0 if alone and "correct_after_s" not in given else sweep.correct_after_s
        alert_after_s = 0.0 if alone and "alert_after_s" not in given else sweep.alert_after_s
        # What settles soon is looked at sooner, so that it is carried out when its time has come.
        look_s = min(sweep.look_s, max(LOOK_S_MIN, correct_after_s / 10)) if correct_after_s else sweep.look_s
        return SettlePolicy(
            correct_after_s=correct_after_s,
            alert_after_s=alert_after_s,
            look_s=look_s,
            pending_grace_s=sweep.pending_grace_s,
        )

    @property
    def seed_path(self) -> Path:
        """Where the seed is kept when none is given: mode 0600."""
        return self.data_dir / "seed"

    @property
    def instance_id_path(self) -> Path:
        """Where this instance's id is kept."""
        return self.data_dir / "instance-id"

    @property
    def retry_writes(self) -> bool:
        """``mongo.retry_writes`` with its default resolved (STORE.md: off with the embedded store)."""
        return not self.embedded if self.mongo.retry_writes is None else self.mongo.retry_writes

    def require_runnable(self) -> None:
        """Raise :class:`melt.errors.ConfigError` unless a daemon can start with this: a store and its choice."""
        if self.embedded and self.mongo.uri is not None:
            raise ConfigError("both `embedded` and `mongo.uri` (MELTD_MONGO_URI) are set: choose one")
        if not self.embedded and self.mongo.uri is None:
            raise ConfigError(
                "no database: set MELTD_MONGO_URI (or --mongo-uri) to a replica set, or try out with --embedded"
            )

    def masked_dump(self) -> dict[str, Any]:
        """Everything as plain values for the log and ``meltd config show``: no secret, no password (I10)."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        plain["seed"] = None if self.seed is None else MASK
        uri = self.mongo.uri
        plain["mongo"]["uri"] = None if uri is None else mask_uri(uri.get_secret_value())
        webhook = self.webhook.url
        plain["webhook"]["url"] = None if webhook is None else f"{urlsplit(webhook.get_secret_value()).scheme}://{MASK}"
        plain["socket"]["mode"] = f"{self.socket.mode:04o}"
        plain["socket"]["path"] = str(self.socket_path)
        return plain


def mask_uri(uri: str) -> str:
    """A connection string without its password and without its options, which may hold one."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return MASK
    _, at, hosts = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{MASK}@{hosts}" if at else hosts, parts.path, MASK if parts.query else "", ""))


def check_mint_url(url: str, *, allow_insecure: bool) -> None:
    """Raise ValueError unless meltd may talk to this mint: http or https, no credentials, plain http only nearby."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("url is not a URL") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("url must be http(s)://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not carry a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("url must not have a query or fragment")
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
        raise ValueError("url must not hold blanks or control characters")
    if parts.scheme == "http" and not allow_insecure and not _is_nearby(host):
        raise ValueError(
            "plain http is only for loopback, private addresses and .onion: use https, or set allow_insecure = true"
        )


def _is_nearby(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        return name == _PRIVATE_NAMES[0] or name.endswith(_PRIVATE_NAMES[1:])
    return address.is_private or address.is_loopback


def default_data_dir(environ: os._Environ[str] | dict[str, str]) -> Path:
    """``$STATE_DIRECTORY`` (systemd), else /var/lib/meltd where it is ours to write, else the user's state folder."""
    if state := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(state)
    system = Path("/var/lib/meltd")
    if os.access(system, os.W_OK) or (os.geteuid() == 0 and not system.exists()):
        return system
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "meltd"
