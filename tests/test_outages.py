"""NATS and Postgres killed, frozen, full or locked under the real processes: who is not ready says so, nothing is lost,
and everything goes on by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx2
import pytest
import pytest_asyncio
from nats.js.api import DiscardPolicy

from boostedcalls.devkit.procs import frozen
from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import FAST, SignUp, User, is_over
from .watch import (
    ANSWERED,
    SERVICES,
    Log,
    all_ready,
    database,
    dead_letters,
    deliveries,
    dials,
    metric,
    nothing_waits,
    readiness,
    seen,
    streams,
)

WITH_DATABASE = {"gateway", "calls", "contacts"}
# So long that calls which go on while a server is away outlive it.
SLOW_CALLS = {**FAST, "SIMULATOR_SPEED": "2"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(stack: StackFactory) -> AsyncGenerator[Stack]:
    """One for the module: each test leaves it as it found it. What its Postgres has committed must outlive a kill."""
    async with stack(env=SLOW_CALLS, durable=True) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def user(system: Stack, sign_up: SignUp) -> User:
    await all_ready(system)
    return await sign_up(system.url)


@asynccontextmanager
async def away(system: Stack, server: str, how: str) -> AsyncGenerator[None]:
    """The server is killed or frozen inside; afterwards everybody is ready again."""
    if how == "frozen":
        with frozen(system.member(server).server.child.pid):
            yield
    else:
        # Not by `kill`: its watcher would start it again at once.
        await system.member(server).stop(timeout=0)
        try:
            yield
        finally:
            await system.start(server)
    await all_ready(system)


async def placed(user: User, count: int) -> list[dict]:
    return list(await asyncio.gather(*(user.place_call("00") for _ in range(count))))


async def right(system: Stack, user: User, calls: list[dict]) -> None:
    """Every call ended as it did at the provider, and was dialled once."""
    for call in calls:
        await seen(user, call)
        found = await user.found(f"/api/calls/{call['id']}/")
        assert (found["status"], found["outcome"], found["ended_reason"]) == ANSWERED
        assert found["transcript"]
        assert dials(system)[call["id"]] == 1


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("server", ["nats", "postgres"])
async def test_whoever_needs_a_server_that_is_away_is_not_ready_and_is_ready_again_by_itself(
    system: Stack, server: str, how: str
) -> None:
    await all_ready(system)
    async with away(system, server, how):
        for _ in range(2):
            found = dict(
                zip(SERVICES, await asyncio.gather(*(readiness(system, name) for name in SERVICES)), strict=True)
            )
            missing = set(SERVICES) if server == "nats" else WITH_DATABASE
            assert found == {name: 503 if name in missing else 200 for name in SERVICES}


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_the_database_is_away_webhooks_wait_in_their_stream_and_are_applied_when_it_is_back(
    system: Stack, user: User, how: str
) -> None:
    letters, (events, delivered) = await dead_letters(system), await deliveries(system)
    calls, webhooks = Log(system, "calls"), Log(system, "webhooks")
    made = await placed(user, 6)
    async with away(system, "postgres", how):
        await calls.until("fetching_paused")
        assert await metric(system, "calls", 'boostedcalls_fetching_paused{stream="PROVIDER_EVENTS"}') == 1
        # All that the provider sends for these calls is sent and taken meanwhile.
        async with asyncio.timeout(60), streams(system) as jetstream:
            while (await jetstream.stream_info("PROVIDER_EVENTS")).state.last_seq < events + 30:
                await asyncio.sleep(0.1)
    await right(system, user, made)
    for call in made:
        timeline = await user.found(f"/api/calls/{call['id']}/events/")
        assert "webhook" in {line["source"] for line in timeline if line["type"] == "end-of-call-report"}
    assert await dead_letters(system) == letters
    after, total = await deliveries(system)
    # Those at hand when it went away were delivered again; the others waited.
    assert total - delivered <= 3 * (after - events)
    assert await metric(system, "calls", 'boostedcalls_fetching_paused{stream="PROVIDER_EVENTS"}') == 0
    told = calls.events()
    assert told["database_trouble"] <= 2, "a line at each try"
    assert webhooks.events()["unavailable"] == 0


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_nats_is_away_calls_go_on_and_are_right_when_it_is_back(
    system: Stack, user: User, how: str
) -> None:
    letters = await dead_letters(system)
    made = await placed(user, 6)
    logs = {name: Log(system, name) for name in SERVICES}
    async with away(system, "nats", how):
        answer = await user.http.get("/api/calls/")
        assert answer.status_code in {503, 504}
        assert answer.json()["code"] in {"unavailable", "timeout"}
        await logs["calls"].until("stream_trouble")
    await right(system, user, made)
    await nothing_waits(system)
    await right(system, user, await placed(user, 2))
    assert await dead_letters(system) == letters
    for name, log in logs.items():
        assert log.events()["fatal"] == 0, name
    assert logs["calls"].events()["sync_waits"] <= 2


@asynccontextmanager
async def full(system: Stack, *names: str) -> AsyncGenerator[None]:
    """Streams take nothing inside: an operator has limited them to less than they hold."""
    async with streams(system) as jetstream:
        before = [(await jetstream.stream_info(name)).config for name in names]
        for config in before:
            await jetstream.update_stream(replace(config, max_bytes=1, discard=DiscardPolicy.NEW))
        yield
        for config in before:
            await jetstream.update_stream(config)


async def test_streams_at_their_limit_are_told_and_take_all_that_waited_when_the_limit_is_raised(
    system: Stack, user: User
) -> None:
    letters = await dead_letters(system)
    webhooks, calls = Log(system, "webhooks"), Log(system, "calls")
    headers = {"x-vapi-secret": system.env["VAPI_WEBHOOK_SECRET"], "Authorization": ""}
    async with full(system, "PROVIDER_EVENTS", "CALL_EVENTS", "DLQ"):
        made = await placed(user, 3)
        broken = await user.http.post("/api/calls/webhook/", content=b"no JSON", headers=headers)
        # In the gateway's spool.
        assert broken.status_code == 200
        line = await webhooks.until("stream_trouble")
        assert "maximum bytes" in line["reason"]
        await calls.until("outbox_waits")
        assert await metric(system, "webhooks", 'boostedcalls_publish_failures_total{stream="PROVIDER_EVENTS"}') > 0
        assert await metric(system, "calls", 'boostedcalls_publish_failures_total{stream="CALL_EVENTS"}') > 0
    await right(system, user, made)
    await nothing_waits(system)
    async with asyncio.timeout(60):
        while await dead_letters(system) < letters + 1:
            await asyncio.sleep(0.1)
    assert await dead_letters(system) == letters + 1
    await calls.until("outbox_goes_on")
    told = calls.events()
    assert told["outbox_waits"] <= 2, "a line at each try"


async def test_database_that_takes_no_writes_is_waited_for(system: Stack, user: User) -> None:
    letters = await dead_letters(system)
    made = await placed(user, 4)
    calls = Log(system, "calls")
    async with database(system) as admin, AsyncExitStack() as stack:
        await admin.execute("SET default_transaction_read_only = off")
        stack.push_async_callback(admin.execute, "SELECT pg_reload_conf()")
        stack.push_async_callback(admin.execute, "ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        await calls.until("fetching_paused")
        assert [await readiness(system, name) for name in ("calls", "contacts", "webhooks")] == [503, 503, 200]
        refused, _ = await _ask(user, made[0]["contact_id"])
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        # What needs no write is there.
        assert len((await user.found("/api/calls/"))["data"]) == 4
    await all_ready(system)
    await right(system, user, made)
    assert await dead_letters(system) == letters
    assert "ReadOnlySQLTransactionError" in (await calls.until("database_trouble"))["reason"]


async def _ask(user: User, contact_id: str) -> tuple[httpx2.Response, str]:
    return await user.http.post("/api/calls/", json={"contact_id": contact_id}), contact_id


async def test_all_goes_on_once_streams_that_were_deleted_by_hand_are_made_anew(system: Stack, user: User) -> None:
    """By the operator: no service may make them. Meanwhile webhooks wait in the spool."""
    calls = Log(system, "calls")
    await right(system, user, await placed(user, 1))
    async with streams(system) as jetstream:
        for name in ("PROVIDER_EVENTS", "CALL_EVENTS", "JOBS", "DLQ"):
            await jetstream.delete_stream(name)
    made = await placed(user, 2)
    await calls.until("consumer_trouble")
    await system.make_streams()
    await right(system, user, made)
    await nothing_waits(system)
    headers = {"x-vapi-secret": system.env["VAPI_WEBHOOK_SECRET"], "Authorization": ""}
    answer = await user.http.post("/api/calls/webhook/", content=b"no JSON", headers=headers)
    assert answer.status_code == 200
    async with asyncio.timeout(60):
        while await dead_letters(system) != 1:
            await asyncio.sleep(0.1)
    # By the schedule alone: the queue of its jobs is there again too.
    silent = await user.place_call("10")
    item = await seen(user, silent)
    assert is_over(item)


async def test_one_connection_to_the_database_is_enough_for_everybody(stack: StackFactory, sign_up: SignUp) -> None:
    """Nobody waits for a second connection while holding the first."""
    async with stack(env={**FAST, "DB_POOL_SIZE": "1"}) as system:
        user = await sign_up(system.url)
        made = await asyncio.gather(*(user.place_call(number) for number in ("00", "10", "13", "20") * 4))
        for call in made:
            assert is_over(await user.wait_for(call, is_over))
        assert set(dials(system).values()) == {1}
