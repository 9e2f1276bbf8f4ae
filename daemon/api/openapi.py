"""Completes the OpenAPI document: bodies that we read ourselves, the answers' schemas, problem documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from daemon.api import answers, bodies, plans
from daemon.api.checks import CheckAnswer, CheckBody
from daemon.api.evidence import EvidenceAnswer
from daemon.api.mode import ModeAnswer, ModeBody, SurveyAnswer, SurveyBody
from daemon.api.problems import MEDIA_TYPE, STATUS_OF, Problem
from daemon.api.repairs import AdoptBody, AdoptionAnswer, RepairAnswer, RepairBody, RepairProgressAnswer
from daemon.api.restore import RestoreAnswer, RestoreBody
from daemon.api.status import StatusAnswer
from daemon.api.summaries import SummariesAnswer
from daemon.api.tokens import SpentAnswer, SpentBody
from melt.errors import Code

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

_COMMON: Final = (Code.INVALID_REQUEST, Code.FORBIDDEN, Code.STORE_UNAVAILABLE, Code.INTERNAL)
_PAY: Final = tuple(Code)

_ROUTES: Final[dict[tuple[str, str], tuple[type[BaseModel] | None, dict[int, type[BaseModel]], tuple[Code, ...]]]] = {
    ("/v1/melts", "post"): (bodies.MeltBody, {200: answers.MeltAnswer, 202: answers.MeltAnswer}, _PAY),
    ("/v1/melts", "get"): (None, {200: answers.MeltsAnswer}, ()),
    ("/v1/melts/{id}", "get"): (None, {200: answers.MeltAnswer}, (Code.NOT_FOUND,)),
    ("/v1/melts/{id}/evidence", "get"): (None, {200: EvidenceAnswer}, (Code.NOT_FOUND,)),
    ("/v1/melts/{id}/resolve", "post"): (
        bodies.ResolveMeltBody,
        {200: answers.MeltAnswer, 202: answers.MeltAnswer},
        (
            Code.NOT_FOUND,
            Code.WRONG_STATE,
            Code.CONCURRENT_OPERATION,
            Code.MINT_UNREACHABLE,
            Code.MINT_REJECTED,
            Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS,
            Code.SHUTTING_DOWN,
        ),
    ),
    ("/v1/wallets/{npub}", "get"): (None, {200: answers.WalletsAnswer}, (Code.WALLET_UNKNOWN,)),
    ("/v1/discrepancies", "get"): (None, {200: answers.DiscrepanciesAnswer}, ()),
    ("/v1/proofs/{Y}", "get"): (None, {200: answers.ProofAnswer}, (Code.NOT_FOUND,)),
    ("/v1/proofs/check", "post"): (CheckBody, {200: CheckAnswer}, (Code.MINT_UNKNOWN, Code.SHUTTING_DOWN)),
    ("/v1/events", "get"): (None, {200: answers.EventsAnswer}, ()),
    ("/v1/status", "get"): (None, {200: StatusAnswer}, ()),
    ("/v1/summaries", "get"): (None, {200: SummariesAnswer}, ()),
    ("/v1/reconcile", "post"): (
        bodies.ReconcileBody,
        {200: answers.ReconcileAnswer},
        (Code.MINT_UNKNOWN, Code.MINT_UNREACHABLE, Code.SHUTTING_DOWN, Code.PAUSED),
    ),
    ("/v1/restore", "post"): (
        RestoreBody,
        {200: RestoreAnswer},
        (Code.MINT_UNKNOWN, Code.NOT_FOUND, Code.WRONG_STATE, Code.SHUTTING_DOWN),
    ),
    ("/v1/tokens/spent", "post"): (
        SpentBody,
        {200: SpentAnswer},
        (
            Code.NOT_FOUND,
            Code.WRONG_STATE,
            Code.CONCURRENT_OPERATION,
            Code.PROOF_STATE_INCONSISTENCY,
            Code.SHUTTING_DOWN,
        ),
    ),
    ("/v1/events/drill", "post"): (bodies.DrillBody, {201: answers.EventAnswer}, ()),
    ("/v1/events/{id}/resolve", "post"): (bodies.ResolveBody, {200: answers.EventAnswer}, (Code.NOT_FOUND,)),
    ("/v1/plans", "post"): (
        plans.PlanBody,
        {200: plans.PlanMadeAnswer, 201: plans.PlanMadeAnswer},
        (Code.MINT_UNKNOWN, Code.SHUTTING_DOWN),
    ),
    ("/v1/plans", "get"): (None, {200: plans.PlansAnswer}, ()),
    ("/v1/plans/{id}", "get"): (None, {200: plans.PlanWithItemsAnswer}, (Code.NOT_FOUND,)),
    ("/v1/plans/{id}/approve", "post"): (
        plans.ApprovePlanBody,
        {200: plans.PlanAnswer},
        (Code.NOT_FOUND, Code.WRONG_STATE, Code.CONCURRENT_OPERATION),
    ),
    ("/v1/plans/{id}/apply", "post"): (
        plans.ApplyPlanBody,
        {200: plans.PlanAnswer},
        (
            Code.NOT_FOUND,
            Code.PLAN_STALE,
            Code.WRONG_STATE,
            Code.CONCURRENT_OPERATION,
            Code.MINT_UNKNOWN,
            Code.MINT_UNREACHABLE,
            Code.MINT_REJECTED,
            Code.CRITICAL_MINT_UNTRUSTED,
            Code.PAUSED,
            Code.OBSERVING,
            Code.SHUTTING_DOWN,
        ),
    ),
    ("/v1/plans/{id}/withdraw", "post"): (
        plans.WithdrawPlanBody,
        {200: plans.PlanAnswer},
        (Code.NOT_FOUND, Code.WRONG_STATE, Code.CONCURRENT_OPERATION),
    ),
    ("/v1/discrepancies/{id}", "get"): (None, {200: plans.DiscrepancyAnswer}, (Code.NOT_FOUND,)),
    ("/v1/discrepancies/{id}/acknowledge", "post"): (
        plans.AcknowledgeBody,
        {200: plans.DiscrepancyAnswer},
        (Code.NOT_FOUND, Code.WRONG_STATE),
    ),
    ("/v1/discrepancies/{id}/reopen", "post"): (
        plans.ReopenBody,
        {200: plans.DiscrepancyAnswer},
        (Code.NOT_FOUND, Code.WRONG_STATE),
    ),
    ("/v1/explain/{what}", "get"): (None, {200: plans.StoryAnswer}, (Code.NOT_FOUND,)),
    ("/v1/pause", "post"): (bodies.PauseBody, {200: StatusAnswer}, (Code.MINT_UNKNOWN,)),
    ("/v1/resume", "post"): (bodies.ResumeBody, {200: StatusAnswer}, (Code.MINT_UNKNOWN,)),
    ("/v1/repairs", "post"): (
        RepairBody,
        {200: RepairAnswer},
        (
            Code.MINT_UNKNOWN,
            Code.MINT_UNREACHABLE,
            Code.MINT_REJECTED,
            Code.CRITICAL_MINT_UNTRUSTED,
            Code.PAUSED,
            Code.WRONG_STATE,
            Code.CONCURRENT_OPERATION,
            Code.SHUTTING_DOWN,
        ),
    ),
    ("/v1/mode", "get"): (None, {200: ModeAnswer}, ()),
    ("/v1/mode", "post"): (ModeBody, {200: ModeAnswer}, (Code.WRONG_STATE, Code.SHUTTING_DOWN)),
    ("/v1/survey", "post"): (SurveyBody, {200: SurveyAnswer}, (Code.CONCURRENT_OPERATION, Code.SHUTTING_DOWN)),
    ("/v1/survey", "get"): (None, {200: RepairProgressAnswer}, ()),
    ("/v1/repairs", "get"): (None, {200: RepairProgressAnswer}, ()),
    ("/v1/adoption", "get"): (None, {200: AdoptionAnswer}, (Code.CONCURRENT_OPERATION,)),
    ("/v1/adoption", "post"): (
        AdoptBody,
        {200: AdoptionAnswer},
        (Code.PROOF_STATE_INCONSISTENCY, Code.CONCURRENT_OPERATION, Code.SHUTTING_DOWN),
    ),
}

_DESCRIPTION: Final = """\
The local API of meltd. Bodies are JSON objects of at most 64 KiB, whatever the Content-Type says; unknown fields are
refused. Errors are RFC 9457 problem documents: decide by `code`. Amounts are integers in the `unit` beside them."""

_KEY_HEADER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "One key per payment. Repeated with the same body it gives the same melt; with another body 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x20-\\x7e]+$"},
}
_PREFER_HEADER: Final = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=n`: wait at most n seconds for the end (RFC 7240). The query parameter wins.",
    "schema": {"type": "string"},
}
_REF: Final = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Make ``app.openapi()`` tell the whole truth; it is built once, at the first request."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this way of extending


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    requests = {body for body, _, _ in _ROUTES.values() if body is not None}
    replies = {model for _, found, _ in _ROUTES.values() for model in found.values()} | {Problem}
    by_name = sorted(requests, key=lambda model: model.__name__)
    _, shapes_in = models_json_schema([(model, "validation") for model in by_name], ref_template=_REF)
    by_name = sorted(replies, key=lambda model: model.__name__)
    _, shapes_out = models_json_schema([(model, "serialization") for model in by_name], ref_template=_REF)
    schemas: dict[str, Any] = {**shapes_in.get("$defs", {}), **shapes_out.get("$defs", {})}
    for model in requests:
        schemas.setdefault(model.__name__, model.model_json_schema(ref_template=_REF))
    document.setdefault("components", {})["schemas"] = schemas
    for (path, method), (body, found, codes) in _ROUTES.items():
        operation = document["paths"][path][method]
        operation["responses"] = _responses(found, codes)
        if body is not None:
            operation["requestBody"] = {
                "required": any(info.is_required() for info in body.model_fields.values()),
                "content": {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}},
            }
        if (path, method) == ("/v1/melts", "post"):
            operation.setdefault("parameters", []).extend([_KEY_HEADER, _PREFER_HEADER])
    return document


def _responses(found: dict[int, type[BaseModel]], codes: tuple[Code, ...]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in found.items():
        reference = {"$ref": _REF.format(model=model.__name__)}
        responses[str(status)] = {
            "description": model.__doc__ or "",
            "content": {"application/json": {"schema": reference}},
        }
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, *_COMMON)):
        by_status.setdefault(STATUS_OF[code], []).append(code)
    for status in sorted(by_status):
        responses[str(status)] = {
            "description": ", ".join(by_status[status]),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }
    return responses
