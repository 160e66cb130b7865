"""Reading what a stream holds without consuming it: one message, all of them in turn, and how far a consumer got.

`read` goes through an ephemeral consumer that knows no acks, in small fetches, so that the size of the stream does not
matter. A gap in what it was sent (NATS went away in between) makes it begin anew behind the last message that it got.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.streams import Consumer
from boostedcalls.common.errors import Unavailable

# A body may have several MiB, headers have a few hundred bytes.
_FETCH = 16
_FETCH_HEADERS = 256
_FETCH_SECONDS = 2.0
_TRIES = 5
_PAUSE = 0.5
# An ephemeral consumer whose reader died goes after this long.
_FORGOTTEN = 60.0
_NO_MESSAGE = 10037


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it; `data` is empty where only headers were asked for."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """A stream and how far a consumer got: everything up to `floor` is settled, `pending` messages are not."""

    created: datetime
    messages: int
    first: int
    last: int
    floor: int
    pending: int


@asynccontextmanager
async def _asking(stream: str) -> AsyncGenerator[None]:
    try:
        yield
    except (NatsError, APIError, OSError, TimeoutError) as error:
        raise Unavailable(f"{stream}: {type(error).__name__}: {error}"[:300]) from error


async def progress(bus: Bus, consumer: Consumer) -> Progress:
    """How far a consumer got in its stream. Raises Unavailable, also while one of the two does not exist."""
    async with _asking(consumer.stream):
        # The consumer first: what it has settled is then in the stream's numbers too.
        found = await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
        info = await bus.jetstream.stream_info(consumer.stream)
    if info.created is None:
        raise Unavailable(f"{consumer.stream}: the server does not say when it was made")
    return Progress(
        info.created,
        info.state.messages,
        info.state.first_seq,
        info.state.last_seq,
        found.ack_floor.stream_seq if found.ack_floor else 0,
        (found.num_pending or 0) + (found.num_ack_pending or 0),
    )


async def _get(bus: Bus, stream: str, sequence: int | None, subject: str | None, *, following: bool) -> Stored | None:
    async with _asking(stream):
        try:
            # Asked of the stream's leader, which knows every message that was confirmed.
            found = await bus.jetstream.get_msg(stream, sequence, subject, next=following)
        except NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                raise
            return None
    if found.seq is None or found.subject is None or found.time is None:
        raise Unavailable(f"{stream}: not understood")
    headers = cast("dict[str, str]", found.headers or {})
    return Stored(found.seq, found.subject, headers, found.data or b"", found.time)


async def get(bus: Bus, stream: str, sequence: int) -> Stored | None:
    """The message at this place; None when there is none (any more). Raises Unavailable."""
    return await _get(bus, stream, sequence, None, following=False)


async def following(bus: Bus, stream: str, sequence: int) -> Stored | None:
    """The first message at this place or behind it. Raises Unavailable."""
    return await _get(bus, stream, sequence, ">", following=True)


async def newest(bus: Bus, stream: str, subject: str) -> Stored | None:
    """The last message on a subject. Raises Unavailable."""
    return await _get(bus, stream, None, subject, following=False)


class _Gap(Exception):
    """The server sent something that did not arrive."""


@asynccontextmanager
async def _opened(
    bus: Bus, stream: str, config: ConsumerConfig
) -> AsyncGenerator[tuple[JetStreamContext.PullSubscription, int]]:
    """An ephemeral consumer, and how many messages it has to give."""
    info = await bus.jetstream.add_consumer(stream, config)
    try:
        subscription = await bus.jetstream.pull_subscribe_bind(consumer=info.name, stream=stream)
        try:
            yield subscription, info.num_pending or 0
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()
    finally:
        with contextlib.suppress(Exception):
            await bus.jetstream.delete_consumer(stream, info.name)


async def read(
    bus: Bus,
    stream: str,
    *,
    subject: str | None = None,
    start: int = 1,
    since: datetime | None = None,
    bodies: bool = True,
) -> AsyncGenerator[Stored]:
    """The messages that the stream holds now, oldest first: on a subject (which may have wildcards), from a place or a
    time on. Raises Unavailable."""
    async with _asking(stream):
        last = (await bus.jetstream.stream_info(stream)).state.last_seq
    size = _FETCH if bodies else _FETCH_HEADERS
    failures = 0
    while start <= last:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME if since else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_time=since,
            opt_start_seq=None if since else start,
            filter_subject=subject,
            headers_only=not bodies,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_FORGOTTEN,
            num_replicas=1,
            mem_storage=True,
        )
        try:
            async with _opened(bus, stream, config) as (subscription, left):
                expected = 1
                while left:
                    for message in await subscription.fetch(min(left, size), timeout=_FETCH_SECONDS):
                        place = message.metadata.sequence
                        if place.consumer != expected:
                            raise _Gap
                        if place.stream > last:
                            return
                        expected, failures = expected + 1, 0
                        start, since, left = place.stream + 1, None, message.metadata.num_pending
                        yield _stored(message)
            return
        except (_Gap, NatsError, APIError, OSError, TimeoutError) as error:
            failures += 1
            if failures >= _TRIES:
                raise Unavailable(f"{stream}: {type(error).__name__}: {error}"[:300]) from error
        await asyncio.sleep(_PAUSE)


def _stored(message: Msg) -> Stored:
    meta = message.metadata
    return Stored(
        meta.sequence.stream, message.subject, dict(message.headers or {}), message.data or b"", meta.timestamp
    )
