"""Sending a call's webhooks: in which order they leave, how often one is tried, and the file that tells of each try.

Vapi promises neither order nor uniqueness and tries once, unless the server's `backoffPlan` says otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import aiohttp
import orjson

from boostedcalls.common.logs import get_logger
from boostedcalls.simulator.calls import iso, now
from boostedcalls.simulator.files import AppendLog
from boostedcalls.simulator.render import envelope
from boostedcalls.simulator.requests import BackoffPlan, Server
from boostedcalls.simulator.scenarios import Delivery
from boostedcalls.simulator.talk import Json

log = get_logger(__name__)

type Queue = asyncio.Queue[Json | None]


async def arrange(queue: Queue, delivery: Delivery) -> AsyncIterator[Json]:
    """Take messages until the closing None, and yield them in the order (and the number) they are to be sent."""
    held: list[Json] = []
    while (message := await queue.get()) is not None:
        match delivery:
            case "lost":
                continue
            case "in-order":
                yield message
            case "shuffled":
                held.append(message)
            case "report-first":
                if message["type"] == "end-of-call-report":
                    yield message
                else:
                    held.append(message)
    for message in shuffled(held) if delivery == "shuffled" else held:
        yield message


def shuffled(messages: list[Json]) -> list[Json]:
    """Two or three of each, and never the oldest first."""
    copies = [message for message in messages for _ in range(random.randint(2, 3))]  # noqa: S311 - no secret
    random.shuffle(copies)
    while len(messages) > 1 and copies[0] is messages[0]:
        copies.append(copies.pop(0))
    return copies


async def deliver(
    session: aiohttp.ClientSession, tries: AppendLog, server: Server, message: Json, speed: float, tried: asyncio.Event
) -> None:
    """Try until it is taken or the plan is used up; `tried` is set after the first try, each is a line in `tries`."""
    plan = server.backoff_plan or BackoffPlan()
    try:
        for attempt in range(plan.max_retries + 1):
            if attempt:
                await asyncio.sleep(pause_before(plan, attempt) * speed)
            at, body = iso(now()), orjson.dumps(envelope(message))
            status = await _post(session, server, body)
            tried.set()
            await _note(tries, at, message, body, status)
            if 200 <= status < 300:
                return
            log.warning(
                "webhook_not_taken",
                provider_call_id=message["call"]["id"],
                type=message["type"],
                attempt=attempt + 1,
                status=status or "no answer",
            )
            if status in plan.excluded_status_codes:
                return
    finally:
        tried.set()


def pause_before(plan: BackoffPlan, retry: int) -> float:
    """Seconds before the given retry (1 is the first)."""
    return plan.base_delay_seconds * (2 ** (retry - 1) if plan.type == "exponential" else 1)


async def _note(tries: AppendLog, at: str, message: Json, body: bytes, status: int) -> None:
    line = {"at": at, "call": message["call"]["id"], "type": message["type"]}
    try:
        await tries.append(line | {"sha256": hashlib.sha256(body).hexdigest(), "status": status})
    except OSError as error:
        # The webhook goes on its way all the same.
        log.error("try_not_noted", provider_call_id=line["call"], exc_info=error)


async def _post(session: aiohttp.ClientSession, server: Server, body: bytes) -> int:
    """The answer's status; 0 when there was none."""
    # Without a credential Vapi sends its secret header all the same: present, and empty.
    headers = {name.lower(): value for name, value in server.headers.items()}
    headers = {"content-type": "application/json", "x-vapi-secret": ""} | headers
    try:
        async with session.post(
            server.url,
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=server.timeout_seconds),
            allow_redirects=False,
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0
