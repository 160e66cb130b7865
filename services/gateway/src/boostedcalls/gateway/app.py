"""Puts the gateway together: what it works with, and every route, in the order in which they are tried."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from boostedcalls.common.bus import connect
from boostedcalls.common.db import open_pool
from boostedcalls.common.http_server import serve_http
from boostedcalls.common.messages.base import MAX_BODY, MAX_WEBHOOK_BODY
from boostedcalls.common.runtime import Runtime
from boostedcalls.gateway import webhook
from boostedcalls.gateway.deps import Deps
from boostedcalls.gateway.drain import Breaker, start_drainer
from boostedcalls.gateway.edge import Edge
from boostedcalls.gateway.flights import Flights
from boostedcalls.gateway.keyring import Keyring
from boostedcalls.gateway.legacy_cost import LegacyCost
from boostedcalls.gateway.openapi import document
from boostedcalls.gateway.passwords import Passwords
from boostedcalls.gateway.problems import HANDLERS
from boostedcalls.gateway.quota import Quota
from boostedcalls.gateway.revocations import Revocations
from boostedcalls.gateway.rooms import MAX_IN_FLIGHT, Room, strangers
from boostedcalls.gateway.routes import auth, calls, contacts, operations, scripts
from boostedcalls.gateway.routing import UserRoute, both_slashes
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.spool import open_spool
from boostedcalls.gateway.throttle import Throttle
from boostedcalls.gateway.webhook import WebhookDoor

_WEBHOOK = (webhook.PATH, webhook.PATH.removesuffix("/"))
_CORS: dict[str, Any] = {
    "allow_methods": ("GET", "POST", "PUT", "PATCH", "DELETE"),
    "allow_headers": ("Authorization", "Content-Type", "Idempotency-Key"),
    "expose_headers": (
        "X-Request-Id",
        "Retry-After",
        "RateLimit",
        "RateLimit-Policy",
        "Idempotency-Replayed",
        "Link",
        "X-Total-Count",
    ),
    "max_age": 600,
}


def _rest() -> list[Route]:
    routers = (auth.router, auth.user_routes, calls.router, contacts.router, scripts.router, operations.router)
    return [route for router in routers for route in router.routes if isinstance(route, Route)]


def api_document() -> dict[str, Any]:
    """The OpenAPI document; the same whatever the settings."""
    return document(_rest())


def _documents() -> list[Route]:
    served = orjson.dumps(api_document())
    return operations.docs_routes(lambda: served)


def build_app(deps: Deps) -> ASGIApp:
    """What the public may reach; all of it, where there is no port for operations."""
    settings = deps.settings
    is_public = settings.operations_port is None
    routes = _rest()
    if not (settings.metrics_enabled and is_public):
        routes = [route for route in routes if route.endpoint is not operations.metrics]
    if not settings.signup_enabled:
        routes = [route for route in routes if route.endpoint is not auth.signup]
    if settings.docs_enabled and is_public:
        routes += _documents()
    app = _application(deps, routes, settings.cors_origins)
    # Beside the application: webhooks are counted and limited by themselves, so that people who wait for a service that
    # hangs cost no report. Those that were stored are in their stream: no line in the log for each of them.
    room = Room(MAX_IN_FLIGHT, MAX_WEBHOOK_BODY)
    door = Edge(WebhookDoor(deps, room), route_of=lambda _: webhook.PATH, room=room, quiet=True)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        is_webhook = scope["type"] == "http" and scope["path"] in _WEBHOOK
        await (door if is_webhook else app)(scope, receive, send)

    return either


def build_operations(deps: Deps) -> ASGIApp:
    """What those who run it reach on a port of its own."""
    routes = [route for route in operations.router.routes if isinstance(route, Route)]
    if not deps.settings.metrics_enabled:
        routes = [route for route in routes if route.endpoint is not operations.metrics]
    if deps.settings.docs_enabled:
        routes += _documents()
    return _application(deps, routes)


def _open_rooms(routes: list[Route]) -> dict[str, Room]:
    """For what is open to everybody, by path. Logins and the like share one; health and documents have one each."""
    rooms: dict[str, Room] = {}
    shared = strangers()
    for route in routes:
        if not isinstance(route, UserRoute):
            room = shared if "POST" in (route.methods or ()) else strangers()
            path = route.path.removesuffix("/")
            rooms[path] = rooms[path + "/"] = room
    return rooms


def _application(deps: Deps, routes: list[Route], origins: Sequence[str] = ()) -> FastAPI:
    templates: dict[Any, str] = {route.endpoint: route.path for route in routes}
    around = [
        Middleware(
            Edge,
            route_of=lambda scope: templates.get(scope.get("endpoint"), "-"),
            room=Room(MAX_IN_FLIGHT, MAX_BODY),
            rooms=_open_rooms(routes),
        )
    ]
    if origins:
        # Outermost, so that a browser may read errors too. No credentials: tokens come in a header of their own.
        around.insert(0, Middleware(CORSMiddleware, allow_origins=origins, **_CORS))
    app = FastAPI(
        routes=[both_slashes(route) for route in routes],
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        middleware=around,
    )
    app.state.deps = deps
    return app


async def start(
    settings: GatewaySettings,
    sock: socket.socket,
    stack: AsyncExitStack,
    runtime: Runtime,
    operations_sock: socket.socket | None = None,
) -> Deps:
    """Open everything on the stack and serve on the socket, and on a second one what is for operations. It serves
    without NATS and without its database too: the provider's reports are kept in the spool, all else is answered
    `unavailable`."""
    pool = await open_pool(stack, settings, "gateway", wait=False)
    bus = await connect(stack, runtime, settings, "gateway", wait=False)
    breaker = Breaker(bus)
    spool = None
    if settings.spool_dir is not None:
        spool = open_spool(stack, settings.spool_dir, settings.spool_max_bytes)
        start_drainer(stack, runtime, spool, breaker)
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
    keys = Keyring(secret, settings.jwt_keys_file)
    revocations = Revocations()
    legacy_cost = LegacyCost()
    await asyncio.gather(revocations.first(pool), legacy_cost.first(pool))
    watching = [
        runtime.spawn(revocations.follow(pool), "revocations"),
        runtime.spawn(legacy_cost.follow(pool), "legacy_cost"),
    ]
    if settings.jwt_keys_file is not None:
        watching.append(runtime.spawn(keys.follow(), "keys"))
    stack.push_async_callback(runtime.cancel, *watching)
    limit = settings.requests_per_user_per_minute
    quota = Quota(pool, limit) if limit else None
    passwords = Passwords(legacy_cost)
    throttle = Throttle(pool, settings)
    deps = Deps(settings, bus, pool, passwords, breaker, spool, Flights(), keys, revocations, throttle, quota)
    await serve_http(stack, runtime, build_app(deps), sock)
    if operations_sock is not None:
        await serve_http(stack, runtime, build_operations(deps), operations_sock)
    return deps
