"""Whether what was answered has been applied: looks at the live calls in a contender's database, from outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import time
from typing import Any

import asyncpg

from bench.bodies import BLOCK, EVENTS, expected
from bench.contender import Contender
from bench.data import live_provider_id

_POLL = 0.05
# Looking counts many rows: at most a twentieth of one processor goes into it.
_REST = 20
_PATIENCE = 10.0


def live(contender: Contender) -> str:
    """Its live calls between $1 and $2, under our names for their columns."""
    return f"({contender.live_rows}) AS live (provider_call_id, status, reported, updated_at)"


@asynccontextmanager
async def database(contender: Contender) -> AsyncGenerator[asyncpg.Connection[Any]]:
    assert contender.database_url is not None  # noqa: S101 - a floor has none, and is not asked
    connection = await asyncpg.connect(contender.database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def next_live(contender: Contender) -> int:
    """The first number that no live call has yet, at the beginning of a block."""
    async with database(contender) as connection:
        newest = await connection.fetchval(
            f"SELECT max(provider_call_id) FROM {live(contender)}",  # noqa: S608 - the contender's own
            live_provider_id(0),
            live_provider_id(10**11),
        )
    found = int(newest.rpartition("-")[2]) + 1 if newest else 0
    return -(-found // BLOCK) * BLOCK


async def prepared(contender: Contender, calls: int) -> int:
    """Add that many live calls (rounded up to blocks); return the number of the first."""
    first = await next_live(contender)
    assert contender.add_live is not None  # noqa: S101
    await contender.add_live(first, -(-calls // BLOCK) * BLOCK)
    return first


async def all_applied(contender: Contender, first: int, sent: int) -> tuple[float, dict[str, int]]:
    """Wait until the calls from number `first` on are as `sent` webhooks of the order make them.

    Returns when the last row was written (seconds since the epoch), and what is missing when nothing moves any more.
    """
    wanted = expected(sent)
    calls = -(-sent // (BLOCK * EVENTS)) * BLOCK
    bounds = live_provider_id(first), live_provider_id(first + calls - 1)
    sql = (
        "SELECT status, count(*) AS calls, count(*) FILTER (WHERE reported) AS reported,"  # noqa: S608 - as above
        f" extract(epoch FROM max(updated_at))::float8 AS last FROM {live(contender)} GROUP BY status"
    )
    before: Counter[str] | None = None
    quiet_since = time()
    async with database(contender) as connection:
        while True:
            began = time()
            rows = await connection.fetch(sql, *bounds)
            took = time() - began
            found = Counter({row["status"]: row["calls"] for row in rows if row["status"] != "pending"})
            found["reported"] = sum(row["reported"] for row in rows)
            missing = {name: wanted[name] - found[name] for name in wanted if wanted[name] != found[name]}
            if found != before:
                before, quiet_since = found, time()
            if not missing or time() - quiet_since > _PATIENCE:
                return max((row["last"] for row in rows if row["status"] != "pending"), default=0.0), missing
            await asyncio.sleep(min(max(_POLL, _REST * took), _PATIENCE / 4))
