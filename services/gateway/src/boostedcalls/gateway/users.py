"""Users in the schema `auth`. Knows no password, only hashes."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from pydantic import validate_email
from pydantic_core import PydanticCustomError

from boostedcalls.common.context import new_id
from boostedcalls.common.db import Pool, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import problem


@dataclass(frozen=True, slots=True)
class User:
    """`password_version` grows with every change of the password; a newer hash of the same password is none."""

    id: UUID
    email: str
    password_hash: str
    password_version: int = 0


def canonical(email: str) -> str:
    """The one spelling under which an address is stored and looked up; also for what is no address at all."""
    try:
        email = validate_email(email)[1]
    except PydanticCustomError:
        email = unicodedata.normalize("NFC", email).strip()
    return email.lower()


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


_COLUMNS = "id, email, password_hash, password_version"


async def find_user(pool: Pool, email: str) -> User | None:
    """Raises Unavailable."""
    return await _find(pool, f"SELECT {_COLUMNS} FROM auth.users WHERE email = $1", canonical(email))  # noqa: S608


async def get_user(pool: Pool, user_id: UUID) -> User | None:
    """Raises Unavailable."""
    return await _find(pool, f"SELECT {_COLUMNS} FROM auth.users WHERE id = $1", user_id)  # noqa: S608


async def _find(pool: Pool, query: str, key: str | UUID) -> User | None:
    async with reading(pool) as connection:
        row = await connection.fetchrow(query, key)
    return User(**row) if row else None


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
UPDATE auth.users SET password_hash = $3, password_version = password_version + 1
WHERE id = $1 AND password_version = $2 RETURNING id
"""

# A statement of its own: it sees the sessions of logins that were let through before the change.
_END_SESSIONS = """
UPDATE auth.sessions SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL RETURNING id
"""


async def change_password(pool: Pool, user: User, password_hash: str) -> list[UUID] | None:
    """Store another password and end all sessions of the user; their ids. None when the password was changed since the
    user was read. Raises Unavailable."""
    async with transaction(pool) as connection:
        if await connection.fetchval(_CHANGE, user.id, user.password_version, password_hash) is None:
            return None
        return [row["id"] for row in await connection.fetch(_END_SESSIONS, user.id)]
