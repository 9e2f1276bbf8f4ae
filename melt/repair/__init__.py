"""
The repair of the double count: one secret in several documents, and ``melted`` documents that count (ADR 13).

Found in two passes over the collection, valued per user, planned by rule, and carried out on a person's word, in
transactions that do nothing where a document has moved on.
"""

from __future__ import annotations

from melt.repair.find import keeps_before_source
from melt.repair.run import Repairer

__all__ = ["Repairer", "keeps_before_source"]
