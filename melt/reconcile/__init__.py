"""
One page of reconciliation: documents, the mint's states, verdicts, corrections (DESIGN section 5).

Start at :meth:`Reconciler.page`, which looks (:mod:`melt.reconcile.page`), has what it sees judged
(:mod:`melt.reconcile.judging`) and acted on (:mod:`melt.reconcile.acting`), and adds all of it to an :class:`Outcome`.
"""

from __future__ import annotations

from melt.reconcile.outcome import FOUND_MAX, TOURED, Outcome, Performed, ReconcilePolicy, ReconcileScope
from melt.reconcile.page import Reconciler
from melt.reconcile.urls import MintUrls, sort_urls

__all__ = [
    "FOUND_MAX",
    "TOURED",
    "MintUrls",
    "Outcome",
    "Performed",
    "ReconcilePolicy",
    "ReconcileScope",
    "Reconciler",
    "sort_urls",
]
