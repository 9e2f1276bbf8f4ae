"""The verdicts on one page of documents: by the rule, and once more by what still stands when it is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt import drift
from melt.corrections import Judged, mint_said, unit_of
from melt.model import Action, MintState, Token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.beyond import Looked
    from melt.model import Holder, Keyset, KeysetId, TokenId, Y
    from melt.ports import Clock, Holdings, Mint, Store, StoreThreads
    from melt.reconcile.outcome import ReconcilePolicy
    from melt.sentinels import Sentinels


class Judging:
    """Judges documents by :mod:`melt.drift`; changes nothing."""

    def __init__(
        self,
        *,
        store: Store,
        threads: StoreThreads,
        sentinels: Sentinels,
        clock: Clock,
        policy: ReconcilePolicy,
        holdings: Holdings | None,
    ) -> None:
        self._store = store
        self._holdings = holdings
        self._threads = threads
        self._sentinels = sentinels
        self._clock = clock
        self._policy = policy

    async def judge(
        self,
        mint: Mint,
        tokens: Sequence[Token],
        states: Mapping[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        listed: bool,
        holdings: Holdings | None = None,
    ) -> list[Judged]:
        """
        The verdicts on these documents. ``listed``: whether a keyset that is not in ``keysets`` is unknown to the mint.

        Raises StoreError.
        """
        reserved = [token.reservation.melt_id for token in tokens if token.reservation is not None]
        live = await self._threads(lambda: self._store.live_melt_ids(reserved)) if reserved else frozenset()
        elsewhere = await self._elsewhere(tokens, states, holdings or self._holdings)
        judged: list[Judged] = []
        now = self._clock.now()
        for token in tokens:
            context = drift.Context(
                now=now,
                pending_grace_s=self._policy.pending_grace_s,
                reservation_live=token.reservation is not None and token.reservation.melt_id in live,
                known_keysets=frozenset(keysets) if listed else frozenset(),
                elsewhere=elsewhere.get(token.id, frozenset()),
            )
            unit = unit_of(token, keysets)
            judged.extend(
                Judged(
                    token=token,
                    verdict=verdict,
                    mint=mint.alias,
                    unit=unit,
                    evidence={"mint_said": mint_said(verdict.ys, states)},
                    whole=all(proof.y in states for proof in token.proofs),
                )
                for verdict in drift.classify(token, states, context)
            )
        return judged

    async def _elsewhere(
        self, tokens: Sequence[Token], states: Mapping[Y, MintState], holdings: Holdings | None
    ) -> Mapping[TokenId, frozenset[Y]]:
        """
        Proofs of spent and failed documents that the mint still honours and another document holds, as its money or as what
        was handed out: they are not written off, whatever this copy says. Looked up for such proofs alone.

        A service that keeps a proof unchanged leaves it in the spent source and stores it in a new document; and a token
        that was handed out in one piece lies in its source as it lies in the ``sent`` document.
        """
        if holdings is None:
            return {}
        alive = {
            token.id: [proof for proof in token.proofs if states.get(proof.y) not in {None, MintState.SPENT}]
            for token in tokens
            if token.status in drift.FINAL
        }
        asked = [proof for proofs in alive.values() for proof in proofs]
        if not asked:
            return {}
        if not holdings.secrets_indexed:
            # Each look would read the whole collection, and what nobody can tell is not taken for lost.
            return {token_id: frozenset(proof.y for proof in proofs) for token_id, proofs in alive.items()}
        holders = await self._threads(lambda: holdings.holders(asked))
        return {
            token_id: frozenset(
                proof.y
                for proof in proofs
                if any(holder.token_id != token_id and _lives_in(holder) for holder in holders.get(proof.y, ()))
            )
            for token_id, proofs in alive.items()
        }

    async def judge_again(
        self,
        mint: Mint,
        suspects: Sequence[Judged],
        looked: Looked,
        states: dict[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        listed: bool,
        holdings: Holdings | None = None,
    ) -> list[Judged]:
        """
        Read the suspects and ask the mint about their SPENT proofs once more; judge what still stands.

        What the mint says now goes into ``states``. Raises MintError, StoreError.
        """
        spent = [y for one in suspects if one.verdict.action is Action.MARK_SPENT for y in one.verdict.ys]
        if spent and self._policy.spent_confirm_s > 0:
            await self._clock.sleep(self._policy.spent_confirm_s)
        before = {one.token.id: one.token for one in (*suspects, *looked.judged)}
        ids = list(before)
        fresh = await self._threads(lambda: self._store.tokens(ids))
        standing = [
            token
            for token in fresh
            if isinstance(token, Token) and token.mark == before[token.id].mark and token.rev == before[token.id].rev
        ]
        states.update(await self._sentinels.states(mint, spent))
        judged = await self.judge(mint, standing, states, keysets, listed=listed, holdings=holdings)
        stands = {token.id for token in standing}
        return looked.weighed(judged) + [one for one in looked.judged if one.token.id in stands]


def _lives_in(holder: Holder) -> bool:
    """Whether a proof that this document holds is money still: its owner's, or whoever's it was handed out to."""
    if holder.is_melted:
        return False
    return holder.is_sent or holder.is_counted
