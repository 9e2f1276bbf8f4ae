"""What the log shows and never shows, and that it never fails."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from daemon.logs import _Formatter as Formatter
from daemon.logs import redact_text, set_level, setup
from daemon.settings import LogSettings
from melt.model import KeysetId, Proof, Y

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "9a6dbb847bd232ba76db0df197216b29d3b8cc14553cd27827fc1cc942fedb4e"


class Lines:
    """A log in memory."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def last(self) -> dict[str, Any]:
        return self.all()[-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    levels = {name: logging.getLogger(name).level for name in ("httpx", "pymongo", "apscheduler", "uvicorn.access")}
    made = Lines()
    setup(LogSettings(level="DEBUG", format="json"), stream=made.stream)
    yield made
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = before[1]
    root.setLevel(before[0])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_line_is_json_with_time_level_logger_and_context(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(melt_id="m-1"):
        structlog.get_logger("meltd.test").info("melt settled", amount=10)
    line = lines.last()
    assert (line["event"], line["level"], line["logger"], line["amount"]) == ("melt settled", "info", "meltd.test", 10)
    assert line["melt_id"] == "m-1"
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "key",
    ["secret", "C", "C_", "r", "preimage", "payment_preimage", "seed", "mnemonic", "privkey", "p2pk_privkey", "password",
     "authorization", "Authorization", "witness", "dleq", "proofs", "blinding_factor", "client_secret", "uri"],
)  # fmt: skip
def test_the_value_of_a_secret_key_is_never_shown_at_any_depth(lines: Lines, key: str) -> None:
    log = structlog.get_logger("meltd.test")
    log.info("flat", **{key: SECRET})
    log.info("deep", proof_of={"a": [{key: SECRET}, ({key: {"x": SECRET}},)]})
    assert SECRET not in lines.text
    assert lines.all()[0][key] == "***"


@pytest.mark.parametrize(
    "key", ["Y", "y", "quote_id", "token_id", "seed_id", "transaction_id", "operation", "payment_hash"]
)
def test_what_may_be_shown_is_shown(lines: Lines, key: str) -> None:
    structlog.get_logger("meltd.test").info("shown", **{key: "02" + SECRET})
    assert lines.last()[key] == "02" + SECRET


def test_counts_are_shown_although_their_names_are_those_of_secrets(lines: Lines) -> None:
    structlog.get_logger("meltd.test").info("swept", proofs=12, secret=12345)
    assert (lines.last()["proofs"], lines.last()["secret"]) == (12, "***")


@pytest.mark.parametrize(
    "text",
    [
        f"Proof(secret='{SECRET}')",
        f'{{"secret": "{SECRET}", "amount": 2}}',
        f"secret={SECRET}",
        f"C: {SECRET}",
        f"p2pk_privkey={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"preimage = {SECRET}, next",
        f"mongodb://meltd:{SECRET}@db.example/",
        f"https://user:{SECRET}@mint.example",
        f"token cashuA{SECRET} and more",
    ],
)
def test_a_secret_inside_a_text_is_taken_out(lines: Lines, text: str) -> None:
    structlog.get_logger("meltd.test").info("odd", detail=text)
    structlog.get_logger("meltd.test").info(text)
    logging.getLogger("pymongo.connection").warning("driver says %s", text)
    assert SECRET not in lines.text
    assert SECRET not in redact_text(text)
    assert len(lines.all()) == 3


def test_a_proof_that_is_logged_by_mistake_shows_no_secret(lines: Lines) -> None:
    proof = Proof(keyset_id=KeysetId("00" * 8), amount=2, secret=SECRET, c="02" + SECRET, y=Y("03" + "11" * 32))
    structlog.get_logger("meltd.test").info("oops", subject=proof, many=[proof])
    assert SECRET not in lines.text
    assert "11" * 32 in lines.text


def test_an_exception_is_shown_without_local_variables(lines: Lines) -> None:
    def fail() -> None:
        hidden = SECRET
        raise ValueError(f"secret={hidden}")

    try:
        fail()
    except ValueError:
        structlog.get_logger("meltd.test").exception("crashed")
        logging.getLogger("uvicorn.error").exception("crashed too")
    assert SECRET not in lines.text
    for line in lines.all():
        assert "in fail" in line["exception"]
        assert "ValueError: secret=***" in line["exception"]


def test_tracebacks_keep_their_depth(lines: Lines) -> None:
    assert not hasattr(sys, "tracebacklimit")
    structlog.get_logger("meltd.test").info("x")
    assert lines.all()


class Rude:
    """A value that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_odd_values_never_break_a_line(lines: Lines) -> None:
    handlers = logging.getLogger().handlers
    handlers[:] = [handler for handler in handlers if isinstance(handler.formatter, Formatter)]  # pytest's own fail
    log = structlog.get_logger("meltd.test")
    loop: dict[str, Any] = {}
    loop["self"] = loop
    odd = [
        Rude(),
        loop,
        b"\xff\x00",
        float("nan"),
        {1: 2, None: 3},
        {Rude},
        "\ud800",
        "x" * 100_000,
        range(10**9),
        None,
    ]
    for value in odd:
        log.info("odd", value=value)
        log.info("odd", value=[value])
    log.info("%s and %d", "text", "not a number")
    log.info("%s", "fits")
    logging.getLogger("other").warning("%s", Rude())
    logging.getLogger("other").warning("%d", "text")
    texts = lines.text.splitlines()
    assert len(texts) == 2 * len(odd) + 4
    assert max(map(len, texts)) < 20_000
    assert "fits" in lines.text


def test_libraries_go_the_same_way_and_those_that_name_urls_are_quiet(lines: Lines) -> None:
    for name in ("httpx", "uvicorn.access", "apscheduler.scheduler", "pymongo.command"):
        logging.getLogger(name).info("GET https://mint.example/v1/keys")
    assert lines.text == ""
    for name in ("uvicorn.error", "apscheduler.scheduler", "pymongo.topology"):
        logging.getLogger(name).warning("trouble")
        assert lines.last()["logger"] == name


def test_setting_up_again_replaces_and_the_level_can_change(lines: Lines) -> None:
    setup(LogSettings(level="INFO", format="json"), stream=lines.stream)
    log = structlog.get_logger("meltd.test")
    log.info("once")
    log.debug("not at all")
    assert len(lines.all()) == 1
    set_level("ERROR")
    log.warning("quiet now")
    assert len(lines.all()) == 1


def test_on_a_terminal_it_is_pretty_and_as_careful(lines: Lines) -> None:
    setup(LogSettings(level="INFO", format="pretty"), stream=lines.stream)
    structlog.get_logger("meltd.test").info("melt settled", amount=10, secret=SECRET)
    assert "melt settled" in lines.text
    assert SECRET not in lines.text
    assert not lines.text.startswith("{")
