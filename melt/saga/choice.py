"""Choosing a wallet's proofs for a melt: what may be used, what is blocked, what does not reach (DESIGN section 4, Select)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from melt.errors import Blocked, Code, Refusal, Severity
from melt.model import Action, InputRef
from melt.selection import Candidate, Selection, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import Discrepancy, Keyset, KeysetId, Proof, Token, TokenId, Y
    from melt.ports import Store, StoreThreads

INPUTS_MAX: Final = 1000
"""The most inputs of one melt, whatever the mint would take (DESIGN section 4)."""
BLOCKED_MAX: Final = 100
"""How many records a refusal names."""
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

    def __init__(
        self, code: Code, detail: str, available: int, *, hint: str | None = None, blocked: Blocked | None = None
    ) -> None:
        super().__init__(code, detail, hint=hint, blocked=blocked)
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
    met: Sequence[Discrepancy],
    out: frozenset[TokenId],
    now: datetime,
) -> Choice:
    """
    Choose proofs of ``tokens`` worth ``need`` after input fees.

    Left out: documents with open HIGH or CRITICAL drift, those that this request has found to be ``out`` (``met`` are their
    records), those that an open melt has reserved, locked proofs, keysets that the mint does not list or that are of another
    unit, and a secret's second appearance.

    Raises:
        NotEnough: INSUFFICIENT_FUNDS; FUNDS_SETTLING or MELT_BLOCKED_BY_RECONCILIATION where what is left out because of
            drift would have done.
        StoreError: the drift could not be read.
    """
    ids = [token.id for token in tokens]
    open_drift = (
        await threads(lambda: store.open_discrepancies_of(ids, [Severity.HIGH, Severity.CRITICAL])) if ids else ()
    )
    in_the_way = {record.id: record for record in (*open_drift, *met)}
    blocked = {record.token_id for record in in_the_way.values()} | out
    # Another writer may call a document unspent that an open melt has reserved.
    marked = [token.reservation.melt_id for token in tokens if token.reservation is not None]
    live = await threads(lambda: store.live_melt_ids(marked)) if marked else frozenset()
    pool: list[tuple[Token, Proof]] = []
    seen: set[Y] = set()
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
            raise _blocked(list(in_the_way.values()), blocked_amount, available, unit)
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


def _blocked(records: Sequence[Discrepancy], amount: int, available: int, unit: str) -> NotEnough:
    """What keeps enough money from being used: drift that settles by itself, or drift that does not."""
    settling = [record for record in records if not record.is_settled or record.action is Action.WATCH]
    waits = [record.settles_in_s for record in settling if record.action is not Action.WATCH]
    blocked = Blocked(
        discrepancies=tuple(sorted(record.id for record in records)[:BLOCKED_MAX]),
        value=amount,
        unit=unit,
        settles_in_s=max(waits) if len(waits) == len(records) else None,
    )
    if settling:
        return NotEnough(
            Code.FUNDS_SETTLING,
            f"{amount} {unit} lie in documents that somebody else is at work on, or was a moment ago, by what the mint says "
            f"of their proofs; without them {available} {unit} can be used now",
            available,
            hint="retry later: the records say when; `meltd discrepancies show ID`",
            blocked=blocked,
        )
    return NotEnough(
        Code.MELT_BLOCKED_BY_RECONCILIATION,
        f"{amount} {unit} are blocked by open HIGH discrepancies; without them the money does not reach",
        available,
        blocked=blocked,
    )


def _is_leaving(keyset: Keyset, now: datetime) -> bool:
    if not keyset.active:
        return True
    return keyset.final_expiry is not None and keyset.final_expiry - now.timestamp() < EXPIRING_SOON_S
