"""
Counters that are not behind the mint (NUT-13).

A seed that is used with a new database, or with one restored from a backup, would derive outputs that the mint has
signed before: it refuses them, and what a restore then brings belongs to an earlier operation. So before a process takes
the first counters of a keyset it asks the mint about the next outputs, and moves the counter behind the last one that was
ever signed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import MintRejected
from melt.model import OutputPlan

if TYPE_CHECKING:
    from melt.model import KeysetId
    from melt.ports import Mint, Outputs, Store, StoreThreads

BATCH: Final = 100
GAP_MAX: Final = 3
"""So many batches without a signature are the end, as wallets take it to be: blanks are often left unsigned."""
BATCHES_MAX: Final = 10_000

_log = structlog.get_logger("melt.recovery")


class FreshCounters:
    """Makes sure once per process and keyset."""

    def __init__(self) -> None:
        self._checked: set[tuple[str, KeysetId]] = set()

    async def ensure(
        self, mint: Mint, outputs: Outputs, store: Store, threads: StoreThreads, keyset_id: KeysetId
    ) -> None:
        """
        Move the keyset's counter behind what the mint has signed. Call it before counters are taken.

        A mint without NUT-09 can't be asked: then the database is believed. Raises MintError, StoreError.
        """
        key = (mint.url, keyset_id)
        if key in self._checked:
            return
        start = await threads(partial(store.counter, outputs.seed_id, keyset_id))
        used = start
        empty = 0
        position = start
        for _ in range(BATCHES_MAX):
            if empty == GAP_MAX:
                break
            plan = OutputPlan(keyset_id=keyset_id, counter=position, amounts=(0,) * BATCH, seed_id=outputs.seed_id)
            blinded = outputs.blinded(plan)
            try:
                signed = {one.b_ for one in await mint.restore(blinded)}
            except MintRejected:
                _log.warning("the mint can't tell which outputs it has signed", mint=mint.alias, keyset=keyset_id)
                break
            last = max((index for index, message in enumerate(blinded) if message.b_ in signed), default=None)
            empty = empty + 1 if last is None else 0
            if last is not None:
                used = position + last + 1
            position += BATCH
        if used > start:
            await threads(partial(store.raise_counter, outputs.seed_id, keyset_id, used))
            _log.warning(
                "the counter was behind the mint and has been moved on: was the database restored or replaced?",
                mint=mint.alias,
                keyset=keyset_id,
                counter=start,
                moved_to=used,
            )
        self._checked.add(key)
