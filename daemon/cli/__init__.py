"""
The command line. Importing it is cheap: each command imports what it needs when it runs.

Exit codes are documented in ``meltd --help`` and defined in :mod:`daemon.cli.ends`.
"""

from __future__ import annotations

import os
import sys


def run(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads us any more: leave quietly, and keep the interpreter from flushing into the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(arguments: list[str] | None) -> int:
    """Errors that meltd knows are one message, never a traceback."""
    from daemon.cli import commands, restore  # noqa: F401, PLC0415 - the commands register themselves
    from daemon.cli.ends import EXIT_CONFIG, EXIT_NO_DAEMON, CommandFailed, NoDaemon  # noqa: PLC0415 - cheap start
    from daemon.cli.root import app  # noqa: PLC0415
    from melt.errors import ConfigError, MeltdError  # noqa: PLC0415

    try:
        app(arguments, prog_name="meltd")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except ConfigError as error:
        return _fail(str(error), EXIT_CONFIG)
    except NoDaemon as error:
        return _fail(str(error), EXIT_NO_DAEMON)
    except CommandFailed as error:
        return _fail(str(error), error.exit_code)
    except MeltdError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"meltd: {message}\n")
    return code
