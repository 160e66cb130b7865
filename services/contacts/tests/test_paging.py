from contextlib import AsyncExitStack

import orjson
import pytest

from boostedcalls.common.context import new_id
from boostedcalls.common.db import DatabaseSettings, open_pool, transaction
from boostedcalls.common.messages.contacts import GET_CONTACT, LIST_CONTACTS
from boostedcalls.contacts import store
from boostedcalls.contacts.store import CONTACTS, SCRIPTS


@pytest.mark.parametrize("table", [CONTACTS, SCRIPTS], ids=lambda table: table.name)
async def test_page_reads_no_more_rows_than_it_answers_however_many_there_are(database, table):
    user_id = new_id()
    phone, value = (", phone", ", '+12025550100'") if table is CONTACTS else ("", "")
    async with AsyncExitStack() as stack:
        pool = await open_pool(stack, DatabaseSettings(database_url=await database("contacts"), _env_file=None), "test")
        async with transaction(pool, user_id) as writer:
            await writer.execute(
                f"INSERT INTO contacts.{table.name} (id, user_id, name{phone}) SELECT gen_random_uuid(),"  # noqa: S608
                f" '{user_id}', 'n'{value} FROM generate_series(1, 5000)"
            )
        # No statistics yet, and the plan that suits an average user: the worst that the planner can know.
        async with transaction(pool, user_id) as reader:
            await reader.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            page = await store.page(reader, table, user_id, None, 20)
            await store.page(reader, table, user_id, page.next_cursor, 20)
            read = await reader.fetchval(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
                " WHERE schemaname = 'contacts' AND relname = $1",
                table.name,
            )
    assert len(page.rows) == 20
    assert 40 <= read <= 60


async def test_list_writes_a_contact_as_it_is_written_alone(replicas, user):
    odd = '"quoted" \\ / \b\f\n\r\t\x01\x1f\x7f é 漢 😀'
    metadata = {"a": [1, 1.5, -2e-7, None, True, {"b": odd}], "aa": ""}
    await replicas.fetchval(
        "INSERT INTO contacts.contacts (id, user_id, name, phone, email, metadata, created_at, updated_at)"
        " SELECT gen_random_uuid(), $1, $2, '+1987654321', email, $3::text::jsonb, at, at + interval '1.5 s'"
        " FROM (VALUES ('2026-01-01 10:00:00'::timestamptz, NULL), ('2026-01-01 10:00:01.12', 'é@example.com'),"
        " ('2026-01-01 10:00:02.000001', ''), ('2025-12-31 23:30:00-11', NULL)) AS given (at, email)",
        user.id,
        odd,
        orjson.dumps(metadata).decode(),
    )
    listed = orjson.loads(await user.send(LIST_CONTACTS, b"{}"))
    assert list(listed) == ["total", "next_cursor", "count", "data"]
    assert listed["count"] == len(listed["data"]) == 4
    for contact in listed["data"]:
        alone = await user.send(GET_CONTACT, orjson.dumps({"contact_id": contact["id"]}))
        assert list(orjson.loads(alone).items()) == list(contact.items())
