"""
Token documents inside one transaction: every write of a token goes through here.

A :class:`Ledger` lives as long as one run of a transaction's callback. It loads documents, moves them by conditional
update, splits proofs off, makes new ``change`` documents, and in the end writes one audit entry for each change of a
status (I9). It holds the table of allowed moves (through :func:`melt.audit.status_change`), that a ``melted`` document
is never written and that no proof comes to lie in two documents (I4). Before its first write it passes the gate of the
mode (:mod:`melt.store.mode`), so that nothing is written while meltd observes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.errors import BulkWriteError, DuplicateKeyError

from melt.audit import status_change
from melt.ecash import y_of
from melt.errors import Code, DuplicateSecret, InvariantBroken, LostRace, StoreError
from melt.model import (
    AMOUNT_MAX,
    PROOFS_PER_DOCUMENT_MAX,
    MalformedToken,
    Owner,
    Reservation,
    Token,
    TokenId,
    TokenStatus,
    TransactionType,
)
from melt.store.documents import (
    amounts_of,
    raw_ids,
    raw_proof,
    raw_reservation,
    raw_wallet_id,
    read_token,
    token_document,
    whole_number,
)
from melt.store.faults import AlreadyDone, Retry, key_of
from melt.store.journal import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Actor, AuditEntry, Fence, MeltId, NewProof, Y
    from melt.store.connect import Collections, Document

BATCH_MAX = 100
"""Documents per write: larger batches wedged an embedded store whose data neared its cache."""
_DUPLICATE_KEY = 11000
_NAMES_PER_LOOK = 16
_NAMES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A loaded document: as it lies there, and as it reads. ``token.proofs`` are in the order of ``raw["proofs"]``."""

    raw: Document
    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Loose:
    """
    Raw proofs on their way into a document, with their Ys, and the raw owner that they belong to.

    ``is_sent``: they were handed out, and so is what they are stored in.
    """

    npub: str
    wallet_id: object
    mint_url: str
    proofs: tuple[Document, ...]
    ys: tuple[Y, ...]
    is_sent: bool = False

    @property
    def transaction_type(self) -> TransactionType:
        """What a document that they are stored in is."""
        return TransactionType.SENT if self.is_sent else TransactionType.CHANGE


class Ledger:
    """
    The token writes of one operation in one transaction.

    Call :meth:`begin` first and :meth:`finish` last. ``writes`` counts the token documents written.
    """

    def __init__(
        self,
        collections: Collections,
        session: ClientSession,
        *,
        now: datetime,
        operation_id: str,
        actor: Actor,
        melt_id: MeltId | None = None,
        discrepancy_id: str | None = None,
        gate: Callable[[], None],
        note: str | None = None,
        fence: Fence | None = None,
    ) -> None:
        self._gate = gate
        self._passed = False
        self._c = collections
        self._session = session
        self._now = now
        self._operation_id = operation_id
        self._actor = actor
        self._melt_id = melt_id
        self._discrepancy_id = discrepancy_id
        self._note = note
        self._fence = fence
        self._names: set[str] = set()
        self.entries: list[AuditEntry] = []
        self.writes = 0

    def begin(self) -> None:
        """Raises :class:`melt.store.faults.AlreadyDone` where an earlier run of this operation was committed."""
        if self._c.audit.find_one({"operation": self._operation_id}, {"_id": 1}, session=self._session) is not None:
            raise AlreadyDone

    def load(self, ids: Iterable[TokenId]) -> list[Held]:
        """
        The documents in the order of ``ids``, each once.

        Raises :class:`melt.errors.LostRace` where one is gone or can't be read any more.
        """
        loaded: list[Held] = []
        for token_id, found in self.find(ids).items():
            if isinstance(found, MalformedToken):
                msg = f"token {token_id} can't be read"
                raise LostRace(msg)
            if found is None:
                msg = f"token {token_id} is not there"
                raise LostRace(msg)
            loaded.append(found)
        return loaded

    def find(self, ids: Iterable[TokenId]) -> dict[TokenId, Held | MalformedToken | None]:
        """The documents in the order of ``ids``, each once; None for one that is gone."""
        found: dict[TokenId, Held | MalformedToken | None] = dict.fromkeys(ids)
        raw_wanted = [raw_id for token_id in found for raw_id in raw_ids(token_id)]
        for start in range(0, len(raw_wanted), BATCH_MAX):
            chosen = {"_id": {"$in": raw_wanted[start : start + BATCH_MAX]}}
            for raw in self._c.tokens.find(chosen, session=self._session):
                token = read_token(raw)
                found[token.id] = token if isinstance(token, MalformedToken) else Held(raw=raw, token=token)
        return found

    def elsewhere(self, secrets: Sequence[str]) -> frozenset[str]:
        """Those of ``secrets`` that any document holds."""
        wanted: set[object] = set(secrets)
        known: set[str] = set()
        for start in range(0, len(secrets), BATCH_MAX):
            chosen = {"proofs.secret": {"$in": list(secrets[start : start + BATCH_MAX])}}
            for raw in self._c.tokens.find(chosen, {"proofs.secret": 1}, session=self._session):
                held = [proof.get("secret") for proof in raw["proofs"] if isinstance(proof, dict)]
                known |= {str(secret) for secret in held if secret in wanted}
        return frozenset(known)

    def move(
        self,
        held: Held,
        to: TokenStatus,
        *,
        reason: str,
        take: frozenset[Y] | None = None,
        reservation: Reservation | None = None,
    ) -> Loose | None:
        """
        Change a document's status; the only function that does.

        With ``take`` the document keeps these proofs alone, and the others come back loose: the caller puts them
        into a sibling in the same transaction. Raises :class:`melt.errors.LostRace` where the document lacks one of
        ``take`` or has moved on, :class:`melt.errors.InvariantBroken` for a move that is not allowed.
        """
        token = held.token
        kept, rest = _parted(held, take)
        entry = status_change(
            operation_id=self._operation_id,
            at=self._now,
            token_id=token.id,
            npub=token.npub,
            mint_url=token.mint_url,
            from_status=token.status,
            to_status=to,
            amount=sum(amounts_of(kept.proofs)),
            ys=kept.ys,
            reason=reason,
            actor=self._actor,
            melt_id=self._melt_id,
            discrepancy_id=self._discrepancy_id,
            note=self._note,
            fence=self._fence,
            reserved=self.is_ours(token),
        )
        changed: Document = {"status": str(to), "updatedAt": self._now, "rev": _next_rev(token.rev)}
        update: Document = {"$set": changed}
        if to is TokenStatus.SPENT:
            changed["spent_at"] = self._now
        if rest is not None:
            changed["proofs"] = list(kept.proofs)
            changed["total_amount"] = entry.amount
            version = whole_number(held.raw.get("__v"))
            if version is not None and version < AMOUNT_MAX:
                # As Mongoose does when it rewrites an array: a service that loaded the document before and saves
                # its proofs by position now gets a VersionError instead of bringing moved proofs back.
                update["$inc"] = {"__v": 1}
        if reservation is not None:
            changed["reservation"] = raw_reservation(reservation)
        else:
            update["$unset"] = {"reservation": ""}
        self._compare_and_set(held, update)
        self.writes += 1
        self.entries.append(entry)
        return rest

    def _pass_gate(self) -> None:
        """Before the first write of a token: raises :class:`melt.errors.Observing` where nothing may be changed."""
        if not self._passed:
            self._gate()
            self._passed = True

    def is_ours(self, token: Token) -> bool:
        """Whether the document carries the reservation of the entry that this operation belongs to."""
        return (
            self._melt_id is not None and token.reservation is not None and token.reservation.melt_id == self._melt_id
        )

    def unreserve(self, held: Held) -> None:
        """Take our reservation off a document whose status stays as another writer has set it."""
        changed: Document = {"updatedAt": self._now, "rev": _next_rev(held.token.rev)}
        self._compare_and_set(held, {"$set": changed, "$unset": {"reservation": ""}})

    def _compare_and_set(self, held: Held, update: Document) -> None:
        self._pass_gate()
        present = {"_id": held.raw["_id"], "status": held.raw["status"], "rev": held.raw.get("rev")}
        if self._c.tokens.update_one(present, update, session=self._session).modified_count != 1:
            msg = f"token {held.token.id} was moved by somebody else"
            raise LostRace(msg)

    def store_new(
        self,
        owner: Owner,
        proofs: Sequence[NewProof],
        *,
        name: str,
        parent: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None = None,
    ) -> tuple[TokenId, ...]:
        """
        Store proofs that were just unblinded as ``change`` documents of at most 1000 proofs.

        Raises :class:`melt.errors.DuplicateSecret` where one of them lies in any document already, its own source
        included: consumed proofs are never written again (I4).
        """
        if not proofs:
            return ()
        raw = tuple(raw_proof(proof) for proof in proofs)
        self._refuse_known([proof.secret for proof in proofs])
        loose = Loose(
            npub=owner.npub,
            wallet_id=raw_wallet_id(owner.wallet_id),
            mint_url=owner.mint_url,
            proofs=raw,
            ys=_ys_of(proofs),
        )
        return self.store_loose(
            [loose], name=name, parent=parent, status=status, reason=reason, reservation=reservation
        )

    def store_loose(
        self,
        parts: Sequence[Loose],
        *,
        name: str,
        parent: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None = None,
    ) -> tuple[TokenId, ...]:
        """Store loose proofs, those of one wallet and kind together, in documents of at most 1000 proofs."""
        wallets: dict[tuple[str, str, str, bool], list[Loose]] = {}
        for part in parts:
            wallets.setdefault((part.npub, str(part.wallet_id), part.mint_url, part.is_sent), []).append(part)
        made: list[TokenId] = []
        for group in wallets.values():
            proofs = [proof for part in group for proof in part.proofs]
            ys = [y for part in group for y in part.ys]
            for start in range(0, len(proofs), PROOFS_PER_DOCUMENT_MAX):
                document = token_document(
                    npub=group[0].npub,
                    wallet_id=group[0].wallet_id,
                    mint_url=group[0].mint_url,
                    raw_proofs=proofs[start : start + PROOFS_PER_DOCUMENT_MAX],
                    status=status,
                    transaction_id=self._free_name(name),
                    parent_transaction_id=parent,
                    operation_id=self._operation_id,
                    now=self._now,
                    reservation=reservation,
                    transaction_type=group[0].transaction_type,
                )
                chunk = tuple(ys[start : start + PROOFS_PER_DOCUMENT_MAX])
                made.append(self._insert(document, chunk, status, reason))
        return tuple(made)

    def _insert(self, document: Document, ys: tuple[Y, ...], status: TokenStatus, reason: str) -> TokenId:
        """The only function that inserts a token document."""
        if document["transaction_type"] == TransactionType.MELTED:
            msg = "nothing ever writes a melted document (I4)"
            raise InvariantBroken(msg)
        self._pass_gate()
        token_id = TokenId(str(document["_id"]))
        duplicate: str | None = None
        try:
            self._c.tokens.insert_one(document, session=self._session)
        except DuplicateKeyError as error:
            duplicate = key_of(error)
        # Raised out here: the driver's error quotes the key, which may be a secret (I10).
        if duplicate == "transaction_id":
            raise Retry
        if duplicate is not None:
            msg = f"a proof for {document['transaction_id']} already lies in another token document"
            raise DuplicateSecret(msg)
        self.writes += 1
        self.entries.append(
            status_change(
                operation_id=self._operation_id,
                at=self._now,
                token_id=token_id,
                npub=document["npub"],
                mint_url=document["mint_url"],
                from_status=None,
                to_status=status,
                amount=document["total_amount"],
                ys=ys,
                reason=reason,
                actor=self._actor,
                melt_id=self._melt_id,
                discrepancy_id=self._discrepancy_id,
                note=self._note,
                fence=self._fence,
            )
        )
        return token_id

    def _refuse_known(self, secrets: Sequence[str]) -> None:
        if len(set(secrets)) != len(secrets):
            msg = "one proof was to be stored twice"
            raise DuplicateSecret(msg)
        # Asked whatever indexes there are: a unique one covers counted documents, and says nothing of consumed proofs.
        for start in range(0, len(secrets), BATCH_MAX):
            chosen = {"proofs.secret": {"$in": list(secrets[start : start + BATCH_MAX])}}
            known = self._c.tokens.find_one(chosen, {"_id": 1}, session=self._session)
            if known is not None:
                msg = f"a proof that was to be stored already lies in token {known['_id']}"
                raise DuplicateSecret(msg)

    def _free_name(self, base: str) -> str:
        """``base``, or ``base_2``, ``base_3``, ... where a document has that transaction id."""
        for first in range(1, _NAMES_MAX, _NAMES_PER_LOOK):
            numbers = range(first, first + _NAMES_PER_LOOK)
            candidates = [base if number == 1 else f"{base}_{number}" for number in numbers]
            chosen = {"transaction_id": {"$in": candidates}}
            taken = self._c.tokens.find(chosen, {"transaction_id": 1}, session=self._session)
            used = self._names | {found["transaction_id"] for found in taken}
            for candidate in candidates:
                if candidate not in used:
                    self._names.add(candidate)
                    return candidate
        msg = f"no free transaction id beside {base}"
        raise StoreError(Code.INTERNAL, msg)

    def finish(self) -> None:
        """Write the audit entries. Raises :class:`melt.store.faults.AlreadyDone` where they are there already."""
        documents = [{**entry_document(entry), "operation": self._operation_id} for entry in self.entries]
        for start in range(0, len(documents), BATCH_MAX):
            try:
                self._c.audit.insert_many(documents[start : start + BATCH_MAX], session=self._session)
            except BulkWriteError as error:
                if not _is_duplicate(error):
                    raise
            else:
                continue
            raise AlreadyDone


def _next_rev(rev: int | None) -> int:
    """One more; from the start where old data holds what can't be counted on."""
    return 1 if rev is None or not 0 <= rev < AMOUNT_MAX else rev + 1


def entry_document(entry: AuditEntry) -> Document:
    """An audit entry as it is stored."""
    document: Document = encode(entry)
    document["_id"] = document.pop("id")
    return document


def _is_duplicate(error: BulkWriteError) -> bool:
    errors = (error.details or {}).get("writeErrors") or []
    return bool(errors) and all(item.get("code") == _DUPLICATE_KEY for item in errors)


def _ys_of(proofs: Sequence[NewProof]) -> tuple[Y, ...]:
    return tuple(y_of(proof.secret) for proof in proofs)


def _parted(held: Held, take: frozenset[Y] | None) -> tuple[Loose, Loose | None]:
    """The document's proofs in two: those of ``take`` and the rest, None where there is none."""
    raw_proofs = held.raw.get("proofs") or []
    pairs = list(zip(raw_proofs, held.token.proofs, strict=True))
    if take is not None and not take <= {proof.y for proof in held.token.proofs}:
        msg = f"token {held.token.id} no longer holds a proof that was chosen"
        raise LostRace(msg)

    def part(chosen: Sequence[tuple[Document, object]], ys: tuple[Y, ...]) -> Loose:
        return Loose(
            npub=held.token.npub,
            wallet_id=held.raw.get("wallet_id"),
            mint_url=held.token.mint_url,
            proofs=tuple(raw for raw, _ in chosen),
            ys=ys,
            is_sent=held.token.is_sent,
        )

    kept = [(raw, proof) for raw, proof in pairs if take is None or proof.y in take]
    rest = [(raw, proof) for raw, proof in pairs if take is not None and proof.y not in take]
    kept_part = part(kept, tuple(proof.y for _, proof in kept))
    if not rest:
        return kept_part, None
    if not kept:
        msg = f"token {held.token.id} was to be split into nothing and itself"
        raise InvariantBroken(msg)
    return kept_part, part(rest, tuple(proof.y for _, proof in rest))
