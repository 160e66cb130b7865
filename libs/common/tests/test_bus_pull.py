"""Pulling from a durable consumer on a real server."""

import asyncio

import pytest
import pytest_asyncio
from nats.errors import Error as NatsError

from boostedcalls.common.bus import ensure_streams
from boostedcalls.common.bus.pull import Puller
from boostedcalls.common.bus.streams import PROVIDER_EVENTS, Consumer, ensure_consumer
from boostedcalls.common.context import new_id


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty_stream(bus):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)


@pytest_asyncio.fixture(loop_scope="session")
async def consumer(bus):
    made = Consumer(PROVIDER_EVENTS, f"t{new_id()}", 8)
    await ensure_consumer(bus, made)
    return made


@pytest_asyncio.fixture(loop_scope="session")
async def puller(bus, consumer):
    opened = Puller(bus, consumer)
    await opened.open()
    yield opened
    await opened.close()


async def store(bus, number: int) -> None:
    for _ in range(number):
        await bus.publish(
            "bc.evt.provider.hang.x", b"", stream=PROVIDER_EVENTS, message_id=str(new_id()), headers={}, timeout=5
        )


def places(messages) -> list[int]:
    return [message.metadata.sequence.consumer for message in messages]


async def test_what_there_is_comes_at_once_and_no_more_than_asked_for(bus, puller):
    await store(bus, 5)
    assert places(await puller.fetch(3, 60)) == [1, 2, 3]
    assert places(await puller.fetch(3, 60)) == [4, 5]


async def test_idle_stream_gives_nothing_once_the_time_is_over(puller):
    assert await puller.fetch(3, 0.2) == []
    assert await puller.fetch(3, 0.2) == []


async def test_first_message_of_an_idle_stream_comes_when_it_is_stored(bus, puller):
    waiting = asyncio.create_task(puller.fetch(3, 60))
    await asyncio.sleep(0.3)
    await store(bus, 2)
    found = places(await waiting)
    assert found[0] == 1
    if len(found) == 1:
        found += places(await puller.fetch(3, 60))
    assert found == [1, 2]


async def test_nothing_is_asked_for_ahead(bus, consumer, puller):
    await store(bus, 5)
    await puller.fetch(2, 60)
    info = await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
    assert (info.num_ack_pending, info.num_pending) == (2, 3)


async def test_consumer_that_is_gone_is_an_error(bus, consumer, puller):
    await bus.jetstream.delete_consumer(consumer.stream, consumer.durable)
    with pytest.raises(NatsError):
        await puller.fetch(3, 5)


async def test_consumer_that_goes_while_it_is_waited_for_is_an_error(bus, consumer, puller):
    waiting = asyncio.create_task(puller.fetch(3, 60))
    await asyncio.sleep(0.3)
    await bus.jetstream.delete_consumer(consumer.stream, consumer.durable)
    with pytest.raises(NatsError):
        await waiting


async def test_pulling_goes_on_after_nats_was_killed(bus, puller, nats_server):
    await store(bus, 1)
    assert len(await puller.fetch(3, 60)) == 1
    waiting = asyncio.create_task(puller.fetch(3, 1))
    await asyncio.sleep(0.2)
    await nats_server.kill()
    await nats_server.start()
    assert await waiting == []
    while not bus.client.is_connected:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await store(bus, 2)
    found = []
    while len(found) < 2:
        found += await puller.fetch(3, 1)
    assert len(found) == 2
