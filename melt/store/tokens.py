"""Reading the wallet's tokens: what can be spent, what there is, and the tours (DESIGN sections 3 to 5)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from melt.model import LIVE_STATUSES, Balance, MalformedToken, Token, TokenStatus, TransactionType, normalise_mint_url
from melt.store.core import Core, in_batches
from melt.store.documents import amount_of, keyset_id_of, raw_ids, read_token, token_id_of
from melt.store.faults import store_method
from melt.store.ledger import BATCH_MAX
from melt.store.tour import MongoTour

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pymongo.client_session import ClientSession

    from melt.model import KeysetId, TokenId
    from melt.ports import Tour
    from melt.store.connect import Document

UNIT_DEFAULT = "sat"
URLS_MET_MAX = 1000
SENT_LINE = "sent"
"""The line of a balance for what was handed out and still counts as unspent or pending in the wallet's own sums."""
_COUNTED_FIRST = ("pending", "unspent", SENT_LINE, "spent", "failed")
"""Where one proof has several statuses, the first of these counts: what is history never hides what is money."""
_STATUSES = frozenset(status.value for status in TokenStatus)


@dataclass(slots=True)
class _Sum:
    amount: int = 0
    locked: int = 0
    proofs: int = 0
    documents: int = 0


class TokenReads(Core):
    """The token part of :class:`melt.ports.Store` that writes nothing."""

    _urls_met: set[str]

    @store_method
    def npub_known(self, npub: str) -> bool:
        """Whether the user has a wallet or a token."""
        chosen = {"npub": npub}
        return any(
            collection.find_one(chosen, {"_id": 1}) is not None for collection in (self._c.wallets, self._c.tokens)
        )

    @store_method
    def mint_urls(self) -> tuple[str, ...]:
        """
        See :meth:`melt.ports.Store.mint_urls`. Reads the whole collection: not for hot paths.

        Where the collection is read once alone, these are the URLs that tours have met.
        """
        if self.reads_once:
            return tuple(sorted(self._urls_met))
        return tuple(sorted(url for url in self._c.tokens.distinct("mint_url") if isinstance(url, str)))

    @store_method
    def spendable(self, npub: str, mint_urls: Sequence[str], unit: str | None = None) -> tuple[Token, ...]:
        """
        See :meth:`melt.ports.Store.spendable`.

        Documents that don't count (:mod:`melt.model.counting`) are left out: a legacy ``melted`` one holds consumed proofs,
        a ``sent`` one somebody else's. So is a document with a proof that an older one holds too.
        """
        units = self._wallet_units(npub)
        wanted = {normalise_mint_url(url) for url in mint_urls}
        chosen = {"npub": npub, "status": str(TokenStatus.UNSPENT)}
        found: list[Token] = []
        for raw in self._c.tokens.find(chosen):
            token = read_token(raw)
            if isinstance(token, MalformedToken) or not token.proofs:
                continue
            if not token.is_counted or normalise_mint_url(token.mint_url) not in wanted:
                continue
            if unit is None or units.get(str(token.wallet_id), unit) == unit:
                found.append(token)
        found.sort(key=lambda token: (token.created_at.timestamp() if token.created_at else 0.0, token.id))
        seen: set[str] = set()
        once: list[Token] = []
        for token in found:
            ys = {str(proof.y) for proof in token.proofs}
            if not ys & seen:
                seen |= ys
                once.append(token)
        return tuple(once)

    @store_method
    def tokens(self, ids: Sequence[TokenId]) -> tuple[Token | MalformedToken, ...]:
        """Those of ``ids`` that exist, in their order."""
        found: dict[str, Token | MalformedToken] = {}
        for batch in in_batches(list(dict.fromkeys(ids)), BATCH_MAX):
            wanted = [raw_id for token_id in batch for raw_id in raw_ids(token_id)]
            for raw in self._c.tokens.find({"_id": {"$in": wanted}}):
                found[token_id_of(raw["_id"])] = read_token(raw)
        return tuple(found[token_id] for token_id in dict.fromkeys(ids) if token_id in found)

    @store_method
    def balances(self, npub: str, keyset_units: Mapping[KeysetId, str] | None = None) -> tuple[Balance, ...]:
        """
        A user's money by mint, unit and status, read in one snapshot.

        The unit is the keyset's where ``keyset_units`` has it, else what the wallet's settings say.

        Each proof counts once. A copy in a ``spent`` or ``failed`` document is history beside a live one, and a pending
        one comes before an unspent one, so that duplicates don't inflate what can be spent; ``melted`` documents don't
        count. What was handed out and is not marked spent has a line of its own, ``sent``: it is its recipient's. Junk is
        passed over.
        """
        units = self._wallet_units(npub)
        shape = {"status": 1, "mint_url": 1, "wallet_id": 1, "transaction_type": 1}
        shape |= {"proofs.amount": 1, "proofs.secret": 1, "proofs.id": 1}
        of_keyset = keyset_units or {}

        def read(session: ClientSession) -> list[_Slim]:
            found = self._c.tokens.find({"npub": npub}, shape, session=session)
            return [slim for slim in map(_slim, found) if slim is not None]

        slims = sorted(self._run(read), key=lambda slim: _COUNTED_FIRST.index(slim.status))
        seen: set[bytes] = set()
        sums: dict[tuple[str, str, str], _Sum] = {}
        for slim in slims:
            own = units.get(slim.wallet_id, UNIT_DEFAULT)
            in_units = {of_keyset.get(keyset_id, own) for _, _, _, keyset_id in slim.proofs} or {own}
            for unit in in_units:
                sums.setdefault((slim.mint_url, unit, slim.status), _Sum()).documents += 1
            for digest, amount, locked, keyset_id in slim.proofs:
                if digest in seen:
                    continue
                seen.add(digest)
                total = sums[slim.mint_url, of_keyset.get(keyset_id, own), slim.status]
                total.amount += amount
                total.locked += amount if locked else 0
                total.proofs += 1
        return tuple(
            Balance(
                npub=npub,
                mint_url=mint_url,
                unit=unit,
                status=status,
                amount=total.amount,
                locked=total.locked,
                proofs=total.proofs,
                documents=total.documents,
            )
            for (mint_url, unit, status), total in sorted(sums.items())
        )

    @store_method
    def count_tokens(self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str]) -> int:
        """How many documents a tour would pass; about how many there are, where counting them would read them all."""
        if self.reads_once:
            return self._c.tokens.estimated_document_count()
        return self._c.tokens.count_documents(_tour_filter(statuses, mint_urls))

    def tour(
        self,
        statuses: Sequence[TokenStatus],
        mint_urls: Sequence[str],
        after: TokenId | None,
        *,
        npub: str | None = None,
    ) -> Tour:
        """
        See :class:`melt.store.tour.MongoTour`. Asks nothing before its first page.

        Without meltd's indexes it goes by ``_id`` and picks its documents itself: a server that were asked for them might
        sort the whole collection first.
        """
        if self.reads_once and npub is None:
            wanted = {normalise_mint_url(url) for url in mint_urls}
            found = frozenset(str(status) for status in statuses)
            return MongoTour(
                self._c.tokens, {}, after, self.telemetry, picks=partial(self._picks, statuses=found, urls=wanted)
            )
        chosen = _tour_filter(statuses, mint_urls)
        if npub is not None:
            chosen["npub"] = npub
        return MongoTour(self._c.tokens, chosen, after, self.telemetry)

    def _picks(self, raw: Document, *, statuses: frozenset[str], urls: set[str]) -> bool:
        """Whether a tour that passes every document is about this one; its URL is remembered."""
        url = raw.get("mint_url")
        if not isinstance(url, str):
            return False
        if len(self._urls_met) < URLS_MET_MAX:
            self._urls_met.add(url)
        return raw.get("status") in statuses and normalise_mint_url(url) in urls

    def _wallet_units(self, npub: str) -> dict[str, str]:
        """Wallet id to unit, for the wallets of one user."""
        units: dict[str, str] = {}
        for wallet in self._c.wallets.find({"npub": npub}, {"wallet_config.unit": 1}):
            config = wallet.get("wallet_config")
            unit = config.get("unit") if isinstance(config, dict) else None
            units[str(wallet["_id"])] = unit if isinstance(unit, str) and unit else UNIT_DEFAULT
        return units


def stored_forms(mint_urls: Iterable[str]) -> list[str]:
    """The URLs with and without a trailing slash, as they may be stored."""
    forms: dict[str, None] = {}
    for url in mint_urls:
        bare = url.rstrip("/")
        forms |= dict.fromkeys((url, bare, f"{bare}/", normalise_mint_url(url)))
    return list(forms)


def _tour_filter(statuses: Sequence[TokenStatus], mint_urls: Sequence[str]) -> Document:
    return {
        "status": {"$in": [str(status) for status in statuses]},
        "mint_url": {"$in": stored_forms(mint_urls)},
    }


@dataclass(frozen=True, slots=True)
class _Slim:
    """What a balance needs of a document; secrets as digests."""

    status: str
    mint_url: str
    wallet_id: str
    proofs: tuple[tuple[bytes, int, bool, KeysetId], ...]


def _slim(raw: Document) -> _Slim | None:
    status, mint_url = raw.get("status"), raw.get("mint_url")
    if status not in _STATUSES or not isinstance(mint_url, str):
        return None
    if raw.get("transaction_type") == TransactionType.MELTED:
        return None
    if raw.get("transaction_type") == TransactionType.SENT and status in LIVE_STATUSES:
        status = SENT_LINE
    held: Any = raw.get("proofs")
    proofs: list[tuple[bytes, int, bool, KeysetId]] = []
    for proof in held if isinstance(held, list) else ():
        secret = proof.get("secret") if isinstance(proof, dict) else None
        amount = amount_of(proof.get("amount")) if isinstance(proof, dict) else None
        if isinstance(secret, str) and amount is not None and amount > 0:
            digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()[:16]
            proofs.append((digest, amount, secret.lstrip().startswith("["), keyset_id_of(proof.get("id"))))
    return _Slim(str(status), normalise_mint_url(mint_url), str(raw.get("wallet_id")), tuple(proofs))
