"""Which sessions have ended while access tokens of theirs may still be good: known without asking the database.

Every gateway holds the list in memory and brings it up to date about every second, so that a logout, a change of the
password or the re-use of a refresh token ends access tokens on all replicas within about two seconds, and at once on
the one that was told. While the database is away the last known list counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import takewhile
from time import monotonic
from uuid import UUID

from boostedcalls.common.db import Pool
from boostedcalls.common.db import connection as reading
from boostedcalls.common.trouble import Trouble
from boostedcalls.gateway.claims import LEEWAY_SECONDS, MAX_SECONDS

EVERY = 1.0
"""Seconds between two looks into the database."""
# An access token of a session that ended longer ago has expired, whatever its settings were. A minute for clocks.
REMEMBERED = MAX_SECONDS + LEEWAY_SECONDS + 60
# What was revoked before the last look, by a transaction that had not ended then: none lasts longer.
_OVERLAP = timedelta(seconds=60)

_ENDED = """
SELECT now() AS at, array(
    SELECT id FROM auth.sessions WHERE revoked_at > coalesce($1::timestamptz, now() - $2::interval)
) AS ids
"""


class Revocations:
    """`session in revocations`, with a session's id as text."""

    def __init__(self) -> None:
        self._forget_at: dict[str, float] = {}
        self._since: datetime | None = None
        self._trouble = Trouble("revocations_stale", "revocations_known_again")

    def __contains__(self, session: str) -> bool:
        return session in self._forget_at

    def __len__(self) -> int:
        return len(self._forget_at)

    def add(self, sessions: Iterable[UUID]) -> None:
        forget_at = monotonic() + REMEMBERED
        for session in sessions:
            # The first word counts, else what is looked at again and again would never go.
            self._forget_at.setdefault(str(session), forget_at)

    async def refresh(self, pool: Pool) -> None:
        """Take what has ended since the last look. Raises Unavailable, and what asyncpg raises."""
        async with reading(pool) as connection:
            row = await connection.fetchrow(_ENDED, self._since, timedelta(seconds=REMEMBERED))
        assert row is not None  # noqa: S101 - a SELECT without FROM
        self.add(row["ids"])
        self._since = row["at"] - _OVERLAP
        self._forget(monotonic())

    def _forget(self, now: float) -> None:
        # They stand in the order in which they came.
        for session in list(takewhile(lambda each: self._forget_at[each] <= now, self._forget_at)):
            del self._forget_at[session]

    async def follow(self, pool: Pool) -> None:
        """Keep up to date, whatever becomes of the database."""
        while True:
            try:
                await self.refresh(pool)
            except Exception as error:
                self._trouble.seen(f"{type(error).__name__}: {error}")
            else:
                self._trouble.over()
            await asyncio.sleep(EVERY)

    async def first(self, pool: Pool) -> None:
        """The first look, before anything is served; without a database it is done without."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await self.refresh(pool)
