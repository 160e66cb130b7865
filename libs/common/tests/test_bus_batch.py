"""Many messages at once on a real server: one batch where that is worth it, and each by itself where it is not."""

from dataclasses import replace

import pytest
import pytest_asyncio

from boostedcalls.common.bus import Outgoing, ensure_streams, publish_all
from boostedcalls.common.bus.streams import PROVIDER_EVENTS
from boostedcalls.common.context import new_id
from boostedcalls.common.errors import ServiceError, Unavailable

MANY = 40


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def empty_stream(bus):
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)


def outgoing(number: int, data: bytes = b"{}") -> Outgoing:
    return Outgoing(f"bc.evt.provider.hang.{number}", data, str(new_id()), {"ce-id": str(number)})


async def stored(bus) -> list[tuple[str, str | None]]:
    """What the stream holds: (subject, batch id), oldest first."""
    state = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).state
    found = [await bus.jetstream.get_msg(PROVIDER_EVENTS, seq) for seq in range(state.first_seq, state.last_seq + 1)]
    return [(message.subject, (message.headers or {}).get("Nats-Batch-Id")) for message in found]


async def test_many_messages_are_stored_as_one_batch_in_their_order(bus):
    messages = [outgoing(number) for number in range(MANY)]
    assert await publish_all(bus, PROVIDER_EVENTS, messages) == [None] * MANY
    found = await stored(bus)
    assert [subject for subject, _ in found] == [message.subject for message in messages]
    assert len({batch for _, batch in found}) == 1
    assert found[0][1] is not None


async def test_few_messages_are_stored_each_by_itself(bus):
    assert await publish_all(bus, PROVIDER_EVENTS, [outgoing(number) for number in range(3)]) == [None] * 3
    assert {batch for _, batch in await stored(bus)} == {None}


async def test_nothing_to_store_is_no_error(bus):
    assert await publish_all(bus, PROVIDER_EVENTS, []) == []


async def test_batch_with_a_message_that_was_stored_before_stores_the_others_once(bus):
    messages = [outgoing(number) for number in range(MANY)]
    await publish_all(bus, PROVIDER_EVENTS, messages[7:8])
    assert await publish_all(bus, PROVIDER_EVENTS, messages) == [None] * MANY
    assert sorted(subject for subject, _ in await stored(bus)) == sorted(message.subject for message in messages)


async def test_batch_sent_again_as_a_whole_is_stored_once(bus):
    messages = [outgoing(number) for number in range(MANY)]
    for _ in range(2):
        assert await publish_all(bus, PROVIDER_EVENTS, messages) == [None] * MANY
    assert len(await stored(bus)) == MANY


async def test_the_same_message_twice_in_one_batch_is_stored_once(bus):
    messages = [outgoing(number) for number in range(MANY)]
    assert await publish_all(bus, PROVIDER_EVENTS, [*messages, messages[3]]) == [None] * (MANY + 1)
    assert len(await stored(bus)) == MANY


async def test_message_too_large_for_the_server_does_not_keep_the_others_from_being_stored(bus):
    messages = [outgoing(number) for number in range(MANY)]
    messages[5] = outgoing(5, b"x" * bus.client.max_payload)
    outcomes = await publish_all(bus, PROVIDER_EVENTS, messages)
    assert [type(outcome) for outcome in outcomes] == [ServiceError if n == 5 else type(None) for n in range(MANY)]
    assert outcomes[5].code == "payload_too_large"
    assert len(await stored(bus)) == MANY - 1


async def test_stream_that_knows_no_batches_gets_each_message_by_itself(bus):
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.update_stream(replace(config, allow_atomic=False))
    try:
        messages = [outgoing(number) for number in range(MANY)]
        assert await publish_all(bus, PROVIDER_EVENTS, messages) == [None] * MANY
        assert {batch for _, batch in await stored(bus)} == {None}
        assert len(await stored(bus)) == MANY
    finally:
        await bus.jetstream.update_stream(replace(config, allow_atomic=True))


async def test_full_stream_takes_nothing_and_says_so_of_each_message(bus):
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.update_stream(replace(config, max_msgs=1))
    try:
        await publish_all(bus, PROVIDER_EVENTS, [outgoing(0)])
        outcomes = await publish_all(bus, PROVIDER_EVENTS, [outgoing(n) for n in range(1, MANY)], timeout=0.5)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert len(await stored(bus)) == 1
    finally:
        await bus.jetstream.update_stream(replace(config, max_msgs=-1))


@pytest.mark.parametrize("number", [1, MANY])
async def test_while_nats_is_away_nothing_is_stored_and_each_message_says_so(new_bus, nats_server, number):
    bus = await new_bus()
    await nats_server.kill()
    try:
        outcomes = await publish_all(bus, PROVIDER_EVENTS, [outgoing(n) for n in range(number)], timeout=0.5)
    finally:
        await nats_server.start()
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
