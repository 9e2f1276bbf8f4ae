"""
The settings of meltd: loaded once, checked as a whole, frozen.

Precedence, key by key: command line, environment (``MELTD_``, nested with ``__``), files named by ``*_FILE``
variables, systemd credentials, the TOML file, the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from daemon.settings.model import (
    HttpSettings,
    LogSettings,
    MeltSettings,
    MintSettings,
    MongoSettings,
    Settings,
    SocketSettings,
    StoreSettings,
    SweepSettings,
    WebhookSettings,
    mask_uri,
)
from daemon.settings.sources import CONFIG_VARIABLE, DEFAULT_CONFIG, Inputs, _inputs, nearest
from melt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

EXIT_CONFIG = os.EX_CONFIG
"""78: the configuration or the environment can't be used as it is."""


def load(
    *,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """
    Read all sources and check everything.

    Args:
        config: the TOML file; None takes ``MELTD_CONFIG``, else /etc/meltd/meltd.toml if it exists.
        overrides: nested values of the command line.
        environ: the environment; None takes the process's own.

    Raises :class:`melt.errors.ConfigError` with every problem in one list, without any secret.
    """
    environ = os.environ if environ is None else environ
    if config is None:
        named = environ.get(CONFIG_VARIABLE)
        config = Path(named) if named else DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None
    given = Inputs(environ=environ, config=config)
    token = _inputs.set(given)
    problems: list[str] = []
    settings = None
    try:
        settings = Settings(**dict(overrides or {}))
    except ValidationError as error:
        problems = [_sentence(item) for item in error.errors(include_url=False, include_input=False)]
    finally:
        _inputs.reset(token)
    problems = given.problems + problems
    if problems or settings is None:
        where = f" (file {config})" if config else ""
        raise ConfigError(f"the configuration can't be used{where}:\n" + "\n".join(f"  - {line}" for line in problems))
    return settings


def _sentence(item: ErrorDetails) -> str:
    """One problem as ``section.key: what is wrong``, with the nearest known key where it is unknown."""
    path = [str(part) for part in item["loc"]]
    name = ".".join(path) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{name}: no such setting{nearest(path[-1], _keys_at(path[:-1]))}"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def _keys_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        if model is Settings and part == "mints":
            model = MintSettings
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return []
            model = annotation
    return list(model.model_fields)


__all__ = [
    "EXIT_CONFIG",
    "HttpSettings",
    "LogSettings",
    "MeltSettings",
    "MintSettings",
    "MongoSettings",
    "Settings",
    "SocketSettings",
    "StoreSettings",
    "SweepSettings",
    "WebhookSettings",
    "load",
    "mask_uri",
]
