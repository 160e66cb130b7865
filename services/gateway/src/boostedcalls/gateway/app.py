"""Assembles the gateway's application from its dependencies: every route, in the order in which they are tried."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Route

from boostedcalls.gateway import webhook
from boostedcalls.gateway.deps import Deps
from boostedcalls.gateway.edge import Edge
from boostedcalls.gateway.openapi import document
from boostedcalls.gateway.problems import HANDLERS
from boostedcalls.gateway.routes import auth, calls, contacts, operations, scripts
from boostedcalls.gateway.routing import both_slashes


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
