"""The dashboard's figures, from the rollups alone: they cost the same at ten calls and at ten million."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from boostedcalls.common.db import Connection
from boostedcalls.common.messages.calls import CallStatus, Card, LineChart, Point, Stats

DAYS = 14


def trend(current: int, previous: int) -> str:
    """`+18% vs previous 14 days`, or `No prior data`."""
    if previous == 0:
        return "No prior data"
    return f"{round(100 * (current - previous) / previous):+d}% vs previous {DAYS} days"


def line_chart(completed: dict[date, int], today: date) -> LineChart:
    """14 points, one per UTC day, oldest first, `today` the last; `completed` holds successful calls a day."""
    days = [today - timedelta(days=back) for back in range(2 * DAYS - 1, -1, -1)]
    counts = [completed.get(day, 0) for day in days]
    return LineChart(
        title="Successful calls",
        subtitle=trend(sum(counts[DAYS:]), sum(counts[:DAYS])),
        badge=f"Last {DAYS} days",
        points=[
            Point(x=x, y=count, label=day.strftime("%a"))
            for x, (day, count) in enumerate(zip(days[DAYS:], counts[DAYS:], strict=True))
        ],
    )


async def stats(connection: Connection, user_id: UUID, contacts: int) -> Stats:
    """The four cards and the chart; `contacts` comes from the contacts service."""
    today = datetime.now(UTC).date()
    totals = await connection.fetch("SELECT status, calls, spent FROM calls.totals WHERE user_id = $1", user_id)
    daily = await connection.fetch(
        "SELECT day, completed FROM calls.daily WHERE user_id = $1 AND day > $2", user_id, today - timedelta(2 * DAYS)
    )
    spent = sum((row["spent"] for row in totals), Decimal(0))
    failed = sum(row["calls"] for row in totals if row["status"] == CallStatus.FAILED)
    return Stats(
        cards=[
            Card(title="Total Spent on Calls", value=f"${spent:,.2f}"),
            Card(title="Calls made", value=str(sum(row["calls"] for row in totals))),
            Card(title="Failed calls", value=str(failed)),
            Card(title="Contacts", value=str(contacts)),
        ],
        lineChart=line_chart({row["day"]: row["completed"] for row in daily}, today),
    )
