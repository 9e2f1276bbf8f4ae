"""The command ``meltd``, and ``python -m daemon``. Start reading here."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """
    Check that this package is ours, then run the command line.

    The check comes before any other import of ours: :mod:`daemon.guard` says what may have happened.
    """
    try:
        from daemon.guard import problem  # noqa: PLC0415 - the import itself is what may fail
    except ImportError:
        sys.stderr.write("meltd can't start: its package `daemon` is damaged; install meltd again\n")
        sys.exit(os.EX_CONFIG)
    message = problem(deep=False)
    if message is not None:
        sys.stderr.write(message + "\n")
        sys.exit(os.EX_CONFIG)
    from daemon.cli import run  # noqa: PLC0415 - after the check

    sys.exit(run())


if __name__ == "__main__":
    main()
