from contextlib import AsyncExitStack

import pytest

from boostedcalls.common.context import new_id
from boostedcalls.common.db import DatabaseSettings, open_pool, transaction
from boostedcalls.contacts import store
from boostedcalls.contacts.store import CONTACTS, SCRIPTS


@pytest.mark.parametrize("table", [CONTACTS, SCRIPTS], ids=lambda table: table.name)
async def test_page_reads_no_more_rows_than_it_answers_however_many_there_are(database, table):
    user_id = new_id()
    phone, value = (", phone", ", '+12025550100'") if table is CONTACTS else ("", "")
    async with AsyncExitStack() as stack:
        pool = await open_pool(stack, DatabaseSettings(database_url=await database("contacts"), _env_file=None), "test")
        async with transaction(pool) as writer:
            await writer.execute(
                f"INSERT INTO contacts.{table.name} (id, user_id, name{phone}) SELECT gen_random_uuid(),"  # noqa: S608
                f" '{user_id}', 'n'{value} FROM generate_series(1, 5000)"
            )
        # No statistics yet, and the plan that suits an average user: the worst that the planner can know.
        async with transaction(pool) as reader:
            await reader.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            rows, cursor = await store.page(reader, table, user_id, None, 20)
            await store.page(reader, table, user_id, cursor, 20)
            read = await reader.fetchval(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
                " WHERE schemaname = 'contacts' AND relname = $1",
                table.name,
            )
    assert len(rows) == 20
    assert 40 <= read <= 60
