"""The end of an entry in company, in the model store: what others have done to a document never keeps it from its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from melt.model import Altered, InputRef, MalformedToken, Melt, Owner, Proof, Token, TokenId, TokenStatus, Y
from melt.store.altered import what_changed
from tests.simulation.model_ledger import Ledger


@dataclass(slots=True)
class Ending:
    """One ending; ``altered`` collects what it found."""

    ledger: Ledger
    melt: Melt
    altered: list[Altered] = field(default_factory=list)

    def spend(self, inputs: Sequence[InputRef], reason: str) -> None:
        """The mint has consumed them."""
        for token_id, ys in _wanted(inputs).items():
            token = self.ledger.tables.tokens.get(token_id)
            if not isinstance(token, Token) or not self.ledger.is_ours(token):
                self._note(token_id, token, ys, "it is left as it is", written=False)
                continue
            present = ys & {proof.y for proof in token.proofs}
            if token.status is TokenStatus.SPENT:
                self.ledger.unreserve(token)
            elif present:
                rest = self.ledger.move(token, TokenStatus.SPENT, reason=reason, take=present)
                self._store(token, rest, "melt_split")
            else:
                self._free(token, "melt_freed")
            self._note(token_id, token, ys, "it was written", written=True)

    def give_back(self, gone: frozenset[Y], kept: Sequence[Proof]) -> None:
        """Nothing was paid."""
        lost: set[Y] = set()
        for token_id, ys in _wanted(self.melt.inputs).items():
            token = self.ledger.tables.tokens.get(token_id)
            if not isinstance(token, Token):
                lost |= ys - gone
                self._note(token_id, token, ys, "put back", written=False)
                continue
            present = ys & {proof.y for proof in token.proofs}
            lost |= ys - present - gone
            if not self.ledger.is_ours(token):
                self._note(token_id, token, ys, "it is left as it is", written=False)
                continue
            if token.status is TokenStatus.SPENT:
                self.ledger.unreserve(token)
            elif present & gone:
                rest = self.ledger.move(token, TokenStatus.SPENT, reason="melt_released_spent", take=present & gone)
                self._store(token, rest, "melt_released")
            else:
                self._free(token, "melt_released")
            self._note(token_id, token, ys, "it was written", written=True)
        self._put_back([proof for proof in kept if proof.y in lost])

    def _free(self, token: Token, reason: str) -> None:
        if token.status is TokenStatus.UNSPENT:
            self.ledger.unreserve(token)
        else:
            self.ledger.move(token, TokenStatus.UNSPENT, reason=reason)

    def _store(self, token: Token, rest: tuple[Proof, ...], reason: str) -> None:
        if rest:
            owner = Owner(npub=token.npub, wallet_id=token.wallet_id, mint_url=token.mint_url)
            name = f"{token.transaction_id}_keep"
            self.ledger.store_loose([(owner, rest)], name=name, status=TokenStatus.UNSPENT, reason=reason)

    def _put_back(self, proofs: Sequence[Proof]) -> None:
        free = tuple(proof for proof in proofs if proof.secret not in self.ledger.tables.secrets)
        if free:
            melt = self.melt
            owner = Owner(npub=melt.npub, wallet_id=melt.wallet_id, mint_url=melt.mint_url)
            name = f"{melt.transaction_id}_returned"
            self.ledger.store_loose([(owner, free)], name=name, status=TokenStatus.UNSPENT, reason="melt_returned")

    def _note(
        self, token_id: TokenId, token: Token | MalformedToken | None, ys: frozenset[Y], done: str, *, written: bool
    ) -> None:
        what = what_changed(self.melt, token, ys)
        if what:
            self.altered.append(
                Altered(
                    token_id=token_id,
                    what="; ".join(what),
                    done=done,
                    amount=sum(ref.amount for ref in self.melt.inputs if ref.y in ys),
                    ys=tuple(sorted(ys)),
                    written=written,
                    deleted=token is None,
                    changed_at=token.updated_at if isinstance(token, Token) else None,
                    seen_at=self.ledger.now,
                )
            )


def _wanted(inputs: Sequence[InputRef]) -> dict[TokenId, frozenset[Y]]:
    grouped: dict[TokenId, set[Y]] = {}
    for ref in inputs:
        grouped.setdefault(ref.token_id, set()).add(ref.y)
    return {token_id: frozenset(ys) for token_id, ys in grouped.items()}
