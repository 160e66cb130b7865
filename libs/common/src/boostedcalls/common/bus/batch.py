"""Publishing many messages to a stream at once: as one batch with one PubAck, or in a row with a PubAck each.

JetStream's atomic batches (ADR-50) sync the disk once a batch, where single messages do it each time; where the server
does not sync each write (its own default), messages in a row are cheaper. docs/benchmarks.md has the figures, and
NATS_ATOMIC_BATCHES chooses. A batch is refused as a whole when one of its messages was stored before, and where the
server does not know batches; then its messages go in a row. Whatever is not confirmed is sent again alone, under the
same id, so that nothing is stored twice.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from boostedcalls.common.bus.connection import PUBLISH_TRY, Bus
from boostedcalls.common.bus.outgoing import Outgoing, once
from boostedcalls.common.errors import ServiceError, Unavailable
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

_BATCH_ID = "Nats-Batch-Id"
_BATCH_SEQUENCE = "Nats-Batch-Sequence"
_BATCH_COMMIT = "Nats-Batch-Commit"
# The server puts a batch aside in files of its own first, which costs as much as storing this many messages singly.
_WORTH_IT = 24
# The server's own limit is 1,000 messages a batch; of memory, a batch takes this much at most.
_MOST_BYTES = 4 * 1024 * 1024
# A server that refuses every batch is not asked again for a while.
_REFUSED_FOR = 60.0
_DUPLICATE = 10201
# How long messages of many are tried by themselves, once they were not confirmed together.
_ALONE = 0.3
# Before it, a batch could be confirmed that was stored in part: when a write failed, or the leader changed.
_SINCE = (2, 15)


Outcome = Unavailable | ServiceError | None


async def publish_all(bus: Bus, stream: str, messages: Sequence[Outgoing], timeout: float = 5.0) -> list[Outcome]:
    """Store the messages durably; for each, in their order, None or why it is not known to be stored: Unavailable, or
    ServiceError where it is too large. `timeout` in seconds."""
    deadline = monotonic() + timeout
    if await _as_batch(bus, stream, messages, min(timeout, PUBLISH_TRY)):
        bus.stored(stream)
        return [None] * len(messages)
    confirmed = await _in_a_row(bus, stream, messages, min(timeout, PUBLISH_TRY))
    if len(confirmed) == len(messages):
        bus.stored(stream)
        return [None] * len(messages)
    if len(messages) > 1:
        # One that the stream refuses must not hold up all the others' answers.
        deadline = min(deadline, monotonic() + _ALONE)

    async def alone(place: int, message: Outgoing) -> Outcome:
        if place in confirmed:
            return None
        try:
            await bus.send(stream, message, max(deadline - monotonic(), 0.0))
        except (Unavailable, ServiceError) as error:
            return error
        return None

    return list(await asyncio.gather(*(alone(place, message) for place, message in enumerate(messages))))


async def _in_a_row(bus: Bus, stream: str, messages: Sequence[Outgoing], timeout: float) -> set[int]:
    """The places of the messages that the server confirmed; the others may be stored all the same."""
    fit = [place for place, message in enumerate(messages) if bus.fits(message.data)]
    if len(fit) < 2 or not bus.client.is_connected:
        return set()
    try:
        async with bus.acks.row(len(fit)) as (inbox, confirmed, done):
            with contextlib.suppress(TimeoutError, NatsError, OSError):
                async with asyncio.timeout(timeout):
                    for place in fit:
                        message = messages[place]
                        headers = once(stream, message.message_id, message.headers)
                        await bus.client.publish(message.subject, message.data, f"{inbox}.{place}", headers)
                    await done
            return confirmed
    except (NatsError, OSError):
        return set()


async def _as_batch(bus: Bus, stream: str, messages: Sequence[Outgoing], timeout: float) -> bool:
    """Whether the server stored all of them as one batch. When the answer is lost they may be stored all the same."""
    size = sum(len(message.data) for message in messages)
    ids = {message.message_id for message in messages}
    if len(messages) < _WORTH_IT or len(ids) < len(messages) or size > _MOST_BYTES:
        return False
    if not (bus.atomic_batches and bus.client.is_connected and _is_safe(bus.client)):
        return False
    if monotonic() < bus.no_batches_until.get(stream, 0.0) or not all(bus.fits(message.data) for message in messages):
        return False
    batch = uuid4().hex
    try:
        for place, message in enumerate(messages[:-1], 1):
            await bus.client.publish(message.subject, message.data, headers=_headers(stream, message, batch, place))
        last = messages[-1]
        headers = _headers(stream, last, batch, len(messages)) | {_BATCH_COMMIT: "1"}
        answer: dict[str, Any] = orjson.loads(
            (await bus.client.request(last.subject, last.data, timeout=timeout, headers=headers)).data or b"{}"
        )
    except (NatsError, OSError, orjson.JSONDecodeError) as fault:
        log.info("batch_not_confirmed", stream=stream, size=len(messages), error=type(fault).__name__)
        return False
    if answer.get("count") == len(messages):
        return True
    error: dict[str, Any] = answer.get("error") or {}
    if error.get("err_code") != _DUPLICATE:
        log.warning("batch_refused", stream=stream, size=len(messages), reason=error.get("description"))
        bus.no_batches_until[stream] = monotonic() + _REFUSED_FOR
    return False


def _is_safe(client: Client) -> bool:
    version = client.connected_server_version
    return (version.major, version.minor) >= _SINCE


def _headers(stream: str, message: Outgoing, batch: str, place: int) -> dict[str, str]:
    return {
        **once(stream, message.message_id, message.headers),
        _BATCH_ID: batch,
        _BATCH_SEQUENCE: str(place),
    }
