"""Repeats of a request for a call: which call a user's Idempotency-Key stands for, and the one answer that all get.

A key is taken in the transaction that inserts its call, so one is never there without the other. The answer is stored
before anybody gets it. Where none was stored in time (its process died, the database was away), the next repeat makes
it from the call as it is by then; whoever stores first wins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

import orjson
from prometheus_client import Counter

from boostedcalls.calls import queries, store
from boostedcalls.common.context import Caller
from boostedcalls.common.db import SERVICE, Connection, Pool, Reads, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import FieldError, ServiceError, parse_problem, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import Replayed
from boostedcalls.common.messages.calls import PlaceCall

log = get_logger(__name__)

REPLAYS = Counter("boostedcalls_idempotent_replays_total", "Requests for a call that got the answer of an earlier one")

# Seconds that the first request may take beyond its wait for the provider, to read its call and store its answer.
_SLACK = 5.0
_CREATED = 201

# A key is kept for a day. An older one counts as if it were gone, whether it was cleaned away or not.
_FIND = """
    SELECT fingerprint, call_id, running_until > clock_timestamp() AS running, status, answer
    FROM calls.idempotency_keys
    WHERE user_id = $1 AND key = $2 AND created_at > clock_timestamp() - interval '24 hours'
"""
_TAKE = """
    INSERT INTO calls.idempotency_keys AS k (user_id, key, fingerprint, call_id, created_at, running_until)
    VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + make_interval(secs => $5))
    ON CONFLICT (user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, call_id = excluded.call_id, created_at = excluded.created_at,
        running_until = excluded.running_until, status = NULL, answer = NULL
    WHERE k.created_at <= clock_timestamp() - interval '24 hours'
    RETURNING true
"""
_KEEP = """
    UPDATE calls.idempotency_keys SET status = $4, answer = $5
    WHERE user_id = $1 AND key = $2 AND call_id = $3 AND answer IS NULL
    RETURNING true
"""
_KEPT = "SELECT status, answer FROM calls.idempotency_keys WHERE user_id = $1 AND key = $2 AND call_id = $3"
_CLEAN = """
    DELETE FROM calls.idempotency_keys WHERE (user_id, key) IN (
        SELECT user_id, key FROM calls.idempotency_keys WHERE created_at <= clock_timestamp() - interval '24 hours'
        ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A user's key, with what the request that carries it asks for."""

    user_id: UUID
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request for a call is answered: a body, which is a problem document where the status is an error's."""

    status: int
    body: bytes

    def give(self, *, replayed: bool = False) -> bytes:
        """The body. Raises the ServiceError where it is one; told in the words of the request that it answers."""
        if self.status == _CREATED:
            return Replayed(self.body) if replayed else self.body
        error = parse_problem(self.body, self.status)
        error.replayed = replayed
        raise error


@dataclass(frozen=True, slots=True)
class First:
    """The request that a key was first seen with. `same`: it asked for the same; `running`: it may still be answered by
    the process that took it. `answer` is None until one is stored."""

    key: Key
    same: bool
    call_id: UUID
    running: bool
    answer: Answer | None


def key_of(who: Caller, request: PlaceCall) -> Key | None:
    """The request's key, if it has one. Two requests are the same when their members are, in whatever order."""
    if request.idempotency_key is None:
        return None
    asked = request.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"idempotency_key"})
    canonical = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    return Key(who.user, request.idempotency_key, hashlib.sha256(canonical).digest())


def answer_to(row: store.Row) -> Answer:
    """What the request for this call is answered, as the call is now."""
    if row["error_code"] == "rejected":
        # The call stays, failed: this is where to find it.
        error = problem("provider_error", row["error_message"], instance=f"/api/calls/{row['id']}/")
        return Answer(error.status, error.to_json(""))
    return Answer(_CREATED, queries.call_json(row))


async def find(connection: Reads, key: Key) -> First | None:
    """The request that the key was first seen with. None stays true only under the lock that `take` wants."""
    row = await connection.fetchrow(_FIND, key.user_id, key.key)
    if row is None:
        return None
    answer = None if row["answer"] is None else Answer(row["status"], row["answer"])
    return First(key, row["fingerprint"] == key.fingerprint, row["call_id"], row["running"], answer)


async def take(connection: Connection, key: Key, call_id: UUID, wait: float) -> None:
    """Let the key stand for a call, in the transaction that inserts it and under the user's lock; the answer is due in
    `wait` seconds. Raises ServiceError when the key stands for another call."""
    if not await connection.fetchval(_TAKE, key.user_id, key.key, key.fingerprint, call_id, wait + _SLACK):
        raise _in_use()


async def keep(pool: Pool, key: Key, call_id: UUID, answer: Answer) -> Answer:
    """Store the answer, and return the one that is stored: another one, where somebody was quicker."""
    async with transaction(pool, key.user_id) as connection:
        if await connection.fetchval(_KEEP, key.user_id, key.key, call_id, answer.status, answer.body):
            return answer
        row = await connection.fetchrow(_KEPT, key.user_id, key.key, call_id)
    return answer if row is None else Answer(row["status"], row["answer"])


async def repeat(pool: Pool, first: First) -> bytes:
    """The first request's answer, for a repeat. Raises it where it is an error; and ServiceError when the key was used
    for something else, or while the first request is under way."""
    if not first.same:
        fault: FieldError = {"field": "Idempotency-Key", "message": "was used with another body: take a new key"}
        raise problem("idempotency_key_reused", errors=[fault])
    answer = first.answer
    if answer is None:
        if first.running:
            raise _in_use()
        async with reading(pool, first.key.user_id) as connection:
            row = await queries.get_call(connection, first.key.user_id, first.call_id)
        answer = await keep(pool, first.key, first.call_id, answer_to(row))
    REPLAYS.inc()
    log.info("call_replayed", call_id=str(first.call_id), status=answer.status)
    return answer.give(replayed=True)


async def clean(pool: Pool) -> None:
    """Delete keys that are over, not too many at once."""
    async with transaction(pool, SERVICE) as connection:
        await connection.execute(_CLEAN)


def _in_use() -> ServiceError:
    return problem("idempotency_key_in_use", retry_after=1)
