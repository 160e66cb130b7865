"""The transactional outbox: an event is written with the change it tells of, and published afterwards.

The table is `<schema>.outbox` in the schema of the service that uses it (columns: docs/messaging.md), the stream is
CALL_EVENTS. Several replicas may relay at once; a row is locked while it is published and deleted once the stream has
confirmed it. A crash in between means that it is published again under the same message id, and stored once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from prometheus_client import Counter

from boostedcalls.common.bus import Bus, Outgoing, event_message, publish_all
from boostedcalls.common.bus.streams import CALL_EVENTS
from boostedcalls.common.context import new_id
from boostedcalls.common.db import SERVICE, Connection, Pool, transaction
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.events import ALL, EventData, EventType
from boostedcalls.common.trouble import Trouble

PUBLISHED = Counter("boostedcalls_outbox_published_total", "Events published from the outbox", ["schema"])

_BATCH = 200
# A connection of the pool is held meanwhile.
_PUBLISH_SECONDS = 5.0
_STREAM = CALL_EVENTS
_POLL = 1.0
_TYPES = {kind.type: kind for kind in ALL}


@dataclass(frozen=True, slots=True)
class Pending:
    """An event to be: its kind, subject and data."""

    kind: EventType
    subject: str
    data: EventData
    traceparent: str


async def enqueue(connection: Connection, schema: str, events: Sequence[Pending]) -> None:
    """Write events inside the caller's transaction."""
    if not events:
        return
    await connection.execute(
        f"INSERT INTO {schema}.outbox (event_id, type, subject, data, traceparent)"  # noqa: S608 - our own schema name
        " SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[])",
        [new_id() for _ in events],
        [event.kind.type for event in events],
        [event.subject for event in events],
        [event.data.model_dump_json().encode() for event in events],
        [event.traceparent for event in events],
    )


class Relay:
    """Publishes a schema's outbox. `wake` after a commit spares the event the wait for the next look."""

    def __init__(self, bus: Bus, pool: Pool, schema: str) -> None:
        self._bus = bus
        self._pool = pool
        self._schema = schema
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Run until the process stops; meant as a side task."""
        trouble = Trouble("outbox_waits", "outbox_goes_on", schema=self._schema)
        while not self._bus.runtime.stopping.is_set():
            self._wake.clear()
            try:
                more = await self.relay_once() == _BATCH
                trouble.over()
            except (Unavailable, asyncpg.PostgresError) as error:
                trouble.seen(error)
                more = False
                await asyncio.sleep(0.5)
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL)

    async def relay_once(self) -> int:
        """Publish up to 200 events, oldest first; return how many were taken. Raises Unavailable."""
        if not self._bus.client.is_connected:
            raise Unavailable("NATS is away")
        # The rows stay locked until their events are stored: a process that dies leaves them to the others at once, one
        # whose machine is gone, after a while.
        async with transaction(self._pool, SERVICE) as connection:
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '15s'")
            rows = await connection.fetch(
                f"SELECT * FROM {self._schema}.outbox ORDER BY id LIMIT {_BATCH} FOR UPDATE SKIP LOCKED"  # noqa: S608
            )
            if not rows:
                return 0
            # Another type was written by a newer version, and is left to it.
            known = [row for row in rows if row["type"] in _TYPES]
            outgoing = [self._outgoing(row) for row in known]
            outcomes = await publish_all(self._bus, _STREAM, outgoing, _PUBLISH_SECONDS)
            done = [row["id"] for row, failure in zip(known, outcomes, strict=True) if failure is None]
            await connection.execute(f"DELETE FROM {self._schema}.outbox WHERE id = ANY($1)", done)  # noqa: S608
        PUBLISHED.labels(self._schema).inc(len(done))
        if len(done) < len(rows):
            reason = next((failure for failure in outcomes if failure is not None), "of a type that is not known here")
            raise Unavailable(f"{len(rows) - len(done)} events not published: {reason}")
        return len(rows)

    def _outgoing(self, row: asyncpg.Record) -> Outgoing:
        return event_message(
            _TYPES[row["type"]],
            row["subject"],
            row["data"],
            event_id=str(row["event_id"]),
            source=f"/{self._schema}",
            at=row["at"],
            traceparent=row["traceparent"],
        )
