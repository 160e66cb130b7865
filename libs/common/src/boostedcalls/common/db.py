"""The connection pool, fit for Postgres itself and for pgbouncer in transaction mode (no session state is kept)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
from pydantic import AliasChoices, Field, SecretStr

from boostedcalls.common.errors import Unavailable
from boostedcalls.common.settings import Settings

type Pool = asyncpg.Pool[asyncpg.Record]
type Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# Away, restarting, out of connections or out of time: the same statement may well succeed later.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.SerializationError,
    asyncpg.exceptions.LockNotAvailableError,
    # A migration changed a table under a prepared statement.
    asyncpg.exceptions.InvalidCachedStatementError,
    asyncpg.exceptions.OutdatedSchemaCacheError,
)


class DatabaseSettings(Settings):
    """Where the database is: `DATABASE_URL`, or the five `DB_…` variables."""

    database_url: SecretStr | None = Field(None, validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    db_host: str = "localhost"
    db_port: int = 5432
    db_name: str = "postgres"
    db_user: str = "postgres"
    db_password: SecretStr = SecretStr("")
    db_pool_size: int = Field(10, ge=1, le=200)
    db_statement_cache: bool = True

    def dsn(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = quote(self.db_password.get_secret_value(), safe="")
        return f"postgresql://{quote(self.db_user, safe='')}:{password}@{self.db_host}:{self.db_port}/{self.db_name}"


async def _set_codecs(acquired: asyncpg.Connection[asyncpg.Record]) -> None:
    for kind in ("json", "jsonb"):
        await acquired.set_type_codec(
            kind, schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
        )


def json_text(value: Any) -> str | None:
    """A value for a `text[]` parameter that SQL casts to jsonb; None stays NULL."""
    return None if value is None else orjson.dumps(value).decode()


async def _no_reset(_: Any) -> None:
    """Pooled connections keep no session state, so the reset query between uses would buy nothing."""


async def open_pool(stack: AsyncExitStack, settings: DatabaseSettings, application: str) -> Pool:
    """Open the pool; it closes with the stack. jsonb travels as Python objects. Raises Unavailable when the database
    cannot be reached as the settings say."""
    try:
        pool = await asyncpg.create_pool(
            settings.dsn(),
            min_size=1,
            max_size=settings.db_pool_size,
            init=_set_codecs,
            reset=_no_reset,
            timeout=5,
            command_timeout=10,
            statement_cache_size=100 if settings.db_statement_cache else 0,
            server_settings={"application_name": f"boostedcalls-{application}"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"the database does not answer: {str(error) or type(error).__name__}") from error
    stack.push_async_callback(_close, pool)
    return pool


async def _close(pool: Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), 5)
    except TimeoutError:
        pool.terminate()


@asynccontextmanager
async def connection(pool: Pool) -> AsyncGenerator[Connection]:
    """A connection for reading: each statement stands alone. Raises Unavailable in place of every passing fault of the
    database."""
    try:
        async with pool.acquire(timeout=5) as acquired:
            yield acquired
    except PASSING as error:
        raise Unavailable(f"database: {type(error).__name__}") from error


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncGenerator[Connection]:
    """One transaction on one connection. Raises Unavailable in place of every passing fault of the database."""
    async with connection(pool) as acquired, acquired.transaction():
        yield acquired


async def reachable(pool: Pool) -> bool:
    """Whether the database answers; for readiness."""
    async with pool.acquire(timeout=2) as acquired:
        return await acquired.fetchval("SELECT 1", timeout=2) == 1
