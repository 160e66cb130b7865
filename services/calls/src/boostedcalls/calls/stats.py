"""The dashboard's figures, from the rollups alone: they cost the same at ten calls and at ten million."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from boostedcalls.common.db import Reads

type Figures = asyncpg.Record

DAYS = 14
_LABELS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_FIGURES = """
    SELECT coalesce(sum(spent), 0) AS spent, coalesce(sum(calls), 0)::bigint AS made,
        coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
        (SELECT json_object_agg(day, completed) FROM calls.daily WHERE user_id = $1 AND day > $2) AS completed
    FROM calls.totals WHERE user_id = $1
"""


def trend(current: int, previous: int) -> str:
    """`+18% vs previous 14 days`, or `No prior data`."""
    if previous == 0:
        return "No prior data"
    return f"{round(100 * (current - previous) / previous):+d}% vs previous {DAYS} days"


def line_chart(completed: Mapping[str, int], today: date) -> dict[str, Any]:
    """A LineChart of 14 points, one per UTC day, oldest first, `today` the last; `completed` holds successful calls a
    day."""
    days = [today - timedelta(days=back) for back in range(2 * DAYS - 1, -1, -1)]
    counts = [completed.get(day.isoformat(), 0) for day in days]
    return {
        "title": "Successful calls",
        "subtitle": trend(sum(counts[DAYS:]), sum(counts[:DAYS])),
        "badge": f"Last {DAYS} days",
        "points": [
            {"x": x, "y": count, "label": _LABELS[day.weekday()]}
            for x, (day, count) in enumerate(zip(days[DAYS:], counts[DAYS:], strict=True))
        ],
    }


async def read_figures(connection: Reads, user_id: UUID, today: date) -> Figures:
    """What `stats` shows, from the rollups of the user's calls."""
    figures = await connection.fetchrow(_FIGURES, user_id, today - timedelta(2 * DAYS))
    assert figures is not None  # noqa: S101 - a sum is always one row
    return figures


def stats(figures: Figures, contacts: int, today: date) -> bytes:
    """Stats: the four cards and the chart."""
    cards = {
        "Total Spent on Calls": f"${figures['spent']:,.2f}",
        "Calls made": str(figures["made"]),
        "Failed calls": str(figures["failed"]),
        "Contacts": str(contacts),
    }
    return orjson.dumps(
        {
            "cards": [{"title": title, "value": value} for title, value in cards.items()],
            "lineChart": line_chart(figures["completed"] or {}, today),
        }
    )
