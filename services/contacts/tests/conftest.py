"""The contacts service in this process, on real servers, and a bus to ask it by."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest_asyncio
from pydantic import BaseModel

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import DatabaseSettings
from boostedcalls.common.messages.base import Rpc
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.contacts.__main__ import ContactsSettings, start
from boostedcalls.devkit.pytest_plugin import Dsn


@asynccontextmanager
async def running(dsn: str, nats_url: str, region: str = "US") -> AsyncGenerator[Runtime]:
    """One replica."""
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(health_host="127.0.0.1", health_port=0, _env_file=None))
        await start(
            ContactsSettings(default_region=region, _env_file=None),
            DatabaseSettings(database_url=dsn, db_pool_size=5, _env_file=None),
            NatsSettings(nats_url=nats_url, _env_file=None),
            stack,
            runtime,
        )
        stack.callback(runtime.stop)
        yield runtime


@dataclass
class Replicas:
    """Two replicas of the service, and the ways to look at them from outside."""

    bus: Bus
    dsn: Dsn

    async def fetchval(self, sql: str, *args: Any) -> Any:
        connection = await asyncpg.connect(self.dsn.owner)
        try:
            return await connection.fetchval(sql, *args)
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def replicas(module_database, nats_server) -> AsyncGenerator[Replicas]:
    dsn = await module_database("contacts")
    async with running(dsn, nats_server.url), running(dsn, nats_server.url), AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(_env_file=None))
        bus = await connect(stack, runtime, NatsSettings(nats_url=nats_server.url, _env_file=None), "test")
        yield Replicas(bus, dsn)
        runtime.stop()


@dataclass
class User:
    """A new user, who owns nothing yet."""

    id: UUID
    bus: Bus

    async def ask[Req: BaseModel, Res: BaseModel](self, rpc: Rpc[Req, Res], **request: Any) -> Res:
        """Ask as the gateway does: the request validated, only its set members sent."""
        data = rpc.request.model_validate(request).model_dump_json(exclude_unset=True, by_alias=True).encode()
        return rpc.response.model_validate_json(await self.bus.request(rpc.subject, data, caller(self.id)))

    async def send(self, rpc: Rpc[Any, Any], data: bytes) -> bytes:
        return await self.bus.request(rpc.subject, data, caller(self.id))


NewUser = Callable[[], User]


@pytest_asyncio.fixture(loop_scope="session")
async def new_user(replicas) -> NewUser:
    return lambda: User(new_id(), replicas.bus)


@pytest_asyncio.fixture(loop_scope="session")
async def user(new_user: NewUser) -> User:
    return new_user()


Events = Callable[[UUID], Awaitable[list[tuple[str, dict[str, str], bytes]]]]


@pytest_asyncio.fixture(loop_scope="session")
async def events_of(replicas) -> Events:
    """All events of a user's contacts, oldest first, once the outbox is empty."""

    async def read(user_id: UUID) -> list[tuple[str, dict[str, str], bytes]]:
        while await replicas.fetchval("SELECT count(*) FROM contacts.outbox WHERE subject LIKE $1", f"%.{user_id}.%"):
            pass
        subscription = await replicas.bus.jetstream.subscribe(
            f"bc.evt.contact.*.{user_id}.*", stream="CALL_EVENTS", ordered_consumer=True
        )
        try:
            info = await subscription.consumer_info()
            messages = [
                await subscription.next_msg(timeout=5) for _ in range(info.num_pending + info.delivered.consumer_seq)
            ]
        finally:
            await subscription.unsubscribe()
        return [(message.subject, dict(message.headers or {}), message.data) for message in messages]

    return read
