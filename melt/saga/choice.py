"""Choosing a wallet's proofs for a melt: what may be used, what is blocked, what does not reach (DESIGN section 4, Select)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from melt.errors import Blocked, Code, Refusal, Severity
from melt.model import OPEN_DISCREPANCY, Action, DiscrepancyState, DriftType, InputRef
from melt.selection import Candidate, Selection, select
from melt.usable import Unusable, payable, why_unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from melt.model import Discrepancy, Keyset, KeysetId, Proof, Token, TokenId, Y
    from melt.ports import Store, StoreThreads

INPUTS_MAX: Final = 1000
"""The most inputs of one melt, whatever the mint would take (DESIGN section 4)."""
BLOCKED_MAX: Final = 100
"""How many records a refusal names."""
EXPIRING_SOON_S: Final = 30 * 24 * 3600
REFUSED_MAX: Final = 1000
"""So many refused proofs of one user are known to a choice; the mint refuses the others again (I11)."""


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
    """The money at hand does not reach; ``available`` is what could be paid with now, input fees taken, in the unit."""

    def __init__(
        self, code: Code, detail: str, available: int, *, hint: str | None = None, blocked: Blocked | None = None
    ) -> None:
        super().__init__(code, detail, hint=hint, blocked=blocked)
        self.available = available


class TooMany(Refusal):
    """
    The money reaches, but not with as many inputs as the mint takes at a time: it is swapped together first.

    ``pool`` is what there is, the smallest first, with the documents that it lies in.
    """

    def __init__(self, detail: str, pool: Sequence[InputRef], tokens: Mapping[TokenId, Token]) -> None:
        super().__init__(
            Code.TOO_MANY_INPUTS, detail, hint="receive or swap the ecash in larger proofs, or pay in smaller parts"
        )
        self.pool = tuple(pool)
        self.tokens = tokens


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
    denominations: Mapping[KeysetId, Collection[int]] | None = None,
    fee_max: int | None = None,
) -> Choice:
    """
    Choose proofs of ``tokens`` worth ``need`` after input fees, of ``fee_max`` at most where that can be done.

    Left out, each with its reason (:mod:`melt.usable`): documents with open HIGH or CRITICAL drift, those that this request
    has found to be ``out`` (``met`` are their records), those that an open melt has reserved, proofs that the mint has
    refused, locked ones, keysets that the mint does not list, that have expired or are of another unit, amounts that their
    keyset does not have, and a secret's second appearance.

    Raises:
        NotEnough: INSUFFICIENT_FUNDS; FUNDS_SETTLING or MELT_BLOCKED_BY_RECONCILIATION where what is left out because of
            drift would have done.
        TooMany: it reaches with more inputs than ``inputs_max``.
        StoreError: the drift could not be read.
    """
    kept = await kept_out(store, threads, tokens)
    in_the_way = {record.id: record for record in (*kept.records, *met)}
    blocked = {record.token_id for record in in_the_way.values()} | out
    pool: list[tuple[Token, Proof]] = []
    seen: set[Y] = set()
    left_out: Counter[Unusable] = Counter()
    for token in tokens:
        if token.id in kept.reserved:
            continue
        for proof in token.proofs:
            if proof.y in seen:
                continue
            seen.add(proof.y)
            why = why_unusable(proof, keysets, unit=unit, now=now, denominations=denominations)
            if why is None and proof.y in kept.refused:
                why = Unusable.REFUSED
            if why is None and token.id in blocked:
                why = Unusable.BLOCKED
            if why is None:
                pool.append((token, proof))
            elif why is not Unusable.OTHER_UNIT:
                left_out[why] += proof.amount
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
    limit = min(inputs_max, INPUTS_MAX)
    selection = select(candidates, need=need, ppk=ppk, inputs_max=limit)
    if selection is None:
        raise _too_little(
            pool, candidates, left_out, list(in_the_way.values()), need=need, unit=unit, ppk=ppk, limit=limit
        )
    if fee_max is not None and selection.input_fee > fee_max:
        # Fewer inputs cost less: worth more overpay, which comes back as change.
        selection = _cheaper(candidates, need=need, ppk=ppk, fee_max=fee_max, limit=limit) or selection
    chosen = [pool[candidate.index] for candidate in selection.chosen]
    refs = tuple(_ref(token, proof) for token, proof in chosen)
    return Choice(selection=selection, refs=refs, tokens={token.id: token for token, _ in chosen})


def _ref(token: Token, proof: Proof) -> InputRef:
    return InputRef(token_id=token.id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOut:
    """
    What keeps a wallet's unspent documents, or single proofs of them, from being paid with.

    ``records`` are the open drift; ``reserved`` documents that another writer calls unspent and an open melt has reserved;
    ``refused`` proofs that the mint has refused.
    """

    records: tuple[Discrepancy, ...] = ()
    reserved: frozenset[TokenId] = frozenset()
    refused: frozenset[Y] = frozenset()


async def kept_out(store: Store, threads: StoreThreads, tokens: Sequence[Token]) -> KeptOut:
    """See :class:`KeptOut`; ``tokens`` are one user's. Raises StoreError."""
    if not tokens:
        return KeptOut()
    ids = [token.id for token in tokens]
    npub = tokens[0].npub
    drift = await threads(lambda: store.open_discrepancies_of(ids, [Severity.HIGH, Severity.CRITICAL]))
    refused = await threads(
        lambda: store.discrepancies(
            states=(*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED),
            types=(DriftType.PROOF_REFUSED,),
            severities=(),
            npub=npub,
            limit=REFUSED_MAX,
        )
    )
    marks = {token.id: token.reservation.melt_id for token in tokens if token.reservation is not None}
    live = await threads(lambda: store.live_melt_ids(list(marks.values()))) if marks else frozenset()
    return KeptOut(
        records=tuple(drift),
        reserved=frozenset(token_id for token_id, melt_id in marks.items() if melt_id in live),
        refused=frozenset(y for record in refused for y in record.ys),
    )


def _cheaper(
    candidates: Sequence[Candidate], *, need: int, ppk: Mapping[KeysetId, int], fee_max: int, limit: int
) -> Selection | None:
    """The best of those sets that are small enough for their fee to be within ``fee_max``."""
    least = min((ppk[candidate.keyset_id] for candidate in candidates), default=0)
    most = limit if least == 0 else min(limit, fee_max * 1000 // least)
    found = select(candidates, need=need, ppk=ppk, inputs_max=most) if most > 0 else None
    return found if found is not None and found.input_fee <= fee_max else None


def _too_little(
    pool: Sequence[tuple[Token, Proof]],
    candidates: Sequence[Candidate],
    left_out: Counter[Unusable],
    in_the_way: Sequence[Discrepancy],
    *,
    need: int,
    unit: str,
    ppk: Mapping[KeysetId, int],
    limit: int,
) -> Refusal:
    """Why nothing could be chosen, in words that say what to do."""
    available = payable(((c.amount, ppk[c.keyset_id]) for c in candidates), inputs_max=limit)
    everything = payable((c.amount, ppk[c.keyset_id]) for c in candidates)
    if everything >= need > available:
        refs = [_ref(token, proof) for token, proof in sorted(pool, key=lambda one: one[1].amount)]
        detail = (
            f"{need} {unit} and input fees need more than the {limit} inputs that the mint takes at a time: the largest "
            f"{limit} of {len(refs)} proofs come to {available} {unit}"
        )
        return TooMany(detail, refs, {token.id: token for token, _ in pool})
    blocked = left_out[Unusable.BLOCKED]
    if blocked and everything + blocked >= need:
        return _blocked(in_the_way, blocked, everything, unit)
    dust = sum(c.amount for c in candidates if 1000 * c.amount <= ppk[c.keyset_id])
    rest = {**left_out, **({Unusable.DUST: dust} if dust else {})}
    more = "; ".join(f"{amount} {unit} {reason.words}" for reason, amount in sorted(rest.items()))
    return NotEnough(
        Code.INSUFFICIENT_FUNDS,
        f"{need} {unit} and input fees are needed, {everything} {unit} can be paid with now"
        + (f" ({more})" if more else ""),
        everything,
    )


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
