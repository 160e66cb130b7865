"""The data set in our own tables: by COPY, with the rollups that our services keep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from bench.data import PASSWORD, DataSet, stored_texts
from boostedcalls.devkit.stack import Stack
from boostedcalls.gateway.passwords import Passwords

LIVE_ROWS = """
    SELECT provider_call_id, status, transcript IS NOT NULL AS reported, updated_at FROM calls.calls
    WHERE provider_call_id BETWEEN $1 AND $2
"""
_CALL_COLUMNS = (
    "id", "user_id", "created_at", "updated_at", "version", "contact_id", "contact_name", "contact_phone",
    "contact_email", "assistant_id", "phone_number_id", "status", "ended_reason", "outcome", "analysed_outcome",
    "transcript", "summary", "analysis", "messages", "recording_url", "stereo_recording_url", "started_at", "ended_at",
    "duration_seconds", "cost", "cost_breakdown", "final", "keys", "provider_call_id", "dispatch_started_at",
)  # fmt: skip
_USER_COLUMNS = ("id", "email", "password_hash", "created_at")
_LIVE_COLUMNS = (
    "id", "user_id", "created_at", "updated_at", "contact_id", "contact_name", "contact_phone", "assistant_id",
    "phone_number_id", "status", "provider_call_id", "dispatch_started_at", "due_at",
)  # fmt: skip
_ASSISTANT, _NUMBER = "0f6b2f7c-52a1-4a6e-b0a9-6b7b6f0f2a10", "c2a9d6a4-1f0e-4d2b-8b36-70a6f9a3d5be"
_COSTS = orjson.dumps({"transport": 0.0058, "stt": 0.0041, "llm": 0.0024, "tts": 0.0059, "vapi": 0.0207}).decode()
# VACUUM leaves pages unmarked whose commits are not on disk yet, and then there are no index-only scans.
_WAITING = {"synchronous_commit": "on"}
# Far away: nobody is to be asked about calls of which no provider knows.
_DUE = datetime(2100, 1, 1, tzinfo=UTC)
# One line a call, not the five that a real one has: it is read by nothing that is measured.
_TIMELINE = """
    INSERT INTO calls.timeline (call_id, id, at, type, source, status)
    SELECT id, gen_random_uuid(), updated_at, 'end-of-call-report', 'webhook', status FROM calls.calls ORDER BY id
"""
_TOTALS = """
    INSERT INTO calls.totals (user_id, status, calls, spent)
    SELECT user_id, status, count(*), coalesce(sum(cost), 0) FROM calls.calls GROUP BY 1, 2
"""
_DAILY = """
    INSERT INTO calls.daily (user_id, day, completed)
    SELECT user_id, (created_at AT TIME ZONE 'UTC')::date, count(*) FROM calls.calls
    WHERE status = 'completed' GROUP BY 1, 2
"""
_MORE_PENDING = """
    INSERT INTO calls.totals (user_id, status, calls, spent) VALUES ($1, 'pending', $2, 0)
    ON CONFLICT (user_id, status) DO UPDATE SET calls = totals.calls + excluded.calls
"""
_SECONDARY = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index
    WHERE indrelid = 'calls.calls'::regclass AND NOT indisprimary AND NOT indisunique
"""


@cache
def _keys(status: str, place: int) -> str:
    """What the fields won with, as long as real ones are."""
    digest = f"{place:016x}"
    names = ("transcript", "summary", "analysis", "messages", "recording_url", "stereo_recording_url")
    numbers = ("started_at", "ended_at", "duration_seconds", "cost", "cost_breakdown", "analysed_outcome")
    keys: dict[str, Any] = {name: [50, 1795343441230, 1000 + place, digest] for name in (*names, *numbers)}
    keys |= {"status": [9, 50, 5, status, "", ""], "ended_reason": [50, 5, status]}
    return orjson.dumps(keys).decode()


def _call_records(data: DataSet, now: datetime, first: int, end: int) -> Iterator[tuple[Any, ...]]:
    places = {transcript: place for place, (transcript, *_) in enumerate(stored_texts())}
    for call in data.call_rows(now, first, end):
        url = f"https://storage.example.test/{call.provider_id}"
        yield (
            call.id, call.user_id, call.created_at, call.updated_at, 5, call.contact_id, call.contact_name,
            call.contact_phone, "contact@example.com", _ASSISTANT, _NUMBER, call.status, call.ended_reason,
            call.outcome, call.outcome, call.transcript, call.summary, call.analysis, call.messages, f"{url}/mono.wav",
            f"{url}/stereo.wav", call.started_at, call.ended_at, call.duration_seconds, call.cost, _COSTS, True,
            _keys(call.status, places[call.transcript]), call.provider_id, call.created_at,
        )  # fmt: skip


async def load(folder: Path, data: DataSet) -> None:
    """Fill the database below the folder, if this has not been done yet. Nothing may run there meanwhile."""
    mark = folder / f"loaded-{data.name}"
    if mark.exists():
        return
    # Without fsync: what a crash would cost is a new start. On disk before anything is measured.
    async with Stack(folder, parts=("postgres",), env={"VAPI_API_KEY": "none"}, durable=False) as stack:
        for name in ("gateway", "contacts", "calls"):
            code, words = await stack.command(name, "migrate")
            if code != 0:
                raise RuntimeError(f"migration of {name}: {words}")
        connection = await asyncpg.connect(stack.database_url, server_settings=_WAITING)
        try:
            await _fill(stack.database_url, connection, data)
        finally:
            await connection.close()
    os.sync()
    mark.touch()


async def _fill(url: str, connection: asyncpg.Connection[Any], data: DataSet) -> None:
    now = datetime.now(UTC)
    await _fill_users_and_contacts(connection, data, now)
    indexes = await connection.fetch(_SECONDARY)
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    # Postgres compresses the texts, so it is what takes the time: two of its processes at once.
    half = data.calls // 2
    await asyncio.gather(_copy_calls(url, data, now, 0, half), _copy_calls(url, data, now, half, data.calls))
    await connection.execute("SET maintenance_work_mem = '256MB'")
    await connection.execute("ALTER TABLE calls.timeline DISABLE TRIGGER ALL")
    await connection.execute(_TIMELINE)
    await connection.execute("ALTER TABLE calls.timeline ENABLE TRIGGER ALL")
    for index in indexes:
        await connection.execute(index["definition"])
    await connection.execute(_TOTALS)
    await connection.execute(_DAILY)
    if data.live:
        await add_live(connection, data, 0, data.live)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")


async def _copy_calls(url: str, data: DataSet, now: datetime, first: int, end: int) -> None:
    connection = await asyncpg.connect(url, server_settings=_WAITING)
    try:
        records = _call_records(data, now, first, end)
        await connection.copy_records_to_table("calls", schema_name="calls", columns=_CALL_COLUMNS, records=records)
    finally:
        await connection.close()


async def _fill_users_and_contacts(connection: asyncpg.Connection[Any], data: DataSet, now: datetime) -> None:
    hashed = await Passwords().hash(PASSWORD)
    users = [(user.id, user.email, hashed, now) for user in data.user_rows()]
    await connection.copy_records_to_table("users", schema_name="auth", columns=_USER_COLUMNS, records=users)
    contacts = (
        (one.id, one.user_id, one.name, one.phone, one.email, None, one.created_at, one.created_at)
        for one in data.contact_rows(now)
    )
    await connection.copy_records_to_table("contacts", schema_name="contacts", records=contacts)
    await connection.execute(
        "INSERT INTO contacts.totals (user_id, contacts) SELECT user_id, count(*) FROM contacts.contacts GROUP BY 1"
    )


async def add_live(connection: asyncpg.Connection[Any], data: DataSet, first: int, count: int) -> None:
    """Calls for webhooks to tell of, with their place in the rollup."""
    now = datetime.now(UTC)
    records = [
        (
            call.id, call.user_id, call.created_at, call.created_at, call.contact_id, call.contact_name,
            call.contact_phone, _ASSISTANT, _NUMBER, "pending", call.provider_id, call.created_at, _DUE,
        )
        for call in data.live_rows(first, count, now)
    ]  # fmt: skip
    if not records:
        return
    async with connection.transaction():
        await connection.copy_records_to_table("calls", schema_name="calls", columns=_LIVE_COLUMNS, records=records)
        await connection.execute(_MORE_PENDING, records[0][1], count)
