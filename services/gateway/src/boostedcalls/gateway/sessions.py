"""Sessions and their refresh tokens in the schema `auth`. Knows no token in clear but the one at hand.

A refresh token is 256 bits, stored as its sha256, good for one use. The use makes its successor: an HMAC of the token
under a random key of its session, so that a client whose answer was lost, and tabs that refresh at the same time, get
the same successor again for ten seconds and as long as nobody has used it. Any other second use of a token means that
two parties hold it, and ends the whole session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from boostedcalls.common.context import new_id
from boostedcalls.common.db import Pool, transaction
from boostedcalls.common.errors import problem
from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.jws import encode
from boostedcalls.gateway.users import User

log = get_logger(__name__)

GRACE = timedelta(seconds=10)
"""How long after its use a refresh token is answered the same once more."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its client knows it: the refresh token is the next one to use."""

    id: UUID
    user_id: UUID
    refresh: str


class Reused(Exception):
    """A refresh token was used twice, which has ended its session."""

    def __init__(self, session_id: UUID) -> None:
        super().__init__(str(session_id))
        self.session_id = session_id


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


# Waits for a change of the password that is under way, and then finds its new version.
_OPEN_SESSION = """
WITH known AS (
    SELECT id FROM auth.users WHERE id = $2 AND password_version = $5 FOR SHARE
), session AS (
    INSERT INTO auth.sessions (id, user_id, expires_at) SELECT $1, id, now() + $4 FROM known RETURNING id, expires_at
)
INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) SELECT $3, id, expires_at FROM session
RETURNING session_id
"""

_FORGET_SESSIONS = """
DELETE FROM auth.sessions WHERE id IN (
    SELECT id FROM auth.sessions WHERE user_id = $1 AND expires_at < now() FOR UPDATE SKIP LOCKED
)
"""


async def open_session(pool: Pool, user: User, lifetime: timedelta) -> Session:
    """Begin a session; the user's expired ones go. Raises ServiceError credentials_invalid when the password was
    changed since the user was read, and Unavailable."""
    session = Session(new_id(), user.id, secrets.token_urlsafe(32))
    async with transaction(pool) as connection:
        await connection.execute(_FORGET_SESSIONS, user.id)
        opened = await connection.fetchval(
            _OPEN_SESSION, session.id, user.id, _digest(session.refresh), lifetime, user.password_version
        )
    if opened is None:
        raise problem("credentials_invalid")
    return session


# All uses of all tokens of a session, one after the other.
_LOCK_SESSION = """
SELECT id, user_id, successor_key, revoked_at FROM auth.sessions
WHERE id = (SELECT session_id FROM auth.refresh_tokens WHERE hash = $1) FOR UPDATE
"""

# A statement of its own: it sees what was committed while the lock was waited for.
_SPEND = """
WITH spent AS (
    UPDATE auth.refresh_tokens SET used_at = statement_timestamp()
    WHERE hash = $1 AND used_at IS NULL AND expires_at > now() RETURNING session_id
), successor AS (
    INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) SELECT $2, session_id, now() + $3 FROM spent
), prolonged AS (
    UPDATE auth.sessions SET expires_at = now() + $3 FROM spent WHERE id = spent.session_id
), forgotten AS (
    DELETE FROM auth.refresh_tokens AS old USING spent WHERE old.session_id = spent.session_id AND expires_at < now()
)
SELECT EXISTS (SELECT FROM spent) AS spent, token.used_at IS NOT NULL AS used,
    token.used_at > statement_timestamp() - $4::interval AND EXISTS (
        SELECT FROM auth.refresh_tokens WHERE hash = $2 AND used_at IS NULL AND expires_at > now()
    ) AS again
FROM auth.refresh_tokens AS token WHERE token.hash = $1
"""


async def rotate(pool: Pool, token: str, lifetime: timedelta) -> Session:
    """Spend a refresh token, or repeat the answer to its use a moment ago.

    Raises Reused for one that was used before, ServiceError token_invalid for one that is unknown, expired or revoked,
    and Unavailable.
    """
    hashed = _digest(token)
    async with transaction(pool) as connection:
        session = await connection.fetchrow(_LOCK_SESSION, hashed)
        if session is None or session["revoked_at"] is not None:
            raise _refused()
        successor = encode(hmac.digest(session["successor_key"], token.encode(), "sha256"))
        # None when it was forgotten while the lock was waited for.
        found = await connection.fetchrow(_SPEND, hashed, _digest(successor), lifetime, GRACE)
        good = found is not None and (found["spent"] or found["again"])
        reused = found is not None and found["used"] and not good
        if reused:
            # Not raised in here: that would roll it back.
            await connection.execute("UPDATE auth.sessions SET revoked_at = now() WHERE id = $1", session["id"])
    if reused:
        log.warning("refresh_token_reused", session=str(session["id"]), user=str(session["user_id"]))
        raise Reused(session["id"])
    if not good:
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
