"""Users and their refresh tokens in the schema `auth`. Knows no password and no token in clear but the one at hand.

A refresh token is 256 random bits, stored as its sha256, good for one use. The use makes its successor in the same
statement; a second use of the same token means that two parties hold it, and ends the whole session.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg
from pydantic import validate_email
from pydantic_core import PydanticCustomError

from boostedcalls.common.context import new_id
from boostedcalls.common.db import Pool, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import problem
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    email: str
    password_hash: str


def canonical(email: str) -> str:
    """The one spelling under which an address is stored and looked up; also for what is no address at all."""
    try:
        email = validate_email(email)[1]
    except PydanticCustomError:
        email = unicodedata.normalize("NFC", email).strip()
    return email.lower()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def insert_user(pool: Pool, email: str, password_hash: str) -> User:
    """Raises ServiceError email_taken, Unavailable."""
    user = User(new_id(), canonical(email), password_hash)
    try:
        async with transaction(pool) as connection:
            await connection.execute(
                "INSERT INTO auth.users (id, email, password_hash) VALUES ($1, $2, $3)",
                user.id,
                user.email,
                user.password_hash,
            )
    except asyncpg.UniqueViolationError:
        raise problem("email_taken") from None
    return user


async def find_user(pool: Pool, email: str) -> User | None:
    """Raises Unavailable."""
    async with reading(pool) as connection:
        row = await connection.fetchrow(
            "SELECT id, email, password_hash FROM auth.users WHERE email = $1", canonical(email)
        )
    return User(row["id"], row["email"], row["password_hash"]) if row else None


async def replace_hash(pool: Pool, user: User, password_hash: str) -> None:
    """Store the same password under a newer hash, unless it was changed meanwhile. Raises Unavailable."""
    async with transaction(pool) as connection:
        await connection.execute(
            "UPDATE auth.users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
            user.id,
            user.password_hash,
            password_hash,
        )


_CHANGE = """
WITH changed AS (UPDATE auth.users SET password_hash = $2 WHERE email = $1 RETURNING id), ended AS (
    UPDATE auth.sessions SET revoked_at = now() FROM changed
    WHERE sessions.user_id = changed.id AND sessions.revoked_at IS NULL
)
SELECT id FROM changed
"""


async def change_password(pool: Pool, email: str, password_hash: str) -> bool:
    """Store another password and end the user's sessions; False when there is no such user. Raises Unavailable."""
    async with transaction(pool) as connection:
        return await connection.fetchval(_CHANGE, canonical(email), password_hash) is not None


_OPEN_SESSION = """
WITH session AS (
    INSERT INTO auth.sessions (id, user_id, expires_at) VALUES ($1, $2, now() + $4) RETURNING id, expires_at
)
INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) SELECT $3, id, expires_at FROM session
"""

_FORGET_SESSIONS = """
DELETE FROM auth.sessions WHERE id IN (
    SELECT id FROM auth.sessions WHERE user_id = $1 AND expires_at < now() FOR UPDATE SKIP LOCKED
)
"""


async def open_session(pool: Pool, user_id: UUID, lifetime: timedelta) -> str:
    """Begin a session and return its first refresh token; the user's expired sessions go. Raises Unavailable."""
    token = secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        await connection.execute(_FORGET_SESSIONS, user_id)
        await connection.execute(_OPEN_SESSION, new_id(), user_id, _digest(token), lifetime)
    return token


# Of two uses at the same time one waits for the other's row lock, and then finds the token used.
_ROTATE = """
WITH spent AS (
    UPDATE auth.refresh_tokens AS token SET used_at = now() FROM auth.sessions AS session
    WHERE token.hash = $1 AND token.used_at IS NULL AND token.expires_at > now()
        AND session.id = token.session_id AND session.revoked_at IS NULL
    RETURNING session.id, session.user_id
), successor AS (
    INSERT INTO auth.refresh_tokens (hash, session_id, expires_at) SELECT $2, id, now() + $3 FROM spent
), prolonged AS (
    UPDATE auth.sessions SET expires_at = now() + $3 FROM spent WHERE sessions.id = spent.id
), forgotten AS (
    DELETE FROM auth.refresh_tokens USING spent WHERE session_id = spent.id AND expires_at < now()
)
SELECT user_id FROM spent
"""

_REVOKE_REUSED = """
UPDATE auth.sessions SET revoked_at = now() FROM auth.refresh_tokens AS token
WHERE token.hash = $1 AND token.used_at IS NOT NULL AND sessions.id = token.session_id AND revoked_at IS NULL
RETURNING sessions.id, user_id
"""


async def rotate(pool: Pool, token: str, lifetime: timedelta) -> tuple[UUID, str]:
    """Spend a refresh token: (user id, its successor).

    Raises ServiceError token_invalid for one that is unknown, expired, revoked or used before (which revokes its
    session), and Unavailable.
    """
    successor = secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        user_id: UUID | None = await connection.fetchval(_ROTATE, _digest(token), _digest(successor), lifetime)
        # Not raised in here: that would roll the revocation back.
        reused = None if user_id else await connection.fetchrow(_REVOKE_REUSED, _digest(token))
    if reused:
        log.warning("refresh_token_reused", session=str(reused["id"]), user=str(reused["user_id"]))
    if user_id is None:
        raise problem("token_invalid", "The refresh token is unknown, expired or used")
    return user_id, successor


async def close_session(pool: Pool, token: str) -> None:
    """End the session of a refresh token; one that is unknown or has ended already is no fault. Raises Unavailable."""
    async with transaction(pool) as connection:
        await connection.execute(
            "UPDATE auth.sessions SET revoked_at = now() FROM auth.refresh_tokens AS token"
            " WHERE token.hash = $1 AND sessions.id = token.session_id AND revoked_at IS NULL",
            _digest(token),
        )
