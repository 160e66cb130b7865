"""Which call a provider event is about: by the provider's call id, else by our own signed id, else it is parked.

Parked events (`calls.unmatched`) are matched again whenever a call learns its provider id, and by a sweep: a report
may be parked in the very moment in which another process learns the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import Counter

from boostedcalls.calls import reasons, signing, store
from boostedcalls.calls.reports import call_of, facts_of
from boostedcalls.calls.settings import CallsSettings
from boostedcalls.calls.state import Fact
from boostedcalls.common.db import Connection
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

PARKED = Counter("boostedcalls_unmatched_events_total", "Provider events whose call was not known when they came")
CONFLICTS = Counter("boostedcalls_provider_id_conflicts_total", "Reports that claim a call placed under another id")
UNMAPPED = Counter("boostedcalls_unmapped_ended_reasons_total", "Ended reasons that no rule names")
LATE = Counter("boostedcalls_late_evidence_total", "Calls that turned up at the provider after they were given up")


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
) -> None:
    """Join the arrivals into their calls in the caller's transaction."""
    known = _known(arrivals)
    if not known:
        return
    provider_ids = {item.provider_call_id for item in known}
    rows = await store.lock(connection, {item.claim[0] for item in known if item.claim}, provider_ids)
    changes = {row["id"]: store.Change(row) for row in rows}
    by_provider = {row["provider_call_id"]: row["id"] for row in rows if row["provider_call_id"]}
    parked: list[_Known] = []
    # Adoptions first: then each of a new call's reports finds it, whichever of them carried the signed id.
    for item in known:
        if item.provider_call_id not in by_provider and (change := _claimed(changes, item, secret)):
            change.provider_call_id = item.provider_call_id
            by_provider[item.provider_call_id] = change.row["id"]
            if change.row["dispatch_closed"] and not change.row["hang_up_wanted"]:
                LATE.inc()
    for item in known:
        if call_id := by_provider.get(item.provider_call_id):
            changes[call_id].facts.extend(item.facts)
        else:
            parked.append(item)
    await _park(connection, parked)
    adopted = [change for change in changes.values() if change.provider_call_id]
    await unpark(connection, adopted)
    touched = [change for change in changes.values() if change.facts]
    await store.write(connection, touched, settings, traceparent)
    _count_unmapped(known)


def _claimed(changes: dict[UUID, store.Change], item: _Known, secret: bytes) -> store.Change | None:
    """The call that the item's signed id names, if the signature is ours and the call has no other provider id."""
    if item.claim is None or (change := changes.get(item.claim[0])) is None:
        return None
    if not signing.verified(secret, item.claim[1], change.row["id"], change.row["user_id"]):
        log.warning("signature_wrong", call_id=str(change.row["id"]), provider_call_id=item.provider_call_id)
        return None
    if change.row["provider_call_id"] or change.provider_call_id:
        CONFLICTS.inc()
        log.error("placed_twice", call_id=str(change.row["id"]), provider_call_id=item.provider_call_id)
        return None
    return change


def _count_unmapped(known: Sequence[_Known]) -> None:
    for item in known:
        for fact in item.facts:
            if fact.reason is not None and not reasons.is_mapped(fact.reason):
                UNMAPPED.inc()
                log.warning("unmapped_ended_reason", reason=fact.reason)


async def _park(connection: Connection, items: Sequence[_Known]) -> None:
    if not items:
        return
    PARKED.inc(len(items))
    await connection.execute(
        "INSERT INTO calls.unmatched (sequence, provider_call_id, event)"
        " SELECT sequence, id, event::jsonb FROM unnest($1::bigint[], $2::text[], $3::text[]) AS n(sequence, id, event)"
        " ON CONFLICT DO NOTHING",
        [item.arrival.sequence for item in items],
        [item.provider_call_id for item in items],
        [item.arrival.event.model_dump_json() for item in items],
    )


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
