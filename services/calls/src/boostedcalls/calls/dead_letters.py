"""The commands `dead-letters list` and `dead-letters replay`: what could not be handled, and sending it once more.

What came from a stream is published again on its own subject, under a new message id (the stream would swallow the old
one); a webhook goes through the webhooks service as if it had just come. Each replay leaves a note beside the letter,
in the same stream. A replay that is cut short between the two is done again by the next one, which changes nothing:
whoever handles a message must bear to see it twice.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import UUID

import orjson

from boostedcalls.common import subjects
from boostedcalls.common.bus import Bus
from boostedcalls.common.bus.connection import RECEIVED_AT, REQUEST_ID, TRACEPARENT
from boostedcalls.common.bus.consume import (
    DELIVERIES,
    ORIGIN_SEQUENCE,
    ORIGIN_STREAM,
    ORIGIN_SUBJECT,
    ORIGIN_TIME,
    REASON,
    REPLAY_OF,
    REPLAY_RESULT,
    REPLAY_RUN,
    REPLAY_SEQUENCE,
)
from boostedcalls.common.bus.read import Stored, get, read
from boostedcalls.common.bus.streams import CONSUMERS, DLQ, JOBS
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import SERVICE, Pool
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import ServiceError, Unavailable
from boostedcalls.common.messages.base import rfc3339
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK

WEBHOOK = "webhook"
ORIGINS = (*(consumer.stream for consumer in CONSUMERS), WEBHOOK)

_REPLAYED = "replayed"
_SECONDS = 5.0
# What the letter says of its message is no part of the message.
_OF_THE_LETTER = {REASON, ORIGIN_STREAM, ORIGIN_SUBJECT, ORIGIN_SEQUENCE, ORIGIN_TIME, DELIVERIES, REPLAY_OF}


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its body. `sequence` is its place in DLQ, `subject` the one on which its message came;
    `replayed_at` and `result` tell of its last replay."""

    sequence: int
    at: datetime
    origin: str
    origin_sequence: str | None
    deliveries: str | None
    reason: str
    subject: str
    replayed_at: datetime | None = None
    result: str | None = None

    def line(self) -> str:
        parts = [
            f"{self.sequence:>6}",
            rfc3339(self.at, "milliseconds"),
            f"{self.origin} {self.origin_sequence}" if self.origin_sequence else self.origin,
            f"tried {self.deliveries}x" if self.deliveries else "",
            self.subject,
            self.reason,
            f"({self.result} {rfc3339(self.replayed_at, 'seconds')})" if self.replayed_at else "",
        ]
        return "  ".join(part for part in parts if part)

    def json(self) -> str:
        members: dict[str, Any] = {
            "sequence": self.sequence,
            "at": rfc3339(self.at),
            "origin": self.origin,
            "origin_sequence": int(self.origin_sequence) if self.origin_sequence else None,
            "deliveries": int(self.deliveries) if self.deliveries else None,
            "reason": self.reason,
            "subject": self.subject,
            "replayed_at": rfc3339(self.replayed_at) if self.replayed_at else None,
            "result": self.result,
        }
        return orjson.dumps(members).decode()


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant; all of them where nothing is set. `sequences` are ranges of places in DLQ."""

    since: datetime | None = None
    until: datetime | None = None
    sequences: tuple[tuple[int, int], ...] = ()
    origin: str | None = None

    def match(self, letter: Letter) -> bool:
        return (
            (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at <= self.until)
            and (self.origin is None or letter.origin == self.origin)
            and (not self.sequences or any(first <= letter.sequence <= last for first, last in self.sequences))
        )


async def names_of(pool: Pool, call_id: UUID) -> set[str]:
    """The ids under which a call of ours may be named. Raises Unavailable."""
    async with reading(pool, SERVICE) as connection:
        found = await connection.fetchval("SELECT provider_call_id FROM calls.calls WHERE id = $1", call_id)
    return {str(call_id), *([found] if found else [])}


async def letters(bus: Bus, filters: Filters, names: Collection[str]) -> AsyncGenerator[Letter]:
    """The letters that are meant, oldest first. `names`: the call's ids, where only its letters are. Raises
    Unavailable."""
    notes = {
        subjects.parse_replay_note(note.subject): (note.stored_at, note.headers.get(REPLAY_RESULT, _REPLAYED))
        async for note in read(bus, DLQ, subject=subjects.REPLAY_NOTES, bodies=False)
    }
    start = min((first for first, _ in filters.sequences), default=1)
    last = max((last for _, last in filters.sequences), default=None)
    async with aclosing(read(bus, DLQ, start=start, since=filters.since, bodies=False)) as found:
        async for stored in found:
            if (last and stored.sequence > last) or (filters.until and stored.stored_at > filters.until):
                return
            if subjects.is_replay_note(stored.subject):
                continue
            letter = _letter(stored)
            if filters.match(letter) and (not names or await _tells_of(bus, letter, names)):
                at, result = notes.get(letter.sequence, (None, None))
                yield replace(letter, replayed_at=at, result=result)


def _letter(stored: Stored) -> Letter:
    headers = stored.headers
    return Letter(
        stored.sequence,
        stored.stored_at,
        headers.get(ORIGIN_STREAM) or WEBHOOK,
        headers.get(ORIGIN_SEQUENCE),
        headers.get(DELIVERIES),
        headers.get(REASON, ""),
        headers.get(ORIGIN_SUBJECT, ""),
    )


async def _tells_of(bus: Bus, letter: Letter, names: Collection[str]) -> bool:
    if letter.subject.rpartition(".")[2] in names:
        return True
    stored = await get(bus, DLQ, letter.sequence)
    return stored is not None and any(name.encode() in stored.data for name in names)


async def print_letters(bus: Bus, filters: Filters, names: Collection[str], *, as_json: bool) -> int:
    """The command `list`: a line each on stdout, and how many there are. Returns the exit code."""
    count = 0
    async for letter in letters(bus, filters, names):
        count += 1
        sys.stdout.write((letter.json() if as_json else letter.line()) + "\n")
    (sys.stderr if as_json else sys.stdout).write(f"{count} listed\n")
    return 0


async def replay(
    bus: Bus, filters: Filters, names: Collection[str], *, rate: float, dry_run: bool = False, again: bool = False
) -> int:
    """The command `replay`: a line for each letter, and the counts. Returns the exit code: 1 when one failed, or when
    it had to stop early."""
    run = new_id()
    done = skipped = failed = 0
    early = ""
    next_at = monotonic()
    try:
        async with aclosing(letters(bus, filters, names)) as found:
            async for letter in found:
                if bus.runtime.stopping.is_set():
                    early = "told to stop"
                    break
                if why_not := _why_not(letter, again=again):
                    skipped += 1
                    _say(letter, f"skipped: {why_not}")
                    continue
                if dry_run:
                    done += 1
                    _say(letter, f"would be sent to {letter.subject}")
                    continue
                await asyncio.sleep(next_at - monotonic())
                next_at = max(next_at + 1 / rate, monotonic())
                result = await _replay(bus, run, letter)
                done += result == _REPLAYED
                failed += result != _REPLAYED
    except Unavailable as error:
        failed += 1
        early = str(error)
    counts = f"{done} {'would be ' if dry_run else ''}replayed, {skipped} skipped, {failed} failed"
    sys.stdout.write(f"{counts}{f'; stopped early: {early}' if early else ''}\n")
    return 1 if failed or early else 0


def _say(letter: Letter, what: str) -> None:
    sys.stdout.write(f"{letter.sequence:>6}  {what}\n")


def _why_not(letter: Letter, *, again: bool) -> str | None:
    if letter.origin == JOBS:
        return "a sync job is not replayed, its calls are due again by themselves"
    if letter.origin not in ORIGINS or not letter.subject:
        return "nobody knows where it came from"
    if letter.result == _REPLAYED and letter.replayed_at and not again:
        return f"replayed at {rfc3339(letter.replayed_at, 'seconds')}; --again does it once more"
    return None


async def _replay(bus: Bus, run: UUID, letter: Letter) -> str:
    """Send a letter's message again and leave a note; return the result that the note has. Raises Unavailable."""
    stored = await get(bus, DLQ, letter.sequence)
    if stored is None:
        _say(letter, "failed: it is gone")
        return "failed"
    headers = {
        name: value
        for name, value in stored.headers.items()
        if not name.startswith("Nats-") and name not in _OF_THE_LETTER
    } | {REPLAY_OF: str(letter.sequence)}
    message_id = f"replay:{run}:{letter.sequence}"
    note = {REPLAY_RUN: str(run)}
    try:
        if letter.origin == WEBHOOK:
            await _ingest(bus, stored)
        else:
            sequence = await bus.publish(
                letter.subject,
                stored.data,
                stream=letter.origin,
                message_id=message_id,
                headers=headers,
                timeout=_SECONDS,
            )
            note[REPLAY_SEQUENCE] = str(sequence)
        result = _REPLAYED
    except ServiceError as error:
        result = f"failed: {error.code}"
    _say(letter, result + (f" as {letter.origin} {note[REPLAY_SEQUENCE]}" if REPLAY_SEQUENCE in note else ""))
    await bus.publish(
        subjects.replay_note(letter.sequence),
        b"{}",
        stream=DLQ,
        message_id=message_id,
        headers={**note, REPLAY_RESULT: result},
        timeout=_SECONDS,
    )
    return result


async def _ingest(bus: Bus, stored: Stored) -> None:
    """Its body was never stored as an event, so the stream cannot take the event for a repeat."""
    headers = stored.headers
    came_in = headers.get(RECEIVED_AT) or rfc3339(stored.stored_at)
    who = caller(None, headers.get(REQUEST_ID), headers.get(TRACEPARENT), came_in)
    try:
        await bus.request(INGEST_WEBHOOK, stored.data, who, _SECONDS)
    except ServiceError as error:
        if error.code in {"unavailable", "timeout"}:
            raise Unavailable(f"the webhooks service: {error.code}") from error
        raise
