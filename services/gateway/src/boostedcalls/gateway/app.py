"""Puts the gateway together: what it works with, and every route, in the order in which they are tried."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Route

from boostedcalls.common.bus import connect
from boostedcalls.common.db import open_pool
from boostedcalls.common.runtime import Runtime
from boostedcalls.gateway import webhook
from boostedcalls.gateway.deps import Deps
from boostedcalls.gateway.drain import Breaker, start_drainer
from boostedcalls.gateway.edge import Edge
from boostedcalls.gateway.openapi import document
from boostedcalls.gateway.passwords import Passwords
from boostedcalls.gateway.problems import HANDLERS
from boostedcalls.gateway.routes import auth, calls, contacts, operations, scripts
from boostedcalls.gateway.routing import both_slashes
from boostedcalls.gateway.server import serve_http
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.spool import open_spool


def _rest() -> list[Route]:
    routers = (auth.router, calls.router, contacts.router, scripts.router, operations.router)
    return [route for router in routers for route in router.routes if isinstance(route, Route)]


def api_document() -> dict[str, Any]:
    """The OpenAPI document; the same whatever the settings."""
    return document(_rest())


def build_app(deps: Deps) -> FastAPI:
    served = orjson.dumps(api_document())
    routes = [webhook.ROUTE, *_rest(), *operations.docs_routes(lambda: served)]
    if not deps.settings.signup_enabled:
        routes = [route for route in routes if route.endpoint is not auth.signup]
    app = FastAPI(
        routes=[both_slashes(route) for route in routes],
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        middleware=[Middleware(Edge, templates={route.endpoint: route.path for route in routes})],
    )
    app.state.deps = deps
    app.state.webhook_keys = webhook.keys(deps.settings)
    return app


async def start(settings: GatewaySettings, sock: socket.socket, stack: AsyncExitStack, runtime: Runtime) -> Deps:
    """Open everything on the stack and serve on the socket. It serves without NATS and without its database too: the
    provider's reports are kept in the spool, all else is answered `unavailable`."""
    pool = await open_pool(stack, settings, "gateway", wait=False)
    bus = await connect(stack, runtime, settings, "gateway", wait=False)
    breaker = Breaker(bus)
    spool = None
    if settings.spool_dir is not None:
        spool = open_spool(stack, settings.spool_dir, settings.spool_max_bytes)
        start_drainer(stack, runtime, spool, breaker)
    deps = Deps(settings, bus, pool, Passwords(), breaker, spool)
    await serve_http(stack, runtime, build_app(deps), sock)
    return deps
