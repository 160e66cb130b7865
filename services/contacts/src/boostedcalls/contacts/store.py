"""Contacts and scripts in Postgres: two tables of one shape, and the totals that are kept with them.

Every statement carries `user_id`: another user's row is no row. Callers open the transaction.
"""

# ruff: noqa: S608 - what is put into the statements are the names of our own tables and columns

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from boostedcalls.common.context import new_id
from boostedcalls.common.db import Connection, Reads
from boostedcalls.contacts.paging import Page, read_page


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a user's objects; `totals` has a column of the same name. `columns` are the writable ones."""

    name: str
    columns: Mapping[str, str]
    searched: tuple[str, ...]
    chunk: int

    @property
    def answered(self) -> str:
        return ", ".join(("id", *self.columns, "created_at", "updated_at"))


CONTACTS = Table(
    "contacts",
    {"name": "text", "phone": "text", "email": "text", "metadata": "jsonb"},
    searched=("name", "phone", "email"),
    chunk=500,
)
SCRIPTS = Table(
    "scripts",
    {"name": "text", "description": "text", "custom_prompt": "text", "first_message": "text", "call_goals": "jsonb"},
    searched=("name", "description"),
    chunk=50,
)


async def insert(connection: Connection, table: Table, user_id: UUID, values: Mapping[str, Any]) -> asyncpg.Record:
    """Insert an object with all its columns, and count it."""
    places = ", ".join(f"${number}::{kind}" for number, kind in enumerate(table.columns.values(), 3))
    row = await connection.fetchrow(
        f"WITH made AS (INSERT INTO contacts.{table.name} (id, user_id, {', '.join(table.columns)})"
        f" VALUES ($1, $2, {places}) RETURNING *),"
        f" counted AS (INSERT INTO contacts.totals AS t (user_id, {table.name}) VALUES ($2, 1)"
        f" ON CONFLICT (user_id) DO UPDATE SET {table.name} = t.{table.name} + 1)"
        f" SELECT {table.answered} FROM made",
        new_id(),
        user_id,
        *(values[column] for column in table.columns),
    )
    assert row is not None  # noqa: S101 - an INSERT without a condition returns its row
    return row


async def get(connection: Reads, table: Table, user_id: UUID, object_id: UUID) -> asyncpg.Record | None:
    return await connection.fetchrow(
        f"SELECT {table.answered} FROM contacts.{table.name} WHERE user_id = $1 AND id = $2", user_id, object_id
    )


async def change(
    connection: Connection, table: Table, user_id: UUID, object_id: UUID, values: Mapping[str, Any]
) -> tuple[asyncpg.Record | None, bool]:
    """Set the given columns, and no others; return the row and whether anything is different now.

    One statement, so that two changes at once cannot undo each other's columns. What changes nothing writes nothing:
    `updated_at` stays.
    """
    columns = [column for column in table.columns if column in values]
    if columns:
        places = {column: f"${number}::{table.columns[column]}" for number, column in enumerate(columns, 3)}
        row = await connection.fetchrow(
            f"UPDATE contacts.{table.name}"
            f" SET {', '.join(f'{column} = {place}' for column, place in places.items())},"
            " updated_at = clock_timestamp()"
            f" WHERE user_id = $1 AND id = $2 AND"
            f" ({' OR '.join(f'{column} IS DISTINCT FROM {place}' for column, place in places.items())})"
            f" RETURNING {table.answered}",
            user_id,
            object_id,
            *(values[column] for column in columns),
        )
        if row is not None:
            return row, True
    return await get(connection, table, user_id, object_id), False


async def delete(connection: Connection, table: Table, user_id: UUID, object_id: UUID) -> bool:
    """Delete an object and count it off; False when there is none."""
    found = await connection.fetchval(
        f"WITH gone AS (DELETE FROM contacts.{table.name} WHERE user_id = $1 AND id = $2 RETURNING user_id),"
        f" counted AS (UPDATE contacts.totals AS t SET {table.name} = t.{table.name} - 1 FROM gone"
        " WHERE t.user_id = gone.user_id)"
        " SELECT 1 FROM gone",
        user_id,
        object_id,
    )
    return found is not None


def _as_json(moment: str) -> str:
    """A column's time as `rfc3339` writes it."""
    text = f"""to_char({moment} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    return f"replace({text}, '.000000Z', 'Z')"


async def page(
    connection: Connection, table: Table, user_id: UUID, cursor: str | None, limit: int, q: str | None = None
) -> Page:
    """Objects after the cursor, oldest first; with `q` those that hold it in a searched column. Raises ServiceError
    for a cursor that is none.

    The database makes the JSON: of a list of thousands that costs half of what reading its rows here would.
    """
    return await read_page(
        connection,
        f"SELECT row_to_json(made)::text FROM (SELECT id, {', '.join(table.columns)},"
        f" {_as_json('o.created_at')} AS created_at, {_as_json('o.updated_at')} AS updated_at"
        f" FROM contacts.{table.name} AS o"
        f" WHERE user_id = $4 AND (o.created_at, id) > ($1, $2) AND ($5::text IS NULL OR {_matches(table, 5)})"
        " ORDER BY o.created_at, o.id LIMIT $3) AS made",
        (user_id, _pattern(q)),
        cursor,
        limit,
        table.chunk,
    )


async def count(connection: Reads, table: Table, user_id: UUID, q: str | None = None) -> int:
    """How many objects the user has; with `q`, how many of them match."""
    if q is None:
        sql = f"SELECT {table.name} FROM contacts.totals WHERE user_id = $1"
        return await connection.fetchval(sql, user_id) or 0
    return await connection.fetchval(
        f"SELECT count(*) FROM contacts.{table.name} WHERE user_id = $1 AND {_matches(table, 2)}", user_id, _pattern(q)
    )


def _matches(table: Table, place: int) -> str:
    return f"({' OR '.join(f'{column} ILIKE ${place}' for column in table.searched)})"


def _pattern(q: str | None) -> str | None:
    """The LIKE pattern for a substring, in which only the text itself counts."""
    if q is None:
        return None
    for special in ("\\", "%", "_"):
        q = q.replace(special, f"\\{special}")
    return f"%{q}%"
