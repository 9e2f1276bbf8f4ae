"""
The end of an entry in company: what becomes of its documents, whatever other writers have done to them.

A document that still carries the entry's reservation is the entry's to write, whatever else has been changed about it.
One that does not is another writer's by now and is left as it is. Neither keeps the entry from its end: what was found
in the place of what had been reserved goes into the entry (:class:`melt.model.Altered`) and becomes a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.drift import SEVERITIES
from melt.model import (
    Action,
    Altered,
    DiscrepancyState,
    DriftType,
    Finding,
    MalformedToken,
    TokenStatus,
    normalise_mint_url,
)
from melt.store.documents import raw_wallet_id, read_proofs
from melt.store.findings import close_update, discrepancy_id, write_findings
from melt.store.inputs import ys_by_token
from melt.store.ledger import Held, Loose

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import InputRef, Melt, Token, TokenId, Y
    from melt.settling import SettlePolicy, Stopwatch
    from melt.store.connect import Collections, Document
    from melt.store.ledger import Ledger

RETURNED = "melt_returned"
"""The reason by which the audit tells that proofs were put back which another writer had dropped."""
FREED = "melt_freed"
"""The same of a document that was reserved and holds none of the inputs any more."""


@dataclass(slots=True, kw_only=True)
class Ending:
    """
    What one ending does to the documents of its inputs, within its transaction. ``altered`` collects what it found.

    ``kept`` are the inputs' raw proofs as the journal keeps them.
    """

    ledger: Ledger
    melt: Melt
    now: datetime
    kept: Sequence[Document] = ()
    altered: list[Altered] = field(default_factory=list)

    def spend(self, inputs: Sequence[InputRef], reason: str) -> None:
        """The mint has consumed ``inputs``: their documents become ``spent``; other proofs in them are split off."""
        for token_id, found, ys in self._found(inputs):
            if not isinstance(found, Held) or not self.ledger.is_ours(found.token):
                self._note(token_id, found, ys, "it is left as it is")
            elif found.token.status is TokenStatus.SPENT:
                self.ledger.unreserve(found)
                self._note(token_id, found, ys, "it stays spent", written=True)
            else:
                present = ys & {proof.y for proof in found.token.proofs}
                if present:
                    rest = self.ledger.move(found, TokenStatus.SPENT, reason=reason, take=present)
                    self._store_rest(found, rest, "melt_split")
                else:
                    self._free(found, FREED)
                done = "it was marked spent" if present else "it was given back"
                self._note(token_id, found, ys, done, written=True)

    def give_back(self, gone: frozenset[Y]) -> None:
        """
        Nothing was paid: the inputs' documents become ``unspent`` again, without the proofs of ``gone``.

        Proofs that lie in no document at all any more, and that nobody has taken at the mint, are put back: their
        document was dropped because it was ``pending``, and that was our doing.
        """
        lost: set[Y] = set()
        for token_id, found, ys in self._found(self.melt.inputs):
            if not isinstance(found, Held):
                lost |= ys - gone
                self._note(token_id, found, ys, self._put_back_words(ys - gone))
                continue
            present = ys & {proof.y for proof in found.token.proofs}
            lost |= ys - present - gone
            if not self.ledger.is_ours(found.token):
                self._note(token_id, found, ys, "it is left as it is")
            elif found.token.status is TokenStatus.SPENT:
                self.ledger.unreserve(found)
                self._note(token_id, found, ys, "it stays spent", written=True)
            else:
                self._release(found, present & gone)
                self._note(token_id, found, ys, "it was given back", written=True)
        self._put_back(lost)

    # --- parts ---

    def _found(self, inputs: Sequence[InputRef]) -> list[tuple[TokenId, Held | MalformedToken | None, frozenset[Y]]]:
        wanted = ys_by_token(inputs)
        return [(token_id, found, wanted[token_id]) for token_id, found in self.ledger.find(wanted).items()]

    def _release(self, held: Held, consumed: frozenset[Y]) -> None:
        if not consumed:
            self._free(held, "melt_released")
            return
        rest = self.ledger.move(held, TokenStatus.SPENT, reason="melt_released_spent", take=consumed)
        self._store_rest(held, rest, "melt_released")

    def _free(self, held: Held, reason: str) -> None:
        if held.token.status is TokenStatus.UNSPENT:
            self.ledger.unreserve(held)
        else:
            self.ledger.move(held, TokenStatus.UNSPENT, reason=reason)

    def _store_rest(self, held: Held, rest: Loose | None, reason: str) -> None:
        """What another writer put beside our inputs was pending by our doing alone."""
        if rest is not None:
            self.ledger.store_loose(
                [rest],
                name=f"{held.token.transaction_id}_keep",
                parent=held.token.transaction_id,
                status=TokenStatus.UNSPENT,
                reason=reason,
            )

    def _put_back_words(self, ys: frozenset[Y]) -> str:
        return "its proofs are put back where no other document holds them" if ys else "nothing was left to write"

    def _put_back(self, lost: set[Y]) -> None:
        found = read_proofs(list(self.kept))
        pairs = [(raw, proof) for raw, proof in zip(self.kept, found, strict=True) if proof.y in lost]
        taken = self.ledger.elsewhere([proof.secret for _, proof in pairs])
        free = [(raw, proof) for raw, proof in pairs if proof.secret not in taken]
        if not free:
            return
        loose = Loose(
            npub=self.melt.npub,
            wallet_id=raw_wallet_id(self.melt.wallet_id),
            mint_url=self.melt.mint_url,
            proofs=tuple(raw for raw, _ in free),
            ys=tuple(proof.y for _, proof in free),
        )
        self.ledger.store_loose(
            [loose],
            name=f"{self.melt.transaction_id}_returned",
            parent=self.melt.transaction_id,
            status=TokenStatus.UNSPENT,
            reason=RETURNED,
        )

    def _note(
        self,
        token_id: TokenId,
        found: Held | MalformedToken | None,
        ys: frozenset[Y],
        done: str,
        *,
        written: bool = False,
    ) -> None:
        """Remember a document that is not as it was reserved."""
        what = what_changed(self.melt, found.token if isinstance(found, Held) else found, ys)
        if not what:
            return
        amounts = {ref.y: ref.amount for ref in self.melt.inputs}
        swapped = () if self.melt.swap is None else self.melt.swap.inputs
        amounts |= {ref.y: ref.amount for ref in swapped}
        self.altered.append(
            Altered(
                token_id=token_id,
                what="; ".join(what),
                done=done,
                amount=sum(amounts.get(y, 0) for y in ys),
                ys=tuple(sorted(ys)),
                written=written,
                deleted=found is None,
                changed_at=found.token.updated_at if isinstance(found, Held) else None,
                seen_at=self.now,
            )
        )


def what_changed(melt: Melt, token: Token | MalformedToken | None, ys: frozenset[Y]) -> list[str]:
    """In what a document (None: it is gone) is not as the entry had reserved it, in words."""
    if token is None:
        return ["it was deleted"]
    if isinstance(token, MalformedToken):
        return [f"it can't be read any more ({'; '.join(token.reasons)})"]
    said: list[str] = []
    if token.reservation is None:
        said.append(f"the reservation was taken off it, and it says {token.status}")
    elif token.reservation.melt_id != melt.id:
        said.append("it carries another reservation")
    elif token.status is not TokenStatus.PENDING:
        said.append(f"it was marked {token.status}")
    if token.npub != melt.npub:
        said.append("it was given to another user")
    if normalise_mint_url(token.mint_url) != normalise_mint_url(melt.mint_url):
        said.append("its mint_url was changed")
    holds = {proof.y for proof in token.proofs}
    if lost := len(ys - holds):
        said.append(f"{lost} of the {len(ys)} reserved proofs no longer lie in it")
    if strange := len(holds - ys):
        said.append(f"{strange} other proofs lie in it")
    return said


def findings_of(melt: Melt, altered: Sequence[Altered]) -> list[Finding]:
    """What an entry's end says of each document that others had changed, in their order."""
    drift = DriftType.RESERVED_TOKEN_CHANGED
    return [
        Finding(
            type=drift,
            severity=SEVERITIES[drift],
            action=Action.RECORD,
            subject=f"token:{one.token_id}",
            npub=melt.npub,
            mint=melt.mint,
            unit=melt.unit,
            value=one.amount,
            token_id=one.token_id,
            ys=one.ys,
            evidence={
                "reason": f"another writer changed it while {melt.id} had reserved it: {one.what}; {one.done}",
                "melt_id": melt.id,
                "transaction_id": melt.transaction_id,
                "changed_at": None if one.changed_at is None else one.changed_at.isoformat(timespec="milliseconds"),
                "seen_at": one.seen_at.isoformat(timespec="milliseconds"),
                "seen_by": "recovery",
            },
        )
        for one in altered
    ]


def record_altered(
    collections: Collections,
    session: ClientSession,
    melt: Melt,
    altered: Sequence[Altered],
    now: datetime,
    *,
    settle: SettlePolicy,
    stopwatch: Stopwatch,
) -> None:
    """
    A record of each document that others had changed, in the transaction that ends the entry.

    Open are those of documents that are there and were left as another writer has them; the rest is done with.
    """
    findings = findings_of(melt, altered)
    if not findings:
        return
    write_findings(collections, session, findings, now, settle=settle, stopwatch=stopwatch)
    over = [
        discrepancy_id(finding) for finding, one in zip(findings, altered, strict=True) if one.written or one.deleted
    ]
    if over:
        closing = close_update(DiscrepancyState.CORRECTED, now)
        collections.discrepancies.update_many({"_id": {"$in": over}}, closing, session=session)
