"""What surrounds every request, as one plain ASGI middleware: its ids, its place in a room, the cap on its body, the
mask over its faults, its line in the log and its place in the metrics. Knows nothing of routes or users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from prometheus_client import Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boostedcalls.common.context import bind, caller
from boostedcalls.common.errors import ServiceError, masked, problem
from boostedcalls.common.http_protocol import LATE
from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.deps import CALLER, HEADERS
from boostedcalls.gateway.problems import render
from boostedcalls.gateway.rooms import Room, crowded

log = get_logger(__name__)

_HEADERS = frozenset({b"x-request-id", b"traceparent", b"content-length"})
_OK = 200
_CLIENT_GONE = 499
# A name for the metrics and the log: a stranger chooses the method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SERVED = Histogram(
    "boostedcalls_http_request_seconds",
    "Requests answered over HTTP",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)


RouteOf = Callable[[Scope], str]


class Edge:
    """Around an application.

    `route_of` gives the path template for a request, so that neither log nor metrics grow with the ids in paths.
    `rooms`: those of single paths; all others share `room`. Whoever is not known must not wait in it for anything.
    `quiet`: what is answered 200 gets no line in the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        route_of: RouteOf,
        room: Room,
        rooms: Mapping[str, Room] | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        self._app = app
        self._route_of = route_of
        self._room = room
        self._rooms = rooms or {}
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        given = {name: value for name, value in scope["headers"] if name in _HEADERS}
        who = caller(None, _text(given, b"x-request-id"), _text(given, b"traceparent"))
        scope[CALLER] = who
        if not self._quiet:
            bind(who)
        status = 0
        well = False
        room = self._rooms.get(scope["path"], self._room)
        inside = True

        async def stamped(message: Message) -> None:
            nonlocal status, well, inside
            if message["type"] == "http.response.start":
                # How long its reader takes is his affair, and must not be that of others.
                inside = False
                room.taken -= 1
                status = message["status"]
                well = status == _OK
                more = scope.get(HEADERS, ())
                message["headers"] = [*message["headers"], *more, (b"x-request-id", who.request_id.encode())]
            await send(message)

        room.taken += 1
        try:
            if room.taken > room.most:
                raise crowded()
            body = capped(room.max_body, int(given.get(b"content-length") or 0), receive, scope)
            await self._app(scope, body, stamped)
        except ClientDisconnect:
            status = status or _CLIENT_GONE
        except Exception as error:
            bind(who)
            answer = error if isinstance(error, ServiceError) else masked(error)
            # An answer that has begun cannot be taken back: the server cuts the connection.
            if not status:
                await render(answer, who.request_id)(scope, receive, stamped)
            # It holds this frame, and the body with it, until the collector comes.
            del answer
        finally:
            room.taken -= inside
            seconds = monotonic() - started
            method, route = scope["method"], self._route_of(scope)
            method = method if method in _METHODS else "other"
            SERVED.labels(method, route, status).observe(seconds)
            if not (self._quiet and well):
                bind(who)
                log.info("request", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return value.decode("latin-1") if value else None


def capped(limit: int, announced: int, receive: Receive, scope: Scope) -> Receive:
    """`receive`, raising ServiceError payload_too_large as soon as the body is, or says it is (`announced` bytes), over
    its limit, and request_timeout when the rest of it did not come in time."""
    too_large = "payload_too_large", f"The body may have {limit} bytes"
    if announced > limit:
        raise problem(*too_large)
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise problem(*too_large)
        if message.get("more_body") and LATE in scope:
            raise problem("request_timeout")
        return message

    return counted
