"""How fast a backlog of provider events is worked off once the calls service is back: part `backlog`. Ours only."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from hashlib import sha256
from time import time

import nats  # noqa: TID251 - it stands in for the webhooks service

from bench import usage
from bench.applied import all_applied, database, live, prepared
from bench.bodies import BLOCK, EVENTS, order, templates
from bench.contender import Contender
from bench.data import live_provider_id
from bench.setup import BASE, Figures, Setup
from boostedcalls.common import subjects
from boostedcalls.common.bus.outgoing import event_message, once
from boostedcalls.common.context import caller
from boostedcalls.common.events import PROVIDER_MESSAGE
from boostedcalls.common.messages.base import rfc3339

_AT_ONCE = 512
_KINDS = ("status-update", "status-update", "status-update", "end-of-call-report")
_PREFIX = len(b'{"message":')


async def publish(url: str, first: int, count: int) -> float:
    """Put provider events into the stream as the webhooks service does; seconds it took."""
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=_AT_ONCE)
    now = datetime.now(UTC)
    trace = caller(traceparent=None).traceparent
    began = time()
    try:
        acks: list[asyncio.Future[object]] = []
        for place in range(count):
            webhook = order(first * EVENTS + place)
            body, kind = templates().body(webhook), _KINDS[webhook % EVENTS]
            provider_call_id = live_provider_id(webhook // EVENTS)
            data = (
                f'{{"source":"webhook","kind":"{kind}","provider_call_id":"{provider_call_id}",'
                f'"received_at":"{rfc3339(now)}","message":'
            ).encode() + body[_PREFIX:]
            digest = sha256(body).hexdigest()
            message = event_message(
                PROVIDER_MESSAGE,
                subjects.provider_event(kind, provider_call_id),
                data,
                event_id=digest,
                source="/webhooks",
                at=now,
                traceparent=trace,
            )
            headers = once(PROVIDER_MESSAGE.stream, digest, message.headers)
            acks.append(await jetstream.publish_async(message.subject, data, wait_stall=30, headers=headers))
            if len(acks) == _AT_ONCE:
                await asyncio.gather(*acks)
                acks.clear()
        await asyncio.gather(*acks)
    finally:
        await client.close()
    return time() - began


async def _first_applied(contender: Contender, first: int) -> float:
    """When the first block shows a change: before that the service only started."""
    bounds = live_provider_id(first), live_provider_id(first + BLOCK - 1)
    changed = f"SELECT EXISTS (SELECT 1 FROM {live(contender)} WHERE status <> 'pending')"  # noqa: S608
    async with database(contender) as connection:
        while not await connection.fetchval(changed, *bounds):  # noqa: ASYNC110 - the database says it
            await asyncio.sleep(0.01)
    return time()


async def drain(contender: Contender, count: int) -> Figures:
    """Stop the calls service, make the backlog, start it again, and wait until all is applied."""
    stack = contender.stack
    assert stack is not None  # noqa: S101 - ours
    first = await prepared(contender, count // EVENTS + 1)
    await stack.stop("calls")
    seconds = await publish(stack.nats_url, first, count)
    began = time()
    looking = asyncio.create_task(_first_applied(contender, first))
    await stack.start("calls")
    async with usage.measured(contender.processes) as used:
        last, missing = await all_applied(contender, first, count)
    earliest = await asyncio.wait_for(looking, 5)
    return {
        "events": count,
        "per_s": round(count / (last - earliest), 1),
        "seconds": round(last - earliest, 2),
        "started_after_s": round(earliest - began, 2),
        "published_per_s": round(count / seconds, 1),
        "missing": missing,
        "cpu_us": used.cpu_micros(count),
        "peak_mb": used.peak_mb,
    }


async def part(setup: Setup) -> Figures:
    """{"default": [run, ...]}: the way NATS syncs does not touch reading."""
    count = 20_000 if setup.quick else 200_000
    runs: list[Figures] = []
    if setup.chosen(["ours"]):
        async with setup.start("ours", "backlog", BASE) as contender:
            for _ in range(setup.rounds):
                runs.append(await drain(contender, count))
                setup.say(f"backlog: {count} events at {runs[-1]['per_s']}/s {runs[-1]['missing'] or ''}")
        setup.drop("ours", "backlog", BASE)
    return {"default": runs}
