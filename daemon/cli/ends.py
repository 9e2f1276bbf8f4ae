"""How a command may end: its exit codes, and the exceptions that lead to them."""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PENDING: Final = 3
EXIT_NO_DAEMON: Final = 69
EXIT_CONFIG: Final = 78


class NoDaemon(Exception):
    """Nobody listens at the socket, or it may not be opened."""


class CommandFailed(Exception):
    """A command ended with a message and an exit code of its own."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class AnswerLost(Exception):
    """The request went out and no answer came: it may or may not have been done."""
