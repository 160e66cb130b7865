"""The provider's HTTP surface: routes, authentication, error bodies, and the ways `POST /call` can go wrong."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from boostedcalls.common.logs import get_logger, mask_phone
from boostedcalls.simulator.calls import Call, Calls
from boostedcalls.simulator.faults import BadRequest
from boostedcalls.simulator.files import AppendLog
from boostedcalls.simulator.play import Live, Stage, note, prepare, resume, say, start, stop
from boostedcalls.simulator.render import call_json
from boostedcalls.simulator.requests import check_create, check_filters
from boostedcalls.simulator.scenarios import Scenario, scenario_for
from boostedcalls.simulator.settings import SimulatorSettings

log = get_logger(__name__)

_MAX_BODY = 4 * 1024 * 1024
_LATE_BY = 25.0  # seconds at speed 1.0
_REFUSALS = 2
_REMEMBERED_NAMES = 1000
# Real seconds: how long an answer waits for its webhooks to be tried, and how long the end waits for open answers.
_WEBHOOKS_WITHIN = 15.0
_ANSWERS_WITHIN = 1.0
_WEBHOOK_CONNECTIONS = 512

_STAGE = web.AppKey("stage", Stage)
_REFUSED = web.AppKey("refused", OrderedDict[str, int])


class _NoSuchCall(Exception):
    """A 404 for the id it holds."""


type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(settings: SimulatorSettings) -> AsyncGenerator[str]:
    """Run the simulator until the block ends; yields its base URL. Raises OSError when folder or port cannot be had."""
    calls = await asyncio.to_thread(
        Calls, settings.simulator_data, settings.simulator_keep, settings.simulator_list_lag
    )
    tries = AppendLog(settings.simulator_data / "webhooks.jsonl", sync=False)
    connector = aiohttp.TCPConnector(limit=_WEBHOOK_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        stage = Stage(settings, calls, session, tries)
        runner = web.AppRunner(make_app(stage), access_log=None, handle_signals=False, shutdown_timeout=_ANSWERS_WITHIN)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.simulator_host, settings.simulator_port)
            await site.start()
            resume(stage)
            host, port = runner.addresses[0][:2]
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            stage.stopping = True
            await runner.cleanup()
            await stop(stage)
            await asyncio.to_thread(tries.close)
            await asyncio.to_thread(calls.close)


def make_app(stage: Stage) -> web.Application:
    app = web.Application(middlewares=[_as_nest, _authenticate], client_max_size=_MAX_BODY)
    app[_STAGE] = stage
    app[_REFUSED] = OrderedDict()
    app.add_routes(
        [
            web.get("/healthz", _healthz),
            web.post("/call", _create),
            web.get("/call", _list, allow_head=False),
            web.get("/call/{id}", _get, allow_head=False),
            web.delete("/call/{id}", _delete),
            web.post("/{id}/control", _control),
        ]
    )
    return app


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
    )


def _fault(status: int, message: str | list[str], headers: dict[str, str] | None = None) -> web.Response:
    """NestJS's error body."""
    body = {"message": message, "error": HTTPStatus(status).phrase, "statusCode": status}
    return _json(body, status, headers)


def _internal_error() -> web.Response:
    return _json({"statusCode": 500, "message": "Internal server error"}, 500)


@web.middleware
async def _as_nest(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequest as fault:
        return _fault(400, fault.message)
    except _NoSuchCall as error:
        return _fault(404, f"Couldn't find call {error}")
    except web.HTTPRequestEntityTooLarge:
        return _fault(413, "request entity too large")
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _fault(404, f"Cannot {request.method} {request.path}")
    except web.HTTPException:
        raise
    except Exception as error:
        log.error("request_failed", method=request.method, exc_info=error)
        return _internal_error()


@web.middleware
async def _authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A Bearer key for `/call`; the control address is a capability and asks for none."""
    if request.match_info.http_exception is None and request.path.startswith("/call"):
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        expected = request.app[_STAGE].settings.simulator_api_key.get_secret_value()
        key = key.strip()
        right = hmac.compare_digest(key.encode(), expected.encode()) if expected else bool(key)
        if scheme.lower() != "bearer" or not right:
            return _fault(
                401,
                "Invalid Key. Hot tip, you may be using the private key instead of the public key, or vice versa.",
            )
    return await handler(request)


async def _healthz(_: web.Request) -> web.Response:
    return _json({"status": "ok"})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body: Any = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{error.msg} in JSON at position {error.pos}") from None
    if not isinstance(body, dict):
        raise BadRequest(["body must be an object"])
    return body  # pyright: ignore[reportUnknownVariableType]


async def _create(request: web.Request) -> web.StreamResponse:
    stage = request.app[_STAGE]
    body = await _body(request)
    number = check_create(body, stage.settings.simulator_http_hosts)
    scenario = scenario_for(number)
    if refusal := _refusal(request.app[_REFUSED], scenario, str(body.get("name"))):
        return refusal
    call = await stage.calls.dial(body, f"{request.scheme}://{request.host}")
    log.info("dialled", provider_call_id=call.id, to=mask_phone(number), answer=scenario.answer)
    return await _answer_dialled(request, stage, prepare(stage, call))


def _refusal(refused: OrderedDict[str, int], scenario: Scenario, name: str) -> web.Response | None:
    """The answer of a scenario that dials nothing (this time)."""
    match scenario.answer:
        case "error-before-dial":
            return _internal_error()
        case "refused":
            return _fault(400, ["customer.number must be a number that this account may call"])
        case "throttled":
            count = refused.get(name, 0)
            if count >= _REFUSALS:
                return None
            refused[name] = count + 1
            while len(refused) > _REMEMBERED_NAMES:
                refused.popitem(last=False)
            return _fault(429, "Too many requests, please try again later.", {"Retry-After": "1"})
        case _:
            return None


async def _answer_dialled(request: web.Request, stage: Stage, live: Live) -> web.StreamResponse:
    created = _json(call_json(live.call), 201)
    match live.scenario.answer:
        case "error-after-dial":
            start(stage, live)
            return _internal_error()
        case "dropped":
            start(stage, live)
            if request.transport:
                request.transport.close()
            return created
        case "late":
            start(stage, live)
            await asyncio.sleep(_LATE_BY * stage.settings.simulator_speed)
            return created
        case "after-webhooks":
            start(stage, live)
            with suppress(TimeoutError):
                async with asyncio.timeout(_WEBHOOKS_WITHIN):
                    await live.sent.wait()
            return created
        case _:
            # Elsewhere the answer leaves before the first webhook does.
            try:
                await created.prepare(request)
                await created.write_eof()
            finally:
                start(stage, live)
            return created


def _found(request: web.Request) -> Call:
    call_id = request.match_info["id"]
    call = request.app[_STAGE].calls.get(call_id)
    if call is None:
        raise _NoSuchCall(call_id)
    return call


async def _get(request: web.Request) -> web.Response:
    return _json(call_json(_found(request)))


async def _list(request: web.Request) -> web.Response:
    found = request.app[_STAGE].calls.list(check_filters(request.query))
    return _json([call_json(call) for call in found])


async def _delete(request: web.Request) -> web.Response:
    """Erases the data; a live call goes on."""
    call = _found(request)
    shown = call_json(call)
    await request.app[_STAGE].calls.delete(call)
    return _json(shown)


async def _control(request: web.Request) -> web.Response:
    """A live call's control address: `end-call`, and `say` with `endCallAfterSpoken`; what else comes is ignored."""
    live = request.app[_STAGE].live.get(request.match_info["id"])
    if live is None:
        raise _NoSuchCall(request.match_info["id"])
    command = await _body(request)
    match command.get("type"):
        case "end-call":
            live.hang_up("manually-canceled")
        case "say":
            content = command.get("content")
            if not isinstance(content, str):
                raise BadRequest(["content must be a string"])
            if live.call.status == "in-progress":
                say(live, "bot", content)
                await note(request.app[_STAGE], live)
            if command.get("endCallAfterSpoken") is True:
                live.hang_up("assistant-ended-call-after-message-spoken")
        case str():
            pass
        case _:
            raise BadRequest(["type must be a string"])
    return _json({})
