"""Answering requests: decode, run the handler as a task of its own under a limit, encode; errors masked.

Endpoints are registered with nats.micro, so that `nats micro ls`, `info` and `stats` see them. Its own loop would serve
one request at a time and tell the caller `repr(exception)`, so it only hands each request over to a task here.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

import nats.micro
from nats.micro.request import Request
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ValidationError

from boostedcalls.common.bus.connection import (
    ERROR_CODE,
    ERROR_TEXT,
    HEADER_ROOM,
    RECEIVED_AT,
    REPLAYED,
    REQUEST_ID,
    RETRY_AFTER,
    TIMEOUT_MS,
    TRACEPARENT,
    USER,
    Bus,
)
from boostedcalls.common.context import Caller, bind, caller
from boostedcalls.common.errors import ServiceError, Unavailable, masked, problem, validation_problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import Replayed, Rpc, encoded

log = get_logger(__name__)

CONCURRENCY = 64
BACKLOG = 1024
_GRACE = 8.0

HANDLED = Histogram(
    "boostedcalls_request_seconds",
    "Requests answered over NATS",
    ["subject", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
MISLED = Counter("boostedcalls_requests_misled_total", "Messages at an endpoint that nobody asked there", ["subject"])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A subject and what answers it: bytes in, bytes out, ServiceError for every other answer."""

    subject: str
    handle: Callable[[Caller, bytes], Awaitable[bytes]]


def endpoint[Deps, Req: BaseModel, Res: BaseModel](
    rpc: Rpc[Req, Res], handler: Callable[[Deps, Caller, Req], Awaitable[Res | bytes]], deps: Deps
) -> Endpoint:
    """An endpoint from a plain handler: it sees the decoded request and returns the answer's model, or its bytes where
    it has them already."""

    async def handle(who: Caller, data: bytes) -> bytes:
        try:
            request = rpc.request.model_validate_json(data or b"{}")
        except ValidationError as error:
            raise validation_problem(error.errors()) from None
        answer = await handler(deps, who, request)
        return answer if isinstance(answer, bytes) else encoded(answer)

    return Endpoint(rpc.subject, handle)


async def serve(stack: AsyncExitStack, bus: Bus, name: str, version: str, endpoints: Sequence[Endpoint]) -> None:
    """Answer until the stack closes: then take no new request, finish those at hand within 8 s, and let go."""
    tasks: set[asyncio.Task[None]] = set()
    slots = asyncio.Semaphore(CONCURRENCY)

    def accept(target: Endpoint) -> Callable[[Request], Awaitable[None]]:
        async def on_request(request: Request) -> None:
            received = monotonic()
            if not _is_asked(request, target):
                MISLED.labels(target.subject).inc()
                log.warning("request_not_asked", subject=target.subject, came_as=request.subject[:200])
                return
            if len(tasks) >= BACKLOG:
                await _refuse(request, problem("unavailable", "Too many requests at once", retry_after=1), "")
                return
            task = asyncio.create_task(_handle(bus, target, request, received, slots))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        return on_request

    service = await nats.micro.add_service(bus.client, name=name, version=version)
    for target in endpoints:
        await service.add_endpoint(
            name=target.subject.replace(".", "-"), subject=target.subject, handler=accept(target)
        )

    async def stop() -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(service.stop(), 2)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=bus.runtime.left(_GRACE))
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    stack.push_async_callback(stop)
    # The subscriptions wait in the client's buffer: to ask before the server has them would find no responders. What
    # was sent behind them and answered tells that it has them. Should NATS go away just now, it gets them when it is
    # back.
    await bus.connected()


def _is_asked(request: Request, target: Endpoint) -> bool:
    """Whether somebody who may ask did so. The server checks who publishes on a subject, but not where a message of a
    stream or an answer is directed to: whoever may read a stream can have its messages delivered here, under their own
    subject, and whoever may ask us can have us answer into somebody's stream, where only we may publish."""
    reply: str = request._msg.reply  # pyright: ignore[reportPrivateUsage]
    return request.subject == target.subject and reply.startswith("_INBOX")


def _caller(headers: dict[str, str]) -> Caller:
    user = headers.get(USER)
    ids = headers.get(REQUEST_ID), headers.get(TRACEPARENT), headers.get(RECEIVED_AT)
    return caller(UUID(user) if user else None, *ids)


async def _handle(bus: Bus, target: Endpoint, request: Request, received: float, slots: asyncio.Semaphore) -> None:
    headers = request.headers or {}
    try:
        who = _caller(headers)
        deadline = received + int(headers.get(TIMEOUT_MS) or 5000) / 1000
    except ValueError as error:
        await _refuse(request, masked(error, subject=target.subject), "")
        return
    bind(who)
    code = "200"
    try:
        async with slots:
            left = deadline - monotonic()
            if left <= 0:
                code = "dropped"
                log.warning("request_dropped", subject=target.subject)
                return
            async with asyncio.timeout(left):
                answer = await target.handle(who, request.data)
        if len(answer) + HEADER_ROOM > bus.client.max_payload:
            log.warning("answer_too_large", subject=target.subject, size=len(answer))
            raise problem("answer_too_large")
        await _respond(request, answer, {REPLAYED: "true"} if isinstance(answer, Replayed) else None)
    except ServiceError as error:
        code = str(error.status)
        await _refuse(request, error, who.request_id)
    except TimeoutError:
        code = "504"
        await _refuse(request, problem("timeout"), who.request_id)
    except Unavailable as error:
        code = "503"
        log.warning("unavailable", subject=target.subject, reason=str(error))
        await _refuse(request, problem("unavailable", retry_after=1), who.request_id)
    except Exception as error:
        code = "500"
        await _refuse(request, masked(error, subject=target.subject), who.request_id)
    finally:
        HANDLED.labels(target.subject, code).observe(monotonic() - received)


async def _refuse(request: Request, error: ServiceError, request_id: str) -> None:
    headers: dict[str, Any] = {ERROR_CODE: str(error.status), ERROR_TEXT: error.code}
    if error.retry_after is not None:
        headers[RETRY_AFTER] = str(error.retry_after)
    if error.replayed:
        headers[REPLAYED] = "true"
    await _respond(request, error.to_json(request_id), headers)


async def _respond(request: Request, data: bytes, headers: dict[str, str] | None = None) -> None:
    try:
        await request.respond(data, headers)
    except Exception as error:
        # NATS went away between the question and the answer: the asker times out, nothing here can be done.
        log.warning("answer_not_sent", subject=request.subject, error=type(error).__name__)
