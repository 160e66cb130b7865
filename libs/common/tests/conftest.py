"""A bus on a real server."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest_asyncio

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.runtime import Runtime, RuntimeSettings

NewBus = Callable[[], Awaitable[Bus]]


@pytest_asyncio.fixture(loop_scope="session")
async def new_bus(nats_server) -> AsyncGenerator[NewBus]:
    """`await new_bus()`: a connection of a process of its own; closed after the test."""
    async with AsyncExitStack() as stack:

        async def make() -> Bus:
            runtime = Runtime(RuntimeSettings(_env_file=None))
            bus = await connect(stack, runtime, NatsSettings(nats_url=nats_server.url, _env_file=None), "test")
            stack.callback(runtime.stop)
            return bus

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def bus(new_bus: NewBus) -> Bus:
    return await new_bus()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what happens elsewhere; pytest's own limit ends a wait in vain."""
    while not holds():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.05)
