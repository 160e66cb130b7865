"""Readiness: asked of real servers that are there, away, frozen, or of no use."""

import asyncio
import contextlib
from contextlib import AsyncExitStack

import asyncpg
import pytest
import pytest_asyncio

from boostedcalls.common.db import DatabaseSettings, open_pool, reachable, transaction
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.readiness import ready_report
from boostedcalls.devkit.procs import frozen


@pytest_asyncio.fixture(loop_scope="session")
async def pool(database):
    async with AsyncExitStack() as stack:
        yield await open_pool(stack, DatabaseSettings(database_url=await database(), _env_file=None), "test")


@pytest.fixture
def report(bus, pool):
    """`await report()`: what /readyz would say; it fails when that takes much longer than it may."""

    async def ask() -> dict[str, bool]:
        async with asyncio.timeout(3):
            return await ready_report({"nats": bus.connected, "database": lambda: reachable(pool)})

    return ask


async def settled(ask, expected) -> None:
    """Ask until the answer is the expected one."""
    while await ask() != expected:  # noqa: ASYNC110 - it is asked for, not told
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("away", ["nats", "database"])
async def test_server_that_was_killed_is_told_at_once_and_found_again(report, nats_server, postgres_server, away):
    server = nats_server if away == "nats" else postgres_server
    assert await report() == {"nats": True, "database": True}
    await server.kill()
    try:
        assert await report() == {"nats": away != "nats", "database": away != "database"}
    finally:
        await server.start()
    await settled(report, {"nats": True, "database": True})


@pytest.mark.parametrize("away", ["nats", "database"])
async def test_server_that_stands_still_is_told_in_time_and_found_again(report, nats_server, postgres_server, away):
    server = nats_server if away == "nats" else postgres_server
    assert await report() == {"nats": True, "database": True}
    with frozen(server.child.pid):
        for _ in range(3):
            assert await report() == {"nats": away != "nats", "database": away != "database"}
    await settled(report, {"nats": True, "database": True})


async def test_both_standing_still_are_told_in_time(report, nats_server, postgres_server):
    with frozen(nats_server.child.pid), frozen(postgres_server.child.pid):
        assert await report() == {"nats": False, "database": False}
    await settled(report, {"nats": True, "database": True})


async def test_probes_of_a_frozen_nats_leave_the_connection_as_it_was(bus, nats_server):
    client_id = bus.client.client_id
    with frozen(nats_server.child.pid):
        assert await asyncio.gather(*(bus.connected() for _ in range(20))) == [False] * 20
    # A late answer to a probe that was given up would make a nats-py client deaf if it were asked for by `flush`.
    assert await bus.connected()
    assert bus.client.client_id == client_id


async def test_many_probes_of_a_frozen_database_take_one_connection(pool, postgres_server):
    with frozen(postgres_server.child.pid):
        assert await asyncio.gather(*(reachable(pool) for _ in range(50))) == [False] * 50
        assert pool.get_size() - pool.get_idle_size() <= 1
    await settled(lambda: reachable(pool), True)


async def test_database_that_takes_no_writes_is_not_ready(report, pool):
    async with pool.acquire() as admin:
        name = await admin.fetchval("SELECT current_database()")
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await pool.expire_connections()
    assert (await report())["database"] is False
    with pytest.raises(Unavailable):
        async with transaction(pool) as writer:
            await writer.execute("CREATE TABLE refused ()")
    async with pool.acquire() as admin:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    # Connections of the old kind are given up by themselves.
    await settled(report, {"nats": True, "database": True})


async def test_database_that_is_closed_to_new_connections_is_unavailable_and_works_once_it_is_open(
    pool, postgres_server
):
    name = await pool.fetchval("SELECT current_database()")
    async with contextlib.AsyncExitStack() as stack:
        admin = await asyncpg.connect(postgres_server.url)
        stack.push_async_callback(admin.close)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await pool.expire_connections()
        with pytest.raises(Unavailable):
            async with transaction(pool):
                pass
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    async with transaction(pool) as writer:
        assert await writer.fetchval("SELECT 1") == 1


async def test_pool_that_is_taken_up_is_not_ready_until_it_is_free(database):
    async with AsyncExitStack() as stack:
        settings = DatabaseSettings(database_url=await database(), db_pool_size=1, _env_file=None)
        pool = await open_pool(stack, settings, "test")
        async with pool.acquire():
            assert not await reachable(pool)
        await settled(lambda: reachable(pool), True)


async def test_backend_that_stands_still_ends_what_waits_for_it_and_the_pool_lives_on(database, monkeypatch):
    """The way a connection to a server behaves whose machine is gone: nothing comes, not even a reset."""
    async with AsyncExitStack() as stack:
        settings = DatabaseSettings(database_url=await database(), _env_file=None)
        pool = await open_pool(stack, settings, "test")
        with contextlib.ExitStack() as still, pytest.raises(Unavailable):  # noqa: PT012
            async with transaction(pool) as writer:
                still.enter_context(frozen(await writer.fetchval("SELECT pg_backend_pid()")))
                assert await reachable(pool)
                await writer.fetchval("SELECT 1", timeout=0.2)
        async with transaction(pool) as writer:
            assert await writer.fetchval("SELECT 1") == 1


async def test_check_that_raises_or_hangs_is_not_ready():
    async def raises() -> bool:
        raise asyncpg.InterfaceError("no")

    async def hangs() -> bool:
        await asyncio.sleep(60)
        return True

    async with asyncio.timeout(3):
        assert await ready_report({"one": raises, "two": hangs}) == {"one": False, "two": False}
