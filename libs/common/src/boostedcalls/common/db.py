"""The connection pool, fit for Postgres itself and for pgbouncer in transaction mode (no session state is kept)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
from prometheus_client import Counter
from pydantic import AliasChoices, Field, SecretStr

from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger
from boostedcalls.common.settings import Settings
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

type Pool = asyncpg.Pool[asyncpg.Record]
type Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

FAULTS = Counter("boostedcalls_database_faults_total", "Uses of the database that failed and may work later", ["kind"])

# Away, restarting, out of connections or out of time: the same statement may well succeed later.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # Also what asyncpg raises between the server's last word to an idle connection and its end.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.SerializationError,
    # A lock that another holds, and a database that an operator has closed to new connections.
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,
    # Demoted to a replica, or locked against writes by an operator.
    asyncpg.exceptions.ReadOnlySQLTransactionError,
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


async def open_pool(stack: AsyncExitStack, settings: DatabaseSettings, application: str, *, wait: bool = True) -> Pool:
    """Open the pool; it closes with the stack. jsonb travels as Python objects. Raises Unavailable when the database
    cannot be reached as the settings say.

    `wait=False`: for a process that has work to do without a database. The pool is there all the same, and connects
    when it is used; that the database does not answer is only logged.
    """
    try:
        pool = await asyncpg.create_pool(
            settings.dsn(),
            min_size=1 if wait else 0,
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
    if not wait:
        try:
            async with pool.acquire(timeout=2):
                pass
        except Exception as error:
            text = "going on without it until it answers"
            log.warning("database_away", reason=str(error) or type(error).__name__, text=text)
    return pool


async def _close(pool: Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), 5)
    except TimeoutError:
        pool.terminate()


class _Watch:
    """Tells of the database's troubles. One that a write met is over with the next write: reading may go on all the
    while, when the disk is full, say."""

    def __init__(self) -> None:
        self._trouble = Trouble("database_trouble", "database_trouble_over")
        self._write_failed = False

    def failed(self, error: BaseException, *, writing: bool) -> None:
        FAULTS.labels(type(error).__name__).inc()
        self._write_failed |= writing
        self._trouble.seen(f"{type(error).__name__}: {error}")

    def worked(self, *, writing: bool) -> None:
        if writing or not self._write_failed:
            self._write_failed = False
            self._trouble.over()


_watch = _Watch()


@asynccontextmanager
async def connection(pool: Pool) -> AsyncGenerator[Connection]:
    """A connection for reading: each statement stands alone. Raises Unavailable in place of every passing fault of the
    database."""
    try:
        async with pool.acquire(timeout=5) as acquired:
            yield acquired
    except PASSING as error:
        _watch.failed(error, writing=False)
        raise Unavailable(f"database: {type(error).__name__}") from error
    _watch.worked(writing=False)


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncGenerator[Connection]:
    """One transaction on one connection. Raises Unavailable in place of every passing fault of the database."""
    try:
        async with pool.acquire(timeout=5) as acquired, acquired.transaction():
            yield acquired
    except PASSING as error:
        _watch.failed(error, writing=True)
        raise Unavailable(f"database: {type(error).__name__}") from error
    _watch.worked(writing=True)


_PROBE_SECONDS = 1.5
_probes: dict[Pool, asyncio.Task[bool]] = {}


async def reachable(pool: Pool) -> bool:
    """Whether the database answers and takes writes, known within 1.5 s; for readiness.

    A probe that hangs ends by itself later, and until then all others wait for the same one: probes of a frozen
    database must not use up the pool.
    """
    probe = _probes.get(pool)
    if probe is None:
        probe = _probes[pool] = asyncio.create_task(_probe(pool))
        probe.add_done_callback(lambda _: _probes.pop(pool, None))
    await asyncio.wait({probe}, timeout=_PROBE_SECONDS)
    return probe.done() and not probe.cancelled() and probe.result()


async def _probe(pool: Pool) -> bool:
    try:
        async with pool.acquire(timeout=2) as acquired:
            if await acquired.fetchval("SELECT current_setting('transaction_read_only') = 'off'", timeout=2):
                return True
        # After a failover the address may lead to another server: only new connections get there.
        await pool.expire_connections()
    except (*PASSING, asyncpg.PostgresError):
        pass
    return False
