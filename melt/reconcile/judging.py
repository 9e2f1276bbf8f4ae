"""The verdicts on one page of documents: by the rule, and once more by what still stands when it is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt import drift
from melt.corrections import Judged, mint_said, unit_of
from melt.model import Action, Token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.beyond import Looked
    from melt.model import Keyset, KeysetId, MintState, Y
    from melt.ports import Clock, Mint, Store, StoreThreads
    from melt.reconcile.outcome import ReconcilePolicy
    from melt.sentinels import Sentinels


class Judging:
    """Judges documents by :mod:`melt.drift`; changes nothing."""

    def __init__(
        self, *, store: Store, threads: StoreThreads, sentinels: Sentinels, clock: Clock, policy: ReconcilePolicy
    ) -> None:
        self._store = store
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
    ) -> list[Judged]:
        """
        The verdicts on these documents. ``listed``: whether a keyset that is not in ``keysets`` is unknown to the mint.

        Raises StoreError.
        """
        reserved = [token.reservation.melt_id for token in tokens if token.reservation is not None]
        live = await self._threads(lambda: self._store.live_melt_ids(reserved)) if reserved else frozenset()
        judged: list[Judged] = []
        now = self._clock.now()
        for token in tokens:
            context = drift.Context(
                now=now,
                pending_grace_s=self._policy.pending_grace_s,
                reservation_live=token.reservation is not None and token.reservation.melt_id in live,
                known_keysets=frozenset(keysets) if listed else frozenset(),
            )
            unit = unit_of(token, keysets)
            judged.extend(
                Judged(
                    token=token,
                    verdict=verdict,
                    mint=mint.alias,
                    unit=unit,
                    evidence={"mint_said": mint_said(verdict.ys, states)},
                )
                for verdict in drift.classify(token, states, context)
            )
        return judged

    async def judge_again(
        self,
        mint: Mint,
        suspects: Sequence[Judged],
        looked: Looked,
        states: dict[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        listed: bool,
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
            if isinstance(token, Token)
            and token.status is before[token.id].status
            and token.rev == before[token.id].rev
            and token.proofs == before[token.id].proofs
        ]
        states.update(await self._sentinels.states(mint, spent))
        judged = await self.judge(mint, standing, states, keysets, listed=listed)
        stands = {token.id for token in standing}
        return looked.weighed(judged) + [one for one in looked.judged if one.token.id in stands]
