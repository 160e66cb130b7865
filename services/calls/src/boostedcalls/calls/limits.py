"""How often a user may place calls, and call the same number; asked under the user's lock before a call is inserted."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil

from boostedcalls.calls import store
from boostedcalls.calls.settings import CallsSettings
from boostedcalls.common.db import Connection
from boostedcalls.common.errors import problem

_MINUTE = timedelta(minutes=1)

# The oldest of as many calls as a minute may have: reads no more rows than that.
_OLDEST = """
    SELECT created_at FROM calls.calls WHERE user_id = $1 AND created_at > $2
    ORDER BY created_at DESC OFFSET $3 LIMIT 1
"""
# A call whose placing ended without the provider having it rang nobody: cancelled in time, refused, or not placed.
_LAST = """
    SELECT created_at FROM calls.calls
    WHERE user_id = $1 AND contact_phone = $2 AND created_at > $3
      AND NOT (dispatch_closed AND provider_call_id IS NULL)
    ORDER BY created_at DESC LIMIT 1
"""


async def check(connection: Connection, new: store.Row, settings: CallsSettings, *, allow_repeat: bool) -> None:
    """Whether the new call may be placed now. Raises ServiceError call_rate_exceeded, number_cooldown,
    max_active_calls, in this order."""
    now: datetime = new["created_at"]
    if limit := settings.create_calls_per_minute:
        oldest = await connection.fetchval(_OLDEST, new["user_id"], now - _MINUTE, limit - 1)
        if oldest is not None:
            detail = f"At most {limit} calls may be placed in a minute"
            raise problem("call_rate_exceeded", detail, retry_after=_seconds(oldest + _MINUTE - now))
    if settings.number_cooldown and not allow_repeat:
        pause = timedelta(seconds=settings.number_cooldown)
        last = await connection.fetchval(_LAST, new["user_id"], new["contact_phone"], now - pause)
        if last is not None:
            detail = (
                f"A number is called at most once in {settings.number_cooldown:g} s: wait, or call it again at once "
                'with "allow_repeat": true'
            )
            raise problem("number_cooldown", detail, retry_after=_seconds(last + pause - now))
    limit = settings.max_active_calls_per_user
    if await store.active_calls(connection, new["user_id"]) >= limit:
        raise problem("max_active_calls", f"At most {limit} calls may be active at once", retry_after=30)


def _seconds(left: timedelta) -> int:
    return max(1, ceil(left.total_seconds()))
