"""The mint over HTTP: implements :class:`melt.ports.Mint` (NUT-01 to 09, 12, 23)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote as quoted

from melt import failpoints
from melt.ecash import is_point, keyset_id_matches, keyset_id_version, y_of
from melt.errors import InvariantBroken, MintRejected, MintUnreachable, MintUntrusted, NotTheMint, StateRegressed
from melt.mint import wire
from melt.mint.limits import MintLimits
from melt.mint.sorting import NOT_SENT, sort_melt, sort_swap
from melt.mint.transport import Answer, Lost, NotSent, Transport
from melt.model import (
    Ambiguous,
    BlindedMessage,
    Keyset,
    KeysetId,
    MeltAnswer,
    MeltQuote,
    MintAlias,
    MintInfo,
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

T = TypeVar("T")

PER_ITEM_BYTES: Final = 2048
"""What one entry of an answer may take: a signature with its DLEQ has about 500 bytes, a state with a witness 1,200."""
BASE_BYTES: Final = 64 << 10
GUARDED_MIN: Final = 4
"""The smallest batch that has room for its sentinels: a Y, the same once more, a known one, a random one."""
ELSEWHERE: Final = frozenset({511})
"""HTTP statuses that no mint gives: 511 is a network's that wants a login first (RFC 6585)."""
REFRESH_S: Final = 5.0
"""How old the list of keysets must be before an id that it lacks makes meltd ask again: proofs can name any id."""


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
        self._transport = Transport(self._url, limits=self._limits, user_agent=f"meltd/{_version()}")
        self._info: tuple[float, MintInfo] | None = None
        self._keysets: tuple[float, Mapping[KeysetId, Keyset]] | None = None
        self._keys: dict[KeysetId, Mapping[int, str]] = {}
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
        await self._transport.aclose()

    # --- what the mint is ---

    async def info(self) -> MintInfo:
        """NUT-06, cached for ``limits.cached_s``."""
        async with self._info_lock:
            if self._info is None or self._stale(self._info[0]):
                arrays_max = self._limits.arrays_max
                found = await self._read("info", "GET", "/v1/info", lambda body: wire.info(body, arrays_max=arrays_max))
                self._info = (self._clock.monotonic(), found)
            return self._info[1]

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        """NUT-02, all keysets, cached for ``limits.cached_s``; ``refresh`` asks again."""
        async with self._keysets_lock:
            if refresh or self._keysets is None or self._stale(self._keysets[0]):
                found = await self._read("keysets", "GET", "/v1/keysets", wire.keysets)
                self._keysets = (self._clock.monotonic(), MappingProxyType(found))
            return self._keysets[1]

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        """
        NUT-01: amount to public key, cached for ever.

        Every key is a point and the id commits to them, with the unit, fee and expiry of ``/v1/keysets`` (old mints leave
        them out elsewhere); MintUntrusted otherwise. MintRejected for an id that is none or that the mint doesn't have.
        """
        known = self._keys.get(keyset_id)
        if known is not None:
            return known
        if keyset_id_version(keyset_id) is None:
            raise MintRejected(f"keyset id {keyset_id[:80]!r} is of no kind that meltd knows")
        keyset = (await self.keysets()).get(keyset_id)
        if keyset is None and self._keysets is not None and self._older(self._keysets[0], REFRESH_S):
            keyset = (await self.keysets(refresh=True)).get(keyset_id)
        if keyset is None:
            raise MintRejected(f"mint {self._alias} has no keyset {keyset_id}")
        # Legacy ids are base64 and travel in its URL-safe form.
        path = f"/v1/keys/{quoted(keyset_id.replace('/', '_').replace('+', '-'), safe='')}"
        found = await self._read("keys", "GET", path, lambda body: wire.keys(body, keyset_id))
        if not all(is_point(key) for key in found.values()):
            raise MintUntrusted(f"mint {self._alias}: a key of keyset {keyset_id} is not a point on the curve")
        if not keyset_id_matches(
            keyset_id,
            found,
            unit=keyset.unit,
            input_fee_ppk=keyset.input_fee_ppk,
            final_expiry=keyset.final_expiry,
        ):
            raise MintUntrusted(f"mint {self._alias}: the keys of keyset {keyset_id} are not those of its id")
        return self._keys.setdefault(keyset_id, MappingProxyType(found))

    # --- melting ---

    async def melt_quote(self, invoice: str, unit: str) -> MeltQuote:
        """NUT-05, 23: ask what paying ``invoice`` costs. Whether the amount fits the invoice is the caller's to check."""
        body = {"request": invoice, "unit": unit}
        return await self._read("melt_quote", "POST", "/v1/melt/quote/bolt11", wire.melt_quote, body=body)

    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        """NUT-05 GET. Makes some mints ask their Lightning backend: see DESIGN section 4 on when to call it."""
        path = f"/v1/melt/quote/bolt11/{quoted(quote_id, safe='')}"
        return await self._read("melt_quote_state", "GET", path, lambda body: wire.melt_quote(body, quote_id=quote_id))

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
        return await self._money(
            "melt", "/v1/melt/bolt11", body, len(outputs), timeout_s, lambda answer: sort_melt(answer, quote_id)
        )

    async def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float) -> SwapAnswer:
        """NUT-03. Sorted like :meth:`melt`; signatures come in the order of the outputs and fit them, or not at all."""
        self._check_lengths(inputs, outputs)
        asked = tuple(outputs)
        body = {"inputs": wire.inputs_body(inputs), "outputs": wire.outputs_body(asked)}
        return await self._money(
            "swap", "/v1/swap", body, len(asked), timeout_s, lambda answer: sort_swap(answer, asked)
        )

    # --- asking about proofs ---

    async def check_states(self, ys: Sequence[Y], *, spent: Sequence[Y] | None = None) -> tuple[ProofState, ...]:
        """
        NUT-07: as many states as ``ys``, in their order, duplicates kept.

        Asked in batches of one fixed size; each is filled up with at least one random Y, which must read UNSPENT. One
        batch is in flight at a time, and others may come between two batches. A mint may answer in another order, but must echo
        exactly the Ys it was asked about; MintUntrusted otherwise. For ``spent`` see :class:`melt.ports.Mint`.
        """
        if not ys and spent is None:
            return ()
        size = min(self._limits.states_batch, (await self.info()).max_array_length)
        if spent is not None and size < GUARDED_MIN:
            raise MintUntrusted(f"mint {self._alias} takes {size} Ys at a time: too few to check it by sentinels")
        known = list(dict.fromkeys(spent or ()))
        share = min(len(known), max(1, size // 4))
        ours = max(1, size - 1) if spent is None else size - 2 - share
        found: list[ProofState] = []
        for number, start in enumerate(range(0, max(1, len(ys)), ours)):
            # Each batch has its turn of them: behind one URL may stand several mints, and not all of them sane.
            turn = [known[(number * share + i) % len(known)] for i in range(share)]
            found += await self._states_batch(
                ys[start : start + ours], size, spent=turn, repeated=ys[start : start + 1] if spent is not None else ()
            )
        return tuple(found)

    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        """NUT-09: those of ``outputs`` that the mint has signed, asked in as many requests as it takes."""
        size = (await self.info()).max_array_length if outputs else 1
        found: list[Restored] = []
        for start in range(0, len(outputs), size):
            part = outputs[start : start + size]
            asked = frozenset(output.b_ for output in part)
            found += await self._read(
                "restore",
                "POST",
                "/v1/restore",
                partial(wire.restored, asked=asked),
                body={"outputs": wire.outputs_body(part)},
                bytes_max=self._sized(len(part), self._limits.states_bytes_max),
            )
        return tuple(found)

    # --- inside ---

    async def _states_batch(
        self, ys: Sequence[Y], size: int, *, spent: Sequence[Y] = (), repeated: Sequence[Y] = ()
    ) -> list[ProofState]:
        padding = [y_of(self._entropy.token(32)) for _ in range(size - len(ys) - len(spent) - len(repeated))]
        asked = [*ys, *spent, *repeated, *padding]
        async with self._states_lock:
            answer = await self._read(
                "checkstate",
                "POST",
                "/v1/checkstate",
                wire.states,
                body={"Ys": asked},
                bytes_max=self._sized(size, self._limits.states_bytes_max),
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
        return [ProofState(y=y, state=state_of[y]) for y in ys]

    async def _read(
        self,
        endpoint: str,
        method: Literal["GET", "POST"],
        path: str,
        parse: Callable[[bytes], T],
        *,
        body: Any = None,
        bytes_max: int | None = None,
        bad: type[MintUnreachable | MintUntrusted] = MintUnreachable,
    ) -> T:
        """
        One read, with every way to fail as an error of ours. ``bad`` is what an answer of the wrong shape becomes.

        A 4xx without a code is no mint's word: a proxy's, a wrong path's. A 422 is the mint's, though it has no code.
        """
        started, outcome = self._clock.monotonic(), "error"
        limits = self._limits
        failpoints.hit(f"mint.{endpoint}.before_request")
        try:
            answer = await self._transport.exchange(
                method,
                path,
                body=body,
                bytes_max=limits.answer_bytes_max if bytes_max is None else bytes_max,
                timeout_s=limits.request_timeout_s,
            )
            failpoints.hit(f"mint.{endpoint}.after_answer")
            if answer.status in ELSEWHERE or 300 <= answer.status < 400:
                raise NotTheMint(
                    f"mint {self._alias}: {endpoint} was answered by something else, with HTTP {answer.status} "
                    + ("(a network that wants a login)" if answer.status in ELSEWHERE else "(a redirect)")
                )
            if 200 <= answer.status < 300:
                found = parse(answer.body)
                outcome = "ok"
                return found
            code = wire.error_code(answer.body)
            if 400 <= answer.status < 500 and answer.status != 429 and (code is not None or answer.status == 422):
                outcome = "rejected"
                raise MintRejected(f"mint {self._alias} refused {endpoint} with code {code}", mint_code=code)
            raise MintUnreachable(
                f"mint {self._alias} answered {endpoint} with HTTP {answer.status}",
                retry_after_s=answer.retry_after_s,
                rate_limited=answer.status == 429,
            )
        except (NotSent, Lost) as error:
            raise MintUnreachable(f"mint {self._alias} gave no answer to {endpoint}: {error}") from error
        except wire.BadAnswer as error:
            if isinstance(error, wire.Unreadable):
                page = "a page of HTML" if answer.body.lstrip()[:1] == b"<" else str(error)
                raise NotTheMint(
                    f"mint {self._alias}: {endpoint} was answered by something else, with HTTP {answer.status} and {page}"
                ) from error
            raise bad(f"mint {self._alias} gave an unusable answer to {endpoint}: {error}") from error
        finally:
            self._telemetry.mint_request(self._alias, endpoint, outcome, self._clock.monotonic() - started)

    async def _money(
        self,
        endpoint: str,
        path: str,
        body: Any,
        items: int,
        timeout_s: float,
        sort: Callable[[Answer], T],
    ) -> T | Refused | Ambiguous:
        started, outcome = self._clock.monotonic(), "error"
        failpoints.hit(f"mint.{endpoint}.before_request")
        try:
            answer = await self._transport.exchange(
                "POST",
                path,
                body=body,
                bytes_max=max(self._limits.answer_bytes_max, self._sized(items, self._limits.states_bytes_max)),
                timeout_s=timeout_s,
                money=True,
            )
            failpoints.hit(f"mint.{endpoint}.after_answer")
            found = sort(answer)
            outcome = {Refused: "rejected", Ambiguous: "error"}.get(type(found), "ok")
        except NotSent:
            return Refused(mint_code=NOT_SENT, payment_tried=False)
        except Lost as lost:
            return Ambiguous(reason=str(lost))
        else:
            return found
        finally:
            self._telemetry.mint_request(self._alias, endpoint, outcome, self._clock.monotonic() - started)

    def _check_lengths(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> None:
        if not inputs or max(len(inputs), len(outputs)) > self._limits.arrays_max:
            raise InvariantBroken(f"{len(inputs)} inputs and {len(outputs)} outputs in one request")

    def _stale(self, since: float) -> bool:
        return self._older(since, self._limits.cached_s)

    def _older(self, since: float, seconds: float) -> bool:
        return self._clock.monotonic() - since >= seconds

    @staticmethod
    def _sized(items: int, most: int) -> int:
        return min(most, BASE_BYTES + PER_ITEM_BYTES * items)


def _other_ys(asked: Sequence[str], answered: Sequence[str]) -> str:
    """In words: how the Ys of an answer are not those of the question."""
    if len(answered) != len(asked):
        return f"answered about {len(answered)} Ys when it was asked about {len(asked)}"
    if set(answered) <= set(asked):
        return "answered about some Ys twice and about others not at all"
    if sorted(y.lower() for y in answered) == sorted(asked):
        return "answered about Ys in upper case"
    return "answered about other Ys than it was asked about"


def _version() -> str:
    try:
        return version("meltd")
    except PackageNotFoundError:
        return "unknown"
