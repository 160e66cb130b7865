"""Whether the books balance after a load: part `scaling`. Everything is looked at from outside, in the database and the
streams.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any

import asyncpg
import nats  # noqa: TID251 - it looks at the streams from outside
import orjson
from nats.js.api import AckPolicy, ConsumerConfig  # noqa: TID251
from nats.js.errors import ServiceUnavailableError  # noqa: TID251

from bench.data import live_provider_id
from boostedcalls.devkit.stack import Stack

STREAM, CONSUMER = "PROVIDER_EVENTS", "calls"
PATIENCE = 30.0
_ROLLUPS = """
    WITH totals AS (SELECT user_id, status, calls, spent FROM calls.totals WHERE calls <> 0 OR spent <> 0),
         counted AS (SELECT user_id, status, count(*), coalesce(sum(cost), 0) FROM calls.calls GROUP BY 1, 2),
         daily AS (SELECT user_id, day, completed FROM calls.daily WHERE completed <> 0),
         days AS (SELECT user_id, (created_at AT TIME ZONE 'UTC')::date, count(*) FROM calls.calls
                  WHERE status = 'completed' GROUP BY 1, 2)
    SELECT (SELECT count(*) FROM (TABLE totals EXCEPT TABLE counted)) + (SELECT count(*) FROM (TABLE counted EXCEPT
            TABLE totals)) + (SELECT count(*) FROM (TABLE daily EXCEPT TABLE days)) + (SELECT count(*) FROM (TABLE days
            EXCEPT TABLE daily))
"""
_TIMELINE = """
    SELECT coalesce(sum(lines), 0)::bigint AS lines, count(*) FILTER (WHERE lines > 1) AS twice FROM (
        SELECT count(*) AS lines FROM calls.timeline t JOIN calls.calls c ON c.id = t.call_id
        WHERE c.provider_call_id BETWEEN $1 AND $2 AND t.source = 'webhook' GROUP BY t.call_id, t.type, t.status)
"""
_VERSIONS = "SELECT id, version FROM calls.calls WHERE provider_call_id BETWEEN $1 AND $2 AND version > 1"


async def check(stack: Stack, first: int, sent: int) -> list[str]:
    """What is wrong after `sent` different webhooks were answered, all about live calls from number `first` on.

    Each must stand in its call's timeline once, each version of a call must have been told of once, rollups must equal
    a recount, nothing may be a dead letter, and the audit must account for every event.
    """
    found: list[str] = []
    bounds = live_provider_id(first), live_provider_id(10**11)
    client = await nats.connect(stack.nats_url.split(","))
    database = await asyncpg.connect(stack.database_url)
    try:
        jetstream = client.jetstream()
        if not await _settled(jetstream, database):
            found.append(f"after {PATIENCE:.0f} s something is still to be done")
        lines = await database.fetchrow(_TIMELINE, *bounds)
        if lines is None or (lines["lines"], lines["twice"]) != (sent, 0):
            found.append(f"timeline: {lines}, answered: {sent}")
        if differing := await database.fetchval(_ROLLUPS):
            found.append(f"{differing} rollups differ from a recount")
        wanted = {
            (str(row["id"]), version): 1
            for row in await database.fetch(_VERSIONS, *bounds)
            for version in range(2, row["version"] + 1)
        }
        told = await _told(jetstream)
        if told != wanted:
            lost, twice = len(wanted.keys() - told.keys()), sum(count > 1 for count in told.values())
            found.append(f"call events: {lost} lost, {twice} told twice")
        if letters := (await jetstream.stream_info("DLQ")).state.messages:
            found.append(f"{letters} dead letters")
    finally:
        await database.close()
        await client.close()
    code, words = await stack.command("calls", "audit")
    return found + ([f"audit: {words}"] if code else [])


async def _settled(jetstream: Any, database: asyncpg.Connection[Any]) -> bool:
    """Wait until the consumer and the outbox have nothing left: what was delivered to a process that died comes again
    only after the consumer's time."""
    until = monotonic() + PATIENCE
    while monotonic() < until:
        info = await jetstream.consumer_info(STREAM, CONSUMER)
        if not (
            info.num_pending or info.num_ack_pending or await database.fetchval("SELECT count(*) FROM calls.outbox")
        ):
            return True
        await asyncio.sleep(0.2)
    return False


async def _told(jetstream: Any) -> Counter[tuple[str, int]]:
    """How often each version of each call stands in CALL_EVENTS."""
    left = (await jetstream.stream_info("CALL_EVENTS")).state.messages
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30)
    events = await jetstream.pull_subscribe("bc.evt.call.>", stream="CALL_EVENTS", config=config)
    told: Counter[tuple[str, int]] = Counter()
    async with asyncio.timeout(PATIENCE):
        while left > 0:
            try:
                messages = await events.fetch(min(left, 500), timeout=5)
            except ServiceUnavailableError:
                # The node that we ask has not heard yet of a consumer that another one made.
                await asyncio.sleep(0.1)
                continue
            told.update((event["call_id"], event["version"]) for event in (orjson.loads(one.data) for one in messages))
            left -= len(messages)
    return told
