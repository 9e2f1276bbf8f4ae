"""
A real Nutshell mint in a process of its own, paying through the scripted node of :mod:`daemon.demo.lightning`.

Run it as ``python -m daemon.demo.mint_process --port P --dir D``, or by its path, then also with the Python of an
environment that holds cashu 0.16 to 0.21 and nothing of meltd. It serves on 127.0.0.1 only, ends with its parent, and
answers under ``/control`` to whoever sends the token it was started with. Everything of cashu is imported late: its
settings read the environment once, at import, and rewrite it.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING or __package__:
    from daemon.demo.lightning import Node, Script
else:
    # Started by its path, perhaps by the Python of another environment: of ours it takes the file beside it and nothing
    # more, so that no folder of ours, which may hold another cashu and its tree, comes before that environment's own.
    import importlib.util

    del sys.path[0]
    _spec = importlib.util.spec_from_file_location("daemon.demo.lightning", Path(__file__).with_name("lightning.py"))
    _lightning = importlib.util.module_from_spec(_spec)
    sys.modules[_spec.name] = _lightning  # dataclasses look their module up
    _spec.loader.exec_module(_lightning)
    Node, Script = _lightning.Node, _lightning.Script

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_HEADER: Final = "x-control-token"  # noqa: S105 - a header's name
BODY_BYTES_MAX: Final = 8 << 20
PARENT_POLL_S: Final = 0.5


def clean_environment(options: argparse.Namespace) -> None:
    """Replace the whole environment: cashu dies on foreign variables and loads ``.env`` files over them."""
    os.umask(0o077)
    folder = Path(options.dir).resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(folder)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONHASHSEED") if name in os.environ}
    os.environ.clear()
    os.environ.update(
        kept,
        HOME=str(folder),
        CASHU_DIR=str(folder / "cashu"),
        LOG_LEVEL=options.log_level,
        MINT_PRIVATE_KEY=options.private_key,
        MINT_BACKEND_BOLT11_SAT="FakeWallet",
        MINT_DATABASE=str(folder),
        MINT_AUTH_DATABASE=str(folder),
        MINT_LISTEN_HOST="127.0.0.1",
        MINT_LISTEN_PORT=str(options.port),
        MINT_RATE_LIMIT="FALSE",
        MINT_INPUT_FEE_PPK=str(options.fee_ppk),
        MINT_INFO_NAME=options.name,
        MINT_QUOTE_BACKEND_CHECK_RATE_LIMIT="0",
        FAKEWALLET_BRR="TRUE",
        FAKEWALLET_DELAY_INCOMING_PAYMENT="0",
        FAKEWALLET_DELAY_OUTGOING_PAYMENT="0",
    )
    if options.derivation_path:
        os.environ["MINT_DERIVATION_PATH"] = options.derivation_path
    if options.max_request_length:
        os.environ["MINT_MAX_REQUEST_LENGTH"] = str(options.max_request_length)


def end_with_parent() -> None:
    """Stop when the starter is gone. Its pid is watched; a death signal would follow its thread, not the process."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def register_backend(node: Node) -> None:
    """Put our backend in the place of cashu's FakeWallet, before the mint looks it up by that name."""
    import asyncio  # noqa: PLC0415 - cashu's imports come after the environment, all of them here

    import bolt11  # noqa: PLC0415
    import cashu.lightning as backends  # noqa: PLC0415
    from cashu.core.base import Amount, Unit  # noqa: PLC0415
    from cashu.lightning import base  # noqa: PLC0415

    # Until 0.20 one enumeration says both what paying and what asking came to, and has UNKNOWN. Since 0.21 there are two,
    # and what was unknown is an ERROR of paying, and a payment that is NOT_FOUND.
    paid, asked = base.PaymentResult, getattr(base, "PaymentStatusResult", base.PaymentResult)
    paid_unknown = getattr(paid, "UNKNOWN", None) or paid.ERROR
    asked_unknown = getattr(asked, "UNKNOWN", None) or asked.NOT_FOUND

    class NodeWallet(backends.FakeWallet):  # type: ignore[misc]  # cashu ships no types
        """Incoming payments as in FakeWallet, outgoing ones through the node."""

        async def pay_invoice(self, quote: Any, fee_limit: int) -> Any:
            del fee_limit  # a script may charge more than the reserve
            payment_hash = bolt11.decode(quote.request).payment_hash
            script = node.start(payment_hash)
            await asyncio.sleep(script.delay_s)
            if script.raises is not None:
                raise RuntimeError(f"scripted: {script.raises} paying")
            settled = script.pay == "SETTLED"
            return base.PaymentResponse(
                result=paid_unknown if script.pay == "UNKNOWN" else paid[script.pay],
                checking_id=payment_hash,
                fee=self._fee(payment_hash) if settled else None,
                preimage=node.preimage_shown(payment_hash) if settled else None,
                error_message=None if settled else "scripted",
            )

        async def get_payment_status(self, checking_id: str) -> Any:
            status = node.status(checking_id)
            if status == "raise":
                raise RuntimeError("scripted: status")
            settled = status == "SETTLED"
            return base.PaymentStatus(
                result=asked_unknown if status == "UNKNOWN" else asked[status],
                fee=self._fee(checking_id) if settled else None,
                preimage=node.preimage_shown(checking_id) if settled else None,
            )

        def _fee(self, payment_hash: str) -> Any:
            return Amount(Unit.sat, node.fee_sat(payment_hash))

    backends.FakeWallet = NodeWallet


def control_app(node: Node, token: str) -> Asgi:
    """The routes under ``/control``: an app of their own, so that nothing of the mint's stack touches them."""
    from cashu.core.base import Unit  # noqa: PLC0415
    from cashu.mint.startup import ledger  # noqa: PLC0415
    from fastapi import FastAPI, Request  # noqa: PLC0415
    from fastapi.responses import JSONResponse  # noqa: PLC0415

    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        if not hmac.compare_digest(request.headers.get(TOKEN_HEADER, "").encode(), token.encode()):
            return JSONResponse({"detail": "control token missing or wrong"}, status_code=403)
        try:
            return await call_next(request)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=400)

    async def invoice(request: Request) -> Any:
        given = await request.json()
        made, payment_hash = node.make_invoice(
            int(given["amount_sat"]) * 1000,
            expiry_s=int(given.get("expiry_s", 3600)),
            description=str(given.get("description", "demo")),
        )
        if given.get("script"):
            node.set_script(payment_hash, Script.parse(given["script"]))
        return {"invoice": made, "payment_hash": payment_hash}

    async def script(request: Request) -> Any:
        given = dict(await request.json())
        node.set_script(str(given.pop("payment_hash")), Script.parse(given))
        return {}

    async def resolve(request: Request) -> Any:
        given = await request.json()
        node.resolve(str(given["payment_hash"]), given["status"], given.get("fee_sat"))
        return {}

    async def payments() -> Any:
        return node.report()

    async def rotate_keyset(request: Request) -> Any:
        given = await request.json()
        unit, fee_ppk, expiry = Unit[given.get("unit", "sat")], int(given.get("fee_ppk", 0)), given.get("final_expiry")
        if hasattr(ledger, "rotate_next_keyset"):
            keyset = await ledger.rotate_next_keyset(unit, input_fee_ppk=fee_ppk, final_expiry=expiry)
        elif expiry is None:
            keyset = await rotate_by_hand(ledger, unit, fee_ppk)
        else:
            raise ValueError("keysets of this generation have no final_expiry")
        return {"keyset_id": keyset.id}

    # Added one by one: with postponed annotations the decorators would look for Request in this module.
    for route in (invoice, script, resolve, rotate_keyset):
        if "request" in route.__annotations__:
            route.__annotations__["request"] = Request
        app.add_api_route(f"/control/{route.__name__}", route, methods=["POST"], response_model=None)
    app.add_api_route("/control/payments", payments, methods=["GET"], response_model=None)
    return app


async def rotate_by_hand(ledger: Any, unit: Any, fee_ppk: int) -> Any:
    """
    What ``rotate_next_keyset`` does, for mints up to 0.16: there an operator changes the derivation path and restarts.

    The retired keyset is active again after a restart, whose path this can't change. Raises ValueError without a keyset.
    """
    from cashu.core.base import MintKeyset  # noqa: PLC0415

    active = [keyset for keyset in ledger.keysets.values() if keyset.active and keyset.unit == unit]
    if not active:
        raise ValueError(f"no active keyset of {unit.name}")

    def counter(keyset: Any) -> int:
        return int(keyset.derivation_path.rsplit("/", 1)[1].rstrip("'"))

    old = max(active, key=counter)
    path = f"{old.derivation_path.rsplit('/', 1)[0]}/{counter(old) + 1}'"
    new = MintKeyset(derivation_path=path, seed=ledger.seed, input_fee_ppk=fee_ppk, active=True)
    await ledger.crud.store_keyset(keyset=new, db=ledger.db)
    old.active = False
    await ledger.crud.update_keyset(keyset=old, db=ledger.db)
    ledger.keysets[new.id] = ledger.keyset = new
    return new


def counted(mint: Asgi, control: Asgi, node: Node) -> Asgi:
    """The mint with its melt POSTs counted per quote, beside the control routes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/control/"):
            await control(scope, receive, send)
        elif path == "/v1/melt/bolt11" and scope.get("method") == "POST":
            await count(scope, receive, send)
        else:
            await mint(scope, receive, send)

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        body, messages, more = b"", [], True
        while more and len(body) <= BODY_BYTES_MAX:
            message = await receive()
            messages.append(message)
            body += message.get("body", b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        record, status = node.post_began(_quote_in(body)), None

        async def replay() -> MutableMapping[str, Any]:
            return messages.pop(0) if messages else await receive()

        async def listen(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await mint(scope, replay, listen)
        finally:
            node.post_ended(record, status)

    return app


def _quote_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["quote"])
    except (ValueError, KeyError, TypeError):
        return "unreadable"


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A Nutshell mint with a scripted Lightning node, for demo and tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", required=True, help="its folder: database, node book, cashu's home")
    parser.add_argument("--fee-ppk", type=int, default=100, help="input fee per 1000 inputs (default: %(default)s)")
    parser.add_argument("--control-token", default="", help="empty: MELTD_DEMO_CONTROL_TOKEN, which ps doesn't show")
    parser.add_argument("--private-key", default="demo", help="what the mint's keys derive from")
    parser.add_argument("--derivation-path", default="")
    parser.add_argument("--max-request-length", type=int, default=0)
    parser.add_argument("--name", default="meltd demo mint")
    parser.add_argument("--log-level", default="WARNING")
    return parser.parse_args(arguments)


def main() -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    options = parse_options()
    token = options.control_token or os.environ.get("MELTD_DEMO_CONTROL_TOKEN", "")
    if not token:
        sys.exit("a control token is needed: --control-token or MELTD_DEMO_CONTROL_TOKEN")
    end_with_parent()
    clean_environment(options)
    node = Node(Path(options.dir).resolve() / "node.json")
    register_backend(node)

    import uvicorn  # noqa: PLC0415
    from loguru import logger  # noqa: PLC0415

    logger.remove()  # cashu adds its own; until then it would dump its settings
    from cashu.mint.app import app as mint  # noqa: PLC0415

    config = uvicorn.Config(
        counted(mint, control_app(node, token), node),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
