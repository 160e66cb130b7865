"""Pages by keyset, oldest first, with no more rows than an answer can carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from boostedcalls.common.cursor import decode_cursor, encode_cursor
from boostedcalls.common.db import Connection

_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))
# Half of what a NATS message may have in our configuration.
_MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """A page's rows, each the JSON of an object, and the cursor for the rest, None when there is none."""

    rows: list[bytes]
    next_cursor: str | None

    def answer(self, total: int) -> bytes:
        """The JSON of a ContactPage or ScriptPage."""
        head = orjson.dumps({"total": total, "next_cursor": self.next_cursor, "count": len(self.rows)})
        return head[:-1] + b',"data":[' + b",".join(self.rows) + b"]}"


async def read_page(
    connection: Connection, sql: str, args: Sequence[Any], cursor: str | None, limit: int, chunk: int
) -> Page:
    """Up to `limit` rows after the cursor.

    `sql` takes a creation time and an id as $1, $2, a number of rows as $3, then `args`; each row is one column, the
    JSON of an object with `created_at` and `id`. Rows come in chunks, so that a page of large ones ends early instead
    of filling the memory. The caller's transaction is left without sorting. Raises ServiceError for a cursor that is
    none.
    """
    after = decode_cursor(cursor) if cursor else _START
    # The order must come from the index. A planner that takes the user for an average one would rather read and sort
    # all the rows of a user who has very many, for each page anew.
    await connection.execute("SET LOCAL enable_sort = off")
    rows: list[bytes] = []
    size = 0
    while True:
        # One row more than asked for shows whether there is a next page.
        wanted = min(chunk, limit + 1 - len(rows))
        found: list[bytes] = [row[0].encode() for row in await connection.fetch(sql, *after, wanted, *args)]
        for row in found:
            size += len(row)
            if len(rows) == limit or (rows and size > _MAX_PAGE_BYTES):
                return Page(rows, encode_cursor(*_key(rows[-1])))
            rows.append(row)
        if len(found) < wanted:
            return Page(rows, None)
        after = _key(found[-1])


def _key(row: bytes) -> tuple[datetime, UUID]:
    found = orjson.loads(row)
    return datetime.fromisoformat(found["created_at"]), UUID(found["id"])
