"""One login for everything, as some managed databases give it: an owner who is no superuser and may not make roles."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio

from boostedcalls.devkit.pytest_plugin import Database, StackFactory
from boostedcalls.devkit.servers import Server
from boostedcalls.devkit.stack import EVERYTHING

if TYPE_CHECKING:
    from conftest import SignUp


@pytest_asyncio.fixture(loop_scope="session")
async def single_login(database: Database, postgres_server: Server) -> AsyncGenerator[str]:
    """The URL of an empty database with such an owner."""
    dsn, password = await database(), secrets.token_hex(16)
    name = urlsplit(dsn).path[1:]
    admin = await asyncpg.connect(dsn.owner)
    try:
        await admin.execute(f"CREATE ROLE single_login LOGIN PASSWORD '{password}'")
        await admin.execute(f"ALTER DATABASE {name} OWNER TO single_login")
        yield f"postgresql://single_login:{password}@127.0.0.1:{postgres_server.port}/{name}"
        await admin.execute("REASSIGN OWNED BY single_login TO postgres; DROP OWNED BY single_login")
        await admin.execute("DROP ROLE single_login")
    finally:
        await admin.close()


async def test_with_one_login_everything_works_and_tenants_are_apart(
    single_login: str, stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    parts = [part for part in EVERYTHING if part != "postgres"]
    async with stack(parts=parts, env={**fast, "DATABASE_URL": single_login}) as system:
        users = [await sign_up(system.url) for _ in range(2)]
        for user in users:
            call = await user.place_call("00")
            done = await user.wait_for(call, lambda found: found["cost"] is not None)
            assert done["status"] == "completed"
            assert (await user.found("/api/calls/"))["total"] == 1
        connection = await asyncpg.connect(single_login)
        try:
            # The wall binds the owner too.
            assert await connection.fetchval("SELECT count(*) FROM calls.calls") == 0
            async with connection.transaction():
                await connection.execute(f"SET LOCAL bc.scope = '{users[0].id}'")
                assert await connection.fetchval("SELECT count(*) FROM calls.calls") == 1
        finally:
            await connection.close()
        for name in ("gateway", "contacts", "calls"):
            assert "database_owner" in system.log(name).read_text()
