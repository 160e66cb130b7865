"""Outages in the log and in the metrics, with the databases, streams and consumers that have them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio
from nats.js.api import DiscardPolicy
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from boostedcalls.common import db, trouble
from boostedcalls.common.bus import Delivery, consume, ensure_streams
from boostedcalls.common.bus.consume import _Pause
from boostedcalls.common.bus.streams import CALL_EVENTS, PROVIDER_EVENTS, Consumer
from boostedcalls.common.context import new_id
from boostedcalls.common.db import DatabaseSettings, connection, open_pool, transaction
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.outbox import Relay
from boostedcalls.common.trouble import Trouble

from .conftest import until


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """`clock(30)` lets seconds pass for every Trouble."""
    now = [1000.0]
    monkeypatch.setattr(trouble, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest_asyncio.fixture(loop_scope="session")
async def pool(database, monkeypatch):
    monkeypatch.setattr(db, "_watch", type(db._watch)())
    async with AsyncExitStack() as stack:
        yield await open_pool(stack, DatabaseSettings(database_url=await database(), _env_file=None), "test")


def test_outage_is_a_line_at_its_begin_one_every_half_minute_and_one_at_its_end(clock):
    with capture_logs() as lines:
        one = Trouble("begins", "ends", part="x")
        one.over()
        for _ in range(70):
            one.seen("reason")
            clock(1)
        one.over()
        one.over()
    assert [(line["event"], line["seconds"], line["times"]) for line in lines] == [
        ("begins", 0.0, 1),
        ("begins", 30.0, 31),
        ("begins", 60.0, 61),
        ("ends", 70.0, 70),
    ]
    assert {line["part"] for line in lines} == {"x"}
    assert lines[0]["reason"] == "reason"


def test_what_fails_again_at_once_after_each_success_is_told_three_times_in_half_a_minute(clock):
    with capture_logs() as lines:
        one = Trouble("begins", "ends")
        for _ in range(59):
            one.seen("reason")
            one.over()
            clock(1)
    assert [line["event"] for line in lines] == ["begins", "ends"] * 6


async def use(pool, *, writing: bool) -> None:
    async with (transaction if writing else connection)(pool) as used:
        await used.fetchval("SELECT 1")


async def test_database_that_is_away_is_told_once_and_counted_by_kind(pool, postgres_server):
    await use(pool, writing=True)
    with capture_logs() as lines:
        await postgres_server.kill()
        before = metric("boostedcalls_database_faults_total", kind="ConnectionRefusedError")
        try:
            for writing in (True, False, True):
                with pytest.raises(Unavailable):
                    await use(pool, writing=writing)
        finally:
            await postgres_server.start()
        while True:
            try:
                await use(pool, writing=True)
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert metric("boostedcalls_database_faults_total", kind="ConnectionRefusedError") > before
    assert Counter(line["event"] for line in lines) == {"database_trouble": 1, "database_trouble_over": 1}


async def test_database_that_can_only_be_read_is_in_trouble_until_it_takes_a_write(pool):
    with capture_logs() as lines:
        with pytest.raises(Unavailable):  # noqa: PT012
            async with transaction(pool) as writer:
                await writer.execute("SET TRANSACTION READ ONLY")
                await writer.execute("CREATE TABLE refused ()")
        await use(pool, writing=False)
        assert [line["event"] for line in lines] == ["database_trouble"]
        await use(pool, writing=True)
        assert [line["event"] for line in lines] == ["database_trouble", "database_trouble_over"]
    assert "ReadOnlySQLTransactionError" in lines[0]["reason"]


@pytest_asyncio.fixture(loop_scope="session")
async def emptied(bus):
    """Nothing is in the stream of provider events."""
    await ensure_streams(bus, PROVIDER_EVENTS)
    await bus.jetstream.purge_stream(PROVIDER_EVENTS)


def once_set(there: asyncio.Event) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return there.is_set()

    return ready


async def publish(bus, timeout: float = 10.0) -> int:
    return await bus.publish(
        "bc.evt.provider.hang.x", b"{}", stream=PROVIDER_EVENTS, message_id=str(new_id()), headers={}, timeout=timeout
    )


async def test_stream_at_its_limit_is_told_once_and_counted_and_takes_messages_again_when_the_limit_is_raised(bus):
    await ensure_streams(bus, PROVIDER_EVENTS)
    config = (await bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await bus.jetstream.update_stream(replace(config, max_bytes=1))
    before = metric("boostedcalls_publish_failures_total", stream=PROVIDER_EVENTS)
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await publish(bus, timeout=0.1)
        await bus.jetstream.update_stream(config)
        await publish(bus)
    assert metric("boostedcalls_publish_failures_total", stream=PROVIDER_EVENTS) == before + 3
    assert [(line["event"], line["stream"]) for line in lines] == [
        ("stream_trouble", PROVIDER_EVENTS),
        ("stream_trouble_over", PROVIDER_EVENTS),
    ]
    assert "maximum bytes" in lines[0]["reason"]


async def test_relay_whose_stream_is_away_says_so_once(bus, pool, nats_server):
    async with transaction(pool) as writer:
        await writer.execute("CREATE SCHEMA sample")
        await writer.execute(
            "CREATE TABLE sample.outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL,"
            " type text NOT NULL, subject text NOT NULL, data bytea NOT NULL, traceparent text NOT NULL,"
            " at timestamptz NOT NULL DEFAULT now())"
        )
        await writer.execute(
            "INSERT INTO sample.outbox (event_id, type, subject, data, traceparent)"
            " VALUES (gen_random_uuid(), 'io.boostedcalls.contact.v1.created', 'bc.evt.contact.created.x.y', '{}', '')"
        )
    await ensure_streams(bus, CALL_EVENTS)
    config = (await bus.jetstream.stream_info(CALL_EVENTS)).config
    await bus.jetstream.update_stream(replace(config, max_bytes=1, discard=DiscardPolicy.NEW))
    with capture_logs() as lines:
        task = bus.runtime.spawn(Relay(bus, pool, "sample").run(), "outbox")
        await until(lambda: "outbox_waits" in {line["event"] for line in lines})
        await bus.jetstream.update_stream(config)
        await until(lambda: "outbox_goes_on" in {line["event"] for line in lines})
    assert await pool.fetchval("SELECT count(*) FROM sample.outbox") == 0
    await bus.runtime.cancel(task)
    told = Counter(line["event"] for line in lines)
    assert told == {event: 1 for event in ("outbox_waits", "outbox_goes_on", "stream_trouble", "stream_trouble_over")}


@pytest.mark.usefixtures("emptied")
async def test_consumer_whose_database_is_away_pauses_visibly_and_goes_on(bus):
    there = asyncio.Event()
    handled = asyncio.Event()

    async def handler(_):
        if not there.is_set():
            raise Unavailable("gone")
        handled.set()

    with capture_logs() as lines:
        task = bus.runtime.spawn(
            consume(bus, Consumer(PROVIDER_EVENTS, "pausing", batch=8), handler, once_set(there)), "c"
        )
        await publish(bus)
        await until(lambda: metric("boostedcalls_fetching_paused", stream=PROVIDER_EVENTS) == 1)
        there.set()
        await handled.wait()
        assert metric("boostedcalls_fetching_paused", stream=PROVIDER_EVENTS) == 0
    await bus.runtime.cancel(task)
    told = [line for line in lines if line["event"].startswith("fetching")]
    assert [line["event"] for line in told] == ["fetching_paused", "fetching_resumed"]
    assert told[0]["reason"] == "gone"


@pytest.mark.usefixtures("emptied")
async def test_readers_of_one_consumer_pause_as_one_and_say_so_once(bus):
    there, handled = asyncio.Event(), asyncio.Semaphore(0)
    failed: list[int] = []
    both = asyncio.Event()

    async def handler(batch: Sequence[Delivery]) -> None:
        if not there.is_set():
            failed.append(batch[0].sequence)
            if len(failed) == 2:
                both.set()
            # Each reader has its batch in hand when the database is found to be away.
            await both.wait()
            raise Unavailable("gone")
        handled.release()

    consumer = Consumer(PROVIDER_EVENTS, "pausing-together", batch=1, readers=2)
    with capture_logs() as lines:
        for _ in range(4):
            await publish(bus)
        task = bus.runtime.spawn(consume(bus, consumer, handler, once_set(there)), "c")
        await until(lambda: metric("boostedcalls_fetching_paused", stream=PROVIDER_EVENTS) > 0)
        # Long enough for what was given back to be fetched again, would somebody fetch.
        await asyncio.sleep(2)
        assert metric("boostedcalls_fetching_paused", stream=PROVIDER_EVENTS) == 1
        assert len(failed) == 2
        there.set()
        for _ in range(4):
            await handled.acquire()
        await until(lambda: metric("boostedcalls_fetching_paused", stream=PROVIDER_EVENTS) == 0)
    await bus.runtime.cancel(task)
    told = [line["event"] for line in lines if line["event"].startswith("fetching")]
    assert told == ["fetching_paused", "fetching_resumed"]


@pytest.mark.usefixtures("emptied")
async def test_batch_that_fails_after_the_pause_that_began_beside_it_is_no_reason_for_another(bus):
    """A statement hangs until its server goes on, and only then fails."""
    there, hanging, gone_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tried: list[int] = []

    async def handler(batch: Sequence[Delivery]) -> None:
        tried.append(batch[0].sequence)
        match len(tried):
            case 1:
                hanging.set()
                await gone_on.wait()
                raise Unavailable("hung")
            case 2:
                await hanging.wait()
                raise Unavailable("gone")

    consumer = Consumer(PROVIDER_EVENTS, "hanging", batch=1, readers=2)
    with capture_logs() as lines:
        for _ in range(2):
            await publish(bus)
        task = bus.runtime.spawn(consume(bus, consumer, handler, once_set(there)), "c")
        await until(lambda: "fetching_paused" in {line["event"] for line in lines})
        there.set()
        await until(lambda: "fetching_resumed" in {line["event"] for line in lines})
        gone_on.set()
        await until(lambda: len(tried) == 4)
    await bus.runtime.cancel(task)
    told = [line["event"] for line in lines if line["event"].startswith("fetching")]
    assert told == ["fetching_paused", "fetching_resumed"]


@pytest.mark.usefixtures("emptied")
async def test_handler_that_fails_although_its_database_answers_is_tried_less_and_less_often(bus, monkeypatch):
    """A full disk: reading works, and each try is a delivery of the ten that a message has."""
    pauses: list[float] = []

    async def no_sleep(_, seconds: float) -> None:
        pauses.append(seconds)

    async def handler(_):
        if len(pauses) < 9:
            raise Unavailable("disk full")

    async def ready() -> bool:
        return True

    monkeypatch.setattr(_Pause, "_sleep", no_sleep)
    task = bus.runtime.spawn(consume(bus, Consumer(PROVIDER_EVENTS, "full", batch=8), handler, ready), "c")
    await publish(bus)
    await until(lambda: len(pauses) == 9)
    await bus.runtime.cancel(task)
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
