"""What surrounds every request, as one plain ASGI middleware: its ids, the cap on its body, the mask over its faults,
its line in the log and its place in the metrics. Knows nothing of routes or users.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from prometheus_client import Histogram
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boostedcalls.common.context import bind, caller
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import MAX_BODY, MAX_WEBHOOK_BODY
from boostedcalls.gateway.deps import CALLER
from boostedcalls.gateway.problems import masked, render

log = get_logger(__name__)

WEBHOOK = "/api/calls/webhook"
# What waits beyond this is refused: each request may hold a body of megabytes. Webhooks are counted by themselves, so
# that people who wait for a service that hangs cost no report.
MAX_IN_FLIGHT = 1024
_ALIVE = "/healthz"
_CLIENT_GONE = 499

SERVED = Histogram(
    "boostedcalls_http_request_seconds",
    "Requests answered over HTTP",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)


class Edge:
    """`templates`: the path template of each endpoint, so that neither log nor metrics grow with the ids in paths."""

    def __init__(self, app: ASGIApp, templates: Mapping[Any, str]) -> None:
        self._app = app
        self._templates = templates
        self._in_flight = {True: 0, False: 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        headers = Headers(scope=scope)
        who = caller(None, headers.get("x-request-id"), headers.get("traceparent"))
        bind(who)
        scope[CALLER] = who
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", who.request_id.encode())]
            await send(message)

        webhook = scope["path"].rstrip("/") == WEBHOOK
        self._in_flight[webhook] += 1
        try:
            if self._in_flight[webhook] > MAX_IN_FLIGHT and scope["path"] != _ALIVE:
                raise problem("unavailable", "Too many requests at once", retry_after=1)
            await self._app(scope, capped(MAX_WEBHOOK_BODY if webhook else MAX_BODY, headers, receive), stamped)
        except ClientDisconnect:
            status = status or _CLIENT_GONE
        except Exception as error:
            answer = error if isinstance(error, ServiceError) else masked(error)
            # An answer that has begun cannot be taken back: the server cuts the connection.
            if not status:
                await render(answer, who.request_id)(scope, receive, stamped)
        finally:
            self._in_flight[webhook] -= 1
            seconds = monotonic() - started
            route = self._templates.get(scope.get("endpoint"), "-")
            SERVED.labels(scope["method"], route, status).observe(seconds)
            log.info("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


def capped(limit: int, headers: Headers, receive: Receive) -> Receive:
    """`receive`, raising ServiceError payload_too_large as soon as the body is, or says it is, over its limit."""
    too_large = problem("payload_too_large", f"The body may have {limit} bytes")
    if int(headers.get("content-length") or 0) > limit:
        raise too_large
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise too_large
        return message

    return counted
