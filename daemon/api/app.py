"""
The routes of the API (DESIGN section 6). Each reads, asks :mod:`daemon.ports`, and renders; nothing is decided here.

Bodies are read by :mod:`daemon.api.bodies` and not by FastAPI, which would insist on a Content-Type and accept
duplicate keys; the OpenAPI document is given their schemas by hand.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from daemon.api import answers, bodies, problems
from daemon.api.checks import add_checks
from daemon.api.evidence import EvidenceAnswer
from daemon.api.mode import add_mode
from daemon.api.openapi import describe
from daemon.api.peers import AllowList, actor_of, peer_in
from daemon.api.plans import add_cases, add_plans
from daemon.api.repairs import add_repairs
from daemon.api.restore import add_restore
from daemon.api.status import StatusAnswer
from daemon.api.summaries import add_summaries
from daemon.api.tokens import add_tokens
from melt.errors import Code, MeltdError
from melt.model import Actor, MeltId, MeltState, MintAlias, Y, normalise_mint_url
from melt.reconcile import ReconcileScope
from melt.saga.request import MeltRequest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from daemon.ports import (
        Casebook,
        CheckService,
        MeltService,
        ModeService,
        Operations,
        PlanDesk,
        RepairService,
        RestoreOperations,
        SummaryReads,
        TokenService,
    )
    from melt.model import Melt

log = structlog.get_logger("meltd.api")

REFUSED: Final = (
    Code.AMOUNT_OUT_OF_LIMITS,
    Code.UNIT_UNSUPPORTED,
    Code.TOO_MANY_INPUTS,
    Code.INVOICE_PAID,
    Code.INVOICE_BEING_PAID,
    Code.INVOICE_AMOUNTLESS,
    Code.INVOICE_INVALID,
    Code.KEYSET_UNUSABLE,
    Code.PROOF_REFUSED,
    Code.MINT_WANTS_LOGIN,
    Code.MELTING_DISABLED,
)
"""What a released melt may have been refused for by its mint (:mod:`melt.refusals`)."""
RETRY_OPEN_S: Final = 2
"""Retry-After of an answer about an open melt."""
NpubPath = Annotated[str, Path(pattern=bodies.NPUB)]
IdPath = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
YPath = Annotated[str, Path(pattern=r"^0[23][0-9a-fA-F]{64}$", description="Y of a proof: 66 hex characters.")]


def _never() -> bool:
    return False


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """What the API needs to know of the settings and of the process."""

    mints: Mapping[MintAlias, str] = field(default_factory=dict)
    """Alias to URL: wallets show the alias."""
    wait_s_default: float = 30.0
    wait_s_max: float = 120.0
    body_bytes_max: int = 65_536
    allow: AllowList = field(default_factory=AllowList)
    draining: Callable[[], bool] = _never
    version: str = "0"
    now: Callable[[], datetime] = _utc_now
    """For the age of what is shown."""


def build_api(
    service: MeltService,
    operations: Operations,
    options: ApiOptions,
    *,
    summaries: SummaryReads,
    repairs: RepairService,
    plans: PlanDesk,
    cases: Casebook,
    modes: ModeService,
    checks: CheckService,
    restores: RestoreOperations | None = None,
    tokens: TokenService | None = None,
) -> ASGIApp:
    """The whole application, with the gate in front."""
    app = FastAPI(
        title="meltd", version=options.version, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    _add_melts(app, service, operations, options)
    _add_decisions(app, operations, options)
    _add_reads(app, operations, options)
    _add_writes(app, operations, options)
    limit, refuse = options.body_bytes_max, partial(_refuse_when, options)
    add_summaries(app, summaries)
    add_restore(app, restores, limit=limit, refuse=refuse, actor=_actor)
    add_tokens(app, tokens, limit=limit, refuse=refuse, actor=_actor)
    add_repairs(app, repairs, actor_of=_actor, body_bytes_max=limit, refuse=refuse)
    add_checks(app, checks, actor_of=_actor, body_bytes_max=limit, refuse=refuse)
    add_mode(app, modes, actor_of=_actor, body_bytes_max=limit, refuse=refuse)
    add_plans(app, plans, body_bytes_max=limit, refuse_when_draining=refuse)
    add_cases(app, cases, body_bytes_max=limit, now=options.now)
    _add_handlers(app)
    describe(app)
    return Gate(app, options.allow)


def _actor(request: Request) -> Actor:
    return actor_of(request.scope)


def _json(value: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(value.model_dump(mode="json"), status_code=status, headers=dict(headers or {}))


def _refuse_when(options: ApiOptions) -> None:
    if options.draining():
        raise MeltdError(Code.SHUTTING_DOWN, "meltd is stopping and takes no new work", hint="try again in a moment")


def _add_melts(app: FastAPI, service: MeltService, operations: Operations, options: ApiOptions) -> None:
    @app.post("/v1/melts", summary="Pay a Lightning invoice")
    async def pay(request: Request, query: Annotated[bodies.WaitQuery, Query()]) -> JSONResponse:
        key = bodies.idempotency_key(request)
        wait_s = bodies.wait_seconds(request, query.wait, default=options.wait_s_default, most=options.wait_s_max)
        body = await bodies.read(request, bodies.MeltBody, limit=options.body_bytes_max)
        _refuse_when(options)
        asked = MeltRequest(
            idempotency_key=key,
            npub=body.npub,
            mint=body.mint,
            invoice=body.invoice,
            unit=body.unit,
            max_fee=body.max_fee,
            actor=_actor(request),
        )
        return _melt_response(await service.melt(asked, wait_s=wait_s), str(request.url.path))

    @app.get("/v1/melts", summary="Melts, newest first")
    async def melts(query: Annotated[bodies.MeltsQuery, Query()]) -> JSONResponse:
        found = await operations.melts(npub=query.npub, states=tuple(query.state), limit=query.limit)
        return _json(answers.MeltsAnswer(melts=[answers.MeltAnswer.of(melt) for melt in found]))

    @app.get("/v1/melts/{id}", summary="One melt")
    async def melt(id: IdPath) -> JSONResponse:  # noqa: A002 - the path's word
        found = await operations.melt_by_id(MeltId(id))
        if found is None:
            raise MeltdError(Code.NOT_FOUND, "there is no melt with this id")
        return _json(answers.MeltAnswer.of(found))


def _add_decisions(app: FastAPI, operations: Operations, options: ApiOptions) -> None:
    @app.get("/v1/melts/{id}/evidence", summary="What there is to see about a melt, the mint asked now")
    async def evidence(id: IdPath) -> JSONResponse:  # noqa: A002 - the path's word
        found = await operations.melt_evidence(MeltId(id))
        if found is None:
            raise MeltdError(Code.NOT_FOUND, "there is no melt with this id")
        return _json(EvidenceAnswer.of(found))

    @app.post("/v1/melts/{id}/resolve", summary="Decide about an open melt")
    async def resolve_melt(id: IdPath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, bodies.ResolveMeltBody, limit=options.body_bytes_max)
        _refuse_when(options)
        after = await operations.resolve_melt(
            melt_id=MeltId(id),
            outcome=body.action,
            reason=body.reason,
            actor=_actor(request),
            preimage=body.preimage,
        )
        if after is None:
            raise MeltdError(Code.NOT_FOUND, "there is no melt with this id")
        return _json(answers.MeltAnswer.of(after), 202 if after.is_open else 200)


def _melt_response(melt: Melt, instance: str) -> JSONResponse:
    """
    200 settled, 202 open, a problem document when it was released: then nothing was paid.

    A refusal of the mint is told by its own code, since it would repeat; all else is a payment that failed.
    """
    if melt.state is MeltState.RELEASED:
        code = next((told for told in REFUSED if told.value == melt.error_code), Code.PAYMENT_FAILED)
        reason = f" ({melt.error_code})" if melt.error_code and melt.error_code != code else ""
        body = problems.document(
            code,
            (melt.error_detail or "the mint could not pay the invoice") + reason,
            instance=instance,
            quote_id=melt.quote_id,
            transaction_id=melt.transaction_id,
            melt_id=melt.id,
            hint="nothing was paid and the ecash is free again; to try again, use a new Idempotency-Key",
        )
        return problems.answer(body)
    if melt.inputs_gone:
        body = problems.document(
            Code.OUTCOME_UNKNOWN,
            melt.error_detail or "the inputs are gone, and nobody knows whether the invoice was paid",
            instance=instance,
            quote_id=melt.quote_id,
            transaction_id=melt.transaction_id,
            melt_id=melt.id,
            hint="the invoice stays claimed: ask the payee, and let a new invoice be paid only if this one was not",
        )
        return problems.answer(body)
    headers = {"Location": f"/v1/melts/{melt.id}"}
    if melt.state is MeltState.SETTLED:
        return _json(answers.MeltAnswer.of(melt), headers=headers)
    return _json(answers.MeltAnswer.of(melt), 202, headers | {"Retry-After": str(RETRY_OPEN_S)})


def _add_reads(app: FastAPI, operations: Operations, options: ApiOptions) -> None:
    alias_of = {normalise_mint_url(url): str(alias) for alias, url in options.mints.items()}

    @app.get("/v1/wallets/{npub}", summary="Balances of one user")
    async def wallet(npub: NpubPath) -> JSONResponse:
        found = await operations.balances(npub)
        if not found:
            raise MeltdError(Code.WALLET_UNKNOWN, "no documents of this npub are in the database")
        return _json(answers.WalletsAnswer.of(npub, found, alias_of, await operations.payable(npub)))

    @app.get("/v1/discrepancies", summary="What was found wrong")
    async def discrepancies(query: Annotated[bodies.DiscrepanciesQuery, Query()]) -> JSONResponse:
        found = await operations.discrepancies(
            states=tuple(query.state),
            types=tuple(query.type),
            severities=tuple(query.severity),
            npub=query.npub,
            limit=query.limit,
        )
        now = options.now()
        shown = [answers.FindingAnswer.of(item, now) for item in found]
        return _json(answers.DiscrepanciesAnswer(discrepancies=shown))

    @app.get("/v1/proofs/{Y}", summary="The story of one proof")
    async def proof(y: Annotated[str, Path(alias="Y", pattern=r"^0[23][0-9a-fA-F]{64}$")]) -> JSONResponse:
        story = await operations.proof_story(Y(y.lower()))
        if story is None:
            raise MeltdError(Code.NOT_FOUND, "no record knows this proof")
        return _json(answers.ProofAnswer.of(story))

    @app.get("/v1/events", summary="CRITICAL events")
    async def events(query: Annotated[bodies.EventsQuery, Query()]) -> JSONResponse:
        found = await operations.events(open_only=query.open, limit=query.limit)
        return _json(answers.EventsAnswer(events=[answers.EventAnswer.of(event) for event in found]))

    @app.get("/v1/status", summary="The daemon on one page")
    async def status() -> JSONResponse:
        return _json(StatusAnswer.of(await operations.status()))


def _add_writes(app: FastAPI, operations: Operations, options: ApiOptions) -> None:
    limit = options.body_bytes_max

    @app.post("/v1/reconcile", summary="Compare with the mints now")
    async def reconcile(request: Request) -> JSONResponse:
        body = await bodies.read(request, bodies.ReconcileBody, limit=limit)
        _refuse_when(options)
        mint = None if body.mint is None else MintAlias(body.mint)
        scope = ReconcileScope(mint=mint, npub=body.npub, statuses=tuple(body.statuses))
        report = await operations.reconcile(scope=scope, dry_run=body.dry_run, actor=_actor(request))
        return _json(answers.ReconcileAnswer.of(report))

    @app.post("/v1/events/drill", status_code=201, summary="Raise a CRITICAL event on purpose")
    async def drill(request: Request) -> JSONResponse:
        body = await bodies.read(request, bodies.DrillBody, limit=limit)
        event = await operations.raise_drill(detail=body.detail, actor=_actor(request))
        return _json(answers.EventAnswer.of(event), 201)

    @app.post("/v1/events/{id}/resolve", summary="Close a CRITICAL event")
    async def resolve(id: IdPath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, bodies.ResolveBody, limit=limit)
        event = await operations.resolve_event(event_id=id, reason=body.reason, actor=_actor(request))
        if event is None:
            raise MeltdError(Code.NOT_FOUND, "there is no open event with this id")
        return _json(answers.EventAnswer.of(event))

    @app.post("/v1/pause", summary="Stop changing things")
    async def pause(request: Request) -> JSONResponse:
        body = await bodies.read(request, bodies.PauseBody, limit=limit)
        mint = None if body.mint is None else MintAlias(body.mint)
        await operations.pause(mint=mint, reason=body.reason, actor=_actor(request))
        return _json(StatusAnswer.of(await operations.status()))

    @app.post("/v1/resume", summary="End a pause")
    async def resume(request: Request) -> JSONResponse:
        body = await bodies.read(request, bodies.ResumeBody, limit=limit)
        await operations.resume(mint=None if body.mint is None else MintAlias(body.mint), actor=_actor(request))
        return _json(StatusAnswer.of(await operations.status()))


def _add_handlers(app: FastAPI) -> None:
    """Every way to fail ends in a problem document."""

    async def on_meltd_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, MeltdError):
            raise error
        if problems.STATUS_OF[error.code] >= 500:
            log.warning("request failed", code=error.code, path=request.url.path, melt_id=error.melt_id)
        return problems.of_error(error, request.url.path)

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, problems.ApiError):
            raise error
        return problems.of_api_error(error, request.url.path)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        detail = bodies.sentences(error.errors())
        return problems.of_api_error(problems.ApiError(detail), request.url.path)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        code = Code.NOT_FOUND if error.status_code == 404 else Code.INVALID_REQUEST
        texts = {404: "there is nothing at this path", 405: "this path does not take this method"}
        detail = texts.get(error.status_code, "the request can't be served")
        refused = problems.ApiError(detail, code=code, status=error.status_code, headers=error.headers)
        return problems.of_api_error(refused, request.url.path)

    async def on_crash(request: Request, _: Exception) -> JSONResponse:
        body = problems.document(Code.INTERNAL, "an unexpected error; see the log", instance=request.url.path)
        return problems.answer(body)  # the exception goes on to the gate, which logs it

    app.add_exception_handler(Exception, on_crash)
    app.add_exception_handler(MeltdError, on_meltd_error)
    app.add_exception_handler(problems.ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


class Gate:
    """
    In front of the application: who may come in, one log line per request, and the last word on a crash.

    Plain ASGI, not a middleware of Starlette's that copies streams; it adds a task to no request.
    """

    def __init__(self, app: ASGIApp, allow: AllowList) -> None:
        self.app = app
        self.allow = allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.monotonic()
        peer = peer_in(scope)
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        uid = None if peer is None else peer.uid
        with structlog.contextvars.bound_contextvars(request_id=uuid.uuid4().hex[:16], peer_uid=uid):
            try:
                if self.allow.admits(peer):
                    await self.app(scope, receive, watch)
                else:
                    await self._refuse(scope, receive, watch, Code.FORBIDDEN, "this user may not use the API")
            except Exception:  # the outermost loop of a request: logged, answered, and the daemon goes on
                log.exception("request crashed", path=scope["path"])
                if status == 0:
                    await self._refuse(scope, receive, watch, Code.INTERNAL, "an unexpected error; see the log")
            finally:
                write = scope["method"] not in {"GET", "HEAD"}
                level = "info" if write else "debug"
                ms = round((time.monotonic() - started) * 1000, 1)
                getattr(log, level)("request", method=scope["method"], path=scope["path"], status=status, ms=ms)

    async def _refuse(self, scope: Scope, receive: Receive, send: Any, code: Code, detail: str) -> None:
        body = problems.document(code, detail, instance=scope["path"])
        await problems.answer(body)(scope, receive, send)
