"""
Where settings come from: command line, environment, files named in the environment, systemd credentials, TOML.

In that order, first found wins, key by key. Unknown names are collected, not ignored: a typo in a limit must not
leave the default in force without a word.
"""

from __future__ import annotations

import difflib
import tomllib
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

PREFIX: Final = "MELTD_"
CONFIG_VARIABLE: Final = "MELTD_CONFIG"
DEFAULT_CONFIG: Final = Path("/etc/meltd/meltd.toml")
SECRET_BYTES_MAX: Final = 4096
CONFIG_BYTES_MAX: Final = 1_048_576
SHORT_NAMES: Final = {"MELTD_MONGO_URI": ("mongo", "uri"), "MELTD_SOCKET": ("socket", "path")}
"""Names that stand beside the systematic ones because everybody expects them."""
CREDENTIALS: Final = {"meltd-seed": ("seed",), "meltd-mongo-uri": ("mongo", "uri")}
"""systemd credentials (LoadCredential=) that are looked for in ``$CREDENTIALS_DIRECTORY``."""

Path_ = tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Inputs:
    """What one load may read, and the problems that its sources met."""

    environ: Mapping[str, str]
    config: Path | None
    problems: list[str] = field(default_factory=list)


_inputs: ContextVar[Inputs | None] = ContextVar("meltd_settings_inputs", default=None)


def inputs() -> Inputs | None:
    """The inputs of the load that is under way, if one is."""
    return _inputs.get()


def leaves(model: type[BaseModel], path: Path_ = ()) -> Iterator[tuple[Path_, FieldInfo]]:
    """Every setting with its path. A table of tables (``mints``) shows as ``("mints", "<alias>", field)``."""
    for name, info in model.model_fields.items():
        here = (*path, name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaves(info.annotation, here)
        elif get_origin(info.annotation) is dict:
            yield from leaves(get_args(info.annotation)[1], (*here, "<alias>"))
        else:
            yield here, info


def is_secret(info: FieldInfo) -> bool:
    """Whether the value must never be shown and may come from a file."""
    return info.annotation is SecretStr or SecretStr in get_args(info.annotation)


def variable(path: Path_) -> str:
    """The environment variable of a setting."""
    for name, target in SHORT_NAMES.items():
        if target == path:
            return name
    return PREFIX + "__".join(path).upper()


def nearest(word: str, known: list[str]) -> str:
    """`` (did you mean ...?)`` or nothing."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {found[0]}?)" if found else ""


def put(target: dict[str, Any], path: Path_, value: object) -> None:
    """Set a nested key, making tables on the way."""
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = value


def read_bounded(path: Path, limit: int, what: str) -> str:
    """A text file of at most ``limit`` bytes; raises ValueError with one sentence that holds no content."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{what} {path} can't be read: {error.strerror}") from error
    if len(data) > limit:
        raise ValueError(f"{what} {path} is larger than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} {path} is not UTF-8 text") from None


class _Source(PydanticBaseSettingsSource):
    """A source that gives its whole tree at once."""

    def __init__(self, settings_cls: type[BaseSettings], given: Inputs) -> None:
        super().__init__(settings_cls)
        self.given = given
        self.known: dict[Path_, FieldInfo] = dict(leaves(settings_cls))
        self._tree: dict[str, Any] | None = None

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        if self._tree is None:
            self._tree = self.tree()
        return self._tree

    def tree(self) -> dict[str, Any]:
        raise NotImplementedError

    def resolve(self, name: str) -> tuple[Path_, FieldInfo, bool] | None:
        """The setting that a variable names, and whether it names a file that holds the value."""
        for file, text in ((False, name), (True, name.removesuffix("_FILE"))):
            if file and text == name:
                continue
            path = SHORT_NAMES.get(text) or tuple(part.lower() for part in text.removeprefix(PREFIX).split("__"))
            generic = (path[0], "<alias>", *path[2:]) if path[0] == "mints" and len(path) > 1 else path
            info = self.known.get(path) or self.known.get(generic)
            if info is not None and (not file or is_secret(info)):
                return path, info, file
        return None

    def variables(self) -> Iterator[tuple[str, str]]:
        for name, value in self.given.environ.items():
            if name.startswith(PREFIX) and name != CONFIG_VARIABLE:
                yield name, value


class EnvironmentSource(_Source):
    """``MELTD_SECTION__KEY=value``; tuples are comma-separated. Reports every unknown ``MELTD_`` name."""

    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, value in self.variables():
            resolved = self.resolve(name)
            if resolved is None:
                known = [variable(path) for path in self.known]
                self.given.problems.append(f"{name}: no such setting{nearest(name, known)}")
                continue
            path, info, file = resolved
            if file:
                continue
            if get_origin(info.annotation) is tuple:
                put(tree, path, [part.strip() for part in value.split(",") if part.strip()])
            elif value == "" and type(None) in get_args(info.annotation):
                put(tree, path, None)
            else:
                put(tree, path, value)
        return tree


class FilesSource(_Source):
    """``MELTD_SEED_FILE=/path`` and the like, then systemd credentials: secrets that stay out of the environment."""

    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        folder = self.given.environ.get("CREDENTIALS_DIRECTORY")
        for name, path in CREDENTIALS.items() if folder else ():
            file = Path(folder or "") / name
            if file.exists():
                self.put_secret(tree, path, file, f"systemd credential {name}")
        for name, value in self.variables():
            resolved = self.resolve(name)
            if resolved is not None and resolved[2]:
                self.put_secret(tree, resolved[0], Path(value), name)
        return tree

    def put_secret(self, tree: dict[str, Any], path: Path_, file: Path, what: str) -> None:
        try:
            text = read_bounded(file, SECRET_BYTES_MAX, f"{what}:").strip()
        except ValueError as error:
            self.given.problems.append(str(error))
            return
        if text:
            put(tree, path, text)
        else:
            self.given.problems.append(f"{what}: {file} is empty")


class TomlSource(_Source):
    """The configuration file. A secret may be named by ``<key>_file`` there too."""

    def tree(self) -> dict[str, Any]:
        path = self.given.config
        if path is None:
            return {}
        try:
            tree = tomllib.loads(read_bounded(path, CONFIG_BYTES_MAX, "configuration file"))
        except tomllib.TOMLDecodeError as error:
            self.given.problems.append(f"{path}: not valid TOML: {error}")
            return {}
        except ValueError as error:
            self.given.problems.append(str(error))
            return {}
        for target, info in self.known.items():
            if is_secret(info):
                self.follow_file(tree, target)
        return tree

    def follow_file(self, tree: dict[str, Any], target: Path_) -> None:
        table: Any = tree
        for name in target[:-1]:
            table = table.get(name, {}) if isinstance(table, dict) else {}
        key = f"{target[-1]}_file"
        if not isinstance(table, dict) or key not in table:
            return
        file = table.pop(key)
        if not isinstance(file, str):
            self.given.problems.append(f"{'.'.join(target)}_file: must be a path")
            return
        found: dict[str, Any] = {}
        FilesSource(self.settings_cls, self.given).put_secret(found, target, Path(file), ".".join(target) + "_file")
        for name in target[:-1]:
            found = found.get(name, {})
        if target[-1] in found:
            table.setdefault(target[-1], found[target[-1]])
