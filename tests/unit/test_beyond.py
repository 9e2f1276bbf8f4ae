"""Drift beyond states, its pure parts: the double count, signatures, keysets that end, unreadable documents (DESIGN section 5)."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cashu.core.crypto.b_dhke import step2_bob
from cashu.core.crypto.secp import PrivateKey, PublicKey

from melt.beyond import Beyond, BeyondPolicy, malformed_findings
from melt.beyond.duplicates import duplicate_verdict, elsewhere
from melt.beyond.expiry import expiring, severity_of
from melt.beyond.signatures import Flaw, is_due, verify
from melt.corrections import mint_said
from melt.ecash import blind, unblind, y_of
from melt.errors import MintUnreachable, Severity
from melt.model import (
    Dleq,
    DriftType,
    Holder,
    Keyset,
    KeysetId,
    MalformedToken,
    MintAlias,
    MintState,
    Proof,
    TokenId,
    TokenStatus,
)
from tests.support.engine import KEYSET, NOW, token, y

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.model import Token, Y

HERE = TokenId("aa" * 12)
ALIAS = MintAlias("main")


def holder(name: str, status: TokenStatus | None, npub: str | None = "somebody", *, type_: str = "received") -> Holder:
    return Holder(
        token_id=TokenId(name), npub=npub, status=status, is_melted=type_ == "melted", is_sent=type_ == "sent"
    )


def here(status: TokenStatus, owner: str | None = None) -> Holder:
    return holder(HERE, status, owner)


# --- the double count ---


LIVE = {TokenStatus.UNSPENT, TokenStatus.PENDING}
COUNTED = ("received", "minted", "change", "", "something_new")


@pytest.mark.parametrize("type_", [*COUNTED, "sent", "melted"])
@pytest.mark.parametrize("other_type", ["change", "sent", "melted"])
@pytest.mark.parametrize("status", TokenStatus)
@pytest.mark.parametrize("other", [*TokenStatus, None])
def test_a_shared_proof_is_a_finding_where_one_document_counts_it_and_the_other_is_no_history(
    status: TokenStatus, type_: str, other: TokenStatus | None, other_type: str
) -> None:
    """A wallet that keeps a proof unchanged leaves a copy in its spent source: that is no double count, seen from either."""
    document = token(status, 4, 8, type_=type_)
    holders = {y(1): (here(status), holder("other", other, type_=other_type))}

    found = duplicate_verdict(document, holders)

    history = {TokenStatus.SPENT, TokenStatus.FAILED}
    counts = status in LIVE and type_ in COUNTED
    other_counts = other in LIVE and other_type == "change"
    if status in history or other in history or not (counts or other_counts):
        assert found is None
        return
    assert found is not None
    verdict, evidence = found
    assert (verdict.type, verdict.severity) == (DriftType.DUPLICATE_PROOF, Severity.HIGH)
    assert (verdict.ys, verdict.value) == ((y(1),), 8), "the shared proof and no other"
    assert evidence["other_token_ids"] == "other"


def test_the_evidence_names_five_others_and_counts_all() -> None:
    document = token(TokenStatus.UNSPENT, 4)
    others = tuple(holder(f"t{i}", TokenStatus.PENDING, f"user {i % 3}") for i in range(7))
    mine = holder("mine", TokenStatus.UNSPENT, document.npub)

    found = duplicate_verdict(document, {y(0): (here(TokenStatus.UNSPENT), *others, mine)})

    assert found is not None
    evidence = found[1]
    assert evidence["other_documents"] == 8
    assert evidence["other_token_ids"] == "t0, t1, t2, t3, t4"
    assert evidence["other_npubs"] == 3, "other users, not the document's own"
    assert evidence["other_statuses"] == "7 pending, 1 unspent"


def test_a_proof_that_only_the_document_itself_holds_is_no_duplicate() -> None:
    document = token(TokenStatus.UNSPENT, 4)
    assert duplicate_verdict(document, {y(0): (here(TokenStatus.UNSPENT),)}) is None
    assert duplicate_verdict(document, {}) is None


def test_a_melted_document_says_whether_its_proofs_stand_elsewhere() -> None:
    document = token(TokenStatus.SPENT, 4, 8, type_="melted")
    found = elsewhere(document, {y(1): (here(TokenStatus.SPENT), holder("source", TokenStatus.SPENT, document.npub))})
    assert found["stands_elsewhere"] == "1 of 2 proofs"
    assert found["value_elsewhere"] == 8
    assert (found["other_token_ids"], found["other_npubs"]) == ("source", 0)
    assert elsewhere(document, {}) == {"stands_elsewhere": "0 of 2 proofs", "value_elsewhere": 0}
    assert "not looked for" in str(elsewhere(document, None)["stands_elsewhere"])


# --- signatures ---


def signed(amount: int, key: PrivateKey, **changes: Any) -> Proof:
    """A proof that ``key`` has signed, with its DLEQ."""
    secret, r = secrets.token_hex(16), secrets.token_bytes(32)
    c_, e, s = step2_bob(PublicKey(bytes.fromhex(blind(secret, r))), key)
    proof = Proof(
        keyset_id=KEYSET,
        amount=amount,
        secret=secret,
        c=unblind(c_.format().hex(), r, key.public_key.format().hex()),
        y=y_of(secret),
        dleq=Dleq(e=e.to_hex(), s=s.to_hex(), r=r.hex()),
    )
    return replace(proof, **changes)


KEYS = {amount: PrivateKey(bytes([amount]) * 32) for amount in (1, 2, 4)}
PUBLIC = {KEYSET: {amount: key.public_key.format().hex() for amount, key in KEYS.items()}}


def flaw_of(proof: Proof) -> Flaw | None:
    found = verify([proof], PUBLIC)
    return found[0].flaw if found else None


def test_what_the_mint_has_signed_passes_and_what_it_has_not_fails() -> None:
    good = signed(2, KEYS[2])
    assert good.dleq is not None
    other = signed(2, KEYS[2])
    cases: list[tuple[Proof, Flaw | None]] = [
        (good, None),
        (replace(good, dleq=None), None),
        (replace(good, dleq=replace(good.dleq, r=None)), None),
        (replace(good, keyset_id=KeysetId("00" * 8)), None),
        (signed(2, KEYS[1]), Flaw.NOT_SIGNED),
        (replace(good, c=other.c), Flaw.NOT_SIGNED),
        (replace(good, amount=4), Flaw.NOT_SIGNED),
        (replace(good, secret="another", y=y_of("another")), Flaw.NOT_SIGNED),
        (replace(good, dleq=replace(good.dleq, e="junk")), Flaw.NOT_SIGNED),
        (replace(good, amount=3), Flaw.NO_KEY),
        (replace(good, amount=3, dleq=None), Flaw.NO_KEY),
        (replace(good, c="02" + "ff" * 32), Flaw.NO_POINT),
        (replace(good, c="none", dleq=None), Flaw.NO_POINT),
        (replace(good, c="none", keyset_id=KeysetId("00" * 8)), Flaw.NO_POINT),
    ]
    assert [flaw_of(proof) for proof, _ in cases] == [flaw for _, flaw in cases]


def test_each_document_has_its_turn_once_in_a_round_of_tours() -> None:
    ids = [TokenId(secrets.token_hex(12)) for _ in range(400)]
    turns = {token_id: [turn for turn in range(7, 27) if is_due(token_id, 0.05, turn)] for token_id in ids}
    assert {len(due) for due in turns.values()} == {1}
    shares = [sum(is_due(token_id, 0.05, turn) for token_id in ids) for turn in range(20)]
    assert min(shares) > 0, "no tour goes without"
    assert max(shares) < 60, "and none has to do it all"
    assert all(is_due(token_id, 1.0, turn) for token_id in ids for turn in (0, 5))
    assert not any(is_due(token_id, 0.0, turn) for token_id in ids for turn in range(20))


class Entropy:
    """Gives what it is told."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def token(self, n: int, /) -> str:
        return "00" * n

    def uniform(self, low: float, high: float, /) -> float:
        assert (low, high) == (0, 1)
        return self.values.pop(0)


class Monotonic:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.at)

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float, /) -> None:
        self.at += seconds

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        raise NotImplementedError


class Unindexed:
    """A store in which every proof lies once, though no index says so."""

    secrets_indexed = True
    reads_once = False

    def holders(self, proofs: Sequence[Proof]) -> Mapping[Y, tuple[Holder, ...]]:
        return {}

    def strays(self, mint_urls: Sequence[str], *, homeless: bool) -> Any:
        raise NotImplementedError


class KeyedMint:
    """The part of a mint that tells its keysets and keys; ``fails`` counts what it refuses."""

    alias = ALIAS
    url = "http://mint"

    def __init__(self, listed: Sequence[KeysetId] = (KEYSET,)) -> None:
        self.listed = list(listed)
        self.cached = dict.fromkeys(listed)
        self.refreshes = 0
        self.keys_asked = 0
        self.down = False

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        if refresh:
            self.refreshes += 1
            if self.down:
                raise MintUnreachable("scripted")
            self.cached = dict.fromkeys(self.listed)
        return {i: Keyset(id=i, unit="sat", active=True, input_fee_ppk=0) for i in self.cached}

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        self.keys_asked += 1
        if self.down:
            raise MintUnreachable("scripted")
        return PUBLIC[keyset_id]


async def at_once(work: Callable[[], Any], /) -> Any:
    return work()


def beyond(share: float = 1.0, *uniform: float) -> Beyond:
    return Beyond(
        holdings=Unindexed(),
        threads=at_once,
        work=at_once,
        clock=Monotonic(),
        entropy=Entropy(*uniform),
        policy=BeyondPolicy(signature_share=share),
    )


def look(inspector: Beyond, mint: Any, tokens: Sequence[Token], turn: int | None = 1, states: Any = None) -> Any:
    return asyncio.run(inspector.look(mint, tokens, states or {}, {}, turn=turn))


def forged(name: str, status: TokenStatus = TokenStatus.UNSPENT) -> Token:
    proofs = (signed(2, KEYS[2]), signed(2, KEYS[1]))
    return token(status, id=TokenId(name), proofs=proofs, total_amount=4)


def test_a_forged_proof_is_found_and_no_other_of_its_document() -> None:
    document = forged("t")
    (one,) = look(beyond(), KeyedMint(), [document]).judged
    assert (one.verdict.type, one.verdict.severity) == (DriftType.INVALID_SIGNATURE, Severity.HIGH)
    assert (one.verdict.ys, one.verdict.value) == ((document.proofs[1].y,), 2)
    assert Flaw.NOT_SIGNED in one.verdict.reason


def test_what_the_mint_calls_spent_it_has_honoured_and_what_does_not_count_is_not_checked() -> None:
    document = forged("t")
    states = {proof.y: MintState.SPENT for proof in document.proofs}
    assert look(beyond(), KeyedMint(), [document], states=states).judged == ()
    assert look(beyond(), KeyedMint(), [forged("s", TokenStatus.SPENT)]).judged == ()


def test_a_document_whose_turn_has_not_come_keeps_its_record() -> None:
    """What was not looked at must not be closed because nothing was seen."""
    documents = [forged("first"), forged("second")]
    looked = look(beyond(0.5, 0.4, 0.6), KeyedMint(), documents, turn=None)
    assert [one.token.id for one in looked.judged] == ["first"]
    assert looked.unchecked == ("INVALID_SIGNATURE:token:second",)


def test_keys_that_can_t_be_had_leave_the_record_as_it_is_and_are_not_asked_for_again_at_once() -> None:
    mint, inspector, document = KeyedMint(), beyond(), forged("t")
    mint.down = True
    for _ in range(3):
        looked = look(inspector, mint, [document])
        assert (looked.judged, looked.unchecked) == ((), ("INVALID_SIGNATURE:token:t",))
    assert mint.keys_asked == 1
    mint.down = False
    inspector.clock.at += 601  # type: ignore[attr-defined]
    assert len(look(inspector, mint, [document]).judged) == 1


# --- keysets that a mint does not list ---


def test_a_keyset_is_not_called_unknown_before_the_mint_was_asked_anew() -> None:
    new = KeysetId("00" * 8)
    mint, inspector = KeyedMint(), beyond()
    document = token(TokenStatus.UNSPENT, proofs=(replace(signed(2, KEYS[2]), keyset_id=new),), total_amount=2)
    mint.listed.append(new)  # rotated since the list was cached

    keysets, listed = asyncio.run(inspector.keysets(mint, [document]))

    assert (new in keysets, listed, mint.refreshes) == (True, True, 1)


def test_an_unknown_keyset_is_asked_about_once_a_minute_and_judged_only_after_an_answer() -> None:
    mint, inspector = KeyedMint(), beyond()
    document = token(TokenStatus.PENDING, proofs=(replace(signed(2, KEYS[2]), keyset_id=KeysetId("00" * 8)),))
    mint.down = True
    assert asyncio.run(inspector.keysets(mint, [document]))[1] is False, "not known to be unknown"
    mint.down = False
    for _ in range(3):
        assert asyncio.run(inspector.keysets(mint, [document]))[1] is True
    assert mint.refreshes == 2
    inspector.clock.at += 61  # type: ignore[attr-defined]
    asyncio.run(inspector.keysets(mint, [document]))
    assert mint.refreshes == 3


def test_spent_documents_of_old_keysets_don_t_make_the_mint_be_asked() -> None:
    mint = KeyedMint()
    document = token(TokenStatus.SPENT, proofs=(replace(signed(2, KEYS[2]), keyset_id=KeysetId("00" * 8)),))
    assert asyncio.run(beyond().keysets(mint, [document]))[1] is True
    assert mint.refreshes == 0


# --- keysets that end ---


@pytest.mark.parametrize(
    ("days", "severity"),
    [
        (31, None),
        (30.01, None),
        (30, Severity.LOW),
        (7.01, Severity.LOW),
        (7, Severity.MEDIUM),
        (1.01, Severity.MEDIUM),
        (1, Severity.HIGH),
        (0, Severity.HIGH),
        (-400, Severity.HIGH),
    ],
)
def test_the_severity_grows_as_the_end_comes_near(days: float, severity: Severity | None) -> None:
    assert severity_of(days) is severity
    expiry = int(NOW.timestamp() + days * 86_400)
    keyset = Keyset(id=KEYSET, unit="msat", active=False, input_fee_ppk=0, final_expiry=expiry)
    found = expiring(ALIAS, {KEYSET: keyset}, {KEYSET: 5}, NOW)
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    for one in found:
        assert (one.subject, one.token_id, one.value, one.unit) == (f"keyset:main:{KEYSET}", None, 5, "msat")
        assert one.evidence["final_expiry"] == datetime.fromtimestamp(expiry, UTC).isoformat()


@pytest.mark.parametrize("expiry", [0, -1, 2**62])
def test_an_expiry_that_no_calendar_knows_is_no_crash(expiry: int) -> None:
    keyset = Keyset(id=KEYSET, unit="sat", active=True, input_fee_ppk=0, final_expiry=expiry)
    found = expiring(ALIAS, {KEYSET: keyset}, {KEYSET: 2**70}, NOW)
    assert [one.value for one in found] == ([2**63 - 1] if expiry <= 0 else [])


def test_a_keyset_without_an_end_without_value_or_without_a_mint_is_nothing_to_report() -> None:
    endless = Keyset(id=KEYSET, unit="sat", active=True, input_fee_ppk=0)
    ended = replace(endless, final_expiry=1)
    assert expiring(ALIAS, {KEYSET: endless}, {KEYSET: 5}, NOW) == ()
    assert expiring(ALIAS, {KEYSET: ended}, {KEYSET: 0}, NOW) == ()
    assert expiring(ALIAS, {KEYSET: ended}, {}, NOW) == ()
    assert expiring(ALIAS, {}, {KEYSET: 5}, NOW) == ()


# --- what can't be read ---


def test_an_unreadable_document_is_worth_what_can_be_read_of_it() -> None:
    item = MalformedToken(
        id=HERE, reasons=("a", "b"), npub="n", mint_url="m", status="unspent", value=12, ys=(y(0), y(1)),
        repeated=(y(1),), repeated_value=8,
    )  # fmt: skip
    whole, twice = malformed_findings([item], ALIAS, now=NOW)
    assert (whole.type, whole.value, whole.ys) == (DriftType.MALFORMED_TOKEN, 12, (y(0), y(1)))
    assert (whole.evidence["reasons"], whole.evidence["status"]) == ("a; b", "unspent")
    assert (twice.type, twice.severity, twice.value, twice.ys) == (
        DriftType.DUPLICATE_PROOF,
        Severity.HIGH,
        8,
        (y(1),),
    )
    assert whole.mint == ALIAS
    (homeless,) = malformed_findings([replace(item, mint_url=None, repeated=())], ALIAS, now=NOW)
    assert homeless.mint is None


def test_what_the_mint_said_is_told_per_state() -> None:
    states = {y(0): MintState.SPENT, y(1): MintState.SPENT, y(2): MintState.UNSPENT}
    assert mint_said((y(0), y(1), y(2)), states) == "2 SPENT, 1 UNSPENT"
    assert mint_said((y(0), y(9)), states) == "1 SPENT, 1 not asked"
    assert mint_said((), states) == "not asked"
