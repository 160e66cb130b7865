"""The connection pool, fit for Postgres itself and for pgbouncer in transaction mode (no session state is kept).

Rows of tenants are behind row-level security (docs/adr/0008): a transaction says for whom it works, else it sees none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, Final, Literal, overload
from uuid import UUID

import asyncpg
import orjson
from prometheus_client import Counter

from boostedcalls.common.db_settings import DatabaseSettings as DatabaseSettings
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

type Pool = asyncpg.Pool[asyncpg.Record]
type Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
type Scope = UUID | Literal["*"]

SERVICE: Final = "*"
"""The scope of work that no one user asked for: all rows."""

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


_OWNER = """
    SELECT rolsuper OR rolbypassrls OR EXISTS (
        SELECT FROM pg_namespace
        WHERE nspname IN ('auth', 'contacts', 'calls') AND pg_has_role(current_user, nspowner, 'USAGE'))
    FROM pg_roles WHERE rolname = current_user
"""


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

    `application`: the service that connects, and what for: `gateway`, `gateway-command`.
    """
    try:
        pool = await asyncpg.create_pool(
            **settings.login(application.partition("-")[0]),
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
    try:
        async with pool.acquire(timeout=2) as acquired:
            if await acquired.fetchval(_OWNER, timeout=2):
                text = "this login owns the tables or passes by row-level security; give each service its own password"
                log.warning("database_owner", service=application, text=text)
    except (*PASSING, asyncpg.PostgresError) as error:
        if not wait:
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


def _text(scope: Scope) -> str:
    """The scope as the database has it; without quotes, since it is put into statements."""
    if scope != SERVICE and not isinstance(scope, UUID):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"no scope: {type(scope).__name__}")
    return str(scope)


@asynccontextmanager
async def _begun(connection: Connection, scope: Scope) -> AsyncGenerator[None]:
    """A transaction in which row-level security shows the scope's rows.

    Begun by hand: asyncpg would take two round trips for it, and refuses its own nested transactions in here
    (`savepoint` is for those).
    """
    await connection.execute(f"BEGIN; SET LOCAL bc.scope = '{_text(scope)}'")
    try:
        yield
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


@cache
def _scoped(sql: str, place: int) -> str:
    """The SELECT, and its scope set by the same statement: so a read takes one round trip, not three.

    The lateral reference makes a nested loop of it that takes the scope first, whatever the planner thinks; and were it
    otherwise, there would be no rows. There is one row outside, so what comes out has the order of what is inside.
    """
    return (
        f"SELECT q.* FROM (SELECT set_config('bc.scope', ${place}, true) AS scope OFFSET 0) AS s"  # noqa: S608
        f" CROSS JOIN LATERAL (SELECT o.* FROM ({sql}) AS o WHERE s.scope IS NOT NULL OFFSET 0) AS q"
    )


class Reader:
    """Reads in a scope: statements that begin with SELECT, each of which stands alone."""

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        self._scope = _text(scope)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        return await self._connection.fetch(_scoped(sql, len(args) + 1), *args, self._scope)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        return await self._connection.fetchrow(_scoped(sql, len(args) + 1), *args, self._scope)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._connection.fetchval(_scoped(sql, len(args) + 1), *args, self._scope)


type Reads = Connection | Reader


@overload
def connection(pool: Pool) -> AbstractAsyncContextManager[Connection]: ...
@overload
def connection(pool: Pool, scope: Scope) -> AbstractAsyncContextManager[Reader]: ...
@asynccontextmanager
async def connection(pool: Pool, scope: Scope | None = None) -> AsyncGenerator[Reads]:
    """A connection for reading: each statement stands alone. Without a scope there are no rows of tenants. Raises
    Unavailable in place of every passing fault of the database."""
    try:
        async with pool.acquire(timeout=5) as acquired:
            yield acquired if scope is None else Reader(acquired, scope)
    except PASSING as error:
        _watch.failed(error, writing=False)
        raise Unavailable(f"database: {type(error).__name__}") from error
    _watch.worked(writing=False)


@asynccontextmanager
async def transaction(pool: Pool, scope: Scope | None = None) -> AsyncGenerator[Connection]:
    """One transaction on one connection; without a scope there are no rows of tenants in it. Raises Unavailable in
    place of every passing fault of the database."""
    try:
        async with (
            pool.acquire(timeout=5) as acquired,
            acquired.transaction() if scope is None else _begun(acquired, scope),
        ):
            yield acquired
    except PASSING as error:
        _watch.failed(error, writing=True)
        raise Unavailable(f"database: {type(error).__name__}") from error
    _watch.worked(writing=True)


@asynccontextmanager
async def savepoint(connection: Connection) -> AsyncGenerator[None]:
    """A part of the caller's transaction that can fail alone. They nest."""
    await connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK TO part; RELEASE part")
        raise
    await connection.execute("RELEASE part")


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
