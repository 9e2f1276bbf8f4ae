"""
Finding the secrets that stand in more than one document, in memory that does not grow with the collection. Pure.

Two passes over all documents. The first one marks for each secret a bit in a table of fixed size; a bit that is found
marked is *suspect*. The second one remembers exactly the secrets of suspect bits, and who holds them. A bit shared by
two different secrets by chance costs room in the second pass and nothing else. A collection that is too large for the
table is searched in slices, each with two passes of its own over the secrets that fall into it.

Digests are 16 bytes of the secret's hash: the chance that two of 1e9 secrets share one is 1e-21.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melt.model import TokenId

TABLE_BITS_MIN: Final = 2**20
TABLE_BITS_MAX: Final = 2**29
"""64 MiB."""
BITS_PER_SECRET: Final = 128
FULL_SHARE: Final = 32
"""
A table of which one bit in so many is marked is full. The largest one then holds 16 million secrets, of which some
260,000 are suspect by chance: half of what is remembered of suspects.
"""
SUSPECTS_MAX: Final = 500_000
_DIGEST_BYTES: Final = 16


def digest_of(secret: str) -> bytes:
    """What stands for a secret in the search (I10)."""
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def table_bits(secrets: int) -> int:
    """The size of the table for so many secrets, a power of two."""
    wanted = max(TABLE_BITS_MIN, secrets * BITS_PER_SECRET)
    return min(TABLE_BITS_MAX, 1 << (wanted - 1).bit_length())


def slices_for(secrets: int) -> int:
    """In how many slices so many secrets are searched."""
    return max(1, -(-secrets * FULL_SHARE // TABLE_BITS_MAX))


class Suspects:
    """The first pass of one slice."""

    def __init__(self, bits: int, *, part: int = 0, parts: int = 1) -> None:
        self._table = bytearray(bits // 8)
        self._mask = bits - 1
        self._part, self._parts = part, parts
        self._marked = 0
        self._bits = bits
        self.slots: set[int] = set()
        self.overflowed = False

    @property
    def is_full(self) -> bool:
        """Whether the table is too small for what was noted: search again in more slices."""
        return self._marked * FULL_SHARE > self._bits

    def slot(self, digest: bytes) -> int | None:
        """The bit of a secret; None where another slice has it."""
        if self._parts > 1 and int.from_bytes(digest[8:], "big") % self._parts != self._part:
            return None
        return int.from_bytes(digest[:8], "big") & self._mask

    def note(self, digests: Iterable[bytes], *, suspect: bool = False) -> None:
        """One document's distinct secrets; with ``suspect`` they are looked for whoever else holds them."""
        for digest in digests:
            slot = self.slot(digest)
            if slot is None:
                continue
            if suspect:
                self._suspect(slot)
            byte, bit = slot >> 3, 1 << (slot & 7)
            if not self._table[byte] & bit:
                self._table[byte] |= bit
                self._marked += 1
            else:
                self._suspect(slot)

    def _suspect(self, slot: int) -> None:
        if len(self.slots) < SUSPECTS_MAX:
            self.slots.add(slot)
        elif slot not in self.slots:
            self.overflowed = True


class Holders:
    """The second pass: who holds the secrets of suspect bits."""

    def __init__(self, suspects: Suspects) -> None:
        self._suspects = suspects
        self._holders: dict[bytes, list[TokenId]] = {}

    def note(self, token_id: TokenId, digests: Iterable[bytes]) -> bool:
        """One document's distinct secrets; whether one of them is suspect."""
        noted = False
        for digest in digests:
            slot = self._suspects.slot(digest)
            if slot is not None and slot in self._suspects.slots:
                self._holders.setdefault(digest, []).append(token_id)
                noted = True
        return noted

    def duplicates(self) -> Mapping[bytes, tuple[TokenId, ...]]:
        """Digest to the documents that hold it, two or more, in the order in which they were noted."""
        found = {digest: tuple(dict.fromkeys(ids)) for digest, ids in self._holders.items() if len(ids) > 1}
        return {digest: ids for digest, ids in found.items() if len(ids) > 1}
