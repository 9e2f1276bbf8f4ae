"""
Refuses to start where another distribution's ``daemon`` package lies over or beside ours.

python-daemon has a package of the same name. Installed after meltd it overwrites ``daemon/__init__.py``; removed,
it takes that file with it; ``pip check`` is content either way. Its modules would then run with ours.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from typing import Final

SENTINEL: Final = "meltd:daemon"
DISTRIBUTION: Final = "meltd"
_PACKAGE: Final = "daemon"


def problem(*, deep: bool) -> str | None:
    """
    What is wrong with the installed package, as a message for a person; None when nothing is.

    ``deep`` also reads the metadata of all installed distributions, which costs some tenths of a second.
    """
    package = import_module(_PACKAGE)
    if getattr(package, "MELTD_PACKAGE", None) != SENTINEL:
        where = getattr(package, "__file__", None) or "(its __init__.py is gone)"
        return _message(f"the package `daemon` is not meltd's any more: {where}", _owners())
    if deep and (others := _owners()):
        return _message("another distribution owns the package `daemon` too", others)
    return None


def _owners() -> list[str]:
    """Distributions other than ours that installed files into ``daemon/``."""
    names = metadata.packages_distributions().get(_PACKAGE, [])
    return sorted({name for name in names if name.lower() != DISTRIBUTION})


def _message(what: str, owners: list[str]) -> str:
    who = ", ".join(owners) or "python-daemon, most likely"
    remove = " ".join(owners) or "python-daemon"
    return (
        f"meltd can't start: {what}.\n"
        f"  Installed by: {who}.\n"
        "  Both packages are named `daemon` and overwrite each other's files. meltd needs an environment of its own:\n"
        f"    {sys.executable} -m pip uninstall {remove}\n"
        f"    {sys.executable} -m pip install --force-reinstall --no-deps {DISTRIBUTION}"
    )
