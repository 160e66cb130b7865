"""How our routes differ from FastAPI's: who asks is settled before the body is read, a body is a JSON object or
refused, a user's request without a body is run without FastAPI's machinery, and a path answers with and without its
trailing slash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, get_origin, get_type_hints
from uuid import UUID

from fastapi import APIRouter, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from boostedcalls.common.errors import problem
from boostedcalls.gateway.auth import authenticate
from boostedcalls.gateway.deps import CALLER, HEADERS, deps_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose JSON is read strictly: no NaN, no lone surrogates, at most 200 levels deep."""

    async def json(self) -> dict[str, Any]:
        """Raises ServiceError malformed_body for everything but a JSON object."""
        if not hasattr(self, "_json"):
            self._json = _parse_object(self.headers.get("content-type"), await self.body())
        return self._json


def _parse_object(content_type: str | None, body: bytes) -> dict[str, Any]:
    if content_type is not None:
        header = Message()
        header["content-type"] = content_type
        subtype = header.get_content_subtype()
        if header.get_content_maintype() != "application" or not (subtype == "json" or subtype.endswith("+json")):
            raise problem("malformed_body", "The body must be sent as Content-Type: application/json")
    if not body:
        raise problem("malformed_body", "The body is missing")
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise problem("malformed_body", f"The body is not valid JSON: {error}"[:300]) from None
    if not isinstance(found, dict):
        raise problem("malformed_body")
    return found  # pyright: ignore[reportUnknownVariableType] - JSON knows only strings as names


class OpenRoute(APIRoute):
    """A route for everybody."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def with_body(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            await request.json()
            return await handle(request)

        return with_body


class UserRoute(OpenRoute):
    """A route for users. A stranger is told so before a byte of the body is read.

    FastAPI only documents one that takes no body: solving its dependencies would cost as much as all the rest of the
    request. Such an endpoint takes the request, ids of its path, and at most one model of query parameters.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.body_field is None:
            self.app = _directly(endpoint)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def with_user(request: Request) -> Response:
            request.scope[CALLER] = authenticate(request)
            await _count(request)
            return await handle(request)

        return with_user


async def _count(request: Request) -> None:
    """Count the request of a user who is known by now. Raises ServiceError rate_limited."""
    quota = deps_of(request).quota
    if quota is None:
        return
    user_id, wait = request.scope[CALLER].user_id, 0
    headers = quota.take(user_id)
    if headers is None:
        headers, wait = await quota.ask(user_id)
    request.scope[HEADERS] = headers
    if wait:
        raise problem("rate_limited", retry_after=wait)


def _directly(endpoint: Callable[..., Coroutine[Any, Any, Response]]) -> ASGIApp:
    kinds = {name: kind for name, kind in get_type_hints(endpoint).items() if name not in ("request", "return")}
    ids = [name for name, kind in kinds.items() if kind is UUID]
    queries = [(name, kind) for name, kind in kinds.items() if issubclass(kind, BaseModel)]
    if len(ids) + len(queries) != len(kinds) or len(queries) > 1:
        raise TypeError(f"{endpoint}: takes ids and one model of query parameters, and nothing else")

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        scope[CALLER] = authenticate(request)
        await _count(request)
        arguments: dict[str, Any] = {name: _read_id(request, name) for name in ids}
        for name, model in queries:
            arguments[name] = _read_query(request, model)
        response = await endpoint(request, **arguments)
        await response(scope, receive, send)

    return serve


_ID = TypeAdapter(UUID)


def _read_id(request: Request, name: str) -> UUID:
    """An id of the path. Raises RequestValidationError."""
    try:
        return _ID.validate_python(request.path_params[name])
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("path", name)} for fault in error.errors()]) from None


def _read_query[M: BaseModel](request: Request, model: type[M]) -> M:
    """The query parameters; of one that is no list the last counts. Raises RequestValidationError."""
    given: dict[str, Any] = {}
    if request.scope["query_string"]:
        found = request.query_params
        for name, member in model.model_fields.items():
            if name in found:
                given[name] = found.getlist(name) if get_origin(member.annotation) is list else found[name]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("query", *fault["loc"])} for fault in error.errors()]) from None


def _name(route: APIRoute) -> str:
    return route.name


def open_router(tag: str) -> APIRouter:
    return APIRouter(route_class=OpenRoute, tags=[tag], strict_content_type=False, generate_unique_id_function=_name)


def user_router(tag: str) -> APIRouter:
    # The dependency is for the OpenAPI document; UserRoute does the checking.
    scheme = HTTPBearer(scheme_name="bearer", bearerFormat="JWT", auto_error=False)
    return APIRouter(
        route_class=UserRoute,
        tags=[tag],
        strict_content_type=False,
        generate_unique_id_function=_name,
        dependencies=[Security(scheme)],
    )


def both_slashes(route: Route) -> Route:
    """Let the route answer the same path with and without the trailing slash, without a redirect."""
    regex, _, _ = compile_path(route.path.removesuffix("/"))
    route.path_regex = re.compile(regex.pattern.removesuffix("$") + r"/?\Z")
    return route
