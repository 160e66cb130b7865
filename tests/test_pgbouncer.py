"""The whole system behind a real pgbouncer in transaction mode, with fewer connections to Postgres than clients."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from boostedcalls.common.db import SERVICE, DatabaseSettings, connection, open_pool, transaction
from boostedcalls.common.db_settings import role_of
from boostedcalls.common.migrate import migrate
from boostedcalls.devkit.attacks import Attacks
from boostedcalls.devkit.credentials import password_variable
from boostedcalls.devkit.pgbouncer import pgbouncer, pgbouncer_program
from boostedcalls.devkit.pytest_plugin import SCHEMAS, StackFactory
from boostedcalls.devkit.servers import Server, postgres_server
from boostedcalls.devkit.stack import EVERYTHING, Stack

if TYPE_CHECKING:
    from conftest import SignUp

POOL_SIZE = 2


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if pgbouncer_program() is None and os.environ.get("CI") != "true":
        pytest.skip("pgbouncer is not installed; run: scripts/test-packages")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def passwords() -> dict[str, str]:
    return {service: secrets.token_hex(16) for service in SCHEMAS}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bouncer(
    tmp_path_factory: pytest.TempPathFactory, passwords: dict[str, str]
) -> AsyncGenerator[tuple[Server, Server]]:
    """A pgbouncer, and the Postgres behind it, whose roles are this module's alone."""
    folder: Path = tmp_path_factory.mktemp("pgbouncer")
    async with postgres_server(folder / "postgres", durable=False) as postgres:
        users = {"postgres": urlsplit(postgres.url).password or ""}
        users |= {role_of(service): password for service, password in passwords.items()}
        async with pgbouncer(folder / "bouncer", postgres.port, users, "postgres", pool_size=POOL_SIZE) as server:
            yield server, postgres


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(
    stack: StackFactory, bouncer: tuple[Server, Server], passwords: dict[str, str], fast: dict[str, str]
) -> AsyncGenerator[Stack]:
    env = {
        **fast,
        "DATABASE_URL": bouncer[0].url,
        "DB_STATEMENT_CACHE": "false",
        **{password_variable(service): password for service, password in passwords.items()},
    }
    parts = [part for part in EVERYTHING if part != "postgres"]
    async with stack(parts=parts, env=env, replicas={"calls": 2}) as running:
        yield running


async def test_two_tenants_use_everything_and_each_sees_their_own(system: Stack, sign_up: SignUp) -> None:
    users = [await sign_up(system.url) for _ in range(2)]

    async def use(number: int) -> None:
        user = users[number]
        script = await user.made("/api/scripts/", name=f"Pitch {number}")
        calls = [await user.place_call("00", script_id=script["id"]) for _ in range(3)]
        for call in calls:
            done = await user.wait_for(call, lambda found: found["cost"] is not None)
            assert done["status"] == "completed"
            assert done["transcript"]
        listed = await user.found("/api/calls/")
        assert {call["id"] for call in listed["data"]} == {call["id"] for call in calls}
        assert listed["total"] == 3
        assert len(await user.found("/api/contacts/")) == 3
        cards = {card["title"]: card["value"] for card in (await user.found("/api/calls/stats/"))["cards"]}
        assert (cards["Calls made"], cards["Contacts"]) == ("3", "3")
        assert (await user.found("/api/calls/pending-count/"))["count"] == 0
        assert await user.found(f"/api/calls/{calls[0]['id']}/events/")

    await asyncio.gather(use(0), use(1))
    mine, theirs = [(await user.found("/api/calls/"))["data"][0]["id"] for user in users]
    assert (await users[0].http.get(f"/api/calls/{theirs}/")).status_code == 404
    assert (await users[1].http.delete(f"/api/calls/{mine}/")).status_code in {404, 405}


async def test_many_requests_at_once_share_few_connections_and_never_see_anothers_rows(
    system: Stack, sign_up: SignUp, bouncer: tuple[Server, Server], attacks: Attacks
) -> None:
    users = [await sign_up(system.url) for _ in range(4)]
    for number, user in enumerate(users):
        for _ in range(number + 1):
            await user.contact()

    async def reads(number: int) -> None:
        for _ in range(25):
            contacts = await users[number].found("/api/contacts/")
            assert len(contacts) == number + 1
            assert (await users[number].found("/api/calls/"))["total"] == 0

    await asyncio.gather(*(reads(number) for number in range(4) for _ in range(3)))
    attacks("Postgres: scope of the one before in a shared connection", 4 * 3 * 25 * 2)
    admin = await asyncpg.connect(bouncer[1].url)
    open_now = await admin.fetch(
        "SELECT usename, count(*) FROM pg_stat_activity WHERE usename LIKE 'boostedcalls%' GROUP BY 1"
    )
    await admin.close()
    assert {row["usename"] for row in open_now} == {role_of(service) for service in SCHEMAS}
    assert max(row["count"] for row in open_now) <= POOL_SIZE


async def test_a_scope_never_goes_over_to_the_next_user_of_a_connection(
    bouncer: tuple[Server, Server], passwords: dict[str, str], system: Stack, attacks: Attacks
) -> None:
    settings = DatabaseSettings(
        database_url=bouncer[0].url,
        db_statement_cache=False,
        db_calls_password=passwords["calls"],
        _env_file=None,
    )
    async with AsyncExitStack() as stack:
        pool = await open_pool(stack, settings, "calls")

        async def with_scope() -> None:
            async with transaction(pool, SERVICE) as writer:
                assert await writer.fetchval("SELECT current_setting('bc.scope', true)") == SERVICE

        async def without() -> None:
            async with connection(pool) as reader:
                assert await reader.fetchval("SELECT coalesce(current_setting('bc.scope', true), '')") == ""

        async def alone(number: int) -> None:
            """A statement outside a transaction is parsed and run in one go, or another's would be run."""
            async with connection(pool) as reader:
                assert await reader.fetchval(f"SELECT {number} + $1::int", number) == 2 * number

        await asyncio.gather(
            *(each() for _ in range(200) for each in (with_scope, without)), *(alone(number) for number in range(200))
        )
    attacks("Postgres: scope of the one before in a shared connection", 200)


async def test_migrations_run_through_it(bouncer: tuple[Server, Server], system: Stack) -> None:
    for service, schema in SCHEMAS.items():
        assert await migrate(bouncer[0].url, schema, f"boostedcalls.{service}", service) == ([], None)
