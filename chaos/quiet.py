"""When a system has come to rest: nothing waits in any place in which a call, a webhook or an event can wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import asyncpg
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from chaos.evidence import SCHEMAS, provider_calls, spools
from chaos.history import lines_of

_LOOKS = 3
_BETWEEN = 0.5
_UNSETTLED = "SELECT count(*) FROM calls.calls WHERE due_at IS NOT NULL OR NOT status = ANY($1::text[])"
_TERMINAL = ["completed", "failed", "cancelled", "no-answer", "busy", "voicemail"]


async def until_quiet(home: Path, database_url: str, nats_url: str, patience: float) -> list[str]:
    """Wait until nothing waits any more, seen three times in a row; what still waits after `patience` seconds."""
    started, quiet = monotonic(), 0
    waiting = ["nothing was seen yet"]
    while quiet < _LOOKS and monotonic() - started < patience:
        if quiet or waiting:
            await asyncio.sleep(_BETWEEN)
        try:
            async with asyncio.timeout(20):
                waiting = await what_waits(home, database_url, nats_url)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, NatsError) as error:
            waiting = [f"cannot look: {type(error).__name__} {error}"]
        quiet = 0 if waiting else quiet + 1
    return waiting


async def what_waits(home: Path, database_url: str, nats_url: str) -> list[str]:
    waiting: dict[str, int] = {"segments in a spool": len(spools(home))}
    database = await asyncpg.connect(database_url)
    try:
        waiting["calls that are not settled"] = await database.fetchval(_UNSETTLED, _TERMINAL)
        for schema in SCHEMAS:
            waiting[f"events in the outbox of {schema}"] = await database.fetchval(
                f"SELECT count(*) FROM {schema}.outbox"  # noqa: S608 - our own names
            )
    finally:
        await database.close()
    async with _client(nats_url) as client:
        consumer = await client.jetstream().consumer_info("PROVIDER_EVENTS", "calls")
        waiting["provider events that are not settled"] = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
    if not any(waiting.values()):
        # The longest look, so it comes last: calls that go on at the provider, of which we may not even know.
        calls = provider_calls(lines_of(home / "simulator" / "calls.jsonl"))
        waiting["calls that are not over at the provider"] = sum(not states[-1].analysed for states in calls.values())
    return [f"{count} {what}" for what, count in waiting.items() if count]


@asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Client]:
    async def ignore(_: Exception) -> None:
        """What goes wrong is raised besides."""

    client = await nats.connect(url.split(","), connect_timeout=3, max_reconnect_attempts=3, error_cb=ignore)
    try:
        yield client
    finally:
        await client.close()
