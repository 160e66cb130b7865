"""Passing a request on to the service that answers it, and its bytes back untouched; lists that outgrow a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import Replayed, Rpc
from boostedcalls.common.messages.calls import CALL_STATS, LIST_CALLS, PENDING_COUNT
from boostedcalls.common.messages.contacts import LIST_CONTACTS, LIST_SCRIPTS, ListContacts, ListScripts
from boostedcalls.gateway.deps import caller_of, deps_of
from boostedcalls.gateway.problems import REPLAYED

# A list that was gathered from several answers ends here, with a link to its rest.
MAX_LIST_BYTES = 32 * 1024 * 1024

# Reads that pages and dashboards repeat, and that ask nobody but our own database.
_SHARED = {rpc.subject for rpc in (LIST_CALLS, PENDING_COUNT, CALL_STATS, LIST_CONTACTS, LIST_SCRIPTS)}

AskPage = Callable[[int, str | None], Awaitable[bytes]]


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")


async def ask[Req: BaseModel](request: Request, rpc: Rpc[Req, Any], body: Req, timeout: float = 5.0) -> bytes:
    """The bytes of the service's answer. `timeout` in seconds. Raises ServiceError."""
    data = body.model_dump_json(exclude_unset=True, by_alias=True).encode()
    deps, who = deps_of(request), caller_of(request)

    async def question() -> bytes:
        return await deps.bus.request(rpc.subject, data, who, timeout)

    if rpc.subject not in _SHARED:
        return await question()
    return await deps.flights.ask((who.user_id, rpc.subject, data), question)


async def forward[Req: BaseModel](
    request: Request, rpc: Rpc[Req, Any], body: Req, *, status: int = 200, timeout: float = 5.0
) -> Response:
    """The service's answer as it is. Raises ServiceError."""
    answer = await ask(request, rpc, body, timeout)
    return json_response(answer, status, REPLAYED if isinstance(answer, Replayed) else None)


@dataclass(frozen=True, slots=True)
class Gathered:
    total: int
    next_cursor: str | None
    rows: bytes
    """A JSON array."""


async def gather(ask_page: AskPage, limit: int, cursor: str | None, size: int | None = None) -> Gathered:
    """`limit` rows after `cursor`, from as many answers as it takes: a service may end its page early, or say that so
    many rows (`size` at first) do not fit into a message. `ask_page` gets a number of rows and a cursor.

    Raises ServiceError, answer_too_large only where a single row does not fit.
    """
    found: list[bytes] = []
    count = 0
    weight = 0
    size = size or limit
    while True:
        asked = min(size, limit - count)
        try:
            answer = await ask_page(asked, cursor)
        except ServiceError as error:
            if error.code != "answer_too_large" or size == 1:
                raise
            size = max(1, asked // 4)
            continue
        page, rows = _split(answer)
        if rows:
            found.append(rows)
        cursor = page["next_cursor"]
        # Calls are not counted: their pages are full, but for the last one.
        count += page["count"] if "count" in page else page["limit"]
        weight += len(answer)
        if cursor is None or not rows or count >= limit or weight > MAX_LIST_BYTES:
            return Gathered(page["total"], cursor, b"[" + b",".join(found) + b"]")


def _split(answer: bytes) -> tuple[dict[str, Any], bytes]:
    """A page without its rows, and the rows as they stand in it: `data` is its last member, and of the others none
    holds a text of somebody's."""
    head, _, rest = answer.partition(b'"data":[')
    return orjson.loads(head + b'"data":[]}'), rest.removesuffix(b"]}")


async def forward_list(request: Request, rpc: Rpc[Any, Any], query: ListContacts | ListScripts) -> Response:
    """A list as a plain array, with its whole length in X-Total-Count and the way to its rest in Link."""

    async def ask_page(limit: int, cursor: str | None) -> bytes:
        return await ask(request, rpc, query.model_copy(update={"limit": limit, "cursor": cursor}))

    found = await gather(ask_page, query.limit, query.cursor)
    headers = {"X-Total-Count": str(found.total)}
    if found.next_cursor is not None:
        following = {**query.model_dump(exclude_none=True), "cursor": found.next_cursor}
        headers["Link"] = f'<{request.scope["path"]}?{urlencode(following)}>; rel="next"'
    return json_response(found.rows, headers=headers)
