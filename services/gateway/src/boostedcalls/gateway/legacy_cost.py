"""What a password hash from elsewhere costs at most: so much work does every failing check, whoever it is for, as long
as there is such a hash. Else the time of an answer would tell which accounts were moved here (legacy.py)."""

from __future__ import annotations

import asyncio
import contextlib

from boostedcalls.common.db import Pool
from boostedcalls.common.db import connection as reading
from boostedcalls.common.trouble import Trouble
from boostedcalls.gateway.legacy import MAX_ITERATIONS

EVERY = 60.0
"""Seconds between two looks into the database. Users who are imported while it runs stand out for so long."""
_AGAIN = 5.0

# Word for word as in the index users_legacy, which answers it.
_ITERATIONS = r"substring(password_hash FROM '^pbkdf2_sha256\$([1-9][0-9]{0,6})\$')::integer"
GREATEST = rf"""
SELECT max({_ITERATIONS}) FROM auth.users
WHERE password_hash LIKE 'pbkdf2\_sha256$%' AND {_ITERATIONS} <= {MAX_ITERATIONS}
"""  # noqa: S608 - our own expressions


class LegacyCost:
    """`iterations`: the greatest number of any user's pbkdf2 hash; 0 when nobody has one."""

    def __init__(self) -> None:
        self.iterations = 0
        self._trouble = Trouble("legacy_cost_stale", "legacy_cost_known_again")

    async def refresh(self, pool: Pool) -> None:
        """Raises Unavailable, and what asyncpg raises."""
        async with reading(pool) as connection:
            self.iterations = await connection.fetchval(GREATEST) or 0

    async def follow(self, pool: Pool) -> None:
        """Keep up to date, whatever becomes of the database; while it is away the last known number counts."""
        while True:
            try:
                await self.refresh(pool)
            except Exception as error:
                self._trouble.seen(f"{type(error).__name__}: {error}")
                await asyncio.sleep(_AGAIN)
            else:
                self._trouble.over()
                await asyncio.sleep(EVERY)

    async def first(self, pool: Pool) -> None:
        """The first look, before anything is served; without a database it is done without."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await self.refresh(pool)
