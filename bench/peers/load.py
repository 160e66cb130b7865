"""The data set in a peer's tables, by COPY. The peers' columns have the same names; their tables have their own."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench.data import DataSet, User
from boostedcalls.devkit.servers import postgres_server

_CONTACT = ("id", "user_id", "name", "phone", "email", "metadata", "created_at", "updated_at")
_CALL = (
    "id",
    "user_id",
    "contact_id",
    "vapi_call_id",
    "assistant_id",
    "phone_number_id",
    "status",
    "ended_reason",
    "outcome",
    "transcript",
    "summary",
    "analysis",
    "messages",
    "started_at",
    "ended_at",
    "duration_seconds",
    "cost",
    "metadata",
    "created_at",
    "updated_at",
)
_LIVE = (
    "id",
    "user_id",
    "contact_id",
    "vapi_call_id",
    "assistant_id",
    "phone_number_id",
    "status",
    "metadata",
    "created_at",
    "updated_at",
)
_ASSISTANT, _NUMBER = "bench-assistant", "bench-number"


_SECONDARY = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index
    WHERE indrelid = $1::regclass AND NOT indisprimary AND NOT indisunique
"""


@dataclass(frozen=True)
class Tables:
    """Where things go in a peer's database.

    user_row   a row of the users table, of `user_columns`; it is called once for each user
    key        a user's key there, out of the data set's
    """

    users: str
    contacts: str
    calls: str
    user_columns: tuple[str, ...]
    user_row: Callable[[User], tuple[Any, ...]]
    key: Callable[[UUID], Any] = lambda user_id: user_id

    @property
    def live_rows(self) -> str:
        """For the contender: what has become of the live calls."""
        return (
            f"SELECT vapi_call_id, status, transcript IS NOT NULL AS reported, updated_at FROM {self.calls}"  # noqa: S608
            " WHERE vapi_call_id BETWEEN $1 AND $2"
        )


async def load(folder: Path, data: DataSet, tables: Tables, migrate: Callable[[str], Awaitable[None]]) -> None:
    """Fill the database below the folder, if this has not been done yet. Nothing may run there meanwhile."""
    mark = folder / f"loaded-{data.name}"
    if mark.exists():
        return
    async with postgres_server(folder / "postgres", durable=False) as postgres:
        await migrate(postgres.url)
        # Rows whose commit was not waited for would not be marked as visible to all, and no index would do by itself.
        connection = await asyncpg.connect(postgres.url, server_settings={"synchronous_commit": "on"})
        try:
            await _fill(connection, tables, data)
        finally:
            await connection.close()
    os.sync()
    mark.touch()


async def _fill(connection: asyncpg.Connection[Any], tables: Tables, data: DataSet) -> None:
    now = datetime.now(UTC)
    await _copy(connection, tables.users, tables.user_columns, map(tables.user_row, data.user_rows()))
    await _copy(connection, tables.contacts, _CONTACT, _contacts(tables, data, now))
    indexes = await connection.fetch(_SECONDARY, tables.calls)
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    await connection.execute(f"ALTER TABLE {tables.calls} DISABLE TRIGGER ALL; SET maintenance_work_mem = '256MB'")
    await _copy(connection, tables.calls, _CALL, _calls(tables, data, now))
    await _copy(connection, tables.calls, _LIVE, _live(tables, data, 0, data.live, now))
    await connection.execute(f"ALTER TABLE {tables.calls} ENABLE TRIGGER ALL")
    for index in indexes:
        await connection.execute(index["definition"])
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")


async def add_live(url: str, tables: Tables, data: DataSet, first: int, count: int) -> None:
    """Further pending calls of user 0."""
    connection = await asyncpg.connect(url)
    try:
        await _copy(connection, tables.calls, _LIVE, _live(tables, data, first, count, datetime.now(UTC)))
    finally:
        await connection.close()


async def _copy(
    connection: asyncpg.Connection[Any], table: str, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]
) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=rows)


def _contacts(tables: Tables, data: DataSet, now: datetime) -> Iterator[tuple[Any, ...]]:
    for row in data.contact_rows(now):
        at = row.created_at
        yield row.id, tables.key(row.user_id), row.name, row.phone, row.email, '{"key": "value"}', at, at


def _calls(tables: Tables, data: DataSet, now: datetime) -> Iterator[tuple[Any, ...]]:
    for row in data.call_rows(now):
        yield (
            row.id,
            tables.key(row.user_id),
            row.contact_id,
            row.provider_id,
            _ASSISTANT,
            _NUMBER,
            row.status,
            row.ended_reason,
            row.outcome,
            row.transcript,
            row.summary,
            row.analysis,
            row.messages,
            row.started_at,
            row.ended_at,
            row.duration_seconds,
            row.cost,
            "{}",
            row.created_at,
            row.updated_at,
        )


def _live(tables: Tables, data: DataSet, first: int, count: int, now: datetime) -> Iterator[tuple[Any, ...]]:
    for row in data.live_rows(first, count, now):
        user, at = tables.key(row.user_id), row.created_at
        yield row.id, user, row.contact_id, row.provider_id, _ASSISTANT, _NUMBER, "pending", "{}", at, at
