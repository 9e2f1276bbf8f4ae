"""What the outside asks of a restore (``POST /v1/restore``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melt.model import Actor
    from melt.model.restore import RestoreReport, RestoreScope


class RestoreOperations(Protocol):
    """Implemented by :mod:`daemon.restore`."""

    async def restore(self, *, scope: RestoreScope, dry_run: bool, actor: Actor) -> RestoreReport | None:
        """
        Look for value that the database lacks, and import it; None: there is no such melt.

        What a mint can't be asked is an error in the report. Raises Refusal MINT_UNKNOWN, or WRONG_STATE for a melt that is
        still open: its recovery decides.
        """
        ...
