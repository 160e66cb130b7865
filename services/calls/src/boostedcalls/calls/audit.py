"""The sweep that proves that no stored provider event was skipped, and mends it where one was.

Everything in the stream up to the consumer's floor must be in `calls.settled` or in the dead letters; what lies above
is pending. A message that is in neither is unaccounted for: it is told of, counted, and applied as if it had just come
(the join makes a repeat harmless). So nobody has to do anything after a database was restored from an older backup, or
after somebody moved the consumer by hand.

A sweep goes in steps of a transaction each. A step makes one row of the rows that it read, cut to what the stream
holds, so the table stays a handful of rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter as Tries
from collections.abc import Sequence
from time import time

import asyncpg
from prometheus_client import Counter, Gauge

from boostedcalls.calls import consumer
from boostedcalls.calls.books import Books, Finding, Ranges, compare, look, runs, written
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.matching import Tally
from boostedcalls.common.bus import Bus, Delivery, dead_letter
from boostedcalls.common.bus.consume import MAX_DELIVERIES
from boostedcalls.common.bus.read import Stored
from boostedcalls.common.bus.streams import PROVIDER_EVENTS
from boostedcalls.common.db import PASSING, SERVICE, Connection, savepoint, transaction
from boostedcalls.common.errors import Poison, ServiceError, Unavailable
from boostedcalls.common.logs import get_logger
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

UNACCOUNTED = Counter(
    "boostedcalls_provider_events_unaccounted_total",
    "Stored provider events that were neither applied nor dead-lettered nor pending when the sweep came",
)
FOUND = Gauge("boostedcalls_audit_unaccounted", "How many such events the last sweep found")
PENDING = Gauge("boostedcalls_audit_pending", "Stored provider events that are not settled yet")
AT = Gauge("boostedcalls_audit_timestamp_seconds", "When the last sweep came to its end")

# Messages that a step looks at, and steps of a sweep: what is left then comes with the next one, at once.
_STEP = 64
_STEPS = 200

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('calls.audit', 0))"
_COMPACT = """
    WITH gone AS (DELETE FROM calls.settled WHERE id = ANY($1::bigint[])),
         more AS (SELECT coalesce(range_agg(int8range(first, last, '[]')), '{}') AS sequences
                  FROM unnest($4::bigint[], $5::bigint[]) AS n(first, last))
    INSERT INTO calls.settled (at, sequences)
    SELECT $2, ($3::text::int8multirange + sequences)
               * int8multirange(int8range($6::bigint, greatest($6::bigint, $7::bigint + 1)))
    FROM more
"""


async def run(deps: Deps, bus: Bus) -> None:
    """Run until the process stops: a sweep every `audit_every` seconds. A side task of every replica; one at a time
    sweeps."""
    tries = Tries[int]()
    trouble = Trouble("audit_waits", "audit_goes_on")
    while not bus.runtime.stopping.is_set():
        wait = deps.settings.audit_every
        try:
            more = await sweep(deps, bus, tries)
            trouble.over()
            if more:
                continue
        except (Unavailable, asyncpg.PostgresError, *PASSING) as error:
            # At the start the consumer may not be there yet.
            wait = min(wait, 5.0)
            trouble.seen(error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bus.runtime.stopping.wait(), wait)


async def sweep(deps: Deps, bus: Bus, tries: Tries[int]) -> bool:
    """One sweep; whether it had to leave some for the next. `tries` remembers what failed. Raises Unavailable."""
    after = count = 0
    for _ in range(_STEPS):
        finding = await _step(deps, bus, after, tries)
        if finding is None or bus.runtime.stopping.is_set():
            return False
        count += len(finding.unaccounted)
        FOUND.set(count)
        if finding.end is None:
            AT.set(time())
            return False
        after = finding.end
    return True


async def _step(deps: Deps, bus: Bus, after: int, tries: Tries[int]) -> Finding | None:
    """Look at some of what is missing and mend it; None when another replica is at it."""
    async with transaction(deps.pool, SERVICE) as connection:
        if not await connection.fetchval(_LOCK):
            return None
        books = await compare(connection, bus)
        PENDING.set(books.progress.pending)
        finding = await look(bus, books.missing, after, _STEP)
        unaccounted = [message.sequence for message in finding.unaccounted]
        if unaccounted:
            log.error("provider_events_unaccounted", count=len(unaccounted), sequences=written(runs(unaccounted))[:500])
        tallies, failed = await _apply(connection, deps, finding.unaccounted, tries)
        applied = set(unaccounted) - {delivery.sequence for delivery, _ in failed}
        await _compact(connection, books, [*finding.gone, *((place, place) for place in (*finding.dead, *applied))])
    UNACCOUNTED.inc(len(unaccounted))
    for tally in tallies:
        tally.count()
    deps.relay.wake()
    for delivery, error in failed:
        await _failed(bus, delivery, error, tries)
    return finding


async def _compact(connection: Connection, books: Books, found: Ranges) -> None:
    """Make one row of those that were read and of what was found; rows that came meanwhile stay."""
    if not books.ids and not found:
        return
    firsts, lasts = [first for first, _ in found], [last for _, last in found]
    stream = books.progress
    await connection.execute(_COMPACT, books.ids, books.at, books.sequences, firsts, lasts, stream.first, stream.last)


async def _apply(
    connection: Connection, deps: Deps, messages: Sequence[Stored], tries: Tries[int]
) -> tuple[list[Tally], list[tuple[Delivery, Exception]]]:
    """Apply messages in the caller's transaction, one that fails alone; return the tallies and what failed."""
    deliveries = [
        Delivery(each.subject, each.data, each.headers, each.sequence, tries[each.sequence] + 1, each.stored_at)
        for each in messages
    ]
    if not deliveries:
        return [], []
    try:
        async with savepoint(connection):
            return [await consumer.join_batch(connection, deps, deliveries)], []
    except PASSING:
        raise
    except Exception as error:
        if len(messages) == 1:
            return [], [(deliveries[0], error)]
    parts = [await _apply(connection, deps, [message], tries) for message in messages]
    return [tally for tallies, _ in parts for tally in tallies], [each for _, failed in parts for each in failed]


async def _failed(bus: Bus, delivery: Delivery, error: Exception, tries: Tries[int]) -> None:
    """As the consumer does it: a poison message becomes a dead letter, and so does one that failed too often."""
    tries[delivery.sequence] += 1
    if not isinstance(error, Poison) and delivery.deliveries < MAX_DELIVERIES:
        log.warning("message_failed", subject=delivery.subject, sequence=delivery.sequence, exc_info=error)
        return
    try:
        await dead_letter(bus, PROVIDER_EVENTS, delivery, f"{type(error).__name__}: {error}")
    except (Unavailable, ServiceError) as trouble:
        log.error("dead_letter_not_stored", sequence=delivery.sequence, reason=str(trouble)[:300])
        return
    log.error("dead_letter", subject=delivery.subject, sequence=delivery.sequence, error=repr(error)[:300])
    del tries[delivery.sequence]
