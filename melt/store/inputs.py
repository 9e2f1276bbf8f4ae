"""The inputs of journal entries: their proofs, which an open entry keeps for itself, and where they lie (DESIGN section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.model import Token, TokenStatus, normalise_mint_url
from melt.store.core import Core, in_batches
from melt.store.documents import raw_ids, read_proofs, read_token
from melt.store.faults import store_method
from melt.store.ledger import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melt.model import InputRef, Melt, Proof, TokenId, Y
    from melt.store.connect import Document
    from melt.store.ledger import Held


class Inputs(Core):
    """The part of :class:`melt.ports.Store` about the inputs of open entries."""

    @store_method
    def input_proofs(self, melt: Melt, ys: Sequence[Y]) -> tuple[Proof, ...]:
        """
        See :meth:`melt.ports.Store.input_proofs`.

        An entry keeps its own; one of an older release has none, and its documents are read.
        """
        wanted = set(ys)
        raw = self._c.melts.find_one({"_id": str(melt.id)}, {"proofs": 1}) or {}
        found = {proof.y: proof for proof in read_proofs(raw.get("proofs")) if proof.y in wanted}
        for token in self._tokens_of(ref.token_id for ref in melt.inputs if ref.y in wanted and ref.y not in found):
            found |= {proof.y: proof for proof in token.proofs if proof.y in wanted and proof.y not in found}
        return tuple(found[y] for y in ys if y in found)

    @store_method
    def strayed_inputs(self, melt: Melt) -> tuple[Y, ...]:
        """See :meth:`melt.ports.Store.strayed_inputs`."""
        at_home: set[Y] = set()
        for token in self._tokens_of(ref.token_id for ref in melt.inputs):
            if is_untouched(melt, token):
                at_home |= {proof.y for proof in token.proofs}
        return tuple(ref.y for ref in melt.inputs if ref.y not in at_home)

    def _tokens_of(self, ids: Iterable[TokenId]) -> Iterator[Token]:
        """Those of these documents that are there and can be read."""
        raw_wanted = [raw_id for token_id in sorted(set(ids)) for raw_id in raw_ids(token_id)]
        for batch in in_batches(raw_wanted, BATCH_MAX):
            for document in self._c.tokens.find({"_id": {"$in": list(batch)}}):
                token = read_token(document)
                if isinstance(token, Token):
                    yield token


def ys_by_token(inputs: Sequence[InputRef]) -> dict[TokenId, frozenset[Y]]:
    """The inputs' Ys by document, in the order of the inputs."""
    grouped: dict[TokenId, set[Y]] = {}
    for ref in inputs:
        grouped.setdefault(ref.token_id, set()).add(ref.y)
    return {token_id: frozenset(ys) for token_id, ys in grouped.items()}


def raw_of(held: Held, ys: frozenset[Y]) -> list[Document]:
    """Those of a document's raw proofs whose Y is in ``ys``."""
    pairs = zip(held.raw.get("proofs") or (), held.token.proofs, strict=True)
    return [raw for raw, proof in pairs if proof.y in ys]


def is_untouched(melt: Melt, token: Token) -> bool:
    """Whether a document is still what ``melt`` has reserved: its owner's, with its mark, and called spent by nobody."""
    return (
        token.reservation is not None
        and token.reservation.melt_id == melt.id
        and token.status is not TokenStatus.SPENT
        and token.npub == melt.npub
        and normalise_mint_url(token.mint_url) == normalise_mint_url(melt.mint_url)
    )
