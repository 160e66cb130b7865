"""Pages by keyset, oldest first, with no more rows than an answer can carry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from boostedcalls.common.cursor import decode_cursor, encode_cursor
from boostedcalls.common.db import Connection

_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
# Half of what a NATS message may have in our configuration.
_MAX_PAGE_BYTES = 4 * 1024 * 1024


async def read_page(
    connection: Connection, sql: str, args: Sequence[Any], cursor: str | None, limit: int, chunk: int
) -> tuple[list[asyncpg.Record], str | None]:
    """Up to `limit` rows after the cursor, and the cursor for the rest, None when there is none.

    `sql` takes a creation time and an id as $1, $2, a number of rows as $3, then `args`; each row has created_at, id
    and its size in bytes. Rows come in chunks, so that a page of large ones ends early instead of filling the memory.
    The caller's transaction is left without sorting. Raises ServiceError for a cursor that is none.
    """
    after = decode_cursor(cursor) if cursor else _START
    # The order must come from the index. A planner that takes the user for an average one would rather read and sort
    # all the rows of a user who has very many, for each page anew.
    await connection.execute("SET LOCAL enable_sort = off")
    rows: list[asyncpg.Record] = []
    size = 0
    while True:
        # One row more than asked for shows whether there is a next page.
        wanted = min(chunk, limit + 1 - len(rows))
        found = await connection.fetch(sql, *after, wanted, *args)
        for row in found:
            size += row["size"]
            if len(rows) == limit or (rows and size > _MAX_PAGE_BYTES):
                return rows, encode_cursor(rows[-1]["created_at"], rows[-1]["id"])
            rows.append(row)
        if len(found) < wanted:
            return rows, None
        after = (found[-1]["created_at"], found[-1]["id"])
