"""The mint over HTTP: implements :class:`melt.ports.Mint` (NUT-01 to 09, 12, 23)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote as quoted

from melt.ecash import is_point, keyset_id_matches, keyset_id_version, y_of
from melt.errors import (
    InvariantBroken,
    MintError,
    MintRejected,
    MintUntrusted,
    StateRegressed,
)
from melt.mint import announced, wire
from melt.mint.announced import Oddities
from melt.mint.batches import BatchSize
from melt.mint.limits import MintLimits
from melt.mint.requests import Requests
from melt.mint.sorting import sort_melt, sort_swap
from melt.model import (
    BlindedMessage,
    Keyset,
    KeysetId,
    MeltAnswer,
    MeltQuote,
    MintAlias,
    MintInfo,
    MintReport,
    MintState,
    Proof,
    ProofState,
    QuoteId,
    Refused,
    Restored,
    SwapAnswer,
    Y,
    normalise_mint_url,
)
from melt.ports import Clock, Entropy, Telemetry

GUARDED_MIN: Final = 3
"""The smallest batch that has room for its sentinels: a Y, a known one, a random one."""
MISSING_S: Final = 60.0
"""How long an id that a freshly asked list lacks makes nobody ask again: proofs can name any id."""
MISSING_MAX: Final = 1_000
TOO_MANY_INPUTS: Final = 11014


class HttpMint:
    """
    One configured mint.

    Reads raise MintUnreachable (no usable answer), MintRejected (an HTTP 4xx with a code) or MintUntrusted (the answer
    contradicts the protocol). :meth:`melt` and :meth:`swap` never raise for what a mint does. Nothing is retried here.
    """

    def __init__(
        self,
        alias: MintAlias,
        url: str,
        *,
        telemetry: Telemetry,
        clock: Clock,
        entropy: Entropy,
        limits: MintLimits | None = None,
    ) -> None:
        self._alias = alias
        self._url = normalise_mint_url(url)
        self._telemetry = telemetry
        self._clock = clock
        self._entropy = entropy
        self._limits = limits if limits is not None else MintLimits()
        self._requests = Requests(alias, self._url, limits=self._limits, clock=clock, telemetry=telemetry)
        self._info: tuple[float, MintInfo] | None = None
        self._keysets: tuple[float, Mapping[KeysetId, Keyset]] | None = None
        self._keys: dict[KeysetId, Mapping[int, str]] = {}
        self._keys_failed: dict[KeysetId, tuple[float, MintError]] = {}
        self._inputs_bound: int | None = None
        self._missing: dict[KeysetId, float] = {}
        self._odd: dict[str, Oddities] = {}
        self._states_size = BatchSize(least=2)
        self._restore_size = BatchSize(least=1)
        self._info_lock = asyncio.Lock()
        self._keysets_lock = asyncio.Lock()
        self._states_lock = asyncio.Lock()

    @property
    def alias(self) -> MintAlias:
        """The operator's name of the mint."""
        return self._alias

    @property
    def url(self) -> str:
        """Its URL, normalised."""
        return self._url

    async def aclose(self) -> None:
        """Close every connection."""
        await self._requests.aclose()

    # --- what the mint is ---

    async def info(self) -> MintInfo:
        """NUT-06, cached for ``limits.cached_s``."""
        async with self._info_lock:
            if self._info is None or self._stale(self._info[0]):
                arrays_max, odd = self._limits.arrays_max, Oddities()
                found = await self._requests.read(
                    "info", "GET", "/v1/info", lambda body: announced.info(body, arrays_max=arrays_max, odd=odd)
                )
                self._info, self._odd["info"] = (self._clock.monotonic(), found), odd
            return replace(self._info[1], inputs_max=self._inputs_bound)

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        """NUT-02, all keysets, cached for ``limits.cached_s``; ``refresh`` asks again."""
        async with self._keysets_lock:
            if refresh or self._keysets is None or self._stale(self._keysets[0]):
                odd = Oddities()
                found = await self._requests.read(
                    "keysets", "GET", "/v1/keysets", lambda body: announced.keysets(body, odd)
                )
                self._keysets, self._odd["keysets"] = (self._clock.monotonic(), MappingProxyType(found)), odd
                self._keys_failed.clear()  # an id may commit to what has changed in the list
            return self._keysets[1]

    async def keysets_with(self, wanted: Collection[KeysetId]) -> Mapping[KeysetId, Keyset]:
        """See :meth:`melt.ports.Mint.keysets_with`: right after a rotation the list in hand is too old."""
        listed = await self.keysets()
        missing = [
            keyset_id
            for keyset_id in wanted
            if keyset_id not in listed and self._older(self._missing.get(keyset_id, -MISSING_S), MISSING_S)
        ]
        if missing:
            listed = await self.keysets(refresh=True)
            if len(self._missing) + len(missing) > MISSING_MAX:
                self._missing.clear()
            now = self._clock.monotonic()
            self._missing |= {keyset_id: now for keyset_id in missing[:MISSING_MAX] if keyset_id not in listed}
        return listed

    def report(self) -> MintReport:
        """What is known of its ways by now; asks nothing."""
        named = [text for odd in self._odd.values() for text in odd.named]
        return MintReport(
            info=None if self._info is None else replace(self._info[1], inputs_max=self._inputs_bound),
            keysets=0 if self._keysets is None else len(self._keysets[1]),
            unusable=tuple(named[: announced.NAMED_MAX]),
            unusable_count=sum(odd.count for odd in self._odd.values()),
            wants_login=self._requests.wants_login,
            states_batch=self._states_size.proven or None,
        )

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        """
        NUT-01: amount to public key, cached for ever.

        Every key is a point and the id commits to them, with the unit, fee and expiry of ``/v1/keysets`` (old mints leave
        them out elsewhere); MintUntrusted otherwise. MintRejected for an id that is none or that the mint doesn't have.
        """
        known = self._keys.get(keyset_id)
        if known is not None:
            return known
        failed = self._keys_failed.get(keyset_id)
        if failed is not None and not self._older(failed[0], MISSING_S):
            raise failed[1]
        try:
            found = await self._ask_keys(keyset_id)
        except (MintRejected, MintUntrusted) as error:
            if len(self._keys_failed) >= MISSING_MAX:
                self._keys_failed.clear()
            self._keys_failed[keyset_id] = (self._clock.monotonic(), error)
            raise
        return self._keys.setdefault(keyset_id, MappingProxyType(found))

    async def _ask_keys(self, keyset_id: KeysetId) -> dict[int, str]:
        if keyset_id_version(keyset_id) is None:
            raise MintRejected(f"keyset id {keyset_id[:80]!r} is of no kind that meltd knows")
        keyset = (await self.keysets_with((keyset_id,))).get(keyset_id)
        if keyset is None:
            raise MintRejected(f"mint {self._alias} has no keyset {keyset_id}")
        # Legacy ids are base64 and travel in its URL-safe form.
        path = f"/v1/keys/{quoted(keyset_id.replace('/', '_').replace('+', '-'), safe='')}"
        odd = self._odd.setdefault("keys", Oddities())
        found = await self._requests.read("keys", "GET", path, lambda body: announced.keys(body, keyset_id))
        if not all(is_point(key) for key in found.values()):
            self._note_once(odd, keyset_id, "a key is not a point on the curve")
            raise MintUntrusted(f"mint {self._alias}: a key of keyset {keyset_id} is not a point on the curve")
        if not keyset_id_matches(
            keyset_id,
            found,
            unit=keyset.unit,
            input_fee_ppk=keyset.input_fee_ppk,
            final_expiry=keyset.final_expiry,
        ):
            self._note_once(odd, keyset_id, "its keys are not those of its id")
            raise MintUntrusted(f"mint {self._alias}: the keys of keyset {keyset_id} are not those of its id")
        return found

    @staticmethod
    def _note_once(odd: Oddities, keyset_id: KeysetId, why: str) -> None:
        """Keys that can't be used are asked for again and again: they count once."""
        if f"keyset {keyset_id[:80]}: {why}" not in odd.named:
            odd.note(f"keyset {keyset_id[:80]}", why)

    # --- melting ---

    async def melt_quote(self, invoice: str, unit: str) -> MeltQuote:
        """NUT-05, 23: ask what paying ``invoice`` costs. Whether the amount fits the invoice is the caller's to check."""
        body = {"request": invoice, "unit": unit}
        return await self._requests.read("melt_quote", "POST", "/v1/melt/quote/bolt11", wire.melt_quote, body=body)

    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        """NUT-05 GET. Makes some mints ask their Lightning backend: see DESIGN section 4 on when to call it."""
        path = f"/v1/melt/quote/bolt11/{quoted(quote_id, safe='')}"
        return await self._requests.read(
            "melt_quote_state", "GET", path, lambda body: wire.melt_quote(body, quote_id=quote_id)
        )

    async def melt(
        self, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> MeltAnswer:
        """
        NUT-05, 08: pay. The answer is sorted (:mod:`melt.mint.sorting`); nothing that a mint does raises.

        No connection: ``Refused(mint_code=NOT_SENT, payment_tried=False)``, since provably nothing was sent.
        """
        self._check_lengths(inputs, outputs)
        body: dict[str, Any] = {"quote": quote_id, "inputs": wire.inputs_body(inputs)}
        if outputs:
            body["outputs"] = wire.outputs_body(outputs)
        answer = await self._requests.money(
            "melt", "/v1/melt/bolt11", body, len(outputs), timeout_s, lambda answer: sort_melt(answer, quote_id)
        )
        self._learn_inputs(answer, len(inputs))
        return answer

    async def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float) -> SwapAnswer:
        """NUT-03. Sorted like :meth:`melt`; signatures come in the order of the outputs and fit them, or not at all."""
        self._check_lengths(inputs, outputs)
        asked = tuple(outputs)
        body = {"inputs": wire.inputs_body(inputs), "outputs": wire.outputs_body(asked)}
        answer = await self._requests.money(
            "swap", "/v1/swap", body, len(asked), timeout_s, lambda answer: sort_swap(answer, asked)
        )
        self._learn_inputs(answer, len(inputs))
        return answer

    def _learn_inputs(self, answer: MeltAnswer | SwapAnswer, inputs: int) -> None:
        """A mint need not say how many inputs it takes: it shows by refusing them."""
        if isinstance(answer, Refused) and answer.mint_code == TOO_MANY_INPUTS:
            self._inputs_bound = max(1, min(inputs * 3 // 4, self._inputs_bound or inputs))

    # --- asking about proofs ---

    async def check_states(self, ys: Sequence[Y], *, spent: Sequence[Y] | None = None) -> tuple[ProofState, ...]:
        """
        NUT-07: as many states as ``ys``, in their order, duplicates kept; each Y is asked about once.

        Asked in batches as large as the mint is known to take (:mod:`melt.mint.batches`), each with at least one random Y,
        which must read UNSPENT. One batch is in flight at a time, and others may come between two batches. A mint may
        answer in another order, but must echo exactly the Ys it was asked about; MintUntrusted otherwise. For ``spent``
        see :class:`melt.ports.Mint`.
        """
        if not ys and spent is None:
            return ()
        most = min(self._limits.states_batch, await self._arrays_max())
        if spent is not None and most < GUARDED_MIN:
            raise MintUntrusted(f"mint {self._alias} takes {most} Ys at a time: too few to check it by sentinels")
        known = list(dict.fromkeys(spent or ()))
        wanted = list(dict.fromkeys(ys))
        found: dict[Y, MintState] = {}
        before = self._states_size.bound
        start = number = 0
        while start < len(wanted) or number == 0:
            size = max(self._states_size.within(most), min(most, 2 if spent is None else GUARDED_MIN))
            share = min(len(known), max(1, size // 4), size - 2)
            # Each batch has its turn of them: behind one URL may stand several mints, and not all of them sane.
            turn = [known[(number * share + i) % len(known)] for i in range(share)]
            part = wanted[start : start + max(1, size - 1 - share)]
            least = 1 + len(part) + share
            filled = max(least, self._states_size.padded(least, size))
            try:
                found |= await self._states_batch(part, filled, spent=turn)
            except MintError as error:
                smaller = self._states_size.smaller(filled, error)
                if smaller is None or smaller < (2 if spent is None else GUARDED_MIN):
                    self._states_size.forget(before)
                    raise
                self._states_size.learn(smaller)
                continue
            self._states_size.accepted(filled)
            before = self._states_size.bound
            start, number = start + len(part), number + 1
        return tuple(ProofState(y=y, state=found[y]) for y in ys)

    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        """NUT-09: those of ``outputs`` that the mint has signed, asked in as many requests as it takes."""
        most = await self._arrays_max() if outputs else 1
        found: list[Restored] = []
        before = self._restore_size.bound
        start = 0
        while start < len(outputs):
            part = outputs[start : start + self._restore_size.within(most)]
            try:
                found += await self._requests.read(
                    "restore",
                    "POST",
                    "/v1/restore",
                    partial(wire.restored, asked=frozenset(output.b_ for output in part)),
                    body={"outputs": wire.outputs_body(part)},
                    bytes_max=self._requests.sized(len(part)),
                )
            except MintError as error:
                smaller = self._restore_size.smaller(len(part), error)
                if smaller is None:
                    self._restore_size.forget(before)
                    raise
                self._restore_size.learn(smaller)
                continue
            self._restore_size.accepted(len(part))
            before = self._restore_size.bound
            start += len(part)
        return tuple(found)

    # --- inside ---

    async def _arrays_max(self) -> int:
        """``max_array_length``; a mint that refuses to tell of itself is asked as if it said nothing of it."""
        try:
            return (await self.info()).max_array_length
        except MintRejected:
            return self._limits.arrays_max

    async def _states_batch(self, ys: Sequence[Y], size: int, *, spent: Sequence[Y] = ()) -> dict[Y, MintState]:
        once = list(dict.fromkeys((*ys, *spent)))  # a sentinel may be among the Ys in question
        padding = [y_of(self._entropy.token(32)) for _ in range(max(1, size - len(once)))]
        asked = [*once, *padding]
        async with self._states_lock:
            answer = await self._requests.read(
                "checkstate",
                "POST",
                "/v1/checkstate",
                wire.states,
                body={"Ys": asked},
                bytes_max=self._requests.sized(len(asked)),
                bad=MintUntrusted,
            )
        if [y for y, _ in answer] != asked and sorted(y for y, _ in answer) != sorted(asked):
            raise MintUntrusted(f"mint {self._alias} {_other_ys(asked, [y for y, _ in answer])}")
        state_of = dict(answer)
        if any(state_of[y] is not state for y, state in answer):
            raise MintUntrusted(f"mint {self._alias} gave one Y two states")
        wrong = [state_of[y] for y in padding if state_of[y] is not MintState.UNSPENT]
        if wrong:
            raise MintUntrusted(
                f"mint {self._alias} calls {len(wrong)} of {len(padding)} proofs {wrong[0]} that were never issued"
            )
        alive = tuple(y for y in dict.fromkeys(spent) if state_of[y] is not MintState.SPENT)
        if alive:
            raise StateRegressed(
                f"mint {self._alias} calls {len(alive)} of {len(spent)} proofs {state_of[alive[0]]} "
                "that it called SPENT before",
                alive,
            )
        return {y: state_of[y] for y in ys}

    def _check_lengths(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> None:
        if not inputs or max(len(inputs), len(outputs)) > self._limits.arrays_max:
            raise InvariantBroken(f"{len(inputs)} inputs and {len(outputs)} outputs in one request")

    def _stale(self, since: float) -> bool:
        return self._older(since, self._limits.cached_s)

    def _older(self, since: float, seconds: float) -> bool:
        return self._clock.monotonic() - since >= seconds


def _other_ys(asked: Sequence[str], answered: Sequence[str]) -> str:
    """In words: how the Ys of an answer are not those of the question."""
    if len(answered) != len(asked):
        return f"answered about {len(answered)} Ys when it was asked about {len(asked)}"
    if set(answered) <= set(asked):
        return "answered about some Ys twice and about others not at all"
    if sorted(y.lower() for y in answered) == sorted(asked):
        return "answered about Ys in upper case"
    return "answered about other Ys than it was asked about"
