"""
What is wrong beyond the states that a mint tells (DESIGN section 5, Beyond states).

Who else holds a proof (:mod:`melt.beyond.duplicates`), whether the mint has signed it (:mod:`melt.beyond.signatures`),
how long its keyset lasts (:mod:`melt.beyond.expiry`), and what can't be read at all (:mod:`melt.beyond.malformed`).
:class:`Beyond` looks at one page of documents for all of it. Nothing here changes a document.
"""

from __future__ import annotations

from melt.beyond.ending import report_expiring
from melt.beyond.inspection import Beyond, BeyondPolicy, Looked
from melt.beyond.malformed import malformed_findings

__all__ = ["Beyond", "BeyondPolicy", "Looked", "malformed_findings", "report_expiring"]
