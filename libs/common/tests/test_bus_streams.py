"""Publishing and consuming on a real server; what is told to the server is read off the wire."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig, DeliverPolicy

from boostedcalls.common.bus import Bus, Delivery, consume, dead_letter, ensure_streams
from boostedcalls.common.bus.consume import MAX_DELIVERIES
from boostedcalls.common.bus.streams import DLQ, JOBS, PROVIDER_EVENTS, STREAMS, Consumer, ensure_consumer
from boostedcalls.common.context import new_id
from boostedcalls.common.errors import Poison, ServiceError, Unavailable

SUBJECT = "bc.evt.provider.hang.x"


async def always() -> bool:
    return True


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty_streams(bus):
    await ensure_streams(bus, *STREAMS)
    for name in STREAMS:
        await bus.jetstream.purge_stream(name)


async def publish(bus, data: bytes = b"", message_id: str | None = None, subject: str = SUBJECT) -> int:
    return await bus.publish(
        subject, data, stream=PROVIDER_EVENTS, message_id=message_id or str(new_id()), headers={}, timeout=5
    )


def own_consumer(batch: int = 8, ack_wait: float = 30.0) -> Consumer:
    return Consumer(PROVIDER_EVENTS, f"t{new_id()}", batch, ack_wait)


@pytest_asyncio.fixture(loop_scope="session")
async def consuming(new_bus):
    """`await consuming(consumer, handler, ready)`: a process that consumes until the test is over."""
    running: list[tuple[Bus, asyncio.Task[None]]] = []

    async def start(consumer: Consumer, handler, ready=always) -> None:
        bus = await new_bus()
        await ensure_consumer(bus, consumer)
        running.append((bus, asyncio.create_task(consume(bus, consumer, handler, ready))))

    yield start
    assert not any(task.done() for _, task in running)
    for bus, task in running:
        await bus.runtime.cancel(task)


async def settled(bus, consumer: Consumer) -> None:
    """Wait until the consumer has nothing left to deliver and nothing unsettled."""
    while True:
        info = await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
        if not (info.num_pending or info.num_ack_pending):
            return
        await asyncio.sleep(0.01)


async def test_repeated_message_id_is_stored_once(bus):
    first = await publish(bus, b"a", "same")
    assert await publish(bus, b"b", "same") == first
    assert (await bus.jetstream.stream_info(PROVIDER_EVENTS)).state.messages == 1


async def test_subject_of_another_stream_is_refused_and_stored_nowhere(bus):
    with pytest.raises(Unavailable):
        await bus.publish("bc.evt.call.x.y.z", b"", stream=PROVIDER_EVENTS, message_id="m", headers={}, timeout=0.2)
    for name in STREAMS:
        assert (await bus.jetstream.stream_info(name)).state.messages == 0


async def test_event_that_fits_no_message_is_refused_and_the_connection_lives_on(bus):
    with pytest.raises(ServiceError) as caught:
        await publish(bus, b"x" * bus.client.max_payload)
    assert caught.value.code == "payload_too_large"
    assert await publish(bus) > 0


async def test_headers_of_the_caller_are_not_changed_by_publishing(bus):
    headers = {"ce-id": "1"}
    await bus.publish(SUBJECT, b"", stream=PROVIDER_EVENTS, message_id="h", headers=headers, timeout=5)
    assert headers == {"ce-id": "1"}


async def test_streams_are_as_declared_also_when_several_make_them_at_once(bus):
    for name in STREAMS:
        await bus.jetstream.delete_stream(name)
    await asyncio.gather(*(ensure_streams(bus, *STREAMS) for _ in range(3)))
    for name, wanted in STREAMS.items():
        found = (await bus.jetstream.stream_info(name)).config
        for field in ("subjects", "retention", "storage", "discard", "max_age", "duplicate_window"):
            assert getattr(found, field) == getattr(wanted, field), (name, field)


async def test_stream_that_differs_is_updated_and_keeps_its_messages_and_an_operators_limits(bus):
    await publish(bus)
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.update_stream(config.evolve(max_age=60.0, duplicate_window=1.0, max_bytes=123_456_789))
    await ensure_streams(bus, PROVIDER_EVENTS)
    info = await bus.jetstream.stream_info(PROVIDER_EVENTS)
    assert (info.config.max_age, info.config.max_bytes) == (STREAMS[PROVIDER_EVENTS].max_age, 123_456_789)
    assert info.state.messages == 1
    await bus.jetstream.update_stream(info.config.evolve(max_bytes=-1))


async def test_consumer_that_an_operator_made_is_brought_to_what_it_must_be_and_begins_where_he_wanted(bus):
    consumer = own_consumer(batch=16)
    sequences = [await publish(bus) for _ in range(3)]
    await bus.jetstream.add_consumer(
        PROVIDER_EVENTS,
        ConsumerConfig(
            durable_name=consumer.durable,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequences[2],
            max_deliver=3,
        ),
    )
    for _ in range(2):
        await ensure_consumer(bus, consumer)
    info = await bus.jetstream.consumer_info(PROVIDER_EVENTS, consumer.durable)
    assert (info.config.max_deliver, info.config.max_ack_pending, info.config.ack_wait) == (-1, 128, 30.0)
    assert info.num_pending == 1


async def test_full_flight_recorder_refuses_new_messages_and_keeps_the_old(bus):
    await publish(bus, b"old")
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.update_stream(config.evolve(max_msgs=1))
    try:
        with pytest.raises(Unavailable):
            await bus.publish(SUBJECT, b"new", stream=PROVIDER_EVENTS, message_id="n", headers={}, timeout=0.2)
        assert (await bus.jetstream.get_last_msg(PROVIDER_EVENTS, SUBJECT)).data == b"old"
    finally:
        await bus.jetstream.update_stream(config)


async def test_handler_gets_batches_and_what_it_returns_from_is_acked(bus, consuming):
    before = datetime.now(UTC)
    sequences = [await publish(bus, b"%d" % number) for number in range(20)]
    batches: list[list] = []

    async def handler(deliveries):
        batches.append(list(deliveries))

    consumer = own_consumer(batch=8)
    await consuming(consumer, handler)
    await settled(bus, consumer)
    seen = [delivery for batch in batches for delivery in batch]
    assert [delivery.sequence for delivery in seen] == sequences
    assert [delivery.data for delivery in seen] == [b"%d" % number for number in range(20)]
    assert {delivery.deliveries for delivery in seen} == {1}
    assert all(delivery.subject == SUBJECT and delivery.stored_at > before for delivery in seen)
    assert 1 < max(len(batch) for batch in batches) <= 8


async def test_poison_in_a_batch_stands_alone_in_the_dead_letters(bus, consuming):
    sequences = {data: await publish(bus, data) for data in (b"a", b"poison", b"b", b"c")}
    alone: list[bytes] = []

    async def handler(deliveries):
        if any(delivery.data == b"poison" for delivery in deliveries):
            raise Poison("cannot\nbe read: ü" + "x" * 1000)
        alone.extend(delivery.data for delivery in deliveries)

    consumer = own_consumer()
    await consuming(consumer, handler)
    await settled(bus, consumer)
    assert sorted(alone) == [b"a", b"b", b"c"]
    letter = await bus.jetstream.get_last_msg(DLQ, f"bc.dlq.PROVIDER_EVENTS.{sequences[b'poison']}")
    assert letter.data == b"poison"
    assert letter.headers["Bc-Origin-Stream"] == PROVIDER_EVENTS
    assert letter.headers["Bc-Origin-Subject"] == SUBJECT
    assert letter.headers["Bc-Origin-Sequence"] == str(sequences[b"poison"])
    stored = await bus.jetstream.get_msg(PROVIDER_EVENTS, sequences[b"poison"])
    assert abs(datetime.fromisoformat(letter.headers["Bc-Origin-Time"]) - stored.time) < timedelta(milliseconds=1)
    assert letter.headers["Bc-Deliveries"] == "1"
    assert letter.headers["Bc-Reason"].startswith("Poison: cannot be read: ?xxx")
    assert len(letter.headers["Bc-Reason"]) <= 500
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 1


async def test_dead_letter_is_confirmed_before_the_message_is_given_up(bus, new_bus, consuming):
    spy = await new_bus()
    wire = await spy.client.subscribe(">")
    # Once it hears itself, the server has its subscription.
    await spy.client.publish("spy.listens", b"")
    await wire.next_msg(timeout=5)
    sequence = await publish(bus, b"poison")

    async def handler(deliveries):
        raise Poison("never")

    consumer = own_consumer()
    await consuming(consumer, handler)
    await settled(bus, consumer)
    steps: list[str] = []
    while "term" not in steps:
        message = await wire.next_msg(timeout=5)
        if message.subject == f"bc.dlq.PROVIDER_EVENTS.{sequence}":
            steps.append("letter")
        elif b'"stream":"DLQ"' in message.data and b'"seq":' in message.data and b'"type"' not in message.data:
            steps.append("confirmed")
        elif message.subject.startswith("$JS.ACK.") and message.data == b"+TERM":
            steps.append("term")
    assert steps == ["letter", "confirmed", "term"]


async def test_same_poison_twice_is_one_dead_letter(bus, consuming):
    await publish(bus, b"poison")

    async def handler(deliveries):
        raise Poison("never")

    for _ in range(2):
        consumer = own_consumer()
        await consuming(consumer, handler)
        await settled(bus, consumer)
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 1


async def test_process_that_dies_between_the_dead_letter_and_giving_up_leaves_one_dead_letter(bus, consuming):
    sequence = await publish(bus, b"poison")
    consumer = own_consumer(ack_wait=0.5)
    await ensure_consumer(bus, consumer)
    dead = await bus.jetstream.pull_subscribe_bind(durable=consumer.durable, stream=PROVIDER_EVENTS)
    (message,) = await dead.fetch(1, timeout=5)
    meta = message.metadata
    delivery = Delivery(message.subject, message.data, {}, meta.sequence.stream, meta.num_delivered, meta.timestamp)
    await dead_letter(bus, PROVIDER_EVENTS, delivery, "Poison: never")
    await dead.unsubscribe()
    seen: list[int] = []

    async def handler(deliveries):
        seen.extend(delivery.deliveries for delivery in deliveries)
        raise Poison("never")

    await consuming(consumer, handler)
    await settled(bus, consumer)
    assert seen == [2]
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 1
    assert (await bus.jetstream.get_last_msg(DLQ, f"bc.dlq.PROVIDER_EVENTS.{sequence}")).data == b"poison"


async def test_poison_of_a_stream_made_anew_is_not_taken_for_that_with_the_same_number_before(bus):
    before = datetime.now(UTC)
    for stored_at in (before, before, before + timedelta(seconds=1)):
        await dead_letter(bus, PROVIDER_EVENTS, Delivery(SUBJECT, b"", {}, 1, 1, stored_at), "Poison: never")
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 2


async def test_while_no_dead_letter_can_be_stored_its_message_stays_and_the_others_go_on(bus, consuming):
    config = (await bus.jetstream.stream_info(DLQ)).config
    await bus.jetstream.update_stream(config.evolve(max_msg_size=1))
    await publish(bus, b"poison")
    await publish(bus, b"good")
    done: list[bytes] = []
    tried: asyncio.Queue[int] = asyncio.Queue()

    async def handler(deliveries):
        if any(delivery.data == b"poison" for delivery in deliveries):
            if len(deliveries) == 1:
                tried.put_nowait(deliveries[0].deliveries)
            raise Poison("never")
        done.extend(delivery.data for delivery in deliveries)

    consumer = own_consumer()
    try:
        await consuming(consumer, handler)
        assert [await tried.get(), await tried.get()] == [1, 2]
        assert done == [b"good"]
        assert (await bus.jetstream.consumer_info(PROVIDER_EVENTS, consumer.durable)).num_ack_pending == 1
    finally:
        await bus.jetstream.update_stream(config)
    await settled(bus, consumer)
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 1


async def test_failure_is_tried_again_later_and_counted(bus, consuming):
    await publish(bus, b"fails once")
    deliveries_seen: list[int] = []

    async def handler(deliveries):
        [delivery] = deliveries
        deliveries_seen.append(delivery.deliveries)
        if delivery.deliveries == 1:
            raise ValueError("not now")

    consumer = own_consumer()
    await consuming(consumer, handler)
    await settled(bus, consumer)
    assert deliveries_seen == [1, 2]
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 0


async def test_message_that_fails_too_often_becomes_a_dead_letter(bus, consuming):
    sequence = await publish(bus, b"always fails")
    consumer = own_consumer()
    await ensure_consumer(bus, consumer)
    subscription = await bus.jetstream.pull_subscribe_bind(durable=consumer.durable, stream=PROVIDER_EVENTS)
    for _ in range(MAX_DELIVERIES - 1):
        [message] = await subscription.fetch(1, timeout=5)
        await message.nak()
    await subscription.unsubscribe()

    async def handler(deliveries):
        raise ValueError("s3cret")

    await consuming(consumer, handler)
    await settled(bus, consumer)
    letter = await bus.jetstream.get_last_msg(DLQ, f"bc.dlq.PROVIDER_EVENTS.{sequence}")
    assert (letter.data, letter.headers["Bc-Deliveries"]) == (b"always fails", str(MAX_DELIVERIES))


async def test_missing_database_stops_the_fetching_until_it_is_back(bus, consuming):
    for number in range(3):
        await publish(bus, b"%d" % number)
    calls: list[int] = []
    asked = asyncio.Queue()
    back = False
    done: set[bytes] = set()

    async def handler(deliveries):
        calls.append(len(deliveries))
        if not back:
            raise Unavailable("database")
        done.update(delivery.data for delivery in deliveries)

    async def ready() -> bool:
        asked.put_nowait(None)
        return back

    consumer = own_consumer()
    await consuming(consumer, handler, ready)
    for _ in range(4):
        await asked.get()
    # However often it asked, the messages, due again by now, were delivered once.
    assert len(calls) == 1
    back = True
    await settled(bus, consumer)
    assert done == {b"0", b"1", b"2"}
    assert (await bus.jetstream.stream_info(DLQ)).state.messages == 0


async def test_message_in_the_hands_of_a_process_that_died_is_delivered_again(bus, consuming):
    await publish(bus, b"orphan")
    consumer = own_consumer(ack_wait=0.5)
    await ensure_consumer(bus, consumer)
    dead = await bus.jetstream.pull_subscribe_bind(durable=consumer.durable, stream=PROVIDER_EVENTS)
    assert len(await dead.fetch(1, timeout=5)) == 1
    await dead.unsubscribe()
    seen: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()

    async def handler(deliveries):
        for delivery in deliveries:
            seen.put_nowait((delivery.data, delivery.deliveries))

    await consuming(consumer, handler)
    assert await seen.get() == (b"orphan", 2)


async def test_replicas_share_the_messages(bus, consuming):
    seen: list[bytes] = []

    async def handler(deliveries):
        seen.extend(delivery.data for delivery in deliveries)

    consumer = own_consumer(batch=4)
    for _ in range(2):
        await consuming(consumer, handler)
    await asyncio.gather(*(publish(bus, b"%d" % number) for number in range(50)))
    await settled(bus, consumer)
    assert sorted(seen) == sorted(b"%d" % number for number in range(50))


async def test_job_is_gone_once_it_is_done(bus, consuming):
    await bus.publish("bc.job.sync", b"job", stream=JOBS, message_id=str(new_id()), headers={}, timeout=5)
    done: list[bytes] = []

    async def handler(deliveries):
        done.extend(delivery.data for delivery in deliveries)

    consumer = Consumer(JOBS, "calls", 16)
    await consuming(consumer, handler)
    await settled(bus, consumer)
    assert done == [b"job"]
    assert (await bus.jetstream.stream_info(JOBS)).state.messages == 0
