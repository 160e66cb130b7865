"""The one place that writes calls: insert, claim, and `write`, which joins facts into rows.

`write` does everything that belongs to a change in the caller's transaction: the row, its timeline, the rollups and the
outbox. It works on many rows at once; the rows must have been locked by `lock` (in the order of their ids, so that two
batches cannot deadlock).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from boostedcalls.calls import schedule
from boostedcalls.calls.settings import CallsSettings
from boostedcalls.calls.state import ACTIVE, JOINED, TERMINAL, CallState, Entry, Fact, entry, fold, visibly_changed
from boostedcalls.common import outbox, subjects
from boostedcalls.common.db import Connection, Reads, json_text
from boostedcalls.common.events import CALL_CREATED, CALL_STATUS_CHANGED, CALL_UPDATED, CallEvent
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.calls import CallStatus

log = get_logger(__name__)

Row = dict[str, Any]

SCHEMA = "calls"

_JOINED_TYPES = {
    "analysis": "jsonb",
    "messages": "jsonb",
    "cost_breakdown": "jsonb",
    "keys": "jsonb",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "duration_seconds": "integer",
    "cost": "numeric",
    "final": "boolean",
}
_WRITTEN: dict[str, str] = {name: _JOINED_TYPES.get(name, "text") for name in JOINED} | {
    "provider_call_id": "text",
    "control_url": "text",
    "dispatch_closed": "boolean",
    "hang_up_wanted": "boolean",
    "checks": "integer",
    "due_at": "timestamptz",
    "updated_at": "timestamptz",
    "version": "integer",
}
# jsonb travels as text: asyncpg would take a list among the values for one more dimension of the array.
_UPDATE = (
    "UPDATE calls.calls c SET "  # noqa: S608 - our own column names
    + ", ".join(f"{name} = n.{name}{'::jsonb' if kind == 'jsonb' else ''}" for name, kind in _WRITTEN.items())
    + " FROM unnest($1::uuid[], "
    + ", ".join(f"${n}::{'text' if kind == 'jsonb' else kind}[]" for n, kind in enumerate(_WRITTEN.values(), 2))
    + f") AS n(id, {', '.join(_WRITTEN)}) WHERE c.id = n.id"
)
_LOCK = """
    SELECT * FROM calls.calls WHERE id = ANY($1::uuid[]) OR provider_call_id = ANY($2::text[])
    ORDER BY id FOR UPDATE
"""
_TIMELINE = """
    INSERT INTO calls.timeline (call_id, id, at, type, source, status, detail)
    SELECT call_id, id, at, type, source, status, detail::jsonb
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[])
        AS n(call_id, id, at, type, source, status, detail)
    ON CONFLICT DO NOTHING
"""
_TOTALS = """
    INSERT INTO calls.totals (user_id, status, calls, spent)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::numeric[])
    ON CONFLICT (user_id, status) DO UPDATE
    SET calls = totals.calls + excluded.calls, spent = totals.spent + excluded.spent
"""
_DAILY = """
    INSERT INTO calls.daily (user_id, day, completed)
    SELECT * FROM unnest($1::uuid[], $2::date[], $3::bigint[])
    ON CONFLICT (user_id, day) DO UPDATE SET completed = daily.completed + excluded.completed
"""
_CLAIM = """
    UPDATE calls.calls
    SET dispatch_started_at = clock_timestamp(), checks = 0, due_at = clock_timestamp() + make_interval(secs => $2)
    WHERE id = $1 AND dispatch_started_at IS NULL AND NOT dispatch_closed AND provider_call_id IS NULL
      AND status = 'pending' AND created_at > clock_timestamp() - make_interval(secs => $3)
    RETURNING *
"""
_RELEASE = """
    UPDATE calls.calls SET dispatch_started_at = NULL, due_at = clock_timestamp() + make_interval(secs => $3)
    WHERE id = $1 AND dispatch_started_at = $2 AND provider_call_id IS NULL
"""


@dataclass(slots=True)
class Change:
    """What is to be joined into a locked row: facts, and what else was learned of the call."""

    row: Row
    facts: list[Fact] = field(default_factory=list[Fact])
    provider_call_id: str | None = None
    control_url: str | None = None
    dispatch_closed: bool = False
    hang_up_wanted: bool = False
    entries: list[Entry] = field(default_factory=list[Entry])


def state_of(row: Row) -> CallState:
    """The joined part of a row."""
    joined: dict[str, Any] = {name: row[name] for name in JOINED}
    joined["status"] = CallStatus(row["status"])
    return CallState(**joined)


async def lock(connection: Connection, ids: Collection[UUID] = (), provider_ids: Collection[str] = ()) -> list[Row]:
    """Lock and return the calls with these ids or provider ids, ordered by id."""
    return [dict(row) for row in await connection.fetch(_LOCK, list(ids), list(provider_ids))]


async def claim(connection: Connection, call_id: UUID, settings: CallsSettings) -> Row | None:
    """Claim the placing of a call; None when it is not there to be claimed. Must be committed before a byte leaves."""
    row = await connection.fetchrow(_CLAIM, call_id, settings.reconcile_steps[0], settings.dispatch_deadline)
    return dict(row) if row else None


async def release(connection: Connection, row: Row, again_in: float) -> None:
    """Give a claim back after an attempt that certainly sent nothing."""
    await connection.execute(_RELEASE, row["id"], row["dispatch_started_at"], again_in)


async def write(
    connection: Connection, changes: Sequence[Change], settings: CallsSettings, traceparent: str
) -> list[Row]:
    """Join the changes into their (locked) rows; return the rows as they are now, in the same order."""
    now = datetime.now(UTC)
    results: list[Row] = []
    written: list[Row] = []
    events: list[outbox.Pending] = []
    rollup = _Rollup()
    for change in changes:
        old = state_of(change.row)
        new = fold(old, change.facts)
        extra = {
            "provider_call_id": change.row["provider_call_id"] or change.provider_call_id,
            "control_url": change.control_url or change.row["control_url"],
            "dispatch_closed": change.row["dispatch_closed"] or change.dispatch_closed,
            "hang_up_wanted": change.row["hang_up_wanted"] or change.hang_up_wanted,
        }
        if new == old and all(change.row[name] == value for name, value in extra.items()):
            results.append(change.row)
            continue
        visible = visibly_changed(old, new) or extra["provider_call_id"] != change.row["provider_call_id"]
        row = {
            **change.row,
            **{name: getattr(new, name) for name in JOINED},
            **extra,
            "checks": 0,
            "version": change.row["version"] + visible,
            "updated_at": now if visible else change.row["updated_at"],
        }
        row["due_at"] = schedule.next_due(row, settings, now)
        rollup.move(change.row, row)
        if new.status in TERMINAL and old.status not in TERMINAL:
            log.info("call_ended", call_id=str(row["id"]), status=new.status, outcome=new.outcome)
        if visible:
            events.append(_event(row, old.status, traceparent))
        written.append(row)
        results.append(row)
    if written:
        columns = [
            [json_text(row[name]) if kind == "jsonb" else row[name] for row in written]
            for name, kind in _WRITTEN.items()
        ]
        await connection.execute(_UPDATE, [row["id"] for row in written], *columns)
    await _write_timeline(connection, changes)
    await outbox.enqueue(connection, SCHEMA, events)
    # Last: all of a user's changes meet in these few rows, and wait for each other's commit.
    await rollup.write(connection)
    return results


async def insert(connection: Connection, request: Row, created: Entry, traceparent: str) -> Row:
    """Insert a new call (the columns of the request; the rest by default), with timeline, rollups and event."""
    row = {**request, "due_at": request["created_at"] + schedule.DISPATCH_SWEEP}
    names = ", ".join(row)
    places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
    record = await connection.fetchrow(
        f"INSERT INTO calls.calls ({names}) VALUES ({places}) RETURNING *",  # noqa: S608 - our own column names
        *row.values(),
    )
    assert record is not None  # noqa: S101 - RETURNING without ON CONFLICT
    inserted = dict(record)
    await _write_timeline(connection, [Change(inserted, entries=[created])])
    rollup = _Rollup()
    rollup.add(inserted, 1)
    await rollup.write(connection)
    await outbox.enqueue(connection, SCHEMA, [_event(inserted, None, traceparent)])
    return inserted


async def active_calls(connection: Reads, user_id: UUID) -> int:
    """How many calls of a user are not terminal."""
    return await connection.fetchval(
        "SELECT coalesce(sum(calls), 0)::bigint FROM calls.totals WHERE user_id = $1 AND status = ANY($2::text[])",
        user_id,
        sorted(ACTIVE),
    )


def _event(row: Row, previous: CallStatus | None, traceparent: str) -> outbox.Pending:
    status = CallStatus(row["status"])
    if previous is None:
        kind, what = CALL_CREATED, "created"
    elif previous is not status:
        kind, what = CALL_STATUS_CHANGED, "status-changed"
    else:
        kind, what = CALL_UPDATED, "updated"
    data = CallEvent(
        call_id=row["id"],
        user_id=row["user_id"],
        version=row["version"],
        contact_id=row["contact_id"],
        script_id=row["script_id"],
        vapi_call_id=row["provider_call_id"],
        status=status,
        previous_status=previous,
        outcome=row["outcome"],
        ended_reason=row["ended_reason"],
        error_code=row["error_code"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_seconds=row["duration_seconds"],
        cost=row["cost"],
    )
    return outbox.Pending(kind, subjects.call_event(what, row["user_id"], row["id"]), data, traceparent)


async def _write_timeline(connection: Connection, changes: Sequence[Change]) -> None:
    lines = {
        (change.row["id"], line.id): line
        for change in changes
        for line in (*change.entries, *(entry(change.row["id"], fact) for fact in change.facts))
    }
    if not lines:
        return
    await connection.execute(
        _TIMELINE,
        [call_id for call_id, _ in lines],
        [line.id for line in lines.values()],
        [line.at for line in lines.values()],
        [line.type for line in lines.values()],
        [line.source for line in lines.values()],
        [line.status for line in lines.values()],
        [json_text(line.detail) for line in lines.values()],
    )


class _Rollup:
    """The differences that a batch makes to the totals, one row a key, written in the order of the keys."""

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[UUID, str], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
        self._daily: defaultdict[tuple[UUID, date], int] = defaultdict(int)

    def add(self, row: Row, sign: int) -> None:
        total = self._totals[row["user_id"], str(row["status"])]
        total[0] += sign
        total[1] += sign * (row["cost"] or Decimal(0))
        if row["status"] == CallStatus.COMPLETED:
            self._daily[row["user_id"], row["created_at"].astimezone(UTC).date()] += sign

    def move(self, old: Row, new: Row) -> None:
        if old["status"] != new["status"] or old["cost"] != new["cost"]:
            self.add(old, -1)
            self.add(new, 1)

    async def write(self, connection: Connection) -> None:
        totals = sorted((key, delta) for key, delta in self._totals.items() if delta[0] or delta[1])
        if totals:
            await connection.execute(
                _TOTALS,
                [key[0] for key, _ in totals],
                [key[1] for key, _ in totals],
                [delta[0] for _, delta in totals],
                [delta[1] for _, delta in totals],
            )
        daily = sorted((key, delta) for key, delta in self._daily.items() if delta)
        if daily:
            await connection.execute(
                _DAILY, [key[0] for key, _ in daily], [key[1] for key, _ in daily], [delta for _, delta in daily]
            )
