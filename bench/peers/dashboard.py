"""The dashboard's answer out of counted figures: the same words for every peer that has REST."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

DAYS = 14


def first_day() -> date:
    """The oldest day that the figures need."""
    return datetime.now(UTC).date() - timedelta(days=2 * DAYS - 1)


def answer(spent: Decimal, made: int, failed: int, contacts: int, completed: Mapping[date, int]) -> dict[str, Any]:
    """The seed's cards and chart; `completed` holds successful calls a UTC day, from `first_day` on."""
    days = [first_day() + timedelta(days=number) for number in range(2 * DAYS)]
    counts = [completed.get(day, 0) for day in days]
    before, now = sum(counts[:DAYS]), sum(counts[DAYS:])
    trend = f"{round(100 * (now - before) / before):+d}% vs previous {DAYS} days" if before else "No prior data"
    return {
        "cards": [
            {"title": "Total Spent on Calls", "value": f"${spent:,.2f}"},
            {"title": "Calls made", "value": str(made)},
            {"title": "Failed calls", "value": str(failed)},
            {"title": "Contacts", "value": str(contacts)},
        ],
        "lineChart": {
            "title": "Successful calls",
            "subtitle": trend,
            "badge": f"Last {DAYS} days",
            "points": [
                {"x": x, "y": count, "label": day.strftime("%a")}
                for x, (day, count) in enumerate(zip(days[DAYS:], counts[DAYS:], strict=True))
            ],
        },
    }
