"""The role that a service works as: made and given its rights by the service's `migrate`.

It may read and write rows of its own schema and nothing else: it owns nothing, is no superuser and does not pass by
row-level security. Roles belong to the whole server, so two databases of one server share them, passwords included.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable

import asyncpg

from boostedcalls.common.db_settings import role_of

type _Connection = asyncpg.Connection[asyncpg.Record]

# The client gives up a statement after 10 s; these end what a client left behind that is gone. A lock is waited for
# that another's transaction of milliseconds holds, or a migration: then the work is tried again later.
_LIMITS = {
    "statement_timeout": "15s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    # Since version 17.
    "transaction_timeout": "60s",
}
_ITERATIONS = 4096
_TRIES = 10
_OURS = ("auth", "contacts", "calls")
_READ = """
    SELECT array_remove(ARRAY[
               CASE WHEN rolsuper THEN 'NOSUPERUSER' END, CASE WHEN rolcreatedb THEN 'NOCREATEDB' END,
               CASE WHEN rolcreaterole THEN 'NOCREATEROLE' END, CASE WHEN rolbypassrls THEN 'NOBYPASSRLS' END,
               CASE WHEN rolreplication THEN 'NOREPLICATION' END, CASE WHEN rolinherit THEN 'NOINHERIT' END
           ], NULL) AS wrong,
           coalesce(rolconfig, '{}') AS config
    FROM pg_roles WHERE rolname = $1
"""
# Nobody else's things are in this database, and it is ours to shut.
_ALONE = """
    SELECT pg_has_role(current_user, datdba, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_namespace WHERE nspname <> ALL($1::text[]) AND nspname !~ '^pg_'
                       AND nspname NOT IN ('information_schema', 'public'))
       AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('public'))
    FROM pg_database WHERE datname = current_database()
"""


def scram_verifier(password: str) -> str:
    """What Postgres stores of an ASCII password (RFC 5803). Sent in its place, it keeps the password itself out of the
    server's log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(each).decode() for each in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"


class RoleMissing(Exception):
    """A service is to log in with a role that is not there and may not be made."""


async def give_role(connection: _Connection, schema: str, service: str, password: str | None) -> str | None:
    """See to the service's role and its rights on the schema; with a password it may log in. Returns a line for the
    operator where something is left to do. Under the lock of the migrations. Raises RoleMissing."""
    role, line = role_of(service), None
    try:
        await _again(connection, lambda: _see_to_role(connection, role, password))
    except asyncpg.InsufficientPrivilegeError as error:
        line = f"the role {role} is left as it is ({error})"
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            line = (
                f"the role {role} is not there and may not be made ({error});"
                f" leave DB_{service.upper()}_PASSWORD unset, so that the service logs in as this user does"
            )
            if password is not None:
                raise RoleMissing(line) from None
            return line
    await _again(connection, lambda: _grant(connection, schema, role))
    return line


async def _again(connection: _Connection, work: Callable[[], Awaitable[None]]) -> None:
    """Another database's migration may change the same role at the same time; the lock is not seen over there."""
    for attempt in range(_TRIES):
        try:
            async with connection.transaction():
                return await work()
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError):
            if attempt + 1 == _TRIES:
                raise
            await connection.execute("SELECT pg_sleep(random() * 0.2)")


async def _see_to_role(connection: _Connection, role: str, password: str | None) -> None:
    found = await connection.fetchrow(_READ, role)
    if found is None:
        await connection.execute(f"CREATE ROLE {role} NOINHERIT")
        found = await connection.fetchrow(_READ, role)
    assert found is not None  # noqa: S101 - it was made just now
    if found["wrong"]:
        # No others: who is no superuser may not even name them.
        await connection.execute(f"ALTER ROLE {role} {' '.join(found['wrong'])}")
    known = await connection.fetch("SELECT name FROM pg_settings WHERE name = ANY($1::text[])", list(_LIMITS))
    for name in (row["name"] for row in known):
        if f"{name}={_LIMITS[name]}" not in found["config"]:
            await connection.execute(f"ALTER ROLE {role} SET {name} = '{_LIMITS[name]}'")
    if password is not None:
        await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")


async def _grant(connection: _Connection, schema: str, role: str) -> None:
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(
        f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC, {role};"
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {role};"
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM PUBLIC, {role};"
        f"GRANT USAGE ON SCHEMA {schema} TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
        f"REVOKE ALL ON {schema}.migrations FROM {role};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"
        f"GRANT CONNECT ON DATABASE {database} TO {role}"
    )
    if await connection.fetchval(_ALONE, [*_OURS, schema]):
        await connection.execute(
            f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        )
