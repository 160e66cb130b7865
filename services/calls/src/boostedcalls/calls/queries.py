"""Reading calls: one, a page, the timeline. Every query carries the user's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from boostedcalls.common.cursor import decode_cursor, encode_cursor
from boostedcalls.common.db import Connection
from boostedcalls.common.errors import problem
from boostedcalls.common.messages.base import Goal
from boostedcalls.common.messages.calls import (
    Call,
    CallContact,
    CallItem,
    CallPage,
    CallScript,
    CallStatus,
    ContactBrief,
    ListCalls,
    Outcome,
    Timeline,
    TimelineEntry,
)

Row = Mapping[str, Any]

_ITEM = (
    "id, contact_id, contact_name, contact_phone, script_id, status, outcome, transcript, summary, started_at,"
    " ended_at, duration_seconds, cost, created_at"
)


def _cost(row: Row) -> float | None:
    return None if row["cost"] is None else float(row["cost"])


def _outcome(row: Row) -> Outcome | None:
    return None if row["outcome"] is None else Outcome(row["outcome"])


def _goals(row: Row) -> list[str | Goal] | None:
    goals: list[Any] | None = row["call_goals"]
    return goals and [goal if isinstance(goal, str) else Goal.model_construct(**goal) for goal in goals]


def call_model(row: Row) -> Call:
    """The whole call, as the API shows it."""
    enrichment = {
        "recordingUrl": row["recording_url"],
        "stereoRecordingUrl": row["stereo_recording_url"],
        "messages": row["messages"],
        "cost": _cost(row),
        "costBreakdown": row["cost_breakdown"],
    }
    given: dict[str, object] = row["request_metadata"] or {}
    metadata = given | {name: value for name, value in enrichment.items() if value is not None}
    script = row["script"]
    return Call.model_construct(
        id=row["id"],
        contact=CallContact.model_construct(
            id=row["contact_id"],
            name=row["contact_name"],
            phone=row["contact_phone"],
            email=row["contact_email"],
            metadata=row["contact_metadata"],
        ),
        contact_id=row["contact_id"],
        contact_name=row["contact_name"],
        contact_phone=row["contact_phone"],
        script=None if script is None else CallScript.model_validate({**script, "id": row["script_id"]}),
        script_id=row["script_id"],
        custom_prompt=row["custom_prompt"],
        first_message=row["first_message"],
        call_goals=_goals(row),
        vapi_call_id=row["provider_call_id"],
        assistant_id=row["assistant_id"],
        phone_number_id=row["phone_number_id"],
        status=CallStatus(row["status"]),
        outcome=_outcome(row),
        ended_reason=row["ended_reason"],
        transcript=row["transcript"],
        summary=row["summary"],
        analysis=row["analysis"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_seconds=row["duration_seconds"],
        cost=_cost(row),
        metadata=metadata,
        error_code=row["error_code"],
        error_message=row["error_message"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _item(row: Row) -> CallItem:
    brief = ContactBrief.model_construct(id=row["contact_id"], name=row["contact_name"], phone=row["contact_phone"])
    status = CallStatus(row["status"])
    columns: dict[str, Any] = {**row, "contact": brief, "status": status, "outcome": _outcome(row), "cost": _cost(row)}
    return CallItem.model_construct(None, **columns)


async def get_call(connection: Connection, user_id: UUID, call_id: UUID) -> dict[str, Any]:
    """The call's row. Raises ServiceError call_not_found, for a foreign call too."""
    row = await connection.fetchrow("SELECT * FROM calls.calls WHERE user_id = $1 AND id = $2", user_id, call_id)
    if row is None:
        raise problem("call_not_found")
    return dict(row)


async def list_calls(connection: Connection, user_id: UUID, query: ListCalls) -> CallPage:
    """A page, newest first. Raises ServiceError validation_failed for a cursor that is not ours."""
    where = ["user_id = $1"]
    values: list[Any] = [user_id]

    def narrow(condition: str, *new: Any) -> None:
        places = [f"${len(values) + place}" for place in range(1, len(new) + 1)]
        where.append(condition.format(*places))
        values.extend(new)

    if query.contact_id:
        narrow("contact_id = {}", query.contact_id)
    if query.script_id:
        narrow("script_id = {}", query.script_id)
    if query.created_from:
        narrow("created_at >= {}", query.created_from)
    if query.created_to:
        narrow("created_at < {}", query.created_to)
    statuses = sorted({str(status) for status in query.status})
    total = await _total(connection, " AND ".join(where), values, statuses)

    if query.cursor:
        narrow("(created_at, id) < ({}, {})", *decode_cursor(query.cursor))
        offset = 0
    else:
        offset = (query.page - 1) * query.limit
    sql = _page_sql(" AND ".join(where), len(values), by_status=bool(statuses))
    rows = await connection.fetch(sql, *values, query.limit + 1, offset, *([statuses] if statuses else []))
    page = rows[: query.limit]
    more = len(rows) > query.limit
    return CallPage.model_construct(
        total=total,
        page=query.page,
        limit=query.limit,
        total_pages=-(-total // query.limit),
        next_cursor=encode_cursor(page[-1]["created_at"], page[-1]["id"]) if more else None,
        data=[_item(dict(row)) for row in page],
    )


def _page_sql(where: str, used: int, *, by_status: bool) -> str:
    """The page's query; after the `used` parameters of `where` come limit, offset and, if asked for, the statuses."""
    limit, offset, statuses = (f"${used + place}" for place in (1, 2, 3))
    newest = "ORDER BY created_at DESC, id DESC LIMIT"
    if not by_status:
        return f"SELECT {_ITEM} FROM calls.calls WHERE {where} {newest} {limit} OFFSET {offset}"  # noqa: S608
    # An index gives the order for one status, not for any of several: so each is walked by itself, a page's length.
    each = (
        f"SELECT {_ITEM} FROM calls.calls WHERE {where} AND status = wanted.one"  # noqa: S608
        f" {newest} {limit}::bigint + {offset}::bigint"
    )
    return (
        f"SELECT c.* FROM unnest({statuses}::text[]) AS wanted(one) CROSS JOIN LATERAL ({each}) c"  # noqa: S608
        f" {newest} {limit} OFFSET {offset}"
    )


async def _total(connection: Connection, where: str, values: list[Any], statuses: list[str]) -> int:
    """How many calls the filters leave: from the rollup where it can tell, by counting otherwise."""
    if len(values) == 1:
        return await connection.fetchval(
            "SELECT coalesce(sum(calls), 0)::bigint FROM calls.totals"
            " WHERE user_id = $1 AND ($2::text[] IS NULL OR status = ANY($2))",
            *values,
            statuses or None,
        )
    return await connection.fetchval(
        f"SELECT count(*) FROM calls.calls WHERE {where}"  # noqa: S608 - conditions are ours
        f" AND (${len(values) + 1}::text[] IS NULL OR status = ANY(${len(values) + 1}))",
        *values,
        statuses or None,
    )


async def timeline(connection: Connection, user_id: UUID, call_id: UUID) -> Timeline:
    """A call's timeline, oldest first. Raises ServiceError call_not_found."""
    await get_call(connection, user_id, call_id)
    rows = await connection.fetch(
        "SELECT id, at, type, source, status, detail FROM calls.timeline WHERE call_id = $1"
        " ORDER BY type <> 'created', at, id",
        call_id,
    )
    return Timeline(data=[TimelineEntry.model_construct(**row) for row in rows])
