"""Which call a provider event is about: by the provider's call id, else by our own signed id, else it is parked.

Parked events (`calls.unmatched`) are matched again whenever a call learns its provider id, and by a sweep: a report
may be parked in the very moment in which another process learns the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from prometheus_client import Counter, Gauge

from boostedcalls.calls import reasons, signing, store
from boostedcalls.calls.reports import call_of, facts_of
from boostedcalls.calls.settings import CallsSettings
from boostedcalls.calls.state import Fact
from boostedcalls.common.db import Connection, Reads
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

PARKED = Counter("boostedcalls_unmatched_events_total", "Provider events whose call was not known when they came")
CONFLICTS = Counter("boostedcalls_provider_id_conflicts_total", "Reports that claim a call placed under another id")
UNMAPPED = Counter("boostedcalls_unmapped_ended_reasons_total", "Ended reasons that no rule names")
LATE = Counter("boostedcalls_late_evidence_total", "Calls that turned up at the provider after they were given up")
LEFT = Gauge("boostedcalls_unmatched_old_events", "Provider events whose call is not known ten minutes later")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A provider event with its place in the stream."""

    sequence: int
    event: ProviderEvent


@dataclass(frozen=True, slots=True)
class _Known:
    """An arrival that says something about a call, with the call it claims to be about."""

    arrival: Arrival
    facts: list[Fact]
    provider_call_id: str
    claim: tuple[UUID, str] | None


@dataclass(slots=True)
class Tally:
    """What a batch moves the counters by, once it is committed."""

    parked: int = 0
    late: int = 0
    conflicts: int = 0
    unmapped: list[str] = field(default_factory=list[str])

    def count(self) -> None:
        PARKED.inc(self.parked)
        LATE.inc(self.late)
        CONFLICTS.inc(self.conflicts)
        UNMAPPED.inc(len(self.unmapped))
        for reason in self.unmapped:
            log.warning("unmapped_ended_reason", reason=reason)


def given_up(row: store.Row) -> bool:
    """Whether a call that turns up at the provider now is late evidence: we had told that nobody was called."""
    return row["provider_call_id"] is None and row["dispatch_closed"] and not row["hang_up_wanted"]


def _known(arrivals: Sequence[Arrival]) -> list[_Known]:
    found: list[_Known] = []
    for arrival in arrivals:
        provider_call_id = arrival.event.provider_call_id
        if provider_call_id is None:
            continue
        if facts := facts_of(arrival.event):
            claim = signing.claimed_call(call_of(arrival.event))
            found.append(_Known(arrival, facts, provider_call_id, claim))
    return found


async def apply(
    connection: Connection, arrivals: Sequence[Arrival], settings: CallsSettings, secret: bytes, traceparent: str
) -> Tally:
    """Join the arrivals into their calls in the caller's transaction."""
    tally = Tally()
    known = _known(arrivals)
    if not known:
        return tally
    provider_ids = {item.provider_call_id for item in known}
    rows = await store.lock(connection, {item.claim[0] for item in known if item.claim}, provider_ids)
    changes = {row["id"]: store.Change(row) for row in rows}
    by_provider = {row["provider_call_id"]: row["id"] for row in rows if row["provider_call_id"]}
    parked: list[_Known] = []
    # Adoptions first: then each of a new call's reports finds it, whichever of them carried the signed id.
    for item in known:
        if item.provider_call_id not in by_provider and (change := _claimed(changes, item, secret, tally)):
            tally.late += given_up(change.row)
            change.provider_call_id = item.provider_call_id
            by_provider[item.provider_call_id] = change.row["id"]
    for item in known:
        if call_id := by_provider.get(item.provider_call_id):
            changes[call_id].facts.extend(item.facts)
        else:
            parked.append(item)
    tally.parked = await _park(connection, parked)
    adopted = [change for change in changes.values() if change.provider_call_id]
    await unpark(connection, adopted)
    touched = [change for change in changes.values() if change.facts]
    await store.write(connection, touched, settings, traceparent)
    tally.unmapped = [
        fact.reason for item in known for fact in item.facts if fact.reason and not reasons.is_mapped(fact.reason)
    ]
    return tally


def _claimed(changes: dict[UUID, store.Change], item: _Known, secret: bytes, tally: Tally) -> store.Change | None:
    """The call that the item's signed id names, if the signature is ours and the call has no other provider id."""
    if item.claim is None or (change := changes.get(item.claim[0])) is None:
        return None
    if not signing.verified(secret, item.claim[1], change.row["id"], change.row["user_id"]):
        log.warning("signature_wrong", call_id=str(change.row["id"]), provider_call_id=item.provider_call_id)
        return None
    if change.row["provider_call_id"] or change.provider_call_id:
        tally.conflicts += 1
        log.error("placed_twice", call_id=str(change.row["id"]), provider_call_id=item.provider_call_id)
        return None
    return change


async def _park(connection: Connection, items: Sequence[_Known]) -> int:
    """Keep the items until their call is known; return how many were not kept before."""
    if not items:
        return 0
    # In one order, whatever the order of delivery: two batches must not wait for each other.
    items = sorted(items, key=lambda item: (item.provider_call_id, item.arrival.sequence))
    kept = await connection.fetch(
        "INSERT INTO calls.unmatched (sequence, provider_call_id, event)"
        " SELECT sequence, id, event::jsonb FROM unnest($1::bigint[], $2::text[], $3::text[]) AS n(sequence, id, event)"
        " ON CONFLICT DO NOTHING RETURNING 1",
        [item.arrival.sequence for item in items],
        [item.provider_call_id for item in items],
        [item.arrival.event.model_dump_json() for item in items],
    )
    return len(kept)


async def unpark(connection: Connection, adopted: Sequence[store.Change]) -> None:
    """Add the facts that were parked for calls that just learned their provider id."""
    if not adopted:
        return
    by_provider = {change.provider_call_id: change for change in adopted}
    rows = await connection.fetch(
        "DELETE FROM calls.unmatched WHERE provider_call_id = ANY($1::text[]) RETURNING provider_call_id, event",
        list(by_provider),
    )
    for row in rows:
        by_provider[row["provider_call_id"]].facts.extend(facts_of(ProviderEvent.model_validate(row["event"])))


async def sweep(connection: Connection, settings: CallsSettings, traceparent: str) -> int:
    """Match parked events whose call is known by now; forget those parked for over a week. Returns how many matched."""
    # Only fresh ones can have raced with an adoption; the rest are mostly calls that are not ours at all.
    ids = await connection.fetch(
        "SELECT DISTINCT c.id FROM calls.unmatched u JOIN calls.calls c USING (provider_call_id)"
        " WHERE u.parked_at > now() - interval '10 minutes' LIMIT 100"
    )
    await connection.execute("DELETE FROM calls.unmatched WHERE parked_at < now() - interval '7 days'")
    if not ids:
        return 0
    rows = await store.lock(connection, [row["id"] for row in ids])
    changes = [store.Change(row, provider_call_id=row["provider_call_id"]) for row in rows]
    await unpark(connection, changes)
    await store.write(connection, changes, settings, traceparent)
    return len(changes)


async def count_left(connection: Reads) -> None:
    """Tell of the parked events that have waited for longer than an adoption takes: most likely they are of calls that
    are not ours."""
    left = await connection.fetchval(
        "SELECT count(*) FROM calls.unmatched WHERE parked_at < now() - interval '10 minutes'"
    )
    LEFT.set(left)
    if left:
        log.warning("events_of_unknown_calls", count=left, for_longer_than="10 min")
