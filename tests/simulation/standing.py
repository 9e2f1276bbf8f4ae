"""
I13, judged from outside: what another writer may still need is left alone.

Time is the world's own here, and what stands still is told by what was committed; nothing that the store has counted or
noted is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from melt.model import JournalKind, Melt, MintAlias, MintState, Proof, Token, TokenId, TokenStatus, Y
from melt.settling import SettlePolicy
from tests.simulation.model_ledger import Commit
from tests.simulation.model_mint import ModelMint
from tests.simulation.model_store import ModelStore

SLACK_S = 0.01
"""Records count whole milliseconds."""
COUNTED = frozenset({TokenStatus.UNSPENT, TokenStatus.PENDING})


def counts(token: object) -> bool:
    """Whether a document is somebody's money, as far as its wallet knows."""
    return isinstance(token, Token) and token.status in COUNTED and not token.is_sent


@dataclass(slots=True)
class Standing:
    """Since when each document stands still, who has written it last, and what was handed out."""

    store: ModelStore
    mints: Mapping[MintAlias, ModelMint]
    urls: Mapping[str, MintAlias]
    now: Callable[[], float]
    say: Callable[[str], None]
    policy: SettlePolicy
    since_s: dict[TokenId, float] = field(default_factory=dict)
    ours_s: dict[TokenId, float] = field(default_factory=dict)
    """When a transaction of ours has last written a document."""
    sent: set[Y] = field(default_factory=set)
    """Proofs of documents that were handed out."""

    def on_commit(self, commit: Commit, *, external: bool) -> None:
        """Judge a transaction by what stood before it, and note what it has moved."""
        now, tables = self.now(), self.store.tables
        if not external:
            by_melt = any(tables.melts[melt_id].kind is JournalKind.MELT for melt_id in commit.melts)
            gone = {entry.token_id: entry.ys for entry in commit.entries if entry.to_status is TokenStatus.SPENT}
            for token_id, before in commit.tokens.items():
                written = tables.tokens.get(token_id)
                if written is None:
                    self.say(f"I13: token {token_id} was deleted by us")
                elif isinstance(before, Token):
                    self._sent_stays(before, written)
                    if not by_melt and written.mark != before.mark:
                        self._has_settled(before, gone.get(token_id, ()), "was written")
            for melt_id, old in commit.melts.items():
                if old is None and tables.melts[melt_id].kind is JournalKind.RECLAIM:
                    self._reclaims(tables.melts[melt_id])
        for token_id, before in commit.tokens.items():
            after = tables.tokens.get(token_id)
            if not external:
                self.ours_s[token_id] = now
            if after is None:
                self.since_s.pop(token_id, None)
                continue
            if before is None or before.mark != after.mark:
                self.since_s[token_id] = now
            if isinstance(after, Token) and after.is_sent:
                self.sent.update(proof.y for proof in after.proofs)

    def _has_settled(self, token: Token, gone: tuple[Y, ...], what: str) -> None:
        """Its document has stood still, with these proofs SPENT, for as long as a rule has to wait."""
        mint = self.mints[self.urls[token.mint_url]]
        since_s = max([self.since_s[token.id], *(mint.spent_s.get(y, 0.0) for y in gone)])
        stood_s = self.now() - since_s
        if stood_s + SLACK_S < self.policy.correct_after_s:
            self.say(f"I13: {token.status} token {token.id} {what} by rule after {stood_s:.1f} s of standing still")

    def _reclaims(self, melt: Melt) -> None:
        ys = {ref.y for ref in melt.inputs}
        for token_id in melt.source_token_ids:
            token = self.store.tables.tokens[token_id]
            if isinstance(token, Token):
                self._has_settled(token, (), "is swapped")
        for token in self.store.tables.tokens.values():
            if counts(token) and isinstance(token, Token) and not ys.isdisjoint(proof.y for proof in token.proofs):
                self.say(f"I13: {melt.id} takes a proof that {token.id} counts")

    def _sent_stays(self, before: Token, after: object) -> None:
        """What was handed out is its recipient's: it is marked spent where they have redeemed it, and that is all."""
        if not before.is_sent or not isinstance(after, Token):
            return
        mint = self.mints[self.urls[before.mint_url]]
        redeemed = after.status is TokenStatus.SPENT and all(
            mint.state(proof.y) is MintState.SPENT for proof in after.proofs
        )
        if not (after.is_sent and redeemed):
            self.say(f"I13: {before.status} token {before.id} was handed out, and became {after.status}")

    def on_inputs(self, inputs: tuple[Proof, ...]) -> None:
        """Proofs on their way to a mint, to pay with or to be swapped."""
        taken = [proof.y for proof in inputs if proof.y in self.sent]
        if taken:
            self.say(f"I13: proof {taken[0][:10]} was handed out, and is used by us")
