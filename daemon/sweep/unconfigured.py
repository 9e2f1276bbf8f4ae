"""Documents whose mint is not configured: counted and reported, while their mint is never contacted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.model import OPEN_DISCREPANCY, Action, DriftType, Finding
from melt.reconcile import TOURED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.metrics import Metrics
    from melt.ports import Store, StoreThreads

URLS_MAX: Final = 100
"""So many URLs without a configured mint are reported; more would be a database of something else."""


class Unconfigured:
    """Keeps one record for each URL, for as long as documents stand under it."""

    def __init__(self, store: Store, threads: StoreThreads, metrics: Metrics) -> None:
        self._store = store
        self._threads = threads
        self._metrics = metrics
        self.documents = 0

    async def report(self, urls: Sequence[str]) -> None:
        """Write down these; the records of others are cleared. Raises StoreError."""
        documents = 0
        findings = []
        for url in urls[:URLS_MAX]:
            count = await self._threads(partial(self._store.count_tokens, TOURED, (url,)))
            documents += count
            findings.append(_finding(url, count))
        self.documents = documents
        await self._clear_gone({_subject(url) for url in urls})
        if findings:
            await record_findings(findings, store=self._store, threads=self._threads, telemetry=self._metrics)

    async def _clear_gone(self, here: set[str]) -> None:
        records = await self._threads(
            partial(
                self._store.discrepancies,
                states=tuple(OPEN_DISCREPANCY),
                types=(DriftType.MINT_UNCONFIGURED,),
                severities=(),
                npub=None,
                limit=URLS_MAX,
            )
        )
        gone = [one.subject for one in records if one.subject not in here]
        if gone:
            await self._threads(partial(self._store.clear_unseen, gone, ()))


def _subject(url: str) -> str:
    return f"mint_url:{url[:200]}"


def _finding(url: str, documents: int) -> Finding:
    return Finding(
        type=DriftType.MINT_UNCONFIGURED,
        severity=SEVERITIES[DriftType.MINT_UNCONFIGURED],
        action=Action.RECORD,
        subject=_subject(url),
        npub=None,
        mint=None,
        unit="sat",
        value=0,
        token_id=None,
        ys=(),
        evidence={"documents": documents, "mint_url": url[:200]},
    )
