"""
What to do with a journal entry found in each state (DESIGN section 4).

The same code serves after a crash, after an ambiguous answer and in the watcher: :meth:`Recovery.step` takes an open
entry, looks at the mint once, and does at most one thing. What is persisted before each call to the mint:

=========  ==================================================  =========================================
state      what the journal holds                              what a step does
=========  ==================================================  =========================================
RESERVED   inputs, blanks, quote; nothing was sent             release
SWAPPING   the swap, to the byte                               repeat or restore it -> READY / SETTLED
READY      the swap's pay proofs as inputs; POST not sent      release
MELTING    that the POST is about to leave                     look (NUT-07, then the quote) and decide
PENDING    what the POST answered, first sightings             look and decide
FENCING    the fencing swap, to the byte                       repeat or restore it -> RELEASED / PENDING
HELD       the contradiction                                   look; settle if it is gone
=========  ==================================================  =========================================
"""

from __future__ import annotations

from melt.recovery.decide import Patience
from melt.recovery.follow import Recovery, RecoveryPolicy
from melt.recovery.resolve import Sight, look, resolve

__all__ = ["Patience", "Recovery", "RecoveryPolicy", "Sight", "look", "resolve"]
