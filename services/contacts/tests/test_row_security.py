"""The second wall: a query that forgets its `user_id` shows and changes nothing of another tenant."""

# ruff: noqa: S608 - the names of our own tables
import re
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from boostedcalls import contacts as package
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import DatabaseSettings, open_pool, transaction
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages import contacts as messages
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.outbox import Relay
from boostedcalls.contacts import contacts, scripts
from boostedcalls.contacts.deps import SCHEMA, Deps
from boostedcalls.devkit.unfiltered import Unfiltered

TENANTS = {"contacts": "name", "scripts": "name", "totals": "contacts"}


class Scene:
    """Somebody with one contact and one script, and a victim with two of each."""

    def __init__(self, dsn, admin, deps, altered):
        self.dsn, self.admin, self.deps, self.altered = dsn, admin, deps, altered
        self.user, self.victim = new_id(), new_id()

    async def fill(self):
        for owner, name in ((self.victim, "theirs"), (self.victim, "theirs too"), (self.user, "mine")):
            contact = messages.ContactWrite(name=name, phone="+12025550100")
            made = await contacts.create_contact(self.deps, caller(owner), contact)
            script = await scripts.create_script(self.deps, caller(owner), messages.ScriptWrite(name=name))
            if owner == self.victim:
                self.contact, self.script = made.id, script.id

    async def victims(self):
        found = []
        for table in TENANTS:
            sql = f"SELECT * FROM contacts.{table} WHERE user_id = $1 ORDER BY 1"
            found += [tuple(row) for row in await self.admin.fetch(sql, self.victim)]
        return found

    def operations(self):
        """What a user can ask for, aimed at the victim's things; what writes comes last."""
        who, contact, script = caller(self.user), {"contact_id": self.contact}, {"script_id": self.script}
        written = messages.ContactWrite(name="forged", phone="+12025550199")
        asked = {
            "contacts": (contacts.list_contacts, messages.ListContacts()),
            "contacts found": (contacts.list_contacts, messages.ListContacts(q="e")),
            "count": (contacts.count_contacts, Nothing()),
            "contact": (contacts.get_contact, messages.ContactId(**contact)),
            "scripts": (scripts.list_scripts, messages.ListScripts()),
            "script": (scripts.get_script, messages.ScriptId(**script)),
            "change": (contacts.update_contact, messages.UpdateContact(**contact, changes={"name": "forged"})),
            "replace": (contacts.replace_contact, messages.ReplaceContact(**contact, contact=written)),
            "change nothing": (contacts.update_contact, messages.UpdateContact(**contact, changes={"region": "US"})),
            "change script": (scripts.update_script, messages.UpdateScript(**script, changes={"name": "forged"})),
            "replace script": (
                scripts.replace_script,
                messages.ReplaceScript(**script, script=messages.ScriptWrite(name="forged too")),
            ),
            "delete": (contacts.delete_contact, messages.ContactId(**contact)),
            "delete script": (scripts.delete_script, messages.ScriptId(**script)),
        }
        return {name: partial(_ask, function, who, request) for name, (function, request) in asked.items()}


async def _ask(function, who, request, deps):
    try:
        return await function(deps, who, request)
    except ServiceError as error:
        return error.code


@pytest_asyncio.fixture(loop_scope="session")
async def scene(database, replicas, monkeypatch):
    async with AsyncExitStack() as stack:
        dsn = await database("contacts")

        async def deps():
            pool = await open_pool(stack, DatabaseSettings(database_url=dsn, _env_file=None), "test")
            return Deps(pool, Relay(replicas.bus, pool, SCHEMA), "US")

        with monkeypatch.context() as patch:
            patch.setattr(asyncpg, "create_pool", partial(asyncpg.create_pool, connection_class=Unfiltered))
            altered = await deps()
        admin = await asyncpg.connect(dsn.owner)
        stack.push_async_callback(admin.close)
        made = Scene(dsn, admin, await deps(), altered)
        await made.fill()
        Unfiltered.altered.clear()
        yield made


async def test_without_its_filter_no_query_shows_or_changes_anything_of_another_tenant(scene, attacks):
    theirs = await scene.victims()
    assert len(theirs) == 5
    for name, ask in scene.operations().items():
        expected = await ask(scene.deps)
        assert await ask(scene.altered) == expected, name
        assert await scene.victims() == theirs, name
    attacks("Postgres: query without its filter", len(Unfiltered.altered))


async def test_without_the_second_wall_every_one_of_them_leaks(scene):
    """So the test above can fail."""
    expected = {name: await ask(scene.deps) for name, ask in scene.operations().items()}
    for table in TENANTS:
        await scene.admin.execute(f"ALTER TABLE contacts.{table} DISABLE ROW LEVEL SECURITY")
    tight = []
    for name, ask in scene.operations().items():
        theirs = await scene.victims()
        if await ask(scene.altered) == expected[name] and await scene.victims() == theirs:
            tight.append(name)
    assert tight == []


def test_every_statement_with_a_filter_is_among_those_that_were_tried():
    """A new one has to be added to the operations above."""
    texts = {path.name: path.read_text() for path in sorted(Path(next(iter(package.__path__))).glob("*.py"))}
    found = {name: len(re.findall(r"user_id = \$", text)) for name, text in texts.items()}
    assert {name: count for name, count in found.items() if count} == {"store.py": 6}


async def test_in_a_users_scope_every_statement_finds_that_users_rows_alone(scene, attacks):
    theirs = await scene.victims()
    for table, column in TENANTS.items():
        async with transaction(scene.deps.pool, scene.user) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM contacts.{table}") == 1
            await connection.fetch(f"SELECT * FROM contacts.{table} FOR UPDATE")
            await connection.execute(f"UPDATE contacts.{table} SET {column} = {column}")
            await connection.execute(f"DELETE FROM contacts.{table}")
        assert await scene.victims() == theirs, table
    async with transaction(scene.deps.pool, scene.user) as connection:
        assert await connection.fetchval("SELECT count(*) FROM contacts.outbox") == 0
    attacks("Postgres: statement in another's scope", 4 * len(TENANTS) + 1)


async def test_nobody_writes_a_row_for_another_tenant(scene, attacks):
    statements = [
        "INSERT INTO contacts.contacts (id, user_id, name, phone) VALUES (gen_random_uuid(), $1, '', '')",
        "INSERT INTO contacts.scripts (id, user_id, name) VALUES (gen_random_uuid(), $1, '')",
        "INSERT INTO contacts.totals (user_id) VALUES ($1) ON CONFLICT (user_id) DO UPDATE SET contacts = 0",
        "UPDATE contacts.contacts SET user_id = $1",
        "UPDATE contacts.scripts SET user_id = $1",
    ]
    for sql in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with transaction(scene.deps.pool, scene.user) as connection:
                await connection.execute(sql, scene.victim)
    attacks("Postgres: write for another tenant", len(statements))


@pytest.mark.parametrize("stranger", [False, True])
async def test_without_a_scope_and_in_a_strangers_there_is_nothing(scene, stranger, attacks):
    for table in (*TENANTS, "outbox"):
        async with transaction(scene.deps.pool, new_id() if stranger else None) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM contacts.{table}") == 0, table
    attacks("Postgres: without a scope", len(TENANTS) + 1)


async def test_every_table_of_the_service_has_row_security_that_binds_its_owner(scene):
    rows = await scene.admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'contacts'::regnamespace AND relkind = 'r'"
        " AND relname <> 'migrations' AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert rows == []
