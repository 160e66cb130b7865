"""What happens when the NATS server goes away and comes back. Its own module: it has the server to itself."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from boostedcalls.common.bus import Endpoint, consume, ensure_streams, serve
from boostedcalls.common.bus.streams import CALL_EVENTS, PROVIDER_EVENTS, Consumer
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.errors import ServiceError, Unavailable


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


async def test_stream_that_is_missing_is_unavailable(bus):
    await ensure_streams(bus, CALL_EVENTS)
    await bus.jetstream.delete_stream(CALL_EVENTS)
    with pytest.raises(Unavailable):
        await bus.publish("bc.evt.call.x.y.z", b"", stream=CALL_EVENTS, message_id="1", headers={}, timeout=0.2)
    await ensure_streams(bus, CALL_EVENTS)
