"""Sessions and their refresh tokens in the schema `auth`. Knows no token in clear but the one at hand.

A refresh token is 256 bits, stored as its sha256, good for one use. The use makes its successor: an HMAC of the token
under a random key of its session, so that a client whose answer was lost, and tabs that refresh at the same time, get
the same successor again for ten seconds and as long as nobody has used it. Any other second use of a token means that
two parties hold it, and ends the whole session.

What a user can fill is bounded: by live sessions, by uses in a minute, and by used tokens that are kept. The second use
of a token that was used before all those is that of an unknown one: refused, and nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from uuid import UUID

from boostedcalls.common.context import new_id
from boostedcalls.common.db import Pool, transaction
from boostedcalls.common.errors import problem
from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.jws import encode
from boostedcalls.gateway.revocations import REMEMBERED
from boostedcalls.gateway.users import User

log = get_logger(__name__)

GRACE = timedelta(seconds=10)
"""How long after its use a refresh token is answered the same once more."""
MAX_SESSIONS = 100
"""How many live ones a user may have."""
MAX_ROTATIONS = 60
"""How often a session may be refreshed within a minute."""
KEPT = 3000
"""How many used tokens of a session are kept."""
# A session that ended longer ago is in nobody's list of revocations, and need not be. Twice: they look at other times.
_ENDED_FOR = timedelta(seconds=2 * REMEMBERED)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its client knows it: the refresh token is the next one to use. `ended`: the sessions that had to end
    for it."""

    id: UUID
    user_id: UUID
    refresh: str
    ended: tuple[UUID, ...] = ()


class Reused(Exception):
    """A refresh token was used twice, which has ended its session."""

    def __init__(self, session_id: UUID) -> None:
        super().__init__(str(session_id))
        self.session_id = session_id


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


# Waits for a change of the password that is under way, and then finds its new version. And for another login of the
# user, so that of logins at the same time each counts those before it. Before any session is locked, as everywhere.
_LOCK_USER = "SELECT id FROM auth.users WHERE id = $1 AND password_version = $2 FOR NO KEY UPDATE"

# Statements of their own: they see what was committed while the lock was waited for. No login has to clear away a great
# many; each clears away more than it makes.
_FORGET_SESSIONS = """
DELETE FROM auth.sessions WHERE id IN (
    SELECT id FROM auth.sessions WHERE user_id = $1 AND expires_at < now() LIMIT 1000 FOR UPDATE SKIP LOCKED
) OR id IN (
    SELECT id FROM auth.sessions WHERE user_id = $1 AND revoked_at < now() - $2::interval
    LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""

_OPEN_SESSION = """
WITH ended AS (
    UPDATE auth.sessions SET revoked_at = now() WHERE id IN (
        SELECT id FROM auth.sessions WHERE user_id = $2 AND revoked_at IS NULL AND expires_at > now()
        ORDER BY expires_at DESC, created_at DESC, id DESC OFFSET $5
    ) AND revoked_at IS NULL RETURNING id
), session AS (
    INSERT INTO auth.sessions (id, user_id, expires_at) VALUES ($1, $2, now() + $4)
), token AS (
    INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) VALUES ($3, $1, now() + $4)
)
SELECT id FROM ended
"""


async def open_session(pool: Pool, user: User, lifetime: timedelta) -> Session:
    """Begin a session; the user's expired ones go, and where there are `MAX_SESSIONS` already, the one ends that was
    not refreshed for longest. Raises ServiceError credentials_invalid when the password was changed since the user was
    read, and Unavailable."""
    session_id, refresh = new_id(), secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        if await connection.fetchval(_LOCK_USER, user.id, user.password_version) is None:
            raise problem("credentials_invalid")
        await connection.execute(_FORGET_SESSIONS, user.id, _ENDED_FOR)
        ended = await connection.fetch(_OPEN_SESSION, session_id, user.id, _digest(refresh), lifetime, MAX_SESSIONS - 1)
    return Session(session_id, user.id, refresh, tuple(row["id"] for row in ended))


# All uses of all tokens of a session, one after the other.
_LOCK_SESSION = """
SELECT id, user_id, successor_key, revoked_at FROM auth.sessions
WHERE id = (SELECT session_id FROM auth.refresh_tokens WHERE hash = $1) FOR UPDATE
"""

# A statement of its own: it sees what was committed while the lock was waited for. `used` are few, since they are
# forgotten here. Those seen are the ones before this use: with it, one more is kept.
_SPEND = """
WITH used AS (
    SELECT hash, used_at, row_number() OVER (ORDER BY used_at DESC) AS place
    FROM auth.refresh_tokens WHERE session_id = $5 AND used_at IS NOT NULL
), pace AS (
    SELECT extract(epoch FROM used_at + interval '1 minute' - statement_timestamp())::float8 AS wait
    FROM used WHERE place = $6
), spent AS (
    UPDATE auth.refresh_tokens SET used_at = statement_timestamp()
    WHERE hash = $1 AND used_at IS NULL AND expires_at > now() AND coalesce((SELECT wait FROM pace), 0) <= 0
    RETURNING session_id
), successor AS (
    INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) SELECT $2, session_id, now() + $3 FROM spent
), prolonged AS (
    UPDATE auth.sessions SET expires_at = now() + $3 FROM spent WHERE id = spent.session_id
), forgotten AS (
    DELETE FROM auth.refresh_tokens AS old USING spent WHERE old.session_id = spent.session_id
        AND (expires_at < now() OR hash IN (SELECT hash FROM used WHERE place >= $7))
)
SELECT EXISTS (SELECT FROM spent) AS spent, token.used_at IS NOT NULL AS used,
    token.used_at > statement_timestamp() - $4::interval AND EXISTS (
        SELECT FROM auth.refresh_tokens WHERE hash = $2 AND used_at IS NULL AND expires_at > now()
    ) AS again,
    CASE WHEN token.used_at IS NULL AND token.expires_at > now() THEN (SELECT wait FROM pace) END AS wait
FROM auth.refresh_tokens AS token WHERE token.hash = $1
"""


async def rotate(pool: Pool, token: str, lifetime: timedelta) -> Session:
    """Spend a refresh token, or repeat the answer to its use a moment ago.

    Raises Reused for one that was used before, ServiceError token_invalid for one that is unknown, expired or revoked
    (one is unknown also when `KEPT` others of its session were used after it), rate_limited when its session was
    refreshed too often, which changes nothing, and Unavailable.
    """
    hashed = _digest(token)
    async with transaction(pool) as connection:
        session = await connection.fetchrow(_LOCK_SESSION, hashed)
        if session is None or session["revoked_at"] is not None:
            raise _refused()
        successor = encode(hmac.digest(session["successor_key"], token.encode(), "sha256"))
        # None when it was forgotten while the lock was waited for.
        found = await connection.fetchrow(
            _SPEND, hashed, _digest(successor), lifetime, GRACE, session["id"], MAX_ROTATIONS, KEPT
        )
        good = found is not None and (found["spent"] or found["again"])
        reused = found is not None and found["used"] and not good
        if reused:
            # Not raised in here: that would roll it back.
            await connection.execute("UPDATE auth.sessions SET revoked_at = now() WHERE id = $1", session["id"])
    if reused:
        log.warning("refresh_token_reused", session=str(session["id"]), user=str(session["user_id"]))
        raise Reused(session["id"])
    if not good:
        if found is not None and (wait := found["wait"] or 0) > 0:
            raise problem("rate_limited", retry_after=ceil(wait))
        raise _refused()
    return Session(session["id"], session["user_id"], successor)


def _refused() -> Exception:
    return problem("token_invalid", "The refresh token is unknown, expired or used")


async def close_session(pool: Pool, token: str) -> list[UUID]:
    """End the session of a refresh token; its id. One that is unknown or has ended already is no fault. Raises
    Unavailable."""
    async with transaction(pool) as connection:
        rows = await connection.fetch(
            "UPDATE auth.sessions SET revoked_at = now() FROM auth.refresh_tokens AS token"
            " WHERE token.hash = $1 AND sessions.id = token.session_id AND revoked_at IS NULL RETURNING sessions.id",
            _digest(token),
        )
    return [row["id"] for row in rows]
