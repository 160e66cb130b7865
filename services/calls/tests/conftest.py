"""The calls service's parts on a real database and a real NATS, without a provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from nats.js.errors import NotFoundError

from boostedcalls.calls import consumer, store
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.handlers import Service
from boostedcalls.calls.settings import CallsSettings, ProviderSettings
from boostedcalls.calls.signing import metadata
from boostedcalls.calls.state import timeline_entry
from boostedcalls.calls.vapi import open_vapi
from boostedcalls.common import subjects
from boostedcalls.common.bus import NatsSettings, connect, consume, ensure_streams, event_message
from boostedcalls.common.bus.streams import (
    CALL_EVENTS,
    CALLS_PROVIDER,
    DLQ,
    JOBS,
    PROVIDER_EVENTS,
    ensure_consumer,
)
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import DatabaseSettings, Pool, open_pool, reachable, transaction
from boostedcalls.common.events import PROVIDER_MESSAGE, ProviderEvent
from boostedcalls.common.outbox import Relay
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.devkit.pytest_plugin import Dsn

from .asker import MakeAsker, askers
from .commands import Commands
from .provider import Provider, provider_server

SECRET = "a-signing-secret-of-32-bytes-or-more"
NO_TRACE = caller().traceparent
CLOSED_PORT = "http://127.0.0.1:9"


class World:
    """A calls service without its process: what a test does to it and sees of it."""

    def __init__(self, service: Service, runtime: Runtime, admin: Pool, dsn: Dsn) -> None:
        self.service = service
        self.deps = service.deps
        self.bus = service.bus
        self.runtime = runtime
        self.dsn = dsn
        self.admin = admin
        """The owner's, who sees all rows."""

    async def insert(self, user_id: UUID, **columns: Any) -> store.Row:
        """A new call of the user, not yet dispatched."""
        now = datetime.now(UTC)
        row = {
            "id": new_id(),
            "user_id": user_id,
            "created_at": now,
            "updated_at": now,
            "contact_id": new_id(),
            "contact_name": "Ada",
            "contact_phone": "+12025550100",
            "assistant_id": "assistant",
            "phone_number_id": "number",
            **columns,
        }
        created = timeline_entry(row["id"], "created", "user", row["created_at"], "pending", None)
        async with transaction(self.admin) as connection:
            return await store.insert(connection, row, created, caller().traceparent)

    async def row(self, call_id: UUID) -> store.Row:
        return dict(await self.admin.fetchrow("SELECT * FROM calls.calls WHERE id = $1", call_id) or {})

    def metadata(self, row: store.Row) -> dict[str, str]:
        return metadata(self.deps.secret, row["id"], row["user_id"])

    async def report(self, kind: str, provider_call_id: str, message: dict[str, Any]) -> None:
        """Publish a provider event as the webhooks service would; each is a message of its own."""
        event = ProviderEvent(
            source="sync" if kind == "call-snapshot" else "webhook",
            kind=kind,
            provider_call_id=provider_call_id,
            received_at=datetime.now(UTC),
            message=message,
        )
        await self.bus.send(
            PROVIDER_MESSAGE.stream,
            event_message(
                PROVIDER_MESSAGE,
                subjects.provider_event(kind, provider_call_id),
                event.model_dump_json().encode(),
                event_id=str(new_id()),
                source="/t",
                at=event.received_at,
                traceparent=NO_TRACE,
            ),
        )

    def consume(self, times: int = 1) -> list[asyncio.Task[Any]]:
        """Run that many consumers, as so many replicas would."""

        async def ready() -> bool:
            return await reachable(self.deps.pool)

        return [
            self.runtime.spawn(
                consume(self.bus, CALLS_PROVIDER, lambda batch: consumer.apply_batch(self.deps, batch), ready), f"c{n}"
            )
            for n in range(times)
        ]

    async def quiet(self) -> None:
        """Wait until every provider event is settled."""
        # Not by num_pending: the consumer hears of a stored message a moment after its publisher does.
        last = (await self.bus.jetstream.stream_info(PROVIDER_EVENTS)).state.last_seq
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(NotFoundError):
                    info = await self.bus.jetstream.consumer_info(PROVIDER_EVENTS, CALLS_PROVIDER.durable)
                    if info.ack_floor and info.ack_floor.stream_seq >= last:
                        return
                await asyncio.sleep(0.05)

    async def recount(self, user_id: UUID) -> tuple[dict[str, tuple[int, Any]], dict[Any, int]]:
        """The rollups as a recount of the calls would have them."""
        totals = await self.admin.fetch(
            "SELECT status, count(*), coalesce(sum(cost), 0) AS spent FROM calls.calls WHERE user_id = $1"
            " GROUP BY status",
            user_id,
        )
        daily = await self.admin.fetch(
            "SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) FROM calls.calls"
            " WHERE user_id = $1 AND status = 'completed' GROUP BY day",
            user_id,
        )
        return {r["status"]: (r["count"], r["spent"]) for r in totals}, {r["day"]: r["count"] for r in daily}

    async def rollups(self, user_id: UUID) -> tuple[dict[str, tuple[int, Any]], dict[Any, int]]:
        totals = await self.admin.fetch(
            "SELECT status, calls, spent FROM calls.totals WHERE user_id = $1 AND (calls, spent) <> (0, 0)", user_id
        )
        daily = await self.admin.fetch(
            "SELECT day, completed FROM calls.daily WHERE user_id = $1 AND completed <> 0", user_id
        )
        return {r["status"]: (r["calls"], r["spent"]) for r in totals}, {r["day"]: r["completed"] for r in daily}

    async def stream(self, name: str) -> list[dict[str, Any]]:
        """What a stream holds: [{subject, headers, data}], oldest first."""
        info = await self.bus.jetstream.stream_info(name)
        found: list[dict[str, Any]] = []
        if not info.state.messages:
            return found
        for sequence in range(info.state.first_seq, info.state.last_seq + 1):
            message = await self.bus.jetstream.get_msg(name, sequence)
            try:
                data = orjson.loads(message.data or b"null")
            except orjson.JSONDecodeError:
                data = message.data
            found.append({"subject": message.subject, "headers": message.headers or {}, "data": data})
        return found


Make = Callable[..., Awaitable[World]]


@pytest_asyncio.fixture
async def make_world(database: Any, nats_server: Any) -> AsyncGenerator[Make]:
    """`world = await make_world(max_active_calls_per_user=3, vapi_base_url=...)`; all of a test share one database."""
    async with AsyncExitStack() as stack:
        dsn = await database("calls")

        async def make(**changes: Any) -> World:
            runtime = Runtime(RuntimeSettings())
            names = ProviderSettings.model_fields
            provider = {"vapi_api_key": "key", "vapi_base_url": CLOSED_PORT, "call_signing_secret": SECRET}
            provider |= {name: value for name, value in changes.items() if name in names}
            rest = {name: value for name, value in changes.items() if name not in names}
            pool = await open_pool(stack, DatabaseSettings(database_url=dsn), "test")
            admin = await open_pool(stack, DatabaseSettings(database_url=dsn.owner), "admin")
            bus = await connect(stack, runtime, NatsSettings(nats_url=nats_server.url), "test")
            await ensure_streams(bus, PROVIDER_EVENTS, CALL_EVENTS, JOBS, DLQ)
            await ensure_consumer(bus, CALLS_PROVIDER)
            settings = ProviderSettings(**provider)
            vapi = await open_vapi(stack, settings)
            world = World(
                Service(Deps(pool, vapi, Relay(bus, pool, "calls"), CallsSettings(**rest), settings), bus),
                runtime,
                admin,
                dsn,
            )

            async def end() -> None:
                runtime.stop()
                await runtime.cancel(*runtime.tasks)

            stack.push_async_callback(end)
            return world

        yield make


@pytest_asyncio.fixture
async def world(make_world: Make) -> World:
    return await make_world()


@pytest.fixture
def commands(world: World, nats_server: Any, tmp_path: Path) -> Commands:
    return Commands(world, nats_server, tmp_path)


@pytest.fixture
def user_id() -> UUID:
    return new_id()


@pytest_asyncio.fixture
async def provider() -> AsyncGenerator[Provider]:
    async with provider_server() as running:
        yield running


@pytest_asyncio.fixture
async def make_asker(make_world: Make, provider: Provider) -> AsyncGenerator[MakeAsker]:
    """`asker = await make_asker(max_active_calls_per_user=1)`: two replicas, a contacts service, a provider."""
    async with askers(make_world, provider) as make:
        yield make
