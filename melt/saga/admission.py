"""Who may start a melt, and how the melts of one wallet take turns (DESIGN section 4)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from melt.errors import Code, Refusal
from melt.model import normalise_mint_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melt.model import MeltId, MintAlias
    from melt.ports import Mint

_NPUB: Final = re.compile(r"npub1[a-z0-9]{58,63}")
GATES_MAX: Final = 10_000
"""How many wallets' gates are kept; idle ones beyond it are dropped (I11)."""


def check_npub(npub: str) -> None:
    """Refuse what is no bech32 Nostr key in form (DESIGN section 3)."""
    if not _NPUB.fullmatch(npub):
        raise Refusal(Code.INVALID_REQUEST, "npub must be npub1 followed by 58 to 63 characters of a-z and 0-9")


def resolve_mint(mints: Mapping[MintAlias, Mint], wanted: str) -> Mint:
    """A configured mint by alias or URL. Nothing but the configuration decides which mints are contacted."""
    for alias, mint in mints.items():
        if alias == wanted:
            return mint
    url = normalise_mint_url(wanted)
    for mint in mints.values():
        if normalise_mint_url(mint.url) == url:
            return mint
    raise Refusal(
        Code.MINT_UNKNOWN,
        "the mint is not configured",
        hint="name a mint of the configuration, by alias or URL: " + ", ".join(sorted(mints)),
    )


@dataclass(slots=True)
class Gate:
    """
    One wallet's turnstile: melts choose and reserve their proofs one after another.

    ``coming_back`` is what each melt in flight may return at most (its change). A request that the money at hand does
    not cover waits only where that could help.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    coming_back: dict[MeltId, int] = field(default_factory=dict)
    waiting: int = 0

    def ended(self, melt_id: MeltId) -> None:
        """A melt is over: wake whoever waits for its change."""
        if self.coming_back.pop(melt_id, None) is not None:
            self.wake()

    def wake(self) -> None:
        """Let every waiter look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def idle(self) -> bool:
        return not self.coming_back and not self.waiting and not self.lock.locked()


class Gates:
    """The gates by wallet: (npub, mint, unit)."""

    def __init__(self) -> None:
        self._gates: dict[tuple[str, MintAlias, str], Gate] = {}

    def of(self, npub: str, mint: MintAlias, unit: str) -> Gate:
        """The gate of a wallet."""
        key = (npub, mint, unit)
        gate = self._gates.get(key)
        if gate is None:
            if len(self._gates) >= GATES_MAX:
                self._gates = {k: g for k, g in self._gates.items() if not g.idle}
            gate = self._gates[key] = Gate()
        return gate

    def ended(self, melt_id: MeltId) -> None:
        """Tell every gate that a melt is over."""
        for gate in self._gates.values():
            gate.ended(melt_id)

    def in_flight(self) -> Iterable[MeltId]:
        """Every melt that some gate still expects change of."""
        return [melt_id for gate in self._gates.values() for melt_id in gate.coming_back]
