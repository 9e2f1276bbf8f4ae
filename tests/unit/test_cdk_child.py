"""What cdk-mintd's fake wallet is told, what it can't be told, and how its database is read as the witness of payments."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from daemon.demo.cdk_child import BINARY_ENV, CdkMint, Unplayable, find_binary, played
from daemon.demo.scenario import INVOICES, at_one_fee
from melt.errors import ConfigError


@pytest.mark.parametrize(
    ("script", "pay", "check", "errors"),
    [
        ({}, "PAID", "PAID", (False, False)),
        ({"fee_sat": 1}, "PAID", "PAID", (False, False)),
        ({"pay": "FAILED"}, "FAILED", "FAILED", (False, False)),
        ({"pay": "FAILED", "fee_sat": 0}, "FAILED", "FAILED", (False, False)),
        ({"pay": "PENDING", "status": "PENDING"}, "PENDING", "PENDING", (False, False)),
        ({"pay": "UNKNOWN", "status": "SETTLED"}, "UNKNOWN", "PAID", (False, False)),
        ({"pay": "PENDING", "status": "raise"}, "PENDING", "PENDING", (False, True)),
        ({"raise": "before"}, "FAILED", "FAILED", (True, False)),
        ({"raise": "after"}, "PAID", "PAID", (True, False)),
        ({"raise": "after", "status": "raise"}, "PAID", "PAID", (True, True)),
    ],
)
def test_a_script_is_told_in_the_invoices_description(
    script: dict[str, Any], pay: str, check: str, errors: tuple[bool, bool]
) -> None:
    told = json.loads(played(script))
    assert (told["pay_invoice_state"], told["check_payment_state"]) == (pay, check)
    assert (told["pay_err"], told["check_err"]) == errors


@pytest.mark.parametrize(
    "script",
    [{"fee_sat": 9}, {"fee_sat": 0}, {"preimage": "wrong"}, {"delay_s": 2.0}, {"raise": "after", "status": "UNKNOWN"}],
)
def test_what_the_fake_wallet_cant_do_is_refused_and_not_played_otherwise(script: dict[str, Any]) -> None:
    with pytest.raises(Unplayable):
        played(script)
    with pytest.raises(ValueError, match="unknown"):
        played({"speed": 3})


@pytest.mark.parametrize(("asked", "delay"), [(2.0, 2), (1.5, 2), (0.0, 3)])
def test_a_delay_that_the_mint_has_is_played(asked: float, delay: int) -> None:
    assert played({"delay_s": asked}, delay_s=delay)


def test_payments_are_counted_by_the_quotes_of_the_mints_database(tmp_path: Path) -> None:
    mint = CdkMint(tmp_path, binary=Path("/bin/true"))
    (tmp_path / "work").mkdir()
    with closing(sqlite3.connect(tmp_path / "work" / "cdk-mintd.sqlite")) as database:
        database.execute("CREATE TABLE melt_quote (request_lookup_id TEXT, state TEXT, paid_time INTEGER)")
        rows = [("twice", "PAID", 5), ("twice", "PAID", 6), ("once", "PAID", 7), ("once", "UNPAID", None)]
        rows += [("open", "PENDING", None), ("never", "UNPAID", None), (None, "PAID", 8)]
        database.executemany("INSERT INTO melt_quote VALUES (?, ?, ?)", rows)
        database.commit()
    found = asyncio.run(mint.payments())
    assert {name: (one.attempts, one.paid, one.status) for name, one in found.items()} == {
        "twice": (2, 2, "SETTLED"),
        "once": (1, 1, "SETTLED"),
        "open": (1, 0, "PENDING"),
        "never": (0, 0, "UNKNOWN"),
    }
    assert sorted(found["twice"].left_at) == [5.0, 6.0]


def test_a_program_that_is_not_there_is_told_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(BINARY_ENV, raising=False)
    with pytest.raises(ConfigError, match="cargo install cdk-mintd"):
        find_binary()
    program = tmp_path / "cdk-mintd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_binary() == program.resolve()
    monkeypatch.setenv(BINARY_ENV, str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="other"):
        find_binary()


def test_a_mint_of_one_fee_pays_the_same_invoices_and_ends_each_by_itself() -> None:
    plans = at_one_fee(INVOICES, 1)
    assert [(p.amount, p.user, p.expected) for p in plans] == [(p.amount, p.user, p.expected) for p in INVOICES]
    assert {p.fee for p in plans if p.expected == "SETTLED"} == {1}
    assert [p.fee for p in plans if p.expected == "RELEASED"] == [0]
    assert "PENDING" not in {p.pay for p in plans}
    assert any(p.hangs for p in plans)
    for plan in plans:
        assert played({"pay": plan.pay, "fee_sat": plan.fee, "delay_s": plan.delay_s}, delay_s=3)
