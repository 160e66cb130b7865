"""Calls: asked of the calls service. The provider's webhook, below the same address, is webhook.py's."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Header, Query, Request
from pydantic import ConfigDict
from starlette.responses import Response

from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.messages.base import IdempotencyKey, Nothing
from boostedcalls.common.messages.calls import (
    CALL_STATS,
    CALL_TIMELINE,
    CANCEL_CALL,
    CREATE_CALL,
    GET_CALL,
    LIST_CALLS,
    PENDING_COUNT,
    SYNC_CALL,
    Call,
    CallId,
    CallPage,
    CreateCall,
    ListCalls,
    PlaceCall,
    Stats,
    TimelineEntry,
)
from boostedcalls.common.messages.contacts import Count
from boostedcalls.gateway.forward import ask, forward, gather, json_response
from boostedcalls.gateway.openapi import REPLAYED_HEADER
from boostedcalls.gateway.problems import BODY, answers
from boostedcalls.gateway.routing import user_router

router = user_router("Calls")

# Seconds. Creating waits for the provider (DISPATCH_WAIT of the calls service); cancel and sync ask it once.
_CREATE_TIMEOUT = 20.0
_PROVIDER_TIMEOUT = 10.0

KEY = "Idempotency-Key"


class CallsQuery(ListCalls):
    """Query parameters that nobody knows are ignored."""

    model_config = ConfigDict(extra="ignore")


def _divisor(number: int, limit: int) -> int:
    return next(size for size in range(limit, 0, -1) if number % size == 0)


async def _gather_page(request: Request, query: ListCalls) -> bytes:
    """A page whose calls do not fit into one message, from several. One that is named by its number begins with a
    smaller page that starts at the same call, and goes on by cursor."""
    offset = 0 if query.cursor else (query.page - 1) * query.limit

    async def ask_page(limit: int, cursor: str | None) -> bytes:
        part: dict[str, int | str | None] = {"limit": limit, "cursor": cursor}
        if cursor is None:
            size = _divisor(offset, limit)
            part = {"limit": size, "page": offset // size + 1}
        return await ask(request, LIST_CALLS, query.model_copy(update=part))

    found = await gather(ask_page, query.limit, query.cursor, size=max(1, query.limit // 4))
    page = {"total": found.total, "page": query.page, "limit": query.limit}
    page |= {"total_pages": -(-found.total // query.limit), "next_cursor": found.next_cursor}
    return orjson.dumps({**page, "data": orjson.Fragment(found.rows)})


@router.get(
    "/api/calls/",
    summary="List all calls",
    response_model=CallPage,
    responses=answers(LIST_CALLS, "validation_failed"),
)
async def list_calls(request: Request, query: Annotated[CallsQuery, Query()]) -> Response:
    """Newest first, by `page`, or by `cursor` (a `next_cursor`) at a cost that does not grow with the distance."""
    try:
        return await forward(request, LIST_CALLS, query)
    except ServiceError as error:
        if error.code != "answer_too_large" or query.limit == 1:
            raise
        return json_response(await _gather_page(request, query))


def _create_answers() -> dict[int | str, dict[str, Any]]:
    """A success and the provider's refusal are what a repeat may be answered with."""
    found = {201: {}, **answers(CREATE_CALL, *BODY)}
    return found | {status: found[status] | REPLAYED_HEADER for status in (201, 502)}


@router.post(
    "/api/calls/",
    status_code=201,
    summary="Place an outbound call",
    response_model=Call,
    responses=_create_answers(),
)
async def create_call(
    request: Request,
    call: CreateCall,
    key: Annotated[
        IdempotencyKey | None,
        Header(
            alias=KEY,
            description="Makes the request safe to repeat: a new value for each call, a UUID say, kept for 24 hours",
            examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
        ),
    ] = None,
) -> Response:
    """`vapi_call_id` is null while it is unknown whether the provider took the call; it is then looked for, and never
    placed a second time.

    A second POST is a second call, unless both carry the same `Idempotency-Key`: then the second is answered as the
    first was, byte for byte, with `Idempotency-Replayed: true`, even when that was the provider's refusal (502). While
    the first is under way it is answered 409: wait `Retry-After` seconds. So after a dropped connection, a 409, 500,
    503 or 504, send the same request with the same key again until it is answered. Another body with the same key is a
    422. A request that was refused before there was a call (422, 404, 429, 503) uses up no key."""
    if len(request.headers.getlist(KEY)) > 1:
        raise problem("validation_failed", errors=[{"field": KEY, "message": "must be given once"}])
    members, given = dict(call), set(call.model_fields_set)
    if key is not None:
        members, given = {**members, "idempotency_key": key}, {*given, "idempotency_key"}
    # Not validated again, and what the request left out stays left out.
    asked = PlaceCall.model_construct(given, **members)
    return await forward(request, CREATE_CALL, asked, status=201, timeout=_CREATE_TIMEOUT)


@router.get(
    "/api/calls/pending-count/",
    summary="Count active calls",
    response_model=Count,
    responses=answers(PENDING_COUNT),
)
async def count_pending_calls(request: Request) -> Response:
    return await forward(request, PENDING_COUNT, Nothing())


@router.get(
    "/api/calls/stats/",
    summary="Get the dashboard's statistics",
    response_model=Stats,
    responses=answers(CALL_STATS),
)
async def get_call_stats(request: Request) -> Response:
    """14 points, one for each UTC day, oldest first."""
    return await forward(request, CALL_STATS, Nothing())


@router.get(
    "/api/calls/{call_id}/",
    summary="Get a call",
    response_model=Call,
    responses=answers(GET_CALL, "validation_failed"),
)
async def get_call(request: Request, call_id: UUID) -> Response:
    """An active call is synced with the provider first."""
    return await forward(request, GET_CALL, CallId(call_id=call_id))


@router.post(
    "/api/calls/{call_id}/cancel/",
    summary="Cancel a pending or active call",
    response_model=Call,
    responses=answers(CANCEL_CALL, "validation_failed"),
)
async def cancel_call(request: Request, call_id: UUID) -> Response:
    """Cancelling twice answers as the first time did."""
    return await forward(request, CANCEL_CALL, CallId(call_id=call_id), timeout=_PROVIDER_TIMEOUT)


@router.post(
    "/api/calls/{call_id}/sync/",
    summary="Sync a call with the provider",
    response_model=Call,
    responses=answers(SYNC_CALL, "validation_failed"),
)
async def sync_call(request: Request, call_id: UUID) -> Response:
    """Ask the provider now, and answer with what is known then. Active calls are asked about without this too."""
    return await forward(request, SYNC_CALL, CallId(call_id=call_id), timeout=_PROVIDER_TIMEOUT)


@router.get(
    "/api/calls/{call_id}/events/",
    summary="List a call's timeline",
    response_model=list[TimelineEntry],
    responses=answers(CALL_TIMELINE, "validation_failed"),
)
async def list_call_events(request: Request, call_id: UUID) -> Response:
    """Oldest first."""
    answer = orjson.loads(await ask(request, CALL_TIMELINE, CallId(call_id=call_id)))
    return json_response(orjson.dumps(answer["data"]))
