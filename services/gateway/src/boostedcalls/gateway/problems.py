"""Errors over HTTP: every one leaves through `render`, as RFC 9457 problem+json, and is documented by `errors`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from boostedcalls.common.errors import CODES, ServiceError, Unavailable, masked, problem, validation_problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import Rpc
from boostedcalls.gateway.deps import caller_of

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1
REPLAYED = {"Idempotency-Replayed": "true"}
# What a body with a JSON object may be answered, besides what its route says.
BODY = ("malformed_body", "payload_too_large", "validation_failed")
_OURS = ("unavailable", "timeout", "internal_error")
_BY_STATUS = {400: "malformed_body", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
# A body may be wrong in a hundred thousand places; its sender needs no list of all.
_MAX_ERRORS = 50
_MAX_FIELD = 200


_EXAMPLE = problem(
    "validation_failed", errors=[{"field": "name", "message": "String should have at least 1 character"}]
).to_dict("019b0a6e-5a3c-7cc0-8a55-3f1d2f0c7e11")


class ProblemField(BaseModel):
    field: str = Field(examples=["call_goals.0.name"])
    message: str


class Problem(BaseModel):
    """What every error answers with (RFC 9457). `code` is stable; `title` and `detail` are for people."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(json_schema_extra={"enum": list(CODES)})
    request_id: str
    instance: str | None = Field(None, description="With provider_error: the address of the call that failed")
    errors: list[ProblemField] | None = Field(None, description="With validation_failed: what is wrong where")
    error_id: str | None = Field(None, description="With internal_error: finds the cause in the logs")


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of error answers, by status."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(CODES[code][0], []).append(code)
    return {
        status: {
            "description": "; ".join(f"`{code}`: {CODES[code][1]}" for code in found),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, found in sorted(by_status.items())
    }


def answers(rpc: Rpc[Any, Any], *more: str) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route that passes a request of a user on."""
    return errors(*rpc.errors, *more, "token_invalid", "rate_limited", *_OURS)


def render(error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error."""
    extra = dict(headers or {})
    if error.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        # The rest of the body may still come.
        extra["Connection"] = "close"
    if error.retry_after is not None:
        extra["Retry-After"] = str(error.retry_after)
    if error.replayed:
        extra |= REPLAYED
    return Response(error.to_json(request_id), error.status, extra, MEDIA_TYPE)


async def on_service_error(request: Request, error: ServiceError) -> Response:
    return render(error, caller_of(request).request_id)


async def on_unavailable(request: Request, error: Unavailable) -> Response:
    log.warning("unavailable", reason=str(error))
    return render(problem("unavailable", retry_after=RETRY_AFTER), caller_of(request).request_id)


async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
    found = validation_problem(error.errors()[:_MAX_ERRORS], skip=1)
    for item in found.errors:
        item["field"] = item["field"][:_MAX_FIELD]
    return render(found, caller_of(request).request_id)


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    """What Starlette and FastAPI raise themselves: no such address, no such method."""
    code = _BY_STATUS.get(error.status_code)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request, headers)
    return render(problem(code) if code else masked(error), caller_of(request).request_id, headers)


def _allowed(request: Request, headers: Mapping[str, str]) -> str:
    """Each method of an address is a route of its own, and the error knows only the first of them."""
    matched = request.scope.get("route")
    if not isinstance(matched, APIRoute):
        return headers.get("Allow", "")
    same = [route for route in request.app.routes if isinstance(route, Route) and route.path == matched.path]
    return ", ".join(sorted({method for route in same for method in route.methods or ()}))


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ServiceError: on_service_error,
    Unavailable: on_unavailable,
    RequestValidationError: on_validation_error,
    HTTPException: on_http_exception,
}
