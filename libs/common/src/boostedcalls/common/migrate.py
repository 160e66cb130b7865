"""Migrations: plain SQL files in a service's `migrations/` folder, applied in the order of their names.

Each file runs in one transaction and is remembered with its checksum in `<schema>.migrations`; a file that was edited
after it ran is refused. Replicas may call this at once: one works, the others wait and find nothing to do. Services
never migrate when they start; the `migrate` command does. After the files it sees to the service's role (roles.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from importlib import resources

import asyncpg

from boostedcalls.common.db import SERVICE, DatabaseSettings
from boostedcalls.common.roles import RoleMissing, give_role
from boostedcalls.common.settings import load

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('boostedcalls.migrate'))"


class MigrationError(Exception):
    """The database and the files disagree; the message says on what."""


def _files(package: str) -> list[tuple[str, str]]:
    folder = resources.files(package) / "migrations"
    return sorted((entry.name, entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".sql"))


async def migrate(
    dsn: str, schema: str, package: str, service: str | None = None, password: str | None = None
) -> tuple[list[str], str | None]:
    """Bring `schema` up to date; see to the role of `service`, which may log in when there is a password for it. Return
    the names of the files that ran, and a line for the operator where the role is not as it should be.

    Raises MigrationError when an applied file has changed or is gone, and asyncpg's errors when a file fails.
    """
    files = _files(package)
    ran: list[str] = []
    # Nothing outlives a transaction, neither lock nor prepared statement: so it works through pgbouncer too.
    connection = await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)
    try:
        while (name := await _step(connection, schema, files)) is not None:
            ran.append(name)
        line = None
        if service is not None:
            async with connection.transaction():
                await connection.execute(_LOCK)
                line = await give_role(connection, schema, service, password)
        return ran, line
    finally:
        await connection.close()


async def _step(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, files: list[tuple[str, str]]
) -> str | None:
    """Run the first file that has not run, in a transaction; None when there is none."""
    async with connection.transaction():
        # One lock for all schemas: two first runs may both create something shared. An owner who does not pass by
        # row-level security must see all rows.
        await connection.execute(f"{_LOCK}; SET LOCAL bc.scope = '{SERVICE}'")
        await connection.execute(
            f"CREATE SCHEMA IF NOT EXISTS {schema};"
            f"CREATE TABLE IF NOT EXISTS {schema}.migrations (name text PRIMARY KEY, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await connection.fetch(f"SELECT name, checksum FROM {schema}.migrations")  # noqa: S608 - our own name
        applied: dict[str, str] = {row["name"]: row["checksum"] for row in rows}
        if missing := sorted(applied.keys() - dict(files).keys()):
            raise MigrationError(f"{schema}: the database has {missing[0]}, which this version does not know")
        for name, sql in files:
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            if applied.get(name, checksum) != checksum:
                raise MigrationError(f"{schema}: {name} was changed after it had been applied")
            if name not in applied:
                await connection.execute(sql)
                insert = f"INSERT INTO {schema}.migrations (name, checksum) VALUES ($1, $2)"  # noqa: S608
                await connection.execute(insert, name, checksum)
                return name
        return None


def run_command(schema: str, package: str) -> None:
    """The `migrate` command of a service: migrates, says what it did, exits 1 with one line when it cannot."""
    settings = load(DatabaseSettings)
    service = package.rpartition(".")[2]
    try:
        ran, line = asyncio.run(migrate(settings.dsn(), schema, package, service, settings.role_password(service)))
    except (MigrationError, RoleMissing, OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"migrate {schema}: {error}\n")
        raise SystemExit(1) from None
    if line is not None:
        sys.stderr.write(f"migrate {schema}: {line}\n")
    sys.stdout.write(f"{schema}: {', '.join(ran) if ran else 'up to date'}\n")
