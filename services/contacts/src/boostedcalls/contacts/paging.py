"""Pages by keyset, oldest first: the opaque cursor, and reading no more rows than an answer can carry."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from boostedcalls.common.db import Connection
from boostedcalls.common.errors import FieldError, problem

Position = tuple[datetime, UUID]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_START: Position = (_EPOCH, UUID(int=0))
_LAYOUT = struct.Struct(">q16s")
# Half of the 8 MiB that a NATS message may have in our configuration.
_MAX_PAGE_BYTES = 4 * 1024 * 1024


def encode_cursor(position: Position) -> str:
    """32 characters that are safe in a URL, from the microsecond and the id of a page's last row."""
    micros = (position[0] - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_LAYOUT.pack(micros, position[1].bytes)).decode()


def decode_cursor(cursor: str | None) -> Position:
    """The inverse of encode_cursor; None is the start. Raises ServiceError validation_failed for anything else."""
    if cursor is None:
        return _START
    try:
        micros, raw = _LAYOUT.unpack(base64.b64decode(cursor, altchars=b"-_", validate=True))
        return _EPOCH + timedelta(microseconds=micros), UUID(bytes=raw)
    except (ValueError, struct.error, OverflowError):
        fault: FieldError = {"field": "cursor", "message": "is not a cursor that this list gave out"}
        raise problem("validation_failed", errors=[fault]) from None


async def read_page(
    connection: Connection, sql: str, args: Sequence[Any], cursor: str | None, limit: int, chunk: int
) -> tuple[list[asyncpg.Record], str | None]:
    """Up to `limit` rows after the cursor, and the cursor for the rest, None when there is none.

    `sql` takes a position as $1, $2, a number of rows as $3, then `args`; each row has created_at, id and its size in
    bytes. Rows come in chunks, so that a page of large ones ends early instead of filling the memory.
    """
    after = decode_cursor(cursor)
    rows: list[asyncpg.Record] = []
    size = 0
    while True:
        # One row more than asked for shows whether there is a next page.
        wanted = min(chunk, limit + 1 - len(rows))
        found = await connection.fetch(sql, *after, wanted, *args)
        for row in found:
            size += row["size"]
            if len(rows) == limit or (rows and size > _MAX_PAGE_BYTES):
                return rows, encode_cursor((rows[-1]["created_at"], rows[-1]["id"]))
            rows.append(row)
        if len(found) < wanted:
            return rows, None
        after = (found[-1]["created_at"], found[-1]["id"])
