"""Starting while NATS is away."""

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest
import structlog

from boostedcalls.common.bus import Endpoint, NatsSettings, connect, serve, streams, wait_for_streams
from boostedcalls.common.bus.streams import PROVIDER_EVENTS
from boostedcalls.common.context import caller
from boostedcalls.common.errors import ServiceError, Unavailable
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.devkit import servers


async def test_a_process_told_to_stop_while_nats_is_away_stops_waiting_for_it():
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with AsyncExitStack() as stack:
        settings = NatsSettings(nats_url="nats://127.0.0.1:9", _env_file=None)
        connecting = asyncio.create_task(connect(stack, runtime, settings, "test"))
        await asyncio.sleep(0.5)
        runtime.stop()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(connecting, 8)


async def test_a_process_with_work_to_do_without_nats_gets_its_bus_and_the_connection_when_the_server_comes(tmp_path):
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with servers.nats_server(tmp_path / "nats") as server, AsyncExitStack() as stack:
        await server.stop()
        settings = NatsSettings(nats_url=server.url, _env_file=None)
        bus = await connect(stack, runtime, settings, "test", wait=False)
        with pytest.raises(ServiceError) as caught:
            await bus.request("bc.svc.test.away", b"x" * 5_000_000, caller())
        assert (caught.value.code, await bus.connected()) == ("unavailable", False)
        await server.start()
        async with asyncio.timeout(20):
            while not await bus.connected():  # noqa: ASYNC110 - a property is all there is to wait for
                await asyncio.sleep(0.05)
        await serve(stack, bus, "test", "1.0.0", [Endpoint("bc.svc.test.back", echo)])
        assert await bus.request("bc.svc.test.back", b"x" * 5_000_000, caller()) == b"x" * 5_000_000
        runtime.stop()
    assert not runtime.failed


async def test_a_process_told_to_stop_before_nats_ever_came_ends_in_order():
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with AsyncExitStack() as stack:
        settings = NatsSettings(nats_url="nats://127.0.0.1:9", _env_file=None)
        await connect(stack, runtime, settings, "test", wait=False)
        runtime.stop()
    assert not runtime.failed


async def echo(_, data):
    return data


async def test_process_that_starts_while_its_streams_do_not_answer_waits_and_then_says_so(
    new_bus, nats_server, monkeypatch
):
    monkeypatch.setattr(streams, "_PATIENCE", 1.0)
    bus = await new_bus()
    bus.jetstream._timeout = 0.3
    nats_server.child.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="JetStream does not answer"):
            await wait_for_streams(bus, PROVIDER_EVENTS)
    finally:
        nats_server.child.signal(signal.SIGCONT)
    await wait_for_streams(bus, PROVIDER_EVENTS)


@pytest.mark.parametrize("user", ["calls:wrong", "nobody:x"])
async def test_a_process_that_nats_does_not_let_in_says_so_at_once(nats_server, user):
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with AsyncExitStack() as stack:
        settings = NatsSettings(nats_url=f"nats://{user}@127.0.0.1:{nats_server.port}", _env_file=None)
        with pytest.raises(Unavailable, match="NATS refuses the user calls: look at NATS_URL and NATS_CALLS_PASSWORD"):
            await asyncio.wait_for(connect(stack, runtime, settings, "calls"), 5)


async def test_a_process_with_work_to_do_without_nats_goes_on_when_it_is_not_let_in_and_says_so(nats_server):
    runtime = Runtime(RuntimeSettings(_env_file=None))
    async with AsyncExitStack() as stack:
        settings = NatsSettings(nats_url=f"nats://gateway:wrong@127.0.0.1:{nats_server.port}", _env_file=None)
        with structlog.testing.capture_logs() as logs:
            bus = await connect(stack, runtime, settings, "gateway", wait=False)
        assert "nats_refuses" in {line["event"] for line in logs}
        assert not await bus.connected()
        runtime.stop()
    assert not runtime.failed
