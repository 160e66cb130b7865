"""What the stream of provider events holds, and what our books (`calls.settled` and the dead letters) say of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from boostedcalls.common import subjects
from boostedcalls.common.bus import Bus
from boostedcalls.common.bus.consume import ORIGIN_TIME
from boostedcalls.common.bus.read import Progress, Stored, following, newest, progress, read
from boostedcalls.common.bus.streams import CALLS_PROVIDER, DLQ, PROVIDER_EVENTS
from boostedcalls.common.db import SERVICE, Pool, Reads
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import Unavailable

# Multiranges travel as text: asyncpg would ask every connection for their types first.
_READ = """
    SELECT coalesce(array_agg(DISTINCT id), '{}') AS ids,
           coalesce(max(at) FILTER (WHERE at >= $1), $1::timestamptz) AS at,
           coalesce(range_agg(part) FILTER (WHERE at >= $1), '{}')::text AS sequences
    FROM calls.settled LEFT JOIN LATERAL unnest(sequences) AS part ON true
"""
_MISSING = """
    SELECT lower(part) AS first, upper(part) - 1 AS last
    FROM unnest(int8multirange(int8range($1::bigint, $2::bigint, '[]')) - $3::text::int8multirange) AS part
    ORDER BY part
"""
_AT_ONCE = 64

# From and to, both of them included.
type Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Books:
    """The stream, the rows that were read, what they say together, and what they lack up to the floor."""

    progress: Progress
    ids: list[int]
    at: datetime
    sequences: str
    missing: Ranges


@dataclass(slots=True)
class Finding:
    """What became of missing messages: gone from the stream, dead-lettered, or unaccounted for. `end` is the last place
    that was looked at; None when that was all."""

    gone: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    dead: list[int] = field(default_factory=list[int])
    unaccounted: list[Stored] = field(default_factory=list[Stored])
    end: int | None = None


async def compare(connection: Reads, bus: Bus) -> Books:
    """The stream and the table, put side by side. Raises Unavailable, also while the stream is being made anew."""
    # The floor before the rows: what is acked is committed. The stream's end after them: no row is ahead of it.
    before = await progress(bus, CALLS_PROVIDER)
    row = await connection.fetchrow(_READ, before.created)
    after = await progress(bus, CALLS_PROVIDER)
    if row is None or after.created != before.created:
        raise Unavailable("the stream was made anew just now")
    floor = min(before.floor, after.last)
    missing = await connection.fetch(_MISSING, after.first, floor, row["sequences"]) if after.first <= floor else []
    return Books(after, row["ids"], row["at"], row["sequences"], [(each["first"], each["last"]) for each in missing])


async def look(bus: Bus, missing: Ranges, after: int, limit: int) -> Finding:
    """What became of the messages that are missing behind the place `after`; asks for up to `limit` of them."""
    finding = Finding()
    stored: list[Stored] = []
    # What the last question found: where the next message is.
    message: Stored | None = None
    nearest = asked = 0
    for first, last in missing:
        place = max(first, after + 1)
        while place <= last:
            if nearest < place:
                if asked == limit:
                    finding.end = place - 1
                    break
                asked += 1
                message = await following(bus, PROVIDER_EVENTS, place)
                nearest = message.sequence if message else missing[-1][1] + 1
            if nearest > place:
                finding.gone.append((place, min(nearest - 1, last)))
            if message and nearest <= last:
                stored.append(message)
            place = nearest + 1
        if finding.end is not None:
            break
    letters = await asyncio.gather(*(_is_dead(bus, each) for each in stored))
    for each, dead in zip(stored, letters, strict=True):
        if dead:
            finding.dead.append(each.sequence)
        else:
            finding.unaccounted.append(each)
    return finding


async def _is_dead(bus: Bus, message: Stored) -> bool:
    letter = await newest(bus, DLQ, subjects.dead_letter(PROVIDER_EVENTS, message.sequence))
    # A stream that was made anew counts from one again: the letter may be of a message of the one before.
    return letter is not None and abs(_origin_time(letter) - message.stored_at) < timedelta(milliseconds=1)


def _origin_time(letter: Stored) -> datetime:
    return datetime.fromisoformat(letter.headers[ORIGIN_TIME])


def written(ranges: Ranges) -> str:
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def runs(sequences: Sequence[int]) -> Ranges:
    """Ascending numbers as ranges."""
    found: list[tuple[int, int]] = []
    for sequence in sequences:
        if found and found[-1][1] + 1 == sequence:
            found[-1] = (found[-1][0], sequence)
        else:
            found.append((sequence, sequence))
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """Where the stream's messages are. `unaccounted` are their places."""

    messages: int
    dead: int
    pending: int
    unaccounted: list[int]

    @property
    def applied(self) -> int:
        return max(self.messages - self.dead - self.pending - len(self.unaccounted), 0)

    def lines(self) -> list[str]:
        counts = [
            f"stream messages  {self.messages}",
            f"applied          {self.applied}",
            f"dead-lettered    {self.dead}",
            f"pending          {self.pending}",
            f"unaccounted      {len(self.unaccounted)}",
        ]
        if self.unaccounted:
            counts.append(f"unaccounted are  {written(runs(self.unaccounted))}")
        return counts


async def report(pool: Pool, bus: Bus) -> Report:
    """Count, and change nothing. Raises Unavailable."""
    async with reading(pool, SERVICE) as connection:
        books = await compare(connection, bus)
    unaccounted: list[int] = []
    end: int | None = 0
    while end is not None:
        finding = await look(bus, books.missing, end, _AT_ONCE)
        unaccounted += [message.sequence for message in finding.unaccounted]
        end = finding.end
    stream, dead = books.progress, set[str]()
    async for letter in read(bus, DLQ, subject=subjects.dead_letters_of(PROVIDER_EVENTS), bodies=False):
        _, place = subjects.parse_dead_letter(letter.subject)
        if stream.first <= int(place) <= stream.last and _origin_time(letter) >= stream.created:
            dead.add(place)
    return Report(stream.messages, len(dead), stream.pending, unaccounted)
