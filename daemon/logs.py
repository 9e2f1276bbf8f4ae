"""
The log: structlog, one line per thing that was done, redacted before it is rendered (I10, OPS.md).

JSON lines unless standard error is a terminal. The standard library's loggers (uvicorn, pymongo, apscheduler,
httpx) go through the same chain. Nothing here may raise: a value that can't be shown becomes a placeholder.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import ExcInfo, Processor

    from daemon.settings import LogSettings

REDACTED: Final = "***"
_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 50
_TEXT_MAX: Final = 8_192

_SECRET_KEYS: Final = frozenset({
    "secret", "secrets", "c", "c_", "r", "b_", "blinding_factor", "blinding_factors", "e", "s", "dleq", "witness",
    "proof", "proofs", "preimage", "payment_preimage", "seed", "mnemonic", "passphrase", "privkey", "private_key",
    "p2pk_privkey", "password", "passwd", "pwd", "authorization", "cookie", "token", "api_key", "uri", "mongo_uri",
})  # fmt: skip
"""Keys whose values are never shown, in lower case. ``token_id`` and ``operation`` are others and are shown."""
_SECRET_NUMBERS: Final = frozenset({"secret", "r", "blinding_factor", "seed", "privkey", "private_key", "password"})
_SECRET_SUFFIXES: Final = ("_secret", "_preimage", "_privkey", "_private_key", "_password", "_mnemonic", "_seed")
_CREDENTIALS: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,30}://)[^\s/@'\"]+@", re.IGNORECASE)
_ECASH: Final = re.compile(r"\bcashu[AB][A-Za-z0-9_=-]{8,}")
_NAMED: Final = re.compile(
    r"""(["']?\b(?:\w*(?:secret|preimage|privkey|private_key|mnemonic|password|authorization|blinding_factor)"""
    r"""|seed|C_?|r)["']?\s*[=:]\s*)(["']?)(?:(?:bearer|basic)\s+)?[^\s,;}"')\]]{6,}(["']?)""",
    re.IGNORECASE,
)
"""``secret=...`` or ``"secret": "..."`` inside a longer text, as a driver or a repr would write it."""

_QUIET: Final = {"httpx": logging.WARNING, "httpcore": logging.WARNING, "asyncio": logging.WARNING}
"""httpx writes each URL at INFO."""
_LOUDEST_WARNING: Final = ("uvicorn.access", "uvicorn.error", "pymongo", "apscheduler")


def redact(_logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor before the renderer: no value of a secret key, no secret inside a text."""
    return {str(key): _clean(str(key), value, 0) for key, value in event_dict.items()}


def _clean(key: str, value: object, depth: int) -> object:
    lowered = key.lower()
    if _is_secret(lowered, value):
        return REDACTED
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _DEPTH_MAX:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        shown = list(value.items())[:_ITEMS_MAX]
        return {str(name): _clean(str(name), item, depth + 1) for name, item in shown}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    try:
        return redact_text(str(value))
    except Exception:  # noqa: BLE001 - a value's own __str__ may do anything; logging must not fail for it
        return f"<{type(value).__name__}>"


def _is_secret(key: str, value: object) -> bool:
    """Whether the key says so; a count (``proofs=12``) is shown, since only scalars are secret numbers."""
    if value is None or isinstance(value, bool) or value == "":
        return False
    if isinstance(value, (int, float)) and key not in _SECRET_NUMBERS:
        return False
    return key in _SECRET_KEYS or key.endswith(_SECRET_SUFFIXES)


def redact_text(text: str) -> str:
    """A text without credentials in URLs, ecash tokens and named secrets, cut to a bounded length."""
    if len(text) > _TEXT_MAX:
        text = text[:_TEXT_MAX] + "..."
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate can't be written
    text = _CREDENTIALS.sub(rf"\1{REDACTED}@", text)
    text = _ECASH.sub(REDACTED, text)
    return _NAMED.sub(rf"\1\2{REDACTED}\3", text)


def _exception(_logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Tracebacks as text without local variables, which hold proofs."""
    info: ExcInfo | BaseException | bool | None = event_dict.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()  # type: ignore[assignment]  # the empty triple is handled below
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if isinstance(info, tuple) and info[0] is not None:
        try:
            text = _formatter.formatException(info)
        except Exception:  # noqa: BLE001 - an exception's own __str__ may do anything
            text = f"{info[0].__name__}: <can't be shown>"
        event_dict["exception"] = text if len(text) <= _TEXT_MAX else "..." + text[-_TEXT_MAX:]
    return event_dict


_formatter: Final = logging.Formatter()


def _chain() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception,
        redact,
    ]


def _positional(_logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """``log.info("%s", x)`` as the standard library formats it, and without an error when it doesn't fit."""
    arguments = event_dict.pop("positional_args", None)
    if arguments:
        try:
            event_dict["event"] = str(event_dict.get("event")) % arguments
        except (TypeError, ValueError):
            event_dict["args"] = arguments
    return event_dict


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """A record whose rendering fails becomes one line that says so, instead of a traceback in the log."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - the log is the last place that may fail
            kind = type(error).__name__
            return f'{{"event": "a log record could not be rendered", "logger": "{record.name}", "error": "{kind}"}}'


def setup(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """
    Route everything to ``stream`` (standard error) in the format that the settings ask for.

    May be called again: the handlers are replaced.
    """
    stream = stream or sys.stderr
    pretty = settings.format == "pretty" or (settings.format == "auto" and stream.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(default=_unknown)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _positional,
            *_chain(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=_chain(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, _Formatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    set_level(settings.level)
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    """Change the least level that is written; libraries that talk a lot stay at WARNING."""
    logging.getLogger().setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, logging.getLevelNamesMapping()[level]))
    for name in _LOUDEST_WARNING:
        logging.getLogger(name).setLevel(logging.WARNING)


def _unknown(value: object) -> str:
    return f"<{type(value).__name__}>"
