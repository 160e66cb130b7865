"""How often a password may be tried, and an account be made: counted in the database, so that it holds over replicas
and restarts.

A wrong password counts for its account at that client's address, for the account, for the address, and in all. Beyond
a free number of them each makes the next try wait, twice as long each time. A try that came too early is refused before
its password is looked at, and changes nothing: whoever hammers neither prolongs the wait nor costs a hash.

Nobody can lock another out: where an account has logged in from an address before, only wrong tries from there count;
and who tries an account for the first time from an address does not wait for what others did to that account.
Accounts that do not exist are counted like those that do.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from math import ceil

from boostedcalls.common.db import Connection, Pool
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import ServiceError, Unavailable, problem
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.users import canonical

_QUARTER, _MINUTE, _HOUR, _DAY = 900.0, 60.0, 3600.0, 86400.0
# How long a wrong try is remembered when no other follows. With at most LOGIN_TRIES_PER_MINUTE of strangers that make
# three rows each, they have at most 3 * 1000 * 120 of them.
MEMORY = 2 * _HOUR
KNOWN_FOR = 90 * _DAY
_KEY_BYTES = 16
_ROUNDS = 5
_KNOWN_AT_ONCE = 4


class Kind(IntEnum):
    """What a row counts, in the order in which rows are locked. Stored."""

    PAIR = 1
    ACCOUNT = 2
    ADDRESS = 3
    ALL = 4
    SIGNUP = 5
    # Counts nothing: the account has logged in from there.
    KNOWN = 9


@dataclass(frozen=True, slots=True)
class Counted:
    """A row that a try counts for. After `free` tries the next one waits: twice as long each time up to `cap` seconds,
    or without a cap until the end of a window that began with the first. Forgotten after `memory` seconds."""

    kind: Kind
    key: bytes
    free: int
    cap: float | None
    memory: float


_LOOK = """
    SELECT kind, count, extract(epoch FROM blocked_until - clock_timestamp())::float8 AS wait FROM auth.tries
    WHERE key = ANY($1::bytea[]) AND forget_at > clock_timestamp()
"""
# Who makes at most four rows removes up to twenty old ones. By itself: it must not hold them while it waits for others.
_CLEAN = """
    DELETE FROM auth.tries WHERE key IN (
        SELECT key FROM auth.tries WHERE forget_at <= clock_timestamp()
        ORDER BY forget_at LIMIT 20 FOR UPDATE SKIP LOCKED)
"""
_MAKE = """
    INSERT INTO auth.tries (key, kind, forget_at)
    SELECT key, kind, clock_timestamp() + make_interval(secs => memory)
    FROM unnest($1::bytea[], $2::smallint[], $3::float8[]) AS made(key, kind, memory) ORDER BY kind
    ON CONFLICT (key) DO NOTHING
"""
# All rows are locked before any is judged, so of tries at the same time each sees those before it. One statement: no
# gateway that stops in between holds a lock that others wait for.
_COUNT = f"""
    WITH held AS (
        SELECT * FROM auth.tries WHERE key = ANY($1::bytea[]) ORDER BY kind FOR UPDATE
    ), verdict AS (
        SELECT count(*) = cardinality($1::bytea[]) AS complete,
            coalesce(max(blocked_until) FILTER (WHERE kind <> {Kind.ACCOUNT:d} OR EXISTS (
                SELECT FROM held AS pair WHERE pair.kind = {Kind.PAIR:d} AND pair.count > 0
            )), 'epoch') AS blocked_until,
            clock_timestamp() AS at
        FROM held
    ), step AS (
        SELECT key, at, free, cap, CASE WHEN forget_at <= at THEN 1 ELSE held.count + 1 END AS count,
            CASE WHEN cap IS NULL AND forget_at > at AND held.count > 0 THEN forget_at
                ELSE at + make_interval(secs => memory) END AS forget_at
        FROM held
        JOIN unnest($1::bytea[], $2::integer[], $3::float8[], $4::float8[]) AS asked(key, free, cap, memory) USING (key)
        CROSS JOIN verdict
        WHERE verdict.complete AND verdict.blocked_until <= at
    ), counted AS (
        UPDATE auth.tries SET count = step.count, forget_at = step.forget_at, blocked_until = CASE
            WHEN step.count < free THEN 'epoch'
            WHEN cap IS NULL THEN step.forget_at
            ELSE at + make_interval(secs => least(cap, 2 ^ least(step.count - free, 20))) END
        FROM step WHERE tries.key = step.key
    )
    SELECT complete, extract(epoch FROM blocked_until - at)::float8 AS wait FROM verdict
"""  # noqa: S608 - our own numbers
# A try that was let in had no delay before it, so none is left when it is taken back. What counts nothing is soon gone.
_RIGHT = """
    WITH held AS (
        SELECT key, CASE WHEN kind = $2::smallint THEN 0 ELSE greatest(count - 1, 0) END AS rest FROM auth.tries
        WHERE key = ANY($1::bytea[]) ORDER BY kind FOR UPDATE
    ), back AS (
        UPDATE auth.tries SET count = held.rest, blocked_until = 'epoch', forget_at = CASE
            WHEN held.rest = 0 THEN clock_timestamp() + interval '1 minute' ELSE forget_at END
        FROM held WHERE tries.key = held.key
    )
    INSERT INTO auth.tries (key, kind, forget_at)
    SELECT $3::bytea, $4::smallint, clock_timestamp() + make_interval(secs => $5)
    FROM (SELECT count(*) FROM held) AS first
    ON CONFLICT (key) DO UPDATE SET forget_at = excluded.forget_at
"""


class Throttle:
    """The counting of one gateway; all gateways of a database count together."""

    def __init__(self, pool: Pool, settings: GatewaySettings) -> None:
        self._pool = pool
        self._settings = settings
        # Another secret makes all counts begin anew, no more. (Keys from a file come and go, and are of no use here.)
        secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else ""
        self._secret = sha256(b"boostedcalls tries\0" + secret.encode()).digest()

    @asynccontextmanager
    async def login(self, account: str, address: str) -> AsyncGenerator[None]:
        """Around the check of a password: a body that raises was a wrong try.

        Raises ServiceError too_many_tries before the body, and Unavailable.
        """
        account = canonical(account)
        known = self._key(Kind.KNOWN, account, address)
        counted = self._of_login(account, address)
        async with reading(self._pool) as connection:
            rows = await connection.fetch(_LOOK, [known, *(each.key for each in counted)])
            waits = {row["kind"]: row["wait"] for row in rows}
            if not any(row["kind"] == Kind.PAIR and row["count"] for row in rows) and Kind.ACCOUNT in waits:
                waits[Kind.ACCOUNT] = 0
            if Kind.KNOWN in waits:
                # A try counts until its password was found right: of somebody known, many may be under way at once.
                counted = [replace(each, free=each.free * _KNOWN_AT_ONCE) for each in counted if each.kind is Kind.PAIR]
            await self._count(connection, counted, waits)
        yield
        async with reading(self._pool) as connection:
            keys = [each.key for each in counted]
            await connection.execute(_RIGHT, keys, Kind.PAIR, known, Kind.KNOWN, KNOWN_FOR)

    async def signup(self, address: str) -> None:
        """Count the making of an account. Raises ServiceError too_many_tries, Unavailable."""
        key = self._key(Kind.SIGNUP, address)
        counted = _used([Counted(Kind.SIGNUP, key, self._settings.signups_per_address_per_hour, None, _HOUR)])
        async with reading(self._pool) as connection:
            rows = await connection.fetch(_LOOK, [key])
            await self._count(connection, counted, {row["kind"]: row["wait"] for row in rows})

    def _of_login(self, account: str, address: str) -> list[Counted]:
        given = self._settings
        pair, one, here = (account, address), (account,), (address,)
        return _used(
            [
                Counted(Kind.PAIR, self._key(Kind.PAIR, *pair), given.login_tries_per_pair, _QUARTER, MEMORY),
                Counted(Kind.ACCOUNT, self._key(Kind.ACCOUNT, *one), given.login_tries_per_account, _MINUTE, MEMORY),
                Counted(Kind.ADDRESS, self._key(Kind.ADDRESS, *here), given.login_tries_per_address, _QUARTER, MEMORY),
                Counted(Kind.ALL, self._key(Kind.ALL), given.login_tries_per_minute, None, _MINUTE),
            ]
        )

    def _key(self, kind: Kind, *names: str) -> bytes:
        text = "\0".join((str(kind.value), *names))
        return hmac.digest(self._secret, text.encode(), "sha256")[:_KEY_BYTES]

    async def _count(self, connection: Connection, counted: Sequence[Counted], waits: dict[int, float]) -> None:
        """Count a try, unless it has to wait. `waits`: the rows that are there, with the seconds that each makes
        wait."""
        if not counted:
            return
        _refuse(max((waits.get(each.kind, 0) for each in counted), default=0))
        keys, memories = [each.key for each in counted], [each.memory for each in counted]
        missing = any(each.kind not in waits for each in counted)
        for _ in range(_ROUNDS):
            if missing:
                await connection.execute(_CLEAN)
                await connection.execute(_MAKE, keys, [each.kind for each in counted], memories)
            row = await connection.fetchrow(
                _COUNT, keys, [each.free for each in counted], [each.cap for each in counted], memories
            )
            if row and row["complete"]:
                _refuse(row["wait"])
                return
            # Removed as old in this moment.
            missing = True
        raise Unavailable("database: rows come and go")


def _used(counted: Sequence[Counted]) -> list[Counted]:
    return [each for each in counted if each.free > 0]


def _refuse(wait: float) -> None:
    if wait > 0:
        raise _too_many(wait)


def _too_many(wait: float) -> ServiceError:
    return problem("too_many_tries", retry_after=max(1, ceil(wait)))
