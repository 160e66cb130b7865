"""For those who run it and those who build on it: health, metrics, the OpenAPI document and its page."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import orjson
from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import create_model
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from boostedcalls.common.db import reachable
from boostedcalls.common.errors import problem
from boostedcalls.common.messages.base import Answer
from boostedcalls.common.readiness import ready_report
from boostedcalls.gateway.deps import deps_of
from boostedcalls.gateway.forward import json_response
from boostedcalls.gateway.routing import open_router

router = open_router("Operations")

Alive = create_model("Alive", __base__=Answer, status=(str, ...))
Readiness = create_model("Readiness", __base__=Answer, nats=(bool, ...), database=(bool, ...))

# The page's own scripts and styles, and requests to the API; Swagger UI writes styles into the page.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {
    "docs.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


@router.get("/healthz", summary="Whether the process lives", response_model=Alive)
async def healthz() -> Response:
    return json_response(b'{"status":"ok"}')


@router.get(
    "/readyz",
    summary="Whether it can serve",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "NATS or the database does not answer"}},
)
async def readyz(request: Request) -> Response:
    deps = deps_of(request)
    report = await ready_report({"nats": deps.bus.connected, "database": lambda: reachable(deps.pool)})
    return json_response(orjson.dumps(report), 200 if all(report.values()) else 503)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    if (spool := deps_of(request).spool) is not None:
        await spool.measure()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _static(name: str) -> bytes:
    return (resources.files("boostedcalls.gateway") / "static" / name).read_bytes()


def docs_routes(document: Callable[[], bytes]) -> list[Route]:
    """The OpenAPI document, and a page for it that asks nobody but us."""

    async def openapi(_: Request) -> Response:
        return json_response(document())

    async def docs(_: Request) -> Response:
        return Response(_static("docs.html"), media_type="text/html", headers={"Content-Security-Policy": _DOCS_POLICY})

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if (media_type := _ASSETS.get(name)) is None:
            raise problem("not_found")
        # Read each time: two megabytes that hardly anybody asks for are not kept in memory.
        return Response(_static(name), media_type=media_type, headers={"Cache-Control": "max-age=3600"})

    return [Route("/openapi.json", openapi), Route("/docs", docs), Route("/docs/{name}", asset)]
