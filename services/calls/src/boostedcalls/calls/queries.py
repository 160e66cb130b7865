"""Reading calls: one, a page, the timeline. Every query carries the user's id.

Calls become JSON here, straight from their rows: through the models of `messages.calls` a page took ten times as long.
A test holds the two together, byte for byte.
"""

# ruff: noqa: S608 - what is put into the statements are our own conditions and a checked number
from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from boostedcalls.common.cursor import decode_cursor, encode_cursor
from boostedcalls.common.db import Reads
from boostedcalls.common.errors import problem
from boostedcalls.common.messages.calls import ListCalls, Timeline, TimelineEntry

Row = Mapping[str, Any]

_NEWEST = "ORDER BY created_at DESC, id DESC"
_ITEM = (
    "c.id, c.contact_id, c.contact_name, c.contact_phone, c.script_id, c.status, c.outcome, c.transcript, c.summary,"
    " c.started_at, c.ended_at, c.duration_seconds, c.cost::float8 AS cost, c.created_at"
)


def _dumps(answer: dict[str, Any]) -> bytes:
    # Times come from the database in UTC.
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z)


def _text(value: UUID | None) -> str | None:
    """An id as text; orjson does not know the driver's own class for it."""
    return None if value is None else str(value)


def call_json(row: Row) -> bytes:
    """The whole call (the message Call), as the API shows it."""
    cost = None if row["cost"] is None else float(row["cost"])
    contact_id, script_id = str(row["contact_id"]), _text(row["script_id"])
    enrichment = {
        "recordingUrl": row["recording_url"],
        "stereoRecordingUrl": row["stereo_recording_url"],
        "messages": row["messages"],
        "cost": cost,
        "costBreakdown": row["cost_breakdown"],
    }
    given: dict[str, object] = row["request_metadata"] or {}
    script = row["script"]
    return _dumps(
        {
            "id": str(row["id"]),
            "contact": {
                "id": contact_id,
                "name": row["contact_name"],
                "phone": row["contact_phone"],
                "email": row["contact_email"],
                "metadata": row["contact_metadata"],
            },
            "contact_id": contact_id,
            "contact_name": row["contact_name"],
            "contact_phone": row["contact_phone"],
            "script": script
            and {
                "id": script_id,
                "name": script["name"],
                "custom_prompt": script["custom_prompt"],
                "first_message": script["first_message"],
                "call_goals": script["call_goals"],
            },
            "script_id": script_id,
            "custom_prompt": row["custom_prompt"],
            "first_message": row["first_message"],
            "call_goals": row["call_goals"],
            "vapi_call_id": row["provider_call_id"],
            "assistant_id": row["assistant_id"],
            "phone_number_id": row["phone_number_id"],
            "status": row["status"],
            "outcome": row["outcome"],
            "ended_reason": row["ended_reason"],
            "transcript": row["transcript"],
            "summary": row["summary"],
            "analysis": row["analysis"],
            "started_at": row["started_at"],
            "ended_at": row["ended_at"],
            "duration_seconds": row["duration_seconds"],
            "cost": cost,
            "metadata": given | {name: value for name, value in enrichment.items() if value is not None},
            "error_code": row["error_code"],
            "error_message": row["error_message"],
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
    )


def _item(row: asyncpg.Record) -> dict[str, Any]:
    """A call in a list (the message CallItem)."""
    contact_id, name, phone = str(row["contact_id"]), row["contact_name"], row["contact_phone"]
    return {
        "id": str(row["id"]),
        "contact": {"id": contact_id, "name": name, "phone": phone},
        "contact_id": contact_id,
        "contact_name": name,
        "contact_phone": phone,
        "script_id": _text(row["script_id"]),
        "status": row["status"],
        "outcome": row["outcome"],
        "transcript": row["transcript"],
        "summary": row["summary"],
        "started_at": row["started_at"],
        "ended_at": row["ended_at"],
        "duration_seconds": row["duration_seconds"],
        "cost": row["cost"],
        "created_at": row["created_at"],
    }


async def get_call(connection: Reads, user_id: UUID, call_id: UUID) -> dict[str, Any]:
    """The call's row. Raises ServiceError call_not_found, for a foreign call too."""
    row = await connection.fetchrow("SELECT * FROM calls.calls WHERE user_id = $1 AND id = $2", user_id, call_id)
    if row is None:
        raise problem("call_not_found")
    return dict(row)


async def list_calls(connection: Reads, user_id: UUID, query: ListCalls) -> bytes:
    """A page (the message CallPage), newest first. Raises ServiceError validation_failed for a cursor that is not
    ours."""
    sql, values = _page_sql(user_id, query)
    rows = await connection.fetch(sql, *values)
    total = rows[0]["total"]
    found = [row for row in rows if row["id"] is not None]
    page = found[: query.limit]
    more = len(found) > query.limit
    return _dumps(
        {
            "total": total,
            "page": query.page,
            "limit": query.limit,
            "total_pages": -(-total // query.limit),
            "next_cursor": encode_cursor(page[-1]["created_at"], page[-1]["id"]) if more else None,
            "data": [_item(row) for row in page],
        }
    )


def _page_sql(user_id: UUID, query: ListCalls) -> tuple[str, list[Any]]:
    """One statement for the total and the page, with one row more than asked for, which tells of a next page; a total
    without calls is a row of its own.

    The page is first found in an index alone, and then its rows are read: so a page far behind skips entries of an
    index, not calls with their transcripts, and no planner comes to read and sort all calls of a user. The limit stands
    in the text: as a parameter it would have the statement planned anew each time it runs.
    """
    values: list[Any] = []

    def place(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    where = f"user_id = {place(user_id)}"
    if query.contact_id:
        where += f" AND contact_id = {place(query.contact_id)}"
    if query.script_id:
        where += f" AND script_id = {place(query.script_id)}"
    if query.created_from:
        where += f" AND created_at >= {place(query.created_from)}"
    if query.created_to:
        where += f" AND created_at < {place(query.created_to)}"
    # Where there is nothing but the user and statuses, the rollup knows.
    counted = "coalesce(sum(calls), 0)::bigint FROM calls.totals" if len(values) == 1 else "count(*) FROM calls.calls"
    statuses = place(sorted(set(query.status))) if query.status else None
    total = f"SELECT {counted} WHERE {where}" + (f" AND status = ANY({statuses}::text[])" if statuses else "")

    limit, offset = str(query.limit + 1), ""
    if query.cursor:
        created_at, call_id = decode_cursor(query.cursor)
        where += f" AND (created_at, id) < ({place(created_at)}, {place(call_id)})"
    elif query.page > 1:
        offset = f" OFFSET {place((query.page - 1) * query.limit)}::bigint"
    keys = f"SELECT id, created_at FROM calls.calls WHERE {where}"
    if statuses:
        # An index gives the order for one status, not for any of several: each is walked by itself, a page's length.
        each = f"{keys} AND status = wanted.one {_NEWEST} LIMIT {limit}" + offset.replace(" OFFSET", " +")
        keys = f"SELECT one.* FROM unnest({statuses}::text[]) AS wanted(one) CROSS JOIN LATERAL ({each}) AS one"
    return (
        f"SELECT t.total, p.* FROM ({total}) AS t(total) LEFT JOIN LATERAL ("
        f"SELECT {_ITEM} FROM ({keys} {_NEWEST} LIMIT {limit}{offset}) AS k JOIN calls.calls AS c ON c.id = k.id"
        f") AS p ON true {_NEWEST}",
        values,
    )


async def timeline(connection: Reads, user_id: UUID, call_id: UUID) -> Timeline:
    """A call's timeline, oldest first. Raises ServiceError call_not_found."""
    await get_call(connection, user_id, call_id)
    rows = await connection.fetch(
        "SELECT id, at, type, source, status, detail FROM calls.timeline WHERE call_id = $1"
        " ORDER BY type <> 'created', at, id",
        call_id,
    )
    return Timeline(data=[TimelineEntry.model_construct(**row) for row in rows])
