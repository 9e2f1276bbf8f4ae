"""Which documents hold a proof, and which documents no tour reaches (DESIGN section 5, Beyond states)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.model import Holder, TokenStatus, TransactionType
from melt.store.core import Core, in_batches
from melt.store.documents import raw_ids, token_id_of
from melt.store.faults import store_method
from melt.store.tokens import stored_forms
from melt.store.tour import MongoTour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.client_session import ClientSession

    from melt.model import Proof, Y
    from melt.ports import Tour
    from melt.store.connect import Document

SECRETS_PER_LOOK: Final = 100
"""Longer lists cost more per secret on some servers."""
HOLDERS_MAX: Final = 200
"""Documents beyond one per proof that a look takes in; where there are more, it is divided (I11)."""
_SHAPE: Final = {"npub": 1, "status": 1, "transaction_type": 1, "proofs.secret": 1}
_STATUSES: Final = {status.value: status for status in TokenStatus}


class Holdings(Core):
    """Implements :class:`melt.ports.Holdings`."""

    @property
    def secrets_indexed(self) -> bool:
        """See :meth:`melt.ports.Holdings.secrets_indexed`; as of the last look at the indexes."""
        return self._indexes.report.serves("proofs.secret")

    @store_method
    def holders(self, proofs: Sequence[Proof]) -> Mapping[Y, tuple[Holder, ...]]:
        """
        See :meth:`melt.ports.Holdings.holders`. Linear in the proofs, through the index on ``proofs.secret``.

        A plain read may see a proof that is just being moved in both documents, so what seems to lie twice is read again in
        one snapshot.
        """
        y_of = {proof.secret: proof.y for proof in proofs}
        found: dict[Y, tuple[Holder, ...]] = {}
        for batch in in_batches(list(y_of), SECRETS_PER_LOOK):
            suspects = [secret for secret, holders in self._holders(batch, None).items() if len(holders) > 1]
            if not suspects:
                continue

            def work(session: ClientSession, suspects: Sequence[str] = suspects) -> dict[str, list[Holder]]:
                return self._holders(suspects, session)

            found |= {y_of[secret]: tuple(held) for secret, held in self._run(work).items() if len(held) > 1}
        return found

    def _holders(self, secrets: Sequence[str], session: ClientSession | None) -> dict[str, list[Holder]]:
        """Secret to the documents that hold it. A look that is cut off is divided until it is about one secret."""
        found: dict[str, list[Holder]] = {}
        looks: list[Sequence[str]] = [secrets]
        while looks:
            asked = looks.pop()
            limit = HOLDERS_MAX + len(asked)
            chosen = {"proofs.secret": {"$in": list(asked)}}
            documents = list(self._c.tokens.find(chosen, _SHAPE, session=session).limit(limit))
            if len(documents) == limit and len(asked) > 1:
                middle = len(asked) // 2
                looks += [asked[:middle], asked[middle:]]
                continue
            wanted = set(asked)
            for raw in documents:
                holder = _holder(raw)
                for secret in wanted & _secrets_of(raw):
                    found.setdefault(secret, []).append(holder)
        return found

    @store_method
    def wallet_units(self, wallet_ids: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`melt.ports.Holdings.wallet_units`."""
        found: dict[str, str] = {}
        for batch in in_batches(wallet_ids, SECRETS_PER_LOOK):
            wanted = [raw_id for wallet_id in batch for raw_id in raw_ids(wallet_id)]
            for wallet in self._c.wallets.find({"_id": {"$in": wanted}}, {"wallet_config.unit": 1}):
                config = wallet.get("wallet_config")
                unit = config.get("unit") if isinstance(config, dict) else None
                if isinstance(unit, str) and unit:
                    found[str(wallet["_id"])] = unit
        return found

    def strays(self, mint_urls: Sequence[str], *, homeless: bool) -> Tour:
        """See :meth:`melt.ports.Holdings.strays`. Asks nothing before its first page."""
        odd: Document = {"status": {"$nin": list(_STATUSES)}, "mint_url": {"$in": stored_forms(mint_urls)}}
        over = [str(TokenStatus.SPENT), str(TokenStatus.FAILED)]
        nowhere: Document = {"status": {"$nin": over}, "mint_url": {"$not": {"$type": "string"}}}
        chosen: Document = {"$or": [odd, nowhere]} if homeless else odd
        return MongoTour(self._c.tokens, chosen, None, self.telemetry)


def _holder(raw: Document) -> Holder:
    npub, status = raw.get("npub"), raw.get("status")
    return Holder(
        token_id=token_id_of(raw["_id"]),
        npub=npub if isinstance(npub, str) else None,
        status=_STATUSES.get(status) if isinstance(status, str) else None,
        is_melted=raw.get("transaction_type") == TransactionType.MELTED,
        is_sent=raw.get("transaction_type") == TransactionType.SENT,
    )


def _secrets_of(raw: Document) -> set[str]:
    held = raw.get("proofs")
    proofs = held if isinstance(held, list) else [held]
    found = (proof.get("secret") for proof in proofs if isinstance(proof, dict))
    return {secret for secret in found if isinstance(secret, str)}
