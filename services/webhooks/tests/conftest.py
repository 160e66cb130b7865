"""The webhooks service in this process, on a real NATS, and a bus to ask it by."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest_asyncio

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.context import Caller, caller
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS, Webhook, pack, unpack_answers
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.webhooks.__main__ import start


@dataclass
class Webhooks:
    """Two replicas of the service, seen from the gateway, and the streams behind them."""

    bus: Bus

    async def send(self, body: Any, who: Caller | None = None) -> bytes:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.bus.request(INGEST_WEBHOOK, raw, who or caller())

    async def send_many(self, webhooks: list[Webhook]) -> list[bytes | ServiceError]:
        return unpack_answers(await self.bus.request(INGEST_WEBHOOKS, pack(webhooks), caller()))

    async def count(self, stream: str) -> int:
        return (await self.bus.jetstream.stream_info(stream)).state.messages

    async def last(self, stream: str, subject: str) -> Any:
        return await self.bus.jetstream.get_last_msg(stream, subject)

    async def event(self, subject: str) -> ProviderEvent:
        """The last provider event on a subject."""
        return ProviderEvent.model_validate_json((await self.last("PROVIDER_EVENTS", subject)).data)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def webhooks(nats_server) -> AsyncGenerator[Webhooks]:
    nats = NatsSettings(nats_url=nats_server.url, _env_file=None)
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(health_host="127.0.0.1", health_port=0, _env_file=None))
        await start(nats, stack, runtime)
        await start(nats, stack, runtime)
        yield Webhooks(await connect(stack, runtime, nats, "test"))
        runtime.stop()
