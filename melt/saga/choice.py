"""Choosing a wallet's proofs for a melt: what may be used, what is blocked, what does not reach (DESIGN section 4, Select)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from melt.errors import Code, Refusal, Severity
from melt.model import InputRef
from melt.selection import Candidate, Selection, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import Keyset, KeysetId, Proof, Token, TokenId, Y
    from melt.ports import Store, StoreThreads

INPUTS_MAX: Final = 1000
"""The most inputs of one melt, whatever the mint would take (DESIGN section 4)."""
EXPIRING_SOON_S: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen proofs, as references and by document, with the documents they lie in."""

    selection: Selection
    refs: tuple[InputRef, ...]
    tokens: Mapping[TokenId, Token]

    @property
    def by_token(self) -> dict[TokenId, list[Y]]:
        grouped: dict[TokenId, list[Y]] = {}
        for ref in self.refs:
            grouped.setdefault(ref.token_id, []).append(ref.y)
        return grouped


class NotEnough(Refusal):
    """The money at hand does not reach; ``available`` is what it comes to, in the unit."""

    def __init__(self, code: Code, detail: str, available: int) -> None:
        super().__init__(code, detail)
        self.available = available


async def choose(
    store: Store,
    threads: StoreThreads,
    tokens: Sequence[Token],
    *,
    keysets: Mapping[KeysetId, Keyset],
    unit: str,
    need: int,
    inputs_max: int,
    excluded: frozenset[Y],
    now: datetime,
) -> Choice:
    """
    Choose proofs of ``tokens`` worth ``need`` after input fees.

    Left out: documents with open HIGH or CRITICAL drift, those that an open melt has reserved, locked proofs, keysets that the mint does not list or that
    are of another unit, a secret's second appearance, and ``excluded``.

    Raises:
        NotEnough: INSUFFICIENT_FUNDS, or MELT_BLOCKED_BY_RECONCILIATION where the blocked documents would have done.
        StoreError: the drift could not be read.
    """
    ids = [token.id for token in tokens]
    open_drift = (
        await threads(lambda: store.open_discrepancies_of(ids, [Severity.HIGH, Severity.CRITICAL])) if ids else ()
    )
    blocked = {record.token_id for record in open_drift}
    # Another writer may call a document unspent that an open melt has reserved.
    marked = [token.reservation.melt_id for token in tokens if token.reservation is not None]
    live = await threads(lambda: store.live_melt_ids(marked)) if marked else frozenset()
    pool: list[tuple[Token, Proof]] = []
    seen: set[Y] = set(excluded)
    blocked_amount = 0
    for token in tokens:
        if token.reservation is not None and token.reservation.melt_id in live:
            continue
        for proof in token.proofs:
            keyset = keysets.get(proof.keyset_id)
            if proof.y in seen or proof.is_locked or keyset is None or keyset.unit != unit:
                continue
            seen.add(proof.y)
            if token.id in blocked:
                blocked_amount += proof.amount
            else:
                pool.append((token, proof))
    candidates = [
        Candidate(
            index=index,
            amount=proof.amount,
            keyset_id=proof.keyset_id,
            leaving=_is_leaving(keysets[proof.keyset_id], now),
        )
        for index, (_, proof) in enumerate(pool)
    ]
    ppk = {keyset_id: keyset.input_fee_ppk for keyset_id, keyset in keysets.items()}
    selection = select(candidates, need=need, ppk=ppk, inputs_max=min(inputs_max, INPUTS_MAX))
    if selection is None:
        available = sum(candidate.amount for candidate in candidates)
        if blocked_amount and available + blocked_amount >= need:
            raise NotEnough(
                Code.MELT_BLOCKED_BY_RECONCILIATION,
                f"{blocked_amount} {unit} are blocked by open HIGH discrepancies; without them the money does not reach",
                available,
            )
        raise NotEnough(
            Code.INSUFFICIENT_FUNDS,
            f"{need} {unit} and input fees are needed, {available} {unit} can be used now",
            available,
        )
    chosen = [pool[candidate.index] for candidate in selection.chosen]
    refs = tuple(
        InputRef(token_id=token.id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id)
        for token, proof in chosen
    )
    return Choice(selection=selection, refs=refs, tokens={token.id: token for token, _ in chosen})


def _is_leaving(keyset: Keyset, now: datetime) -> bool:
    if not keyset.active:
        return True
    return keyset.final_expiry is not None and keyset.final_expiry - now.timestamp() < EXPIRING_SOON_S
