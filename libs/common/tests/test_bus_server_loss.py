"""What happens when the NATS server goes away and comes back. Its own module: it has the server to itself."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from boostedcalls.common.bus import Endpoint, NatsSettings, connect, consume, ensure_streams, serve
from boostedcalls.common.bus.streams import CALL_EVENTS, PROVIDER_EVENTS, Consumer
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.errors import ServiceError, Unavailable
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.devkit import servers
from boostedcalls.devkit.procs import frozen

from .conftest import until


async def publish(bus, data: bytes, timeout: float = 10.0) -> int:
    return await bus.publish(
        "bc.evt.provider.hang.x", data, stream=PROVIDER_EVENTS, message_id=str(new_id()), headers={}, timeout=timeout
    )


async def always() -> bool:
    return True


@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_consumer_goes_on_after_the_server_was_away(bus, nats_server, end):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(deliveries):
        for delivery in deliveries:
            seen.put_nowait(delivery.data)

    task = asyncio.create_task(consume(bus, Consumer(PROVIDER_EVENTS, f"lost-{end}", batch=8), handler, always))
    await publish(bus, b"before")
    assert await seen.get() == b"before"
    if end == "restart":
        await nats_server.restart()
    else:
        await nats_server.kill()
        await nats_server.start()
    await publish(bus, b"after")
    while await seen.get() != b"after":
        pass
    assert not task.done()
    await bus.runtime.cancel(task)


async def test_consumer_goes_on_after_its_consumer_was_deleted(bus, nats_server):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(deliveries):
        for delivery in deliveries:
            seen.put_nowait(delivery.data)

    task = asyncio.create_task(consume(bus, Consumer(PROVIDER_EVENTS, "deleted", batch=8), handler, always))
    await publish(bus, b"before")
    assert await seen.get() == b"before"
    await bus.jetstream.delete_consumer(PROVIDER_EVENTS, "deleted")
    await publish(bus, b"after")
    while await seen.get() != b"after":
        pass
    await bus.runtime.cancel(task)


async def test_requests_and_publishing_say_unavailable_while_the_server_is_away_and_work_again_after(
    bus, new_bus, nats_server
):
    async def handle(who, data):
        return data

    await ensure_streams(bus, PROVIDER_EVENTS)
    async with AsyncExitStack() as stack:
        await serve(stack, await new_bus(), "test", "1.0.0", [Endpoint("bc.svc.test.away", handle)])
        assert await bus.request("bc.svc.test.away", b"1", caller()) == b"1"
        await nats_server.stop()
        with pytest.raises(ServiceError) as caught:
            await bus.request("bc.svc.test.away", b"2", caller())
        assert caught.value.code in {"unavailable", "timeout"}
        with pytest.raises(Unavailable):
            await publish(bus, b"", timeout=0.2)
        assert not await bus.connected()
        await nats_server.start()
        while True:
            try:
                assert await bus.request("bc.svc.test.away", b"3", caller()) == b"3"
                break
            except ServiceError:
                await asyncio.sleep(0.05)
        assert await publish(bus, b"") > 0
        assert await bus.connected()


async def test_publish_waits_for_a_server_that_comes_back_in_time(bus, nats_server):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await nats_server.stop()
    publishing = asyncio.create_task(publish(bus, b"", timeout=20))
    await nats_server.start()
    assert await publishing > 0


async def test_stream_that_was_deleted_is_made_anew_by_who_publishes_to_it(bus):
    await ensure_streams(bus, CALL_EVENTS)
    await bus.jetstream.delete_stream(CALL_EVENTS)
    told = await bus.publish("bc.evt.call.x.y.z", b"", stream=CALL_EVENTS, message_id="1", headers={}, timeout=10)
    assert told == (await bus.jetstream.stream_info(CALL_EVENTS)).state.last_seq


@pytest.mark.parametrize("what", ["stream", "stream, and made by hand"])
async def test_consumer_goes_on_after_its_stream_was_deleted(bus, what):
    await ensure_streams(bus, PROVIDER_EVENTS)
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(deliveries):
        for delivery in deliveries:
            seen.put_nowait(delivery.data)

    task = asyncio.create_task(consume(bus, Consumer(PROVIDER_EVENTS, "gone", batch=8), handler, always))
    await publish(bus, b"before")
    while await seen.get() != b"before":
        pass
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.delete_stream(PROVIDER_EVENTS)
    if what != "stream":
        await bus.jetstream.add_stream(config)
    await publish(bus, b"after")
    while await seen.get() != b"after":
        pass
    assert not task.done()
    await bus.runtime.cancel(task)


async def test_what_waited_for_a_frozen_server_goes_on_when_it_does(bus, new_bus, nats_server):
    """Not long enough to be taken for dead: nothing reconnects, and what was sent meanwhile is answered late."""

    async def handle(who, data):
        return data

    await ensure_streams(bus, PROVIDER_EVENTS)
    async with AsyncExitStack() as stack:
        await serve(stack, await new_bus(), "test", "1.0.0", [Endpoint("bc.svc.test.frozen", handle)])
        with frozen(nats_server.child.pid):
            with pytest.raises(ServiceError) as caught:
                await bus.request("bc.svc.test.frozen", b"1", caller(), timeout=0.3)
            assert caught.value.code == "timeout"
            with pytest.raises(Unavailable):
                await publish(bus, b"", timeout=0.3)
            assert not await bus.connected()
        assert await bus.connected()
        assert await bus.request("bc.svc.test.frozen", b"2", caller()) == b"2"
        assert await publish(bus, b"") > 0


# nats-py leaves a writer behind for each connection that came to nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_server_frozen_for_so_long_that_clients_leave_it_is_found_again(bus, new_bus, nats_server):
    """Twenty seconds: two pings unanswered, and new connections that come to nothing."""

    async def handle(who, data):
        return data

    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(deliveries):
        for delivery in deliveries:
            seen.put_nowait(delivery.data)

    await ensure_streams(bus, PROVIDER_EVENTS)
    other = await new_bus()
    task = asyncio.create_task(consume(other, Consumer(PROVIDER_EVENTS, "frozen", batch=8), handler, always))
    async with AsyncExitStack() as stack:
        await serve(stack, other, "test", "1.0.0", [Endpoint("bc.svc.test.left", handle)])
        await publish(bus, b"before")
        while await seen.get() != b"before":
            pass
        with frozen(nats_server.child.pid):
            await until(lambda: not other.client.is_connected and not bus.client.is_connected)
            await asyncio.sleep(3)
        await until(lambda: bus.client.is_connected and other.client.is_connected)
        assert await bus.request("bc.svc.test.left", b"2", caller()) == b"2"
        await publish(bus, b"after")
        while await seen.get() != b"after":
            pass
    await bus.runtime.cancel(task)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_frozen_server_is_left_for_another_one_although_it_never_took_what_was_sent_last(tmp_path):
    async with (
        servers.nats_server(tmp_path / "1") as one,
        servers.nats_server(tmp_path / "2") as two,
        AsyncExitStack() as stack,
    ):
        runtime = Runtime(RuntimeSettings(_env_file=None))
        stack.callback(runtime.stop)
        bus = await connect(stack, runtime, NatsSettings(nats_url=f"{one.url},{two.url}", _env_file=None), "test")
        first, second = (one, two) if bus.client.connected_url.port == one.port else (two, one)
        with frozen(first.child.pid):
            big = b"x" * (bus.client.max_payload - 100_000)
            asked = [asyncio.create_task(bus.request("x", big, caller(), timeout=0.5)) for _ in range(4)]
            await asyncio.wait(asked)
            assert {task.exception().code for task in asked} <= {"timeout", "unavailable"}
            await until(lambda: bus.client.connected_url and bus.client.connected_url.port == second.port)
            assert await bus.connected()
