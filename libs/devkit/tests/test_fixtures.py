"""The fixtures that everybody else's tests stand on."""

import asyncio

import asyncpg
import nats


async def test_database_without_a_name_is_empty_and_private_to_its_caller(database):
    first, second = await database(), await database()
    connection = await asyncpg.connect(first)
    await connection.execute("CREATE TABLE note (text text)")
    await connection.close()
    connection = await asyncpg.connect(second)
    assert await connection.fetchval("SELECT to_regclass('note')") is None
    await connection.close()


async def test_module_database_outlives_the_test(module_database):
    connection = await asyncpg.connect(await module_database())
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_nats_server_refuses_a_client_without_a_user(nats_server):
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    assert (await reader.readline()).startswith(b"INFO")
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    assert b"Authorization Violation" in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_nats_server_keeps_a_stream_over_a_kill(nats_server):
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept.>"])
    await client.jetstream().publish("kept.one", b"1")
    await client.close()
    await nats_server.kill()
    await nats_server.start()
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
    await client.close()


async def test_postgres_server_keeps_a_database_over_a_restart(postgres_server, database):
    dsn = await database()
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE note (text text)")
    await connection.close()
    await postgres_server.restart()
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM note") == 0
    await connection.close()
