"""Reading what a stream holds, on a real server."""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest
import pytest_asyncio

from boostedcalls.common.bus import ensure_streams
from boostedcalls.common.bus.read import Stored, following, get, newest, progress, read
from boostedcalls.common.bus.streams import PROVIDER_EVENTS, Consumer, ensure_consumer
from boostedcalls.common.context import new_id
from boostedcalls.common.errors import Unavailable

CONSUMER = Consumer(PROVIDER_EVENTS, "reader", 8)


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty_stream(bus):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)


async def publish(bus, data: bytes = b"", call: str = "x") -> int:
    return await bus.publish(
        f"bc.evt.provider.hang.{call}",
        data,
        stream=PROVIDER_EVENTS,
        message_id=str(new_id()),
        headers={"Bc-Mark": call},
        timeout=5,
    )


async def everything(bus, **options) -> list[Stored]:
    return [message async for message in read(bus, PROVIDER_EVENTS, **options)]


async def test_messages_are_read_in_order_across_the_gaps_of_deleted_ones(bus):
    sequences = [await publish(bus, b"%d" % number) for number in range(50)]
    for sequence in sequences[10:40:2]:
        await bus.jetstream.delete_msg(PROVIDER_EVENTS, sequence)
    left = sequences[:10] + sequences[11:40:2] + sequences[40:]
    found = await everything(bus)
    assert [message.sequence for message in found] == left
    assert [message.data for message in found] == [b"%d" % (sequence - sequences[0]) for sequence in left]
    assert {(message.subject, message.headers["Bc-Mark"]) for message in found} == {("bc.evt.provider.hang.x", "x")}


async def test_reading_begins_at_a_place_or_at_a_time_and_keeps_to_a_subject(bus):
    sequences = [await publish(bus, call=call) for call in ("a", "b", "a", "b", "a")]
    assert [message.sequence for message in await everything(bus, start=sequences[2])] == sequences[2:]
    (third,) = [message for message in await everything(bus) if message.sequence == sequences[2]]
    # Python's times are rounded to a microsecond, the server's are not.
    later = await everything(bus, since=third.stored_at - timedelta(microseconds=1))
    assert [message.sequence for message in later][-3:] == sequences[2:]
    assert await everything(bus, since=third.stored_at + timedelta(hours=1)) == []
    only = await everything(bus, subject="bc.evt.provider.*.b")
    assert [message.sequence for message in only] == [sequences[1], sequences[3]]
    assert await everything(bus, subject="bc.evt.provider.*.c") == []
    assert await everything(bus, start=sequences[-1] + 1) == []


async def test_headers_alone_come_without_bodies(bus):
    await publish(bus, b"personal")
    (message,) = await everything(bus, bodies=False)
    assert (message.data, message.headers["Bc-Mark"]) == (b"", "x")


async def test_reading_ends_with_what_was_there_when_it_began(bus):
    sequences = [await publish(bus) for _ in range(3)]
    seen = []
    async for message in read(bus, PROVIDER_EVENTS):
        seen.append(message.sequence)
        await publish(bus)
    assert seen == sequences


async def test_thousands_of_messages_are_read_once_each_and_leave_no_consumer_behind(bus):
    slots = asyncio.Semaphore(100)

    async def one() -> None:
        async with slots:
            await publish(bus)

    await asyncio.gather(*(one() for _ in range(3000)))
    found = [message.sequence async for message in read(bus, PROVIDER_EVENTS, bodies=False)]
    assert len(found) == 3000
    assert found == sorted(set(found))
    async with aclosing(read(bus, PROVIDER_EVENTS)) as messages:
        async for _ in messages:
            break
    assert await bus.jetstream.consumers_info(PROVIDER_EVENTS) == []


async def test_server_that_restarts_in_between_makes_the_reader_go_on_where_it_was(bus, nats_server):
    sequences = [await publish(bus) for _ in range(100)]
    seen = []
    async for message in read(bus, PROVIDER_EVENTS):
        seen.append(message.sequence)
        if len(seen) == 20:
            await nats_server.restart()
    assert seen == sequences


async def test_one_message_is_found_by_place_by_the_next_place_and_as_the_last_of_its_subject(bus):
    first, second, third = [await publish(bus, call=call) for call in ("a", "b", "a")]
    await bus.jetstream.delete_msg(PROVIDER_EVENTS, second)
    assert (await get(bus, PROVIDER_EVENTS, first)).sequence == first
    assert await get(bus, PROVIDER_EVENTS, second) is None
    assert (await following(bus, PROVIDER_EVENTS, second)).sequence == third
    assert await following(bus, PROVIDER_EVENTS, third + 1) is None
    assert (await newest(bus, PROVIDER_EVENTS, "bc.evt.provider.hang.a")).sequence == third
    assert await newest(bus, PROVIDER_EVENTS, "bc.evt.provider.hang.b") is None


async def test_stream_that_does_not_exist_is_not_taken_for_one_without_the_message(bus):
    await bus.jetstream.delete_stream(PROVIDER_EVENTS)
    for ask in (
        get(bus, PROVIDER_EVENTS, 1),
        following(bus, PROVIDER_EVENTS, 1),
        newest(bus, PROVIDER_EVENTS, "bc.evt.provider.hang.a"),
        everything(bus),
        progress(bus, CONSUMER),
    ):
        with pytest.raises(Unavailable):
            await ask


async def test_progress_tells_what_is_settled_and_what_is_pending(bus):
    before = await publish(bus)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)
    await ensure_consumer(bus, CONSUMER)
    sequences = [await publish(bus) for _ in range(5)]
    subscription = await bus.jetstream.pull_subscribe_bind(durable=CONSUMER.durable, stream=PROVIDER_EVENTS)
    messages = await subscription.fetch(3, timeout=5)
    for message in messages[:2]:
        await message.ack_sync()
    await subscription.unsubscribe()
    found = await progress(bus, CONSUMER)
    assert (found.first, found.last, found.messages) == (before + 1, sequences[-1], 5)
    assert (found.floor, found.pending) == (sequences[1], 3)
    assert found.created <= messages[0].metadata.timestamp
