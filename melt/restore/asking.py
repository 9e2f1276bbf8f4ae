"""
Asking a mint which outputs it has signed (NUT-09), and turning its signatures into proofs (NUT-12, 13).

Many plans share a request. Signatures are matched by B_ alone: neither position nor amount says which output they sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from melt.ecash import y_of
from melt.errors import MintRejected, MintUntrusted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from melt.model import BlindedMessage, NewProof, OutputPlan, Restored, Y
    from melt.ports import Mint, Outputs, StoreThreads

_log = structlog.get_logger("melt.restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOutput:
    """
    An output that the mint has signed, as a proof. ``plan`` and ``index`` say which output it is; ``proven``: a DLEQ proof
    shows that the signature is of the key that its amount names.
    """

    plan: int
    index: int
    proof: NewProof = field(repr=False)
    y: Y
    proven: bool


@dataclass(slots=True)
class Asked:
    """
    What a mint said about some plans. ``refused`` counts signatures that do not verify, ``unanswered`` the plans that the
    mint would not be asked about.
    """

    outputs: int = 0
    requests: int = 0
    signed: list[SignedOutput] = field(default_factory=list)
    refused: int = 0
    unanswered: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    plan: int
    index: int
    message: BlindedMessage


async def ask_signed(
    mint: Mint,
    outputs: Outputs,
    threads: StoreThreads,
    plans: Sequence[OutputPlan],
    *,
    batch: int,
    pace: Callable[[], Awaitable[None]],
) -> Asked:
    """
    Which outputs of ``plans`` the mint has signed, ``batch`` to a request; ``pace`` is awaited before each request.

    A request that the mint refuses is asked again plan by plan, so that one keyset which it no longer
    knows does not hide the others. Raises MintError where the mint could not be asked, InvariantBroken on a plan of another seed.
    """
    asked = Asked()
    waiting: list[_Output] = []
    for number, plan in enumerate(plans):
        # Deriving costs up to a millisecond an output: not on the loop that answers the socket.
        blinded = await threads(partial(outputs.blinded, plan))
        waiting += [_Output(plan=number, index=i, message=message) for i, message in enumerate(blinded)]
        while len(waiting) >= batch:
            await _ask_batch(mint, outputs, plans, waiting[:batch], asked, pace)
            waiting = waiting[batch:]
    if waiting:
        await _ask_batch(mint, outputs, plans, waiting, asked, pace)
    return asked


async def _ask_batch(
    mint: Mint,
    outputs: Outputs,
    plans: Sequence[OutputPlan],
    batch: Sequence[_Output],
    asked: Asked,
    pace: Callable[[], Awaitable[None]],
) -> None:
    numbers = list(dict.fromkeys(one.plan for one in batch))
    await pace()
    asked.requests += 1
    try:
        restored = await mint.restore([one.message for one in batch])
    except MintRejected:
        if len(numbers) == 1:
            asked.unanswered += [number for number in numbers if number not in asked.unanswered]
            return
        for number in numbers:
            await _ask_batch(mint, outputs, plans, [one for one in batch if one.plan == number], asked, pace)
        return
    asked.outputs += len(batch)
    output_of = {one.message.b_: one for one in batch}
    for answer in restored:
        await _take(mint, outputs, plans, output_of[answer.b_], answer, asked)


async def _take(
    mint: Mint, outputs: Outputs, plans: Sequence[OutputPlan], output: _Output, answer: Restored, asked: Asked
) -> None:
    """One signature: verified and unblinded, or counted as refused."""
    plan, signature = plans[output.plan], answer.signature
    try:
        public_key = (await mint.keys(plan.keyset_id)).get(signature.amount)
    except (MintRejected, MintUntrusted):
        # It no longer lists the keyset, or names keys that are not the keyset's: nothing can be verified.
        if output.plan not in asked.unanswered:
            asked.unanswered.append(output.plan)
        return
    proven = signature.dleq_e is not None and signature.dleq_s is not None
    dleq = (signature.dleq_e or "", signature.dleq_s or "") if proven else None
    proof: NewProof | None = None
    if public_key is not None and signature.keyset_id == plan.keyset_id:
        try:
            proof = outputs.unblind(plan, output.index, signature.amount, signature.c_, public_key, dleq)
        except MintUntrusted as error:
            _log.error(
                "a restored signature does not verify",
                mint=mint.alias,
                keyset=plan.keyset_id,
                counter=plan.counter + output.index,
                detail=error.detail,
            )
    if proof is None:
        asked.refused += 1
        return
    signed = SignedOutput(plan=output.plan, index=output.index, proof=proof, y=y_of(proof.secret), proven=proven)
    asked.signed.append(signed)
