"""How many requests a user may make in a minute, over all gateways together.

A gateway takes a part of the user's minute out of the database and hands it out by itself, so most requests ask nobody.
The parts get smaller as the minute's rest does: never is more handed out than the limit, and next to nothing is left
unused in a gateway that the user does not meet again. While the database is away each gateway counts by itself.
"""

from __future__ import annotations

import asyncio
from math import ceil
from time import monotonic
from uuid import UUID

from boostedcalls.common.db import Pool
from boostedcalls.common.db import connection as reading
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

WINDOW = 60.0
# A request waits no longer than this for its user's count, and for a while after that none waits at all.
_PATIENCE = 0.5
_PAUSE = 5.0

Headers = tuple[tuple[bytes, bytes], tuple[bytes, bytes]]

# An eighth of what is left: $2 the limit, $3 the most that is given at once.
_PART = "least(greatest(($2 - w.used) / 8, 1), $3, greatest($2 - w.used, 0))"
_OVER = "w.started_at + make_interval(secs => $4) <= now()"
_LEASE = f"""
    INSERT INTO auth.request_windows AS w (user_id, started_at, used, lease)
    VALUES ($1, now(), least(greatest($2 / 8, 1), $3), least(greatest($2 / 8, 1), $3))
    ON CONFLICT (user_id) DO UPDATE SET
        started_at = CASE WHEN {_OVER} THEN now() ELSE w.started_at END,
        used = CASE WHEN {_OVER} THEN excluded.used ELSE w.used + {_PART} END,
        lease = CASE WHEN {_OVER} THEN excluded.lease ELSE {_PART} END
    RETURNING lease, greatest($2 - used, 0) AS rest,
        extract(epoch FROM started_at + make_interval(secs => $4) - now())::float8 AS seconds
"""  # noqa: S608 - our own expressions


class _Share:
    """What a gateway may still hand out to a user until the end of the minute, and what is left in the database."""

    __slots__ = ("fetching", "left", "rest", "spent", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.left = 0
        self.rest = 0
        self.spent = 0
        self.fetching: asyncio.Task[None] | None = None


class Quota:
    """Counts the requests of one gateway's users."""

    def __init__(self, pool: Pool, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self._most = max(50, limit // 24)
        self._policy = b"ratelimit-policy", b'"requests";q=%d;w=%d' % (limit, WINDOW)
        self._shares: dict[UUID, _Share] = {}
        self._sweep_at = monotonic() + WINDOW
        self._away_until = 0.0

    def take(self, user_id: UUID) -> Headers | None:
        """The headers of a request that goes through; None when `ask` has to find out."""
        share = self._shares.get(user_id)
        return None if share is None else self._take(share)

    def _take(self, share: _Share) -> Headers | None:
        if share.left <= 0:
            return None
        seconds = share.until - monotonic()
        if seconds <= 0:
            return None
        share.left -= 1
        share.spent += 1
        return self._headers(share.left + share.rest, seconds)

    async def ask(self, user_id: UUID) -> tuple[Headers, int]:
        """The headers of a request, and how many seconds are left of a minute that is used up; 0: it goes through."""
        share = self._shares.get(user_id)
        if share is None:
            self._sweep()
            share = self._shares[user_id] = _Share()
        while True:
            if (headers := self._take(share)) is not None:
                return headers, 0
            seconds = share.until - monotonic()
            if seconds > 0 and not share.rest:
                return self._headers(0, seconds), ceil(seconds)
            if share.fetching is None:
                share.fetching = asyncio.create_task(self._fetch(user_id, share))
            # All requests that wait for it wait for the same one, and none of them ends it.
            await asyncio.wait([share.fetching])

    async def _fetch(self, user_id: UUID, share: _Share) -> None:
        asked = monotonic()
        try:
            if asked < self._away_until:
                self._alone(share, asked)
                return
            async with asyncio.timeout(_PATIENCE), reading(self._pool) as connection:
                row = await connection.fetchrow(_LEASE, user_id, self._limit, self._most, WINDOW)
            assert row is not None  # noqa: S101 - RETURNING of an insert that updates
            if share.until <= asked:
                share.spent = 0
            share.left, share.rest, share.until = row["lease"], row["rest"], asked + row["seconds"]
        except Exception as error:
            self._away_until = monotonic() + _PAUSE
            log.warning("requests_counted_alone", reason=str(error) or type(error).__name__)
            self._alone(share, asked)
        finally:
            share.fetching = None

    def _alone(self, share: _Share, now: float) -> None:
        """Without the database: what this gateway has not handed out in this minute yet."""
        if share.until <= now:
            share.until, share.spent = now + WINDOW, 0
        share.left, share.rest = max(self._limit - share.spent, 0), 0

    def _sweep(self) -> None:
        now = monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + WINDOW
            self._shares = {
                user_id: share for user_id, share in self._shares.items() if share.fetching or share.until > now
            }

    def _headers(self, remaining: int, seconds: float) -> Headers:
        return self._policy, (b"ratelimit", b'"requests";r=%d;t=%d' % (remaining, ceil(seconds)))
