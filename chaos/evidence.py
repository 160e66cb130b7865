"""Everything that the checker judges, gathered once all is quiet: the history, the provider's own files, the streams,
the database and the spools. Of the system's own code it uses only what decodes a message: a fault in how the system
reads must not hide what it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import ValidationError

from boostedcalls.calls.reports import facts_of
from boostedcalls.calls.state import Fact
from boostedcalls.common.events import CallEvent, ProviderEvent
from boostedcalls.gateway.segment import decode
from boostedcalls.simulator.calls import Call
from chaos.history import Line, lines_of

Row = dict[str, Any]
SCHEMAS = ("calls", "contacts")
_FETCH = 100
_READINGS = 5
# What must never be said in a log: each is a promise that did not hold, whatever the books say afterwards.
_ALARMS = (
    b'"placed_twice"',
    b'"provider_events_unaccounted"',
    b'"segment_damaged"',
    b'"webhook_rejected"',
    b'"side_task_died"',
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A provider event as the stream holds it, and what it says of its call."""

    sequence: int
    message_id: str
    provider_call_id: str | None
    facts: Sequence[Fact]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter; `sequence` is its place in PROVIDER_EVENTS, None for a webhook that never came that far."""

    message_id: str
    sequence: int | None


@dataclass(slots=True)
class Evidence:
    """What is left of a run."""

    history: list[Line] = field(default_factory=list[Line])
    dials: list[Line] = field(default_factory=list[Line])
    tries: list[Line] = field(default_factory=list[Line])
    provider_calls: dict[str, list[Call]] = field(default_factory=dict[str, list[Call]])
    """Every state of each of the provider's calls that it may have shown, the last one last."""
    events: list[Stored] = field(default_factory=list[Stored])
    letters: list[Letter] = field(default_factory=list[Letter])
    told: list[CallEvent] = field(default_factory=list[CallEvent])
    contact_events: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(what happened, contact id), in the stream's order."""
    rows: list[Row] = field(default_factory=list[Row])
    timeline: dict[UUID, list[Row]] = field(default_factory=dict[UUID, list[Row]])
    totals: dict[tuple[Any, ...], Any] = field(default_factory=dict[tuple[Any, ...], Any])
    daily: dict[tuple[Any, ...], Any] = field(default_factory=dict[tuple[Any, ...], Any])
    contacts: list[Row] = field(default_factory=list[Row])
    contact_totals: dict[UUID, int] = field(default_factory=dict[UUID, int])
    unmatched: list[Row] = field(default_factory=list[Row])
    settled: set[int] = field(default_factory=set[int])
    """The sequences that the calls service says it has applied."""
    floor: int = 0
    """Up to here the consumer has taken everything from the stream."""
    outbox: dict[str, int] = field(default_factory=dict[str, int])
    spooled: set[str] = field(default_factory=set[str])
    """Digests of the webhooks that still wait in a spool."""
    leftovers: list[str] = field(default_factory=list[str])
    """Files of a spool that should not be there any more."""
    alarms: list[str] = field(default_factory=list[str])


async def gather(home: Path, history: Path, database_url: str, nats_url: str) -> Evidence:
    found = Evidence(history=list(lines_of(history)))
    found.dials = list(lines_of(home / "simulator" / "dials.jsonl"))
    found.tries = list(lines_of(home / "simulator" / "webhooks.jsonl"))
    found.provider_calls = provider_calls(lines_of(home / "simulator" / "calls.jsonl"))
    found.alarms = [line for log in sorted((home / "logs").glob("*.log*")) for line in _alarms(log)]
    _read_spools(home, found)
    await _read_database(database_url, found)
    await _read_streams(nats_url, found)
    return found


def provider_calls(journal: Any) -> dict[str, list[Call]]:
    """Of the simulator's journal: its first record of a call is whole, later ones hold what may change."""
    states: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in journal:
        found = states[record["call"]["id"]]
        state = {**(found[-1] if found else {}), **record["call"]}
        if found and found[-1]["updated_at"] == state["updated_at"]:
            found[-1] = state
        else:
            found.append(state)
    return {call_id: [Call.model_validate(state) for state in found] for call_id, found in states.items()}


def _alarms(log: Path) -> list[str]:
    with log.open("rb") as lines:
        return [
            f"{log.name}: {line.decode(errors='replace').strip()[:400]}"
            for line in lines
            if any(alarm in line for alarm in _ALARMS)
        ]


def spools(home: Path) -> list[Path]:
    """Files that a spool still has to get rid of. A segment is empty while it is only open."""
    files = [file for folder in home.glob("spool*") for file in folder.iterdir()]
    return [file for file in files if file.suffix in {".damaged", ".rejected"} or _waits(file)]


def _waits(file: Path) -> bool:
    return file.suffix == ".seg" and file.stat().st_size > 0


def _read_spools(home: Path, found: Evidence) -> None:
    for file in spools(home):
        found.leftovers.append(f"{file.parent.name}/{file.name}")
        found.spooled.update(record.id for record in decode(file.read_bytes()).records)


async def connect_database(url: str) -> asyncpg.Connection[asyncpg.Record]:
    database = await asyncpg.connect(url)
    for kind in ("json", "jsonb"):
        await database.set_type_codec(
            kind, schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
        )
    return database


async def _read_database(url: str, found: Evidence) -> None:
    database = await connect_database(url)
    try:
        found.rows = [dict(row) for row in await database.fetch("SELECT * FROM calls.calls ORDER BY id")]
        timeline: defaultdict[UUID, list[Row]] = defaultdict(list)
        for row in await database.fetch("SELECT * FROM calls.timeline"):
            timeline[row["call_id"]].append(dict(row))
        found.timeline = timeline
        totals = await database.fetch("SELECT * FROM calls.totals WHERE (calls, spent) <> (0, 0)")
        found.totals = {(row["user_id"], row["status"]): (row["calls"], row["spent"]) for row in totals}
        daily = await database.fetch("SELECT * FROM calls.daily WHERE completed <> 0")
        found.daily = {(row["user_id"], row["day"]): row["completed"] for row in daily}
        found.unmatched = [dict(row) for row in await database.fetch("SELECT * FROM calls.unmatched")]
        settled = await database.fetch(
            "SELECT lower(part)::bigint AS first, upper(part)::bigint AS behind"
            " FROM calls.settled, unnest(sequences) AS part"
        )
        found.settled = {place for row in settled for place in range(row["first"], row["behind"])}
        found.contacts = [dict(row) for row in await database.fetch("SELECT * FROM contacts.contacts")]
        counted = await database.fetch("SELECT user_id, contacts FROM contacts.totals WHERE contacts <> 0")
        found.contact_totals = {row["user_id"]: row["contacts"] for row in counted}
        for schema in SCHEMAS:
            found.outbox[schema] = await database.fetchval(f"SELECT count(*) FROM {schema}.outbox")  # noqa: S608
    finally:
        await database.close()


async def _read_streams(url: str, found: Evidence) -> None:
    client = await nats.connect(url.split(","))
    try:
        consumer = await client.jetstream().consumer_info("PROVIDER_EVENTS", "calls")
        found.floor = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
        async for message in _messages(client, "PROVIDER_EVENTS"):
            headers = message.headers or {}
            call_id, facts = _said(message.data)
            found.events.append(
                Stored(message.metadata.sequence.stream, headers.get("Nats-Msg-Id", ""), call_id, facts)
            )
        async for message in _messages(client, "DLQ"):
            headers = message.headers or {}
            origin = headers.get("Bc-Origin-Stream") == "PROVIDER_EVENTS"
            sequence = int(headers["Bc-Origin-Sequence"]) if origin else None
            found.letters.append(Letter(headers.get("Nats-Msg-Id", ""), sequence))
        async for message in _messages(client, "CALL_EVENTS"):
            _, _, noun, what, _, object_id = message.subject.split(".")
            if noun == "call":
                found.told.append(CallEvent.model_validate_json(message.data))
            else:
                found.contact_events.append((what, object_id))
    finally:
        await client.close()


def _said(data: bytes) -> tuple[str | None, Sequence[Fact]]:
    try:
        event = ProviderEvent.model_validate(orjson.loads(data))
    except (ValidationError, orjson.JSONDecodeError):
        return None, ()
    return event.provider_call_id, facts_of(event)


async def _messages(client: Client, stream: str) -> AsyncIterator[Msg]:
    """Everything that a stream holds, oldest first; begun anew behind the last message when the reading breaks off."""
    js = client.jetstream()
    last = (await js.stream_info(stream)).state.last_seq
    place, failures = 0, 0
    while place < last:
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=place + 1,
            inactive_threshold=300,
        )
        try:
            reader = await js.pull_subscribe(">", stream=stream, config=config)
            while place < last:
                for message in await reader.fetch(_FETCH, timeout=10):
                    place = message.metadata.sequence.stream
                    yield message
            await reader.unsubscribe()
        except NatsError:
            failures += 1
            if failures > _READINGS:
                raise
