"""
Which of a refused melt's proofs the mint has not signed (NUT-00, NUT-12; PROOF_REFUSED).

"Proof verification failed" names no proof. Those with a DLEQ proof tell by themselves. Among the others a journaled swap
tells, of all of them and then of halves: what it takes is good, and comes back as new proofs; what it refuses alone is the
one. A mint has no other way to say it: NUT-07 looks fine for any secret.

What is found is recorded with its value, HIGH, and left out of every melt from then on (:mod:`melt.saga.choice`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from melt.beyond.signatures import verify
from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.errors import MintError, StoreError
from melt.model import Action, DriftType, Finding, MeltId, MeltState, Token
from melt.recovery.together import swap_together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import InputRef, KeysetId, Melt, Proof
    from melt.ports import Mint
    from melt.recovery.follow import Recovery

SWAPS_MAX: Final = 32
"""So many swaps may one search take (I11); what is left then stays unknown, and the next refusal goes on."""

_log = structlog.get_logger("melt.recovery")


async def sort_out(recovery: Recovery, melt: Melt) -> None:
    """
    Find and record the proofs for which ``melt`` was refused; its inputs are free again.

    Raises nothing for what mint, store or other operations do: then they stay unknown.
    """
    mint = recovery.mints[melt.mint]
    try:
        found = await _guilty(recovery, mint, melt)
        await _record(recovery, melt, found)
    except (MintError, StoreError) as error:  # LostRace too: somebody else uses the proofs
        _log.warning("which proof the mint refuses is not known", melt_id=melt.id, code=error.code.value)


async def _guilty(recovery: Recovery, mint: Mint, melt: Melt) -> list[InputRef]:
    ids = list(dict.fromkeys(ref.token_id for ref in melt.inputs))
    read = await recovery.threads(lambda: recovery.store.tokens(ids))
    tokens = {token.id: token for token in read if isinstance(token, Token)}
    proofs = {proof.y: proof for token in tokens.values() for proof in token.proofs}
    refs = [ref for ref in melt.inputs if ref.y in proofs]
    keys = await _keys_of(mint, {ref.keyset_id for ref in refs})
    flawed = {one.proof.y for one in verify([proofs[ref.y] for ref in refs], keys)}
    if flawed:
        return [ref for ref in refs if ref.y in flawed]
    open_ = [ref for ref in refs if not _shows_itself(proofs[ref.y], keys)]
    if len(open_) < 2:
        return open_
    return await _searched(recovery, mint, melt, open_)


async def _keys_of(mint: Mint, ids: set[KeysetId]) -> dict[KeysetId, Mapping[int, str]]:
    """Of the keysets whose keys can be had: the others' proofs tell nothing by themselves."""
    found: dict[KeysetId, Mapping[int, str]] = {}
    for keyset_id in sorted(ids):
        try:
            found[keyset_id] = await mint.keys(keyset_id)
        except MintError:
            continue
    return found


def _shows_itself(proof: Proof, keys: Mapping[KeysetId, Mapping[int, str]]) -> bool:
    """Whether its DLEQ proof can be and was verified."""
    return proof.dleq is not None and proof.dleq.r is not None and proof.keyset_id in keys


async def _searched(recovery: Recovery, mint: Mint, melt: Melt, refs: Sequence[InputRef]) -> list[InputRef]:
    """By swaps of halves. Each part is known to hold a bad proof, or is swapped to see."""
    guilty: list[InputRef] = []
    middle = len(refs) // 2
    parts: list[tuple[Sequence[InputRef], bool]] = [(refs[middle:], False), (refs[:middle], False)]
    swaps = 0
    while parts and swaps < SWAPS_MAX:
        part, known_bad = parts.pop()
        if not known_bad:
            swaps += 1
            taken = await _is_taken(recovery, mint, melt, part, swaps)
            if taken is None:
                break
            if taken:
                if len(parts) == 1 and not guilty:
                    parts = [(parts[0][0], True)]  # the bad one is in the only part that is left
                continue
        if len(part) == 1:
            guilty.append(part[0])
            continue
        middle = len(part) // 2
        parts += [(part[middle:], False), (part[:middle], False)]
    return guilty


async def _is_taken(recovery: Recovery, mint: Mint, melt: Melt, part: Sequence[InputRef], number: int) -> bool | None:
    """Whether the mint takes these proofs; None where it is not known, or costs more than they are worth."""
    # A swap of some proofs of a document moves the others to a sibling: where they lie is looked up anew.
    unspent = await recovery.threads(lambda: recovery.store.spendable(melt.npub, (mint.url,)))
    lying = {proof.y: token for token in unspent for proof in token.proofs}
    if any(ref.y not in lying for ref in part):
        return None
    refs = [replace(ref, token_id=lying[ref.y].id) for ref in part]
    done = await swap_together(
        recovery,
        mint,
        refs,
        {token.id: token for token in lying.values()},
        entry_id=MeltId(f"together_{melt.id}_{number}"),
        unit=melt.unit,
        actor=melt.actor,
        holder=melt.holder,
        note=f"to see which proof of {melt.id} the mint refuses",
    )
    if done is None or done.is_open:
        return None
    return done.state is MeltState.SETTLED


async def _record(recovery: Recovery, melt: Melt, guilty: Sequence[InputRef]) -> None:
    drift = DriftType.PROOF_REFUSED
    findings = [
        Finding(
            type=drift,
            severity=SEVERITIES[drift],
            action=Action.RECORD,
            subject=f"proof:{ref.y}",
            npub=melt.npub,
            mint=melt.mint,
            unit=melt.unit,
            value=ref.amount,
            token_id=None,
            ys=(ref.y,),
            evidence={
                "reason": "the mint says that it has not signed this proof: it is left out of every payment",
                "mint_code": melt.post_code,
                "melt_id": melt.id,
                "seen_in_token": ref.token_id,
                "keyset_id": ref.keyset_id,
            },
        )
        for ref in guilty
    ]
    if not findings:
        return
    _log.error(
        "the mint has not signed proofs that are stored as money",
        melt_id=melt.id,
        mint=melt.mint,
        proofs=len(guilty),
        value=sum(ref.amount for ref in guilty),
        unit=melt.unit,
    )
    await record_findings(findings, store=recovery.store, threads=recovery.threads, telemetry=recovery.telemetry)
