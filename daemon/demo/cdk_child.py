"""
A real cdk-mintd as a child process, scripted through the invoices that it is given to pay.

cdk-mintd is a program that somebody else has installed (``cargo install cdk-mintd --no-default-features --features
fakewallet,sqlite``). Its settings lie in its database, so a change is applied there and holds from the next start. Its
fake wallet obeys the invoice's description, charges the amount and one sat, counts nothing and keeps its book in memory:
a payment that was pending when the process ended stays pending for ever. What it has paid is read from the states of
the melt quotes in its database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from daemon.demo.lightning import Script, encode_invoice
from daemon.demo.mint_child import DemoMint, Invoice, Payment, request
from melt.ecash import Seed
from melt.errors import ConfigError

BINARY: Final = "cdk-mintd"
BINARY_ENV: Final = "MELTD_DEMO_CDK_MINTD"
"""The path of the program where it is not on PATH."""
FEE_SAT: Final = 1
"""What its fake wallet charges for any payment, in sat."""
CONFIG_S: Final = 30.0
_MNEMONIC_ENV: Final = "CDK_MINTD_MNEMONIC"
_DATABASE: Final = "cdk-mintd.sqlite"
_BUSY_S: Final = 5.0
_WORDS: Final = {"SETTLED": "PAID", "FAILED": "FAILED", "PENDING": "PENDING", "UNKNOWN": "UNKNOWN"}

# A fresh interpreter asks for the signal, since a parent's threads make a preexec_fn unsafe.
_SHIM: Final = """
import ctypes, os, signal, sys
os.umask(0o077)
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(75)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Unplayable(Exception):
    """The fake wallet can't do what the script asks for; the text says what."""


def find_binary(given: str | None = None) -> Path:
    """The program: ``given``, or of :data:`BINARY_ENV`, or on PATH. Raises ConfigError that says how to get it."""
    named = given or os.environ.get(BINARY_ENV, "")
    found = shutil.which(named or BINARY)
    if found is None:
        where = f"{BINARY_ENV} names {named}, which can't be run" if named else f"{BINARY} is not on the PATH"
        raise ConfigError(
            f"{where}: install it (cargo install {BINARY} --no-default-features --features fakewallet,sqlite) "
            f"or name it in {BINARY_ENV}"
        )
    return Path(found).resolve()


def description(
    *, pay: str = "PAID", check: str | None = None, pay_fails: bool = False, check_fails: bool = False
) -> str:
    """What the fake wallet is told to do with an invoice: states are UNPAID, PAID, PENDING, UNKNOWN or FAILED."""
    return json.dumps(
        {
            "pay_invoice_state": pay,
            "check_payment_state": pay if check is None else check,
            "pay_err": pay_fails,
            "check_err": check_fails,
        }
    )


def played(script: Mapping[str, Any], *, delay_s: int = 0) -> str:
    """
    The description that does what a :class:`~daemon.demo.lightning.Script` says, at a mint of that delay.

    Raises Unplayable where the fake wallet can't, and ValueError where the script means nothing.
    """
    given = Script.parse(script)
    if given.delay_s > 0 and not given.delay_s <= delay_s <= given.delay_s + 1:
        raise Unplayable(f"all payments of this mint take {delay_s} s")
    if given.fee_sat not in {None, FEE_SAT} and given.leaves:
        raise Unplayable(f"every payment costs {FEE_SAT} sat")
    if given.preimage == "wrong":
        raise Unplayable("no preimage is ever shown")
    if given.leaves and given.status == "UNKNOWN":
        raise Unplayable("money that leaves without the mint's knowledge is counted nowhere")
    if given.raises is not None:
        truth = "SETTLED" if given.raises == "after" else "FAILED"
        check = given.status or truth
        fails = check == "raise"
        return description(
            pay=_WORDS[truth], check=_WORDS[truth if fails else check], pay_fails=True, check_fails=fails
        )
    if given.status == "raise":
        return description(pay=_WORDS[given.pay], check_fails=True)
    return description(pay=_WORDS[given.pay], check=_WORDS[given.status or given.pay])


class CdkMint(DemoMint):
    """
    A cdk-mintd as a child process, with a seed of its own that it keeps, like folder and port, over a restart.

    ``fee_ppk`` is the input fee, ``delay_s`` how long each payment takes, incoming ones too (whole seconds), ``max_inputs``
    and ``max_outputs`` bound a request, ``min_melt`` and ``max_melt`` an invoice in sat; ``cache_s`` is how long answers
    are kept for a repetition (NUT-19), ``keyset_v2`` which version of keyset ids it makes first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        port: int | None = None,
        fee_ppk: int = 100,
        delay_s: int = 0,
        max_inputs: int = 1000,
        max_outputs: int = 1000,
        min_melt: int = 1,
        max_melt: int = 500_000,
        cache_s: int = 60,
        keyset_v2: bool = True,
        name: str = "meltd demo mint",
        mnemonic: str | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self.binary = binary or find_binary()
        self.delay_s = delay_s
        self._options: dict[str, Any] = {
            "fee_ppk": fee_ppk,
            "max_inputs": max_inputs,
            "max_outputs": max_outputs,
            "min_melt": min_melt,
            "max_melt": max_melt,
            "cache_s": cache_s,
            "keyset_v2": keyset_v2,
            "name": name,
        }
        self._rotations: list[dict[str, Any]] = []
        self._applied = ""
        self._mnemonic = mnemonic or Seed.generate_mnemonic()
        # Whoever else has the port would answer, but not with this.
        self._token = secrets.token_hex(16)

    # --- life ---

    def configure(self, *, delay_s: int | None = None, **options: Any) -> None:
        """Change options of the constructor; they hold from the next start. Raises KeyError for one that there isn't."""
        unknown = options.keys() - self._options.keys()
        if unknown:
            raise KeyError(*sorted(unknown))
        self._options |= options
        self.delay_s = self.delay_s if delay_s is None else delay_s

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        self._apply(log)
        command = [str(self.binary), "--work-dir", str(self._work)]
        started: list[subprocess.Popen[bytes]] = []
        failed: list[OSError] = []
        ready = threading.Event()

        def keep() -> None:
            # The kernel ends the child with the thread that started it, so that thread must outlive the child.
            try:
                process = subprocess.Popen(  # noqa: S603 - the program that was asked for
                    [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=self._environment(),
                    start_new_session=True,
                )
            except OSError as error:
                failed.append(error)
                ready.set()
                return
            started.append(process)
            ready.set()
            process.wait()

        threading.Thread(target=keep, name="cdk-mintd", daemon=True).start()
        ready.wait()
        if failed:
            raise RuntimeError("the mint did not start") from failed[0]
        return started[0]

    def _ask(self) -> bool:
        info = request(self.port, "GET", "/v1/info", timeout_s=2)
        return isinstance(info, dict) and info.get("description") == self._token

    def _apply(self, log: IO[bytes]) -> None:
        """Put the settings into the mint's database, which a first start makes."""
        wanted = self._toml()
        if wanted == self._applied:
            return
        self._work.mkdir(mode=0o700, exist_ok=True)
        file = self.folder / "mintd.toml"
        file.write_text(wanted, encoding="utf-8")
        action = ["apply"] if (self._work / _DATABASE).exists() else ["init", "--new-mint"]
        done = subprocess.run(  # noqa: S603 - the program that was asked for
            [str(self.binary), "--work-dir", str(self._work), "config", *action, "--file", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            env=self._environment(),
            timeout=CONFIG_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the mint does not take its settings: {self._log_end()}")
        self._applied = wanted

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), _MNEMONIC_ENV: self._mnemonic}

    @property
    def _work(self) -> Path:
        return self.folder / "work"

    def _toml(self) -> str:
        options = self._options
        rotations = ", ".join(
            "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in rotation.items()) + " }"
            for rotation in self._rotations
        )
        return f"""\
[info]
url = "{self.url}"
listen_host = "127.0.0.1"
listen_port = {self.port}
mnemonic = "env:{_MNEMONIC_ENV}"
input_fee_ppk = {options["fee_ppk"]}
use_keyset_v2 = {json.dumps(options["keyset_v2"])}

[info.quote_ttl]
mint_ttl = 3600
melt_ttl = 3600

[info.logging]
output = "stderr"
console_level = "warn"

[info.http_cache]
backend = "memory"
ttl = {options["cache_s"]}
tti = {options["cache_s"]}

[mint_info]
name = {json.dumps(options["name"])}
description = "{self._token}"

[database]
engine = "sqlite"

[[payment_backend]]
backend = "fakewallet"
unit = "sat"
min_mint = 1
max_mint = 500000
min_melt = {options["min_melt"]}
max_melt = {options["max_melt"]}

[fake_wallet]
fee_percent = 0.01
reserve_fee_min = 1
min_delay_time = {self.delay_s}
max_delay_time = {self.delay_s}
keyset_rotations = [{rotations}]

[limits]
max_inputs = {options["max_inputs"]}
max_outputs = {options["max_outputs"]}
"""

    # --- control ---

    async def invoice(self, amount_sat: int, *, expiry_s: int = 3600, **script: Any) -> Invoice:
        """
        An invoice of an outside payee; ``amount_sat`` 0 has no amount, ``expiry_s`` <= 0 is expired at once.

        ``script`` takes the fields of :class:`daemon.demo.lightning.Script`. Raises Unplayable.
        """
        return self.invoice_msat(amount_sat * 1000, played(script, delay_s=self.delay_s), expiry_s=expiry_s)

    def invoice_msat(self, amount_msat: int, told: str, *, expiry_s: int = 3600) -> Invoice:
        """As :meth:`invoice`, in msat, with the :func:`description` that the fake wallet reads."""
        invoice, payment_hash, _ = encode_invoice(amount_msat, expiry_s=expiry_s, description=told)
        return Invoice(invoice=invoice, payment_hash=payment_hash)

    async def payments(self) -> dict[str, Payment]:
        """
        By payment hash, what the quotes in the mint's database say: ``attempts`` are those that left UNPAID, ``paid`` those
        that are PAID. A payment that failed is UNPAID again there, and not told from one that was never asked for.
        """
        return await asyncio.to_thread(self._payments)

    def _payments(self) -> dict[str, Payment]:
        quotes = "SELECT request_lookup_id, state, paid_time FROM melt_quote WHERE request_lookup_id IS NOT NULL"
        source = f"file:{self._work / _DATABASE}?mode=ro"
        with contextlib.closing(sqlite3.connect(source, uri=True, timeout=_BUSY_S)) as database:
            rows = database.execute(quotes).fetchall()
        found: dict[str, Payment] = {}
        for payment_hash in {row[0] for row in rows}:
            states = [(state, at) for known, state, at in rows if known == payment_hash]
            left = tuple(float(at) for state, at in states if state == "PAID" and at is not None)
            paid = sum(state == "PAID" for state, _ in states)
            tried = sum(state != "UNPAID" for state, _ in states)
            word = "SETTLED" if paid else "PENDING" if tried else "UNKNOWN"
            found[payment_hash] = Payment(attempts=tried, paid=paid, asked_at=(), left_at=left, status=word)
        return found

    async def rotate_keyset(self, *, fee_ppk: int = 0, version: str = "v2", expired: bool = False) -> str:
        """
        Retire the active keyset for a new one by a restart; returns the new id.

        ``expired`` makes an active keyset that ended an hour ago.
        """
        # Else the next start would make one as the settings have it.
        self._options |= {"fee_ppk": fee_ppk, "keyset_v2": version == "v2"}
        self._rotations = [{"unit": "sat", "version": version, "input_fee_ppk": fee_ppk, "expired": expired}]
        try:
            await self.restart()
        finally:
            # What is listed there is made anew at each start.
            self._rotations = []
        answer = await asyncio.to_thread(request, self.port, "GET", "/v1/keysets")
        (made,) = [keyset["id"] for keyset in answer["keysets"] if keyset["active"] and keyset["unit"] == "sat"]
        return str(made)
