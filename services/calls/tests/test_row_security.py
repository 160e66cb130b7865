"""The second wall: a query that forgets its `user_id` shows and changes nothing of another tenant."""

# ruff: noqa: S608 - the names of our own tables
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from boostedcalls import calls
from boostedcalls.calls import handlers, idempotency, limits, queries, stats, store
from boostedcalls.calls.handlers import Service
from boostedcalls.calls.idempotency import Answer, Key
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import SERVICE, DatabaseSettings, Pool, open_pool, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.messages.calls import CallId, ListCalls
from boostedcalls.devkit.attacks import Attacks
from boostedcalls.devkit.unfiltered import Unfiltered

from .conftest import World

TENANTS = ("calls", "timeline", "totals", "daily", "idempotency_keys")
OURS = ("unmatched", "settled", "outbox")
NOW = datetime.now(UTC)

Operation = Callable[[Service], Awaitable[Any]]


class Scene:
    """Somebody with one pending call; and a victim with two calls, one of them completed, a timeline and a key."""

    def __init__(self, world: World, unfiltered: Pool) -> None:
        self.world = world
        self.user, self.victim = new_id(), new_id()
        self.altered = Service(replace(world.deps, pool=unfiltered), world.bus)
        self.contact, self.script = new_id(), new_id()
        self.call = new_id()

    async def fill(self) -> None:
        self.mine = (await self.world.insert(self.user, created_at=NOW - timedelta(hours=1)))["id"]
        await self.world.insert(
            self.victim, id=self.call, contact_id=self.contact, script_id=self.script, created_at=NOW
        )
        done = await self.world.insert(self.victim, created_at=NOW - timedelta(hours=2))
        await self.world.admin.execute(
            "UPDATE calls.calls SET status = 'completed', transcript = 'private' WHERE id = $1", done["id"]
        )
        await self.world.admin.execute("INSERT INTO calls.totals VALUES ($1, 'completed', 1, 7)", self.victim)
        await self.world.admin.execute("INSERT INTO calls.daily VALUES ($1, $2, 1)", self.victim, NOW.date())
        async with transaction(self.world.deps.pool, self.victim) as connection:
            await idempotency.take(connection, Key(self.victim, "key", b"print"), self.call, 60)

    async def victims(self) -> list[Any]:
        """All that is the victim's."""
        admin, found = self.world.admin, []
        for table in TENANTS:
            where = (
                "call_id IN (SELECT id FROM calls.calls WHERE user_id = $1)" if table == "timeline" else "user_id = $1"
            )
            found += [
                tuple(row)
                for row in await admin.fetch(f"SELECT * FROM calls.{table} WHERE {where} ORDER BY 1, 2", self.victim)
            ]
        return found

    def operations(self) -> dict[str, Operation]:
        """What a user can ask for, aimed at the victim's things; each must show nothing of theirs."""
        who, key = caller(self.user), Key(self.user, "key", b"print")

        def listed(**query: Any) -> Operation:
            return lambda service: handlers.list_calls(service, who, ListCalls(**query))

        async def figures(service: Service) -> Any:
            async with reading(service.deps.pool, self.user) as connection:
                return stats.stats(await stats.read_figures(connection, self.user, NOW.date()), 0, NOW.date())

        async def first(service: Service) -> Any:
            async with reading(service.deps.pool, self.user) as connection:
                return await idempotency.find(connection, key)

        async def row(service: Service) -> Any:
            async with reading(service.deps.pool, self.user) as connection:
                return await queries.get_call(connection, self.user, self.call)

        async def active(service: Service) -> Any:
            async with reading(service.deps.pool, self.user) as connection:
                return await store.active_calls(connection, self.user)

        async def limited(service: Service) -> Any:
            since = NOW - timedelta(minutes=30)
            async with reading(service.deps.pool, self.user) as connection:
                phone = (await queries.get_call(connection, self.user, self.mine))["contact_phone"]
                oldest = await connection.fetchval(limits._OLDEST, self.user, since, 0)
                return oldest, await connection.fetchval(limits._LAST, self.user, phone, since)

        return {
            "limits": limited,
            "get": lambda service: handlers.get_call(service, who, CallId(call_id=self.call)),
            "row": row,
            "timeline": lambda service: handlers.call_timeline(service, who, CallId(call_id=self.call)),
            "list": listed(),
            "list a page": listed(page=2, limit=1),
            "list by status": listed(status=["pending", "completed"]),
            "list by contact": listed(contact_id=self.contact),
            "list by script": listed(script_id=self.script),
            "list by time": listed(created_from=NOW - timedelta(days=1), created_to=NOW + timedelta(days=1)),
            "list by all": listed(status=["pending"], contact_id=self.contact, script_id=self.script),
            "pending count": lambda service: handlers.pending_count(service, who, Nothing()),
            "active": active,
            "stats": figures,
            "key": first,
            "sync": lambda service: handlers.sync_call(service, who, CallId(call_id=self.call)),
            "kept answer": lambda service: idempotency.keep(service.deps.pool, key, self.call, Answer(200, b"forged")),
            "kept by another": lambda service: idempotency.keep(service.deps.pool, key, self.call, Answer(201, b"")),
            "cancel": lambda service: handlers.cancel_call(service, who, CallId(call_id=self.call)),
        }


async def _outcome(operation: Operation, service: Service) -> Any:
    try:
        return await operation(service)
    except ServiceError as error:
        return error.code


@pytest_asyncio.fixture
async def scene(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg, "create_pool", partial(asyncpg.create_pool, connection_class=Unfiltered))
            unfiltered = await open_pool(stack, DatabaseSettings(database_url=world.dsn), "test")
        made = Scene(world, unfiltered)
        await made.fill()
        Unfiltered.altered.clear()
        yield made


async def test_without_its_filter_no_query_shows_or_changes_anything_of_another_tenant(
    scene: Scene, attacks: Attacks
) -> None:
    theirs = await scene.victims()
    assert len(theirs) >= 8
    for name, operation in scene.operations().items():
        expected = await _outcome(operation, scene.world.service)
        assert await _outcome(operation, scene.altered) == expected, name
        assert await scene.victims() == theirs, name
    attacks("Postgres: query without its filter", len(Unfiltered.altered))


async def test_without_the_second_wall_every_one_of_them_leaks(scene: Scene) -> None:
    """So the test above can fail."""
    expected = {name: await _outcome(each, scene.world.service) for name, each in scene.operations().items()}
    for table in TENANTS:
        await scene.world.admin.execute(f"ALTER TABLE calls.{table} DISABLE ROW LEVEL SECURITY")
    tight = []
    for name, operation in scene.operations().items():
        theirs = await scene.victims()
        if await _outcome(operation, scene.altered) == expected[name] and await scene.victims() == theirs:
            tight.append(name)
    assert tight == []


def test_every_statement_with_a_filter_is_among_those_that_were_tried() -> None:
    """A new one has to be added to the operations above."""
    folder = Path(next(iter(calls.__path__)))
    found = {
        path.name: len(re.findall(r"user_id = (?:\$|\{place)", path.read_text()))
        for path in sorted(folder.glob("*.py"))
    }
    assert {name: count for name, count in found.items() if count} == {
        "idempotency.py": 3,
        "limits.py": 2,
        "queries.py": 2,
        "stats.py": 2,
        "store.py": 1,
    }


async def test_in_a_users_scope_every_statement_finds_that_users_rows_alone(scene: Scene, attacks: Attacks) -> None:
    theirs, count = await scene.victims(), 0
    for table in TENANTS:
        column = {"timeline": "type", "totals": "spent", "daily": "completed", "idempotency_keys": "status"}.get(
            table, "checks"
        )
        mine = "call_id IN (SELECT id FROM calls.calls)" if table == "timeline" else f"user_id = '{scene.user}'"
        async with transaction(scene.world.deps.pool, scene.user) as connection:
            rows = await connection.fetchval(f"SELECT count(*) FROM calls.{table}")
            assert rows == await connection.fetchval(f"SELECT count(*) FROM calls.{table} WHERE {mine}")
            await connection.fetch(f"SELECT * FROM calls.{table} FOR UPDATE")
            await connection.execute(f"UPDATE calls.{table} SET {column} = {column}")
            await connection.execute(f"DELETE FROM calls.{table}")
        assert await scene.victims() == theirs, table
        count += 4
    for table in OURS:
        async with transaction(scene.world.deps.pool, scene.user) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM calls.{table}") == 0
            assert await connection.execute(f"DELETE FROM calls.{table}") == "DELETE 0"
        count += 2
    attacks("Postgres: statement in another's scope", count)


async def test_nobody_writes_a_row_for_another_tenant(scene: Scene, attacks: Attacks) -> None:
    victim, call = scene.victim, scene.call
    mine = await scene.world.insert(scene.user)
    statements: list[tuple[str, tuple[Any, ...]]] = [
        ("UPDATE calls.calls SET user_id = $1 WHERE id = $2", (victim, mine["id"])),
        ("INSERT INTO calls.totals VALUES ($1, 'failed', 1, 1)", (victim,)),
        ("INSERT INTO calls.totals VALUES ($1, 'pending', 9, 9) ON CONFLICT DO NOTHING", (victim,)),
        ("UPDATE calls.totals SET user_id = $1, status = 'odd'", (victim,)),
        ("INSERT INTO calls.daily VALUES ($1, now(), 1)", (victim,)),
        ("INSERT INTO calls.timeline VALUES ($1, gen_random_uuid(), now(), 'created', 'user')", (call,)),
        ("UPDATE calls.timeline SET call_id = $1", (call,)),
        ("INSERT INTO calls.idempotency_keys VALUES ($1, 'k', '', $2, now(), now())", (victim, call)),
        ("INSERT INTO calls.unmatched VALUES ('id', 1, '{}')", ()),
        ("INSERT INTO calls.settled (sequences) VALUES ('{}')", ()),
    ]
    for sql, args in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with transaction(scene.world.deps.pool, scene.user) as connection:
                await connection.execute(sql, *args)
    attacks("Postgres: write for another tenant", len(statements))


@pytest.mark.parametrize("scope", [None, UUID(int=0)])
async def test_without_a_scope_and_in_a_strangers_there_is_nothing(
    scene: Scene, scope: UUID | None, attacks: Attacks
) -> None:
    for table in (*TENANTS, *OURS):
        async with transaction(scene.world.deps.pool, scope) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM calls.{table}") == 0, table
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with transaction(scene.world.deps.pool) as connection:
            await connection.execute(
                "INSERT INTO calls.outbox (event_id, type, subject, data, traceparent)"
                " VALUES (gen_random_uuid(), '', '', '', '')"
            )
    attacks("Postgres: without a scope", len(TENANTS) + len(OURS) + 1)


async def test_a_scope_ends_with_its_transaction(world: World) -> None:
    row = await world.insert(new_id())
    for scope in (SERVICE, row["user_id"]):
        async with transaction(world.deps.pool, scope) as connection:
            assert await connection.fetchval("SELECT count(*) FROM calls.calls") == 1
        async with world.deps.pool.acquire() as connection:
            assert await connection.fetchval("SELECT count(*) FROM calls.calls") == 0


async def test_the_owner_who_is_no_superuser_is_behind_the_wall_too(scene: Scene) -> None:
    admin = scene.world.admin
    async with admin.acquire() as connection:
        await connection.execute("CREATE ROLE plain_owner")
        try:
            async with connection.transaction():
                for table in TENANTS:
                    await connection.execute(f"ALTER TABLE calls.{table} OWNER TO plain_owner")
                await connection.execute("GRANT USAGE ON SCHEMA calls TO plain_owner; SET LOCAL ROLE plain_owner")
                for table in TENANTS:
                    assert await connection.fetchval(f"SELECT count(*) FROM calls.{table}") == 0
                await connection.execute(f"SET LOCAL bc.scope = '{scene.victim}'")
                assert await connection.fetchval("SELECT count(*) FROM calls.calls") == 2
        finally:
            await connection.execute("REASSIGN OWNED BY plain_owner TO postgres; DROP OWNED BY plain_owner")
            await connection.execute("DROP ROLE plain_owner")


async def test_every_table_of_a_service_has_row_security_that_binds_its_owner(world: World) -> None:
    rows = await world.admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'calls'::regnamespace AND relkind = 'r'"
        " AND relname <> 'migrations' AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert rows == []


@pytest.mark.parametrize("scope", ["x", "'; DROP TABLE calls.calls; --", 1, b"*", True, "**"])
async def test_what_is_no_scope_reaches_no_statement(world: World, scope: Any, attacks: Attacks) -> None:
    for opened in (transaction, reading):
        with pytest.raises(TypeError):
            async with opened(world.deps.pool, scope):
                pass
    attacks("Postgres: injected scope", 2)
