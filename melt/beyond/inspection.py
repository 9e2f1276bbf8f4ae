"""One page of documents, looked at for what no state tells (DESIGN section 5, Beyond states)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from melt.beyond.duplicates import duplicate_verdict, elsewhere
from melt.beyond.malformed import with_sane_amounts
from melt.beyond.signatures import Flawed, is_due, signature_verdict, verify
from melt.beyond.units import unit_verdict
from melt.corrections import Judged, mint_said, unit_of
from melt.errors import MintError
from melt.model import LIVE_STATUSES, Action, DriftType, MintState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import Holder, Keyset, KeysetId, MalformedToken, MintAlias, Proof, Token, TokenId, Verdict, Y
    from melt.ports import Clock, Entropy, Holdings, Mint, StoreThreads

_log = structlog.get_logger("melt.beyond")

PROOFS_PER_JOB: Final = 500
"""Signatures checked in one go: 50 to 100 ms of a worker thread, so that a stop need not wait for more."""
KEYS_RETRY_S: Final = 600.0
"""How long a keyset whose keys could not be had is left alone."""
FRESH_S: Final = 60.0
"""How long a keyset that a freshly asked mint did not list counts as unknown without asking again."""
REMEMBERED_MAX: Final = 1_000
_GIVING_BACK: Final = frozenset({Action.RELEASE, Action.RECLAIM})


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondPolicy:
    """``signature_share``: of how many documents a tour checks the signatures; each one's turn comes once in 1 / share tours."""

    signature_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """
    What a look has found. ``unchecked`` are ids of records whose absence tells nothing, because their documents' turn has not come.

    ``holders`` is None where nobody could look: without an index on the secrets each look reads the whole collection.
    """

    judged: tuple[Judged, ...] = ()
    unchecked: tuple[str, ...] = ()
    holders: Mapping[Y, tuple[Holder, ...]] | None = None

    def weighed(self, judged: Sequence[Judged]) -> list[Judged]:
        """
        Verdicts on states, in the light of what was seen beyond them.

        A ``melted`` document says where else its proofs stand. Nothing comes back by rule to a document whose proofs
        another one counts too: it would be counted twice, or taken from the other's owner (I12).
        """
        twice = {one.token.id for one in self.judged if one.verdict.type is DriftType.DUPLICATE_PROOF}
        weighed: list[Judged] = []
        for one in judged:
            if one.verdict.type is DriftType.LEGACY_MELTED_DOCUMENT:
                one = replace(one, evidence={**one.evidence, **elsewhere(one.token, self.holders)})  # noqa: PLW2901
            if one.token.id in twice and one.verdict.action in _GIVING_BACK:
                reason = f"{one.verdict.reason}; not given back while other documents hold the same proofs"
                one = replace(one, verdict=replace(one.verdict, action=Action.WATCH, reason=reason))  # noqa: PLW2901
            weighed.append(one)
        return weighed


@dataclass(slots=True, kw_only=True)
class Beyond:
    """
    Looks beyond states. ``threads`` are the store's, ``work`` is a pool for what keeps a processor busy.

    Its only state is what it need not ask a mint again for a while.
    """

    holdings: Holdings
    threads: StoreThreads
    work: StoreThreads
    clock: Clock
    entropy: Entropy
    policy: BeyondPolicy = field(default_factory=BeyondPolicy)
    _keys_failed: dict[tuple[MintAlias, KeysetId], float] = field(default_factory=dict)
    _not_listed: dict[tuple[MintAlias, KeysetId], float] = field(default_factory=dict)

    # --- keysets ---

    async def keysets(self, mint: Mint, tokens: Sequence[Token]) -> tuple[Mapping[KeysetId, Keyset], bool]:
        """
        The mint's keysets, and whether a keyset that they lack is unknown to the mint, too.

        A list may be older than a keyset, so a mint is asked anew, once a page at most, before one is called unknown. Where
        that fails, nothing is said about unknown keysets. Raises MintError where there is no list at all.
        """
        listed = await mint.keysets()
        now = self.clock.monotonic()
        missing = {
            (mint.alias, proof.keyset_id)
            for token in tokens
            if token.status in LIVE_STATUSES
            for proof in token.proofs
            if proof.keyset_id not in listed
        }
        if all(now - self._not_listed.get(key, -FRESH_S) < FRESH_S for key in missing):
            return listed, True
        try:
            listed = await mint.keysets(refresh=True)
        except MintError as error:
            _log.warning("the mint's keysets could not be asked anew", mint=mint.alias, code=error.code.value)
            return listed, False
        for key in missing:
            if key[1] not in listed:
                _remember(self._not_listed, key, self.clock.monotonic())
        return listed, True

    # --- the page ---

    async def sane(
        self, mint: Mint, tokens: Sequence[Token], keysets: Mapping[KeysetId, Keyset]
    ) -> tuple[list[Token], list[MalformedToken]]:
        """Documents apart whose amounts their keysets do not have (:func:`melt.beyond.malformed.with_sane_amounts`)."""
        listed = {proof.keyset_id for token in tokens for proof in token.proofs} & set(keysets)
        return with_sane_amounts(tokens, await self._keys(mint, listed))

    async def look(
        self,
        mint: Mint,
        tokens: Sequence[Token],
        states: Mapping[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        turn: int | None,
        holdings: Holdings | None = None,
    ) -> Looked:
        """
        Look at documents of one mint. ``turn`` is the tour's number; None checks signatures of a random share. ``holdings``
        is asked who else holds a proof; None: the database.

        Raises StoreError. What the mint can't be asked is left out.
        """
        holders = await self._holders(tokens, holdings or self.holdings)
        due = [token for token in tokens if token.status in LIVE_STATUSES and self._is_due(token.id, turn)]
        keys = await self._keys(mint, {proof.keyset_id for token in due for proof in token.proofs})
        flawed = await self._flawed(due, states, keys)
        units = await self._wallet_units(tokens)
        judged: list[Judged] = []
        for token in tokens:
            found = list(self._verdicts(token, holders or {}, flawed.get(token.id, ())))
            wallet_unit = units.get(token.wallet_id or "")
            mismatch = None if wallet_unit is None else unit_verdict(token, wallet_unit, keysets)
            if mismatch is not None and token.status in LIVE_STATUSES:
                found.append(mismatch)
            for verdict, evidence in found:
                judged.append(
                    Judged(
                        token=token,
                        verdict=verdict,
                        mint=mint.alias,
                        unit=unit_of(token, keysets),
                        evidence={"mint_said": mint_said(verdict.ys, states), **evidence},
                    )
                )
        checked = {token.id for token in due if all(proof.keyset_id in keys for proof in token.proofs)}
        unchecked = tuple(
            f"{DriftType.INVALID_SIGNATURE}:token:{token.id}"
            for token in tokens
            if token.status in LIVE_STATUSES and token.id not in checked
        )
        if holders is None:
            unchecked += tuple(f"{DriftType.DUPLICATE_PROOF}:token:{token.id}" for token in tokens)
        return Looked(judged=tuple(judged), unchecked=unchecked, holders=holders)

    @staticmethod
    def _verdicts(
        token: Token, holders: Mapping[Y, tuple[Holder, ...]], flawed: Sequence[Flawed]
    ) -> Iterable[tuple[Verdict, Mapping[str, str | int | bool | None]]]:
        twice = duplicate_verdict(token, holders)
        if twice is not None:
            yield twice
        if flawed:
            yield signature_verdict(flawed), {"checked_proofs": len(token.proofs)}

    async def _wallet_units(self, tokens: Sequence[Token]) -> Mapping[str, str]:
        ids = {token.wallet_id for token in tokens if token.wallet_id is not None and token.status in LIVE_STATUSES}
        return await self.threads(lambda: self.holdings.wallet_units(sorted(ids))) if ids else {}

    async def _holders(self, tokens: Sequence[Token], holdings: Holdings) -> Mapping[Y, tuple[Holder, ...]] | None:
        if not holdings.secrets_indexed:
            return None
        proofs = [proof for token in tokens for proof in token.proofs]
        return await self.threads(lambda: holdings.holders(proofs)) if proofs else {}

    # --- signatures ---

    def _is_due(self, token_id: TokenId, turn: int | None) -> bool:
        share = self.policy.signature_share
        return self.entropy.uniform(0, 1) < share if turn is None else is_due(token_id, share, turn)

    async def _flawed(
        self,
        tokens: Sequence[Token],
        states: Mapping[Y, MintState],
        keys: Mapping[KeysetId, Mapping[int, str]],
    ) -> dict[TokenId, list[Flawed]]:
        """The proofs that the mint has not signed, by document. What it calls SPENT it has once honoured."""
        owners: list[tuple[TokenId, Proof]] = [
            (token.id, proof)
            for token in tokens
            for proof in token.proofs
            if states.get(proof.y) is not MintState.SPENT
        ]
        flaws: dict[Proof, Flawed] = {}
        for start in range(0, len(owners), PROOFS_PER_JOB):
            part = [proof for _, proof in owners[start : start + PROOFS_PER_JOB]]

            def job(part: Sequence[Proof] = part) -> tuple[Flawed, ...]:
                return verify(part, keys)

            flaws |= {one.proof: one for one in await self.work(job)}
        found: dict[TokenId, list[Flawed]] = {}
        for token_id, proof in owners if flaws else ():
            if proof in flaws:
                found.setdefault(token_id, []).append(flaws[proof])
        return found

    async def _keys(self, mint: Mint, ids: Iterable[KeysetId]) -> dict[KeysetId, Mapping[int, str]]:
        """Keys of the keysets that can be had; the mint is not asked again and again for the others."""
        found: dict[KeysetId, Mapping[int, str]] = {}
        for keyset_id in sorted(ids):
            key, now = (mint.alias, keyset_id), self.clock.monotonic()
            failed_at = self._keys_failed.get(key)
            if failed_at is not None and now - failed_at < KEYS_RETRY_S:
                continue
            try:
                found[keyset_id] = await mint.keys(keyset_id)
            except MintError as error:
                _remember(self._keys_failed, key, now)
                _log.warning(
                    "signatures of a keyset can't be checked: its keys are not to be had",
                    mint=mint.alias,
                    keyset_id=keyset_id[:80],
                    code=error.code.value,
                )
        return found


def _remember(book: dict[tuple[MintAlias, KeysetId], float], key: tuple[MintAlias, KeysetId], now: float) -> None:
    """Keep it, and of the others not more than there is room for (I11)."""
    if len(book) >= REMEMBERED_MAX:
        book.clear()
    book[key] = now
