"""The sweep against a real stream and a real table: what was skipped is found, told of and applied."""

import asyncio
import random
from collections import Counter as Tries
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import ConsumerConfig, DeliverPolicy

from boostedcalls.calls import audit, books, consumer, matching
from boostedcalls.calls.state import JOINED
from boostedcalls.common.bus import Delivery, dead_letter, ensure_streams
from boostedcalls.common.bus.consume import MAX_DELIVERIES
from boostedcalls.common.bus.read import get
from boostedcalls.common.bus.streams import CALLS_PROVIDER, DLQ, PROVIDER_EVENTS, ensure_consumer
from boostedcalls.common.context import new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import Unavailable

from .commands import Commands
from .conftest import NO_TRACE, Make, World

ENDED = {"status": "ended", "endedReason": "customer-busy", "timestamp": 1795343438410}


@pytest_asyncio.fixture(autouse=True)
async def empty_streams(world: World) -> None:
    """The streams are the module's, the database is the test's."""
    await world.bus.jetstream.delete_stream(PROVIDER_EVENTS)
    await ensure_streams(world.bus, PROVIDER_EVENTS)
    await ensure_consumer(world.bus, CALLS_PROVIDER)
    await world.bus.jetstream.purge_stream(DLQ)


async def _sweep(world: World, tries: Tries[int] | None = None) -> int:
    """How many events a sweep, with all that belongs to it, found unaccounted for."""
    before = audit.UNACCOUNTED._value.get()
    while await audit.sweep(world.deps, world.bus, Tries() if tries is None else tries):
        pass
    return int(audit.UNACCOUNTED._value.get() - before)


async def _report(world: World) -> books.Report:
    return await books.report(world.deps.pool, world.bus)


async def _settled(world: World) -> tuple[int, str]:
    row = await world.admin.fetchrow(
        "SELECT count(DISTINCT id) AS rows, coalesce(range_agg(part), '{}')::text AS sequences"
        " FROM calls.settled, unnest(sequences) AS part"
    )
    assert row is not None
    return row["rows"], row["sequences"]


async def _ended(world: World, user_id: UUID) -> tuple[Any, int]:
    """A call whose end was reported: its row and the report's place in the stream."""
    row = await world.insert(user_id)
    provider_call_id = str(new_id())
    carried = {"id": provider_call_id, "assistantOverrides": {"metadata": world.metadata(row)}}
    await world.report("status-update", provider_call_id, {**ENDED, "call": carried})
    return row, (await world.bus.jetstream.stream_info(PROVIDER_EVENTS)).state.last_seq


async def _poison(world: World) -> int:
    return await world.bus.publish(
        "bc.evt.provider.hang.x", b"{nonsense", stream=PROVIDER_EVENTS, message_id=str(new_id()), headers={}, timeout=5
    )


async def _skip(world: World, count: int) -> None:
    """Ack by hand what nobody has handled."""
    handle = await world.bus.jetstream.pull_subscribe_bind(durable=CALLS_PROVIDER.durable, stream=PROVIDER_EVENTS)
    while count:
        messages = await handle.fetch(min(count, 100), timeout=5)
        count -= len(messages)
        for message in messages:
            await message.ack_sync()
    await handle.unsubscribe()


async def _status(world: World, row: Any) -> str:
    return (await world.row(row["id"]))["status"]


async def test_what_the_consumer_applied_is_accounted_for_and_becomes_one_row(world: World, user_id: UUID) -> None:
    consuming = world.consume()
    for _ in range(3):
        await _ended(world, user_id)
        await world.quiet()
    await world.runtime.cancel(*consuming)
    assert await _settled(world) == (3, "{[1,4)}")
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[1,4)}")
    assert (await _report(world)).lines() == [
        "stream messages  3",
        "applied          3",
        "dead-lettered    0",
        "pending          0",
        "unaccounted      0",
    ]


async def test_events_that_say_nothing_of_a_call_are_settled_too(world: World) -> None:
    world.consume()
    await world.report("speech-update", "x", {"status": "started"})
    await world.quiet()
    assert await _sweep(world) == 0


async def test_an_event_that_was_skipped_is_found_counted_and_applied(world: World, user_id: UUID) -> None:
    first, _ = await _ended(world, user_id)
    await _skip(world, 1)
    second, _ = await _ended(world, user_id)
    world.consume()
    await world.quiet()
    assert (await _status(world, first), await _status(world, second)) == ("pending", "busy")
    assert await _sweep(world) == 1
    assert audit.FOUND._value.get() == 1
    assert await _status(world, first) == "busy"
    assert await world.rollups(user_id) == await world.recount(user_id)
    assert await _sweep(world) == 0
    assert audit.FOUND._value.get() == 0
    assert await _settled(world) == (1, "{[1,3)}")


async def test_what_is_not_acked_yet_is_pending_and_left_alone(world: World, user_id: UUID) -> None:
    row, _ = await _ended(world, user_id)
    await _ended(world, user_id)
    handle = await world.bus.jetstream.pull_subscribe_bind(durable=CALLS_PROVIDER.durable, stream=PROVIDER_EVENTS)
    (message,) = await handle.fetch(1, timeout=5)
    assert await _sweep(world) == 0
    assert audit.PENDING._value.get() == 2
    assert await _status(world, row) == "pending"
    found = await _report(world)
    assert (found.messages, found.applied, found.pending, found.unaccounted) == (2, 0, 2, [])
    await message.nak()
    await handle.unsubscribe()


async def test_events_that_a_consumer_moved_by_hand_passed_over_are_applied(world: World, user_id: UUID) -> None:
    rows = [(await _ended(world, user_id))[0] for _ in range(5)]
    await world.bus.jetstream.delete_consumer(PROVIDER_EVENTS, CALLS_PROVIDER.durable)
    await world.bus.jetstream.add_consumer(
        PROVIDER_EVENTS,
        ConsumerConfig(
            durable_name=CALLS_PROVIDER.durable, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=4
        ),
    )
    assert await _sweep(world) == 3
    assert [await _status(world, row) for row in rows] == ["busy"] * 3 + ["pending"] * 2
    assert (await _report(world)).pending == 2


async def test_more_than_a_sweep_takes_is_left_for_the_next(
    world: World, user_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_STEP", 7)
    monkeypatch.setattr(audit, "_STEPS", 2)
    rows = [(await _ended(world, user_id))[0] for _ in range(30)]
    await _skip(world, 30)
    assert await audit.sweep(world.deps, world.bus, Tries())
    assert [await _status(world, row) for row in rows] == ["busy"] * 14 + ["pending"] * 16
    assert await _sweep(world) == 16
    assert [await _status(world, row) for row in rows] == ["busy"] * 30
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[1,31)}")


async def test_of_several_replicas_one_at_a_time_sweeps_and_each_event_is_found_once(
    make_world: Make, user_id: UUID
) -> None:
    worlds = [await make_world() for _ in range(4)]
    for _ in range(100):
        await _ended(worlds[0], user_id)
    await _skip(worlds[0], 100)
    before = audit.UNACCOUNTED._value.get()
    await asyncio.gather(*(audit.sweep(each.deps, each.bus, Tries()) for each in worlds))
    await _sweep(worlds[0])
    assert audit.UNACCOUNTED._value.get() == before + 100
    assert await worlds[0].rollups(user_id) == ({"busy": (100, 0)}, {})


async def test_a_database_from_an_older_backup_is_brought_up_to_date(world: World, user_id: UUID) -> None:
    tables = ("calls", "timeline", "totals", "daily", "unmatched", "settled")
    rows = [await world.insert(user_id) for _ in range(20)]
    for table in tables:
        await world.admin.execute(f"CREATE TABLE backup_{table} AS TABLE calls.{table}")
    consuming = world.consume(2)
    for row in rows:
        provider_call_id = str(new_id())
        carried = {"id": provider_call_id, "assistantOverrides": {"metadata": world.metadata(row)}}
        for kind, message in (
            ("status-update", {"status": "ringing"}),
            ("end-of-call-report", {"endedReason": "customer-ended-call", "cost": 0.05, "transcript": "AI: hi"}),
            ("speech-update", {}),
        ):
            carrying = carried if kind != "end-of-call-report" else {"id": provider_call_id}
            await world.report(kind, provider_call_id, {**message, "call": carrying})
    await world.quiet()
    await world.runtime.cancel(*consuming)
    async with transaction(world.admin) as connection:
        # Two replicas: a report may have been parked while the other learned whose it is.
        await matching.sweep(connection, world.deps.settings, NO_TRACE)
    joined = f"SELECT id, provider_call_id, {', '.join(JOINED)} FROM calls.calls ORDER BY id"  # noqa: S608
    timeline = "SELECT * FROM calls.timeline ORDER BY call_id, id"
    before = [await world.admin.fetch(query) for query in (joined, timeline)]
    await world.admin.execute(f"TRUNCATE calls.idempotency_keys, {', '.join(f'calls.{table}' for table in tables)}")
    for table in tables:
        restore = f"INSERT INTO calls.{table} OVERRIDING SYSTEM VALUE SELECT * FROM backup_{table}"  # noqa: S608
        await world.admin.execute(restore)
    assert await _status(world, rows[0]) == "pending"
    assert len((await _report(world)).unaccounted) == 60
    assert await _sweep(world) == 60
    after = [await world.admin.fetch(query) for query in (joined, timeline)]
    assert after == before
    assert await world.rollups(user_id) == await world.recount(user_id)
    assert (await _report(world)).applied == 60


async def test_a_stream_made_anew_is_not_taken_for_the_one_before(world: World, user_id: UUID) -> None:
    consuming = world.consume()
    for _ in range(3):
        await _ended(world, user_id)
    poison = await _poison(world)
    await world.quiet()
    await world.runtime.cancel(*consuming)
    assert await _sweep(world) == 0
    await world.bus.jetstream.delete_stream(PROVIDER_EVENTS)
    await ensure_streams(world.bus, PROVIDER_EVENTS)
    await ensure_consumer(world.bus, CALLS_PROVIDER)
    # Books and dead letters of the stream before have the same numbers.
    rows = [(await _ended(world, user_id))[0] for _ in range(poison)]
    await _skip(world, poison)
    assert len((await _report(world)).unaccounted) == poison
    assert (await _report(world)).dead == 0
    assert await _sweep(world) == poison
    assert [await _status(world, row) for row in rows] == ["busy"] * poison
    assert await _sweep(world) == 0


async def test_books_that_are_ahead_of_a_stream_that_lost_its_end_do_not_cover_what_comes(
    world: World, user_id: UUID
) -> None:
    await world.admin.execute("INSERT INTO calls.settled (sequences) VALUES ('{[1,1001)}')")
    await _ended(world, user_id)
    assert await _sweep(world) == 0
    row, _ = await _ended(world, user_id)
    await _skip(world, 2)
    assert await _sweep(world) == 1
    assert await _status(world, row) == "busy"


async def test_rows_that_come_while_many_are_made_one_are_kept(world: World, user_id: UUID) -> None:
    consuming = world.consume(3)
    rows = [await world.insert(user_id) for _ in range(10)]

    async def report(row: Any) -> None:
        provider_call_id = str(new_id())
        carried = {"id": provider_call_id, "assistantOverrides": {"metadata": world.metadata(row)}}
        for _ in range(60):
            await world.report("status-update", provider_call_id, {"status": "ringing", "call": carried})

    async def sweeps() -> int:
        found = 0
        while True:
            found += await _sweep(world)
            if not sending.done():
                continue
            return found

    sending = asyncio.gather(*(report(row) for row in rows))
    assert await sweeps() == 0
    await world.quiet()
    await world.runtime.cancel(*consuming)
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[1,601)}")
    assert (await _report(world)).applied == 600


async def test_a_dead_letter_whose_message_was_given_up_by_a_process_that_died_counts(world: World) -> None:
    poison = await _poison(world)
    found = await get(world.bus, PROVIDER_EVENTS, poison)
    assert found is not None
    delivery = Delivery(found.subject, found.data, {}, poison, 1, found.stored_at)
    await dead_letter(world.bus, PROVIDER_EVENTS, delivery, "Poison: nonsense")
    await _skip(world, 1)
    assert (await _report(world)).lines()[1:4] == ["applied          0", "dead-lettered    1", "pending          0"]
    assert await _sweep(world) == 0
    # A sweep that has seen the letter does not need it again.
    await world.bus.jetstream.purge_stream(DLQ)
    assert await _sweep(world) == 0


async def test_poison_that_was_skipped_becomes_a_dead_letter_and_what_is_beside_it_is_applied(
    world: World, user_id: UUID
) -> None:
    row, _ = await _ended(world, user_id)
    poison = await _poison(world)
    other, _ = await _ended(world, user_id)
    await _skip(world, 3)
    assert await _sweep(world) == 3
    assert [await _status(world, each) for each in (row, other)] == ["busy", "busy"]
    (letter,) = await world.stream(DLQ)
    assert (letter["subject"], letter["data"]) == (f"bc.dlq.PROVIDER_EVENTS.{poison}", b"{nonsense")
    assert await _sweep(world) == 0
    found = await _report(world)
    assert (found.applied, found.dead, found.unaccounted) == (2, 1, [])


async def test_an_event_that_fails_otherwise_is_tried_by_each_sweep_and_becomes_a_dead_letter_in_the_end(
    world: World, user_id: UUID
) -> None:
    bad, place = await _ended(world, user_id)
    good, _ = await _ended(world, user_id)
    await world.admin.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$"
    )
    await world.admin.execute(
        f"CREATE TRIGGER refuse BEFORE UPDATE ON calls.calls FOR EACH ROW WHEN (OLD.id = '{bad['id']}')"
        " EXECUTE FUNCTION public.refuse()"
    )
    await _skip(world, 2)
    tries = Tries[int]()
    assert await _sweep(world, tries) == 2
    assert [await _status(world, row) for row in (bad, good)] == ["pending", "busy"]
    for _ in range(MAX_DELIVERIES - 2):
        assert await _sweep(world, tries) == 1
    assert await world.stream(DLQ) == []
    assert (await _report(world)).unaccounted == [place]
    assert await _sweep(world, tries) == 1
    (letter,) = await world.stream(DLQ)
    assert letter["headers"]["Bc-Deliveries"] == str(MAX_DELIVERIES)
    assert await _sweep(world, tries) == 0


async def test_messages_that_were_deleted_or_have_grown_too_old_are_no_fault(world: World, user_id: UUID) -> None:
    for _ in range(10):
        await _ended(world, user_id)
    for sequence in (3, 5, 6, 9):
        await world.bus.jetstream.delete_msg(PROVIDER_EVENTS, sequence)
    world.consume()
    await world.quiet()
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[1,11)}")
    await world.bus.jetstream.purge_stream(PROVIDER_EVENTS, seq=8)
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[8,11)}")
    found = await _report(world)
    assert (found.messages, found.applied) == (2, 2)


async def test_any_mixture_of_applied_deleted_and_dead_lettered_events_leaves_what_is_neither(
    world: World, user_id: UUID
) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    rnd = random.Random(seed)
    places = [(await _ended(world, user_id))[1] for _ in range(200)]
    fate = {place: rnd.choice(["applied", "deleted", "dead", "skipped"]) for place in places} | {1: "applied"}
    for place, what in fate.items():
        found = await get(world.bus, PROVIDER_EVENTS, place)
        assert found is not None
        delivery = Delivery(found.subject, found.data, found.headers, place, 1, found.stored_at)
        if what == "applied":
            await consumer.apply_batch(world.deps, [delivery])
        elif what == "dead":
            await dead_letter(world.bus, PROVIDER_EVENTS, delivery, "Poison: as the test wants it")
    await _skip(world, 200)
    for place, what in fate.items():
        if what == "deleted":
            await world.bus.jetstream.delete_msg(PROVIDER_EVENTS, place)
    skipped = [place for place in places if fate[place] == "skipped"]
    found = await _report(world)
    assert found.unaccounted == skipped
    assert found.dead == sum(what == "dead" for what in fate.values())
    assert found.applied == sum(what == "applied" for what in fate.values())
    assert await _sweep(world) == len(skipped)
    assert await _sweep(world) == 0
    assert await _settled(world) == (1, "{[1,201)}")
    assert (await _report(world)).unaccounted == []


async def test_while_the_stream_or_the_database_is_away_the_sweep_waits_and_goes_on_by_itself(
    make_world: Make, user_id: UUID, postgres_server: Any
) -> None:
    world = await make_world(audit_every=0.1)
    row, _ = await _ended(world, user_id)
    await _skip(world, 1)
    name = await world.admin.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres_server.url)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        with pytest.raises(Unavailable):
            await audit.sweep(world.deps, world.bus, Tries())
        running = world.runtime.spawn(audit.run(world.deps, world.bus), "audit")
        await asyncio.sleep(0.5)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()
    while await _status(world, row) != "busy":  # noqa: ASYNC110 - another task's work
        await asyncio.sleep(0.05)
    await world.bus.jetstream.delete_stream(PROVIDER_EVENTS)
    await asyncio.sleep(0.3)
    assert not running.done()


async def test_the_command_counts_and_mends_nothing(world: World, user_id: UUID, commands: Commands) -> None:
    row, _ = await _ended(world, user_id)
    await _skip(world, 1)
    await _ended(world, user_id)
    code, out, _ = await commands("audit")
    assert (code, out.splitlines()) == (
        1,
        [
            "stream messages  2",
            "applied          0",
            "dead-lettered    0",
            "pending          1",
            "unaccounted      1",
            "unaccounted are  1",
        ],
    )
    assert await _status(world, row) == "pending"
    assert await _settled(world) == (0, "{}")
    await _sweep(world)
    code, out, _ = await commands("audit")
    assert (code, out.splitlines()[-1]) == (0, "unaccounted      0")


@given(st.lists(st.integers(1, 60), unique=True).map(sorted))
def test_numbers_and_their_ranges_say_the_same(numbers: list[int]) -> None:
    ranges = books.runs(numbers)
    assert [number for first, last in ranges for number in range(first, last + 1)] == numbers
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))
