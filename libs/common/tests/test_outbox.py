import asyncio
from contextlib import AsyncExitStack
from datetime import datetime

import asyncpg
import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.bus import ensure_streams
from boostedcalls.common.bus.streams import CALL_EVENTS
from boostedcalls.common.context import new_id
from boostedcalls.common.db import DatabaseSettings, connection, open_pool, reachable, transaction
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.events import CONTACT_CREATED, ContactEvent
from boostedcalls.common.outbox import Pending, Relay, enqueue

# As docs/messaging.md describes it.
TABLE = """
CREATE SCHEMA sample;
CREATE TABLE sample.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    data bytea NOT NULL,
    traceparent text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
)
"""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest_asyncio.fixture(loop_scope="session")
async def pool(database):
    async with AsyncExitStack() as stack:
        settings = DatabaseSettings(database_url=await database(), db_pool_size=4, _env_file=None)
        opened = await open_pool(stack, settings, "test")
        async with transaction(opened) as writer:
            await writer.execute(TABLE)
        yield opened


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty_stream(bus):
    await ensure_streams(bus, CALL_EVENTS)
    await bus.jetstream.purge_stream(CALL_EVENTS)


def event(number: int) -> Pending:
    user_id = new_id()
    subject = f"bc.evt.contact.created.{user_id}.{number}"
    return Pending(CONTACT_CREATED, subject, ContactEvent(contact_id=new_id(), user_id=user_id), TRACE)


async def stored(bus) -> list[str]:
    """The subjects in the stream, in order."""
    state = (await bus.jetstream.stream_info(CALL_EVENTS)).state
    messages = [await bus.jetstream.get_msg(CALL_EVENTS, seq) for seq in range(state.first_seq, state.last_seq + 1)]
    return [message.subject for message in messages]


async def left(pool) -> int:
    async with connection(pool) as reader:
        return await reader.fetchval("SELECT count(*) FROM sample.outbox")


async def test_event_carries_its_attributes_and_leaves_the_table_once_it_is_confirmed(bus, pool):
    pending = event(1)
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", [pending])
    assert await Relay(bus, pool, "sample").relay_once() == 1
    message = await bus.jetstream.get_last_msg(CALL_EVENTS, pending.subject)
    assert orjson.loads(message.data) == pending.data.model_dump(mode="json")
    assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"]
    assert message.headers["ce-type"] == "io.boostedcalls.contact.v1.created"
    assert (message.headers["ce-source"], message.headers["ce-subject"]) == ("/sample", pending.subject)
    assert message.headers["traceparent"] == TRACE
    assert datetime.fromisoformat(message.headers["ce-time"]).tzinfo is not None
    assert await left(pool) == 0


async def test_event_of_a_transaction_that_failed_does_not_exist(bus, pool):
    async def change() -> None:
        async with transaction(pool) as writer:
            await enqueue(writer, "sample", [event(1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change()
    assert await Relay(bus, pool, "sample").relay_once() == 0
    assert await left(pool) == 0


async def test_events_are_published_in_the_order_they_were_written(bus, pool):
    events = [event(number) for number in range(30)]
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", events)
    await Relay(bus, pool, "sample").relay_once()
    assert await stored(bus) == [pending.subject for pending in events]


async def test_several_relays_at_once_publish_each_event_once(bus, pool):
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", [event(number) for number in range(500)])
    done = await asyncio.gather(*(Relay(bus, pool, "sample").relay_once() for _ in range(4)))
    assert sum(done) == 500
    assert len(await stored(bus)) == 500
    assert await left(pool) == 0


async def test_event_published_by_a_relay_that_died_before_it_could_say_so_is_stored_once(bus, pool):
    pending = event(1)
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", [pending])
        event_id = await writer.fetchval("SELECT event_id FROM sample.outbox")
    await bus.publish(pending.subject, b"{}", stream=CALL_EVENTS, message_id=str(event_id), headers={}, timeout=5)
    assert await Relay(bus, pool, "sample").relay_once() == 1
    assert await stored(bus) == [pending.subject]


async def test_event_that_another_relay_has_in_hand_is_left_to_it(bus, pool):
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", [event(1)])
    async with transaction(pool) as other:
        await other.execute("SELECT FROM sample.outbox FOR UPDATE")
        assert await Relay(bus, pool, "sample").relay_once() == 0
    assert await left(pool) == 1


async def test_running_relay_publishes_what_it_is_woken_for(bus, pool):
    relay = Relay(bus, pool, "sample")
    task = bus.runtime.spawn(relay.run(), "outbox")
    subscription = await bus.client.subscribe("bc.evt.contact.>")
    pending = event(1)
    async with transaction(pool) as writer:
        await enqueue(writer, "sample", [pending])
    relay.wake()
    assert (await subscription.next_msg(timeout=10)).subject == pending.subject
    await bus.runtime.cancel(task)


async def test_lost_connection_to_the_database_is_unavailable_and_then_works_again(pool):
    async def cut_off() -> None:
        async with connection(pool) as other, transaction(pool) as writer:
            pid = await writer.fetchval("SELECT pg_backend_pid()")
            await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await writer.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await cut_off()
    assert await reachable(pool)


async def test_fault_of_a_statement_is_not_taken_for_an_outage(pool):
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with transaction(pool) as writer:
            await writer.fetchval("SELECT 1 / 0")


async def test_jsonb_travels_as_python_objects(pool):
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    async with connection(pool) as reader:
        assert await reader.fetchval("SELECT $1::jsonb", value) == value
        assert await reader.fetchval("SELECT $1::jsonb", None) is None
