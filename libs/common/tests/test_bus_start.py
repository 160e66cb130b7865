"""Starting while NATS is away."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from boostedcalls.common.bus import NatsSettings, connect
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.runtime import Runtime, RuntimeSettings


async def test_a_process_told_to_stop_while_nats_is_away_stops_waiting_for_it():
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with AsyncExitStack() as stack:
        settings = NatsSettings(nats_url="nats://127.0.0.1:9", _env_file=None)
        connecting = asyncio.create_task(connect(stack, runtime, settings, "test"))
        await asyncio.sleep(0.5)
        runtime.stop()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(connecting, 8)
