"""The outbox relay: events that are written, published and deleted. Each case has an outbox of its own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from boostedcalls.common import subjects
from boostedcalls.common.bus.streams import CALL_EVENTS
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.events import CONTACT_UPDATED, ContactEvent
from boostedcalls.common.outbox import Pending, enqueue
from chaos.books import LOST, STUCK, Finding
from chaos.campaign import HARNESS, Case
from chaos.lab import Lab

_EVENTS = 5
_numbers = itertools.count(1)


@dataclass(slots=True)
class Relays:
    """Several events wait in the outbox."""

    name: str = "5 events"
    path: str = "relay"
    runs: str = "relay"
    env: dict[str, str] = field(default_factory=dict[str, str])
    _since: int = 0

    async def begin(self, lab: Lab) -> None:
        self._since = await lab.last(CALL_EVENTS)

    async def prepare(self, lab: Lab) -> dict[str, Any]:
        schema = f"case_{next(_numbers)}"
        events = [_event() for _ in range(_EVENTS)]
        async with transaction(lab.pool) as connection:
            await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(f"CREATE TABLE {schema}.outbox (LIKE calls.outbox INCLUDING ALL)")
            await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO boostedcalls_calls")
            await connection.execute(f"GRANT SELECT, UPDATE, DELETE ON {schema}.outbox TO boostedcalls_calls")
            await enqueue(connection, schema, events)
            rows = await connection.fetch(f"SELECT event_id FROM {schema}.outbox ORDER BY id")  # noqa: S608
        return {
            "schema": schema,
            "events": {str(row["event_id"]): event.subject for row, event in zip(rows, events, strict=True)},
        }

    async def recover(self, lab: Lab, cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
        """Another relay takes up what the killed one left."""
        schemas = [case.args["schema"] for case in cases]
        spec = {"id": 0, "path": "drain-relays", "args": {"schemas": schemas}, "mutation": cases[0].mutation}
        ending = await lab.zygotes.run(spec)
        found: list[tuple[Case, Finding]] = []
        if ending.end != "completed":
            found.append((cases[0], Finding(HARNESS, "", f"the fresh relay: {ending.end} {ending.outcome}")))
        stored = Counter(
            ((message.headers or {}).get("ce-id"), message.subject)
            for message in await lab.read(CALL_EVENTS, self._since)
        )
        for case in cases:
            schema = case.args["schema"]
            left = await lab.pool.fetchval(f"SELECT count(*) FROM {schema}.outbox")  # noqa: S608
            if left:
                found.append((case, Finding(STUCK, schema, f"{left} events are left")))
            counts = {event: stored[event, subject] for event, subject in case.args["events"].items()}
            if set(counts.values()) != {1}:
                found.append((case, Finding(LOST, schema, f"stored {sorted(counts.values())} times")))
            await lab.pool.execute(f"DROP SCHEMA {schema} CASCADE")
        return found


def _event() -> Pending:
    user, contact = new_id(), new_id()
    subject = subjects.contact_event("updated", user, contact)
    return Pending(CONTACT_UPDATED, subject, ContactEvent(contact_id=contact, user_id=user), caller().traceparent)


RELAY = [Relays()]
