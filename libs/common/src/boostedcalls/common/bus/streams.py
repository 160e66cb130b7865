"""The streams and consumers, declared once. They are created or updated by `python -m boostedcalls.common.streams`, or,
where NATS has but one user for everything, by the services when they start; they are never deleted."""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

from boostedcalls.common import subjects
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger

if TYPE_CHECKING:
    # Which makes a stream that is gone anew before it publishes.
    from boostedcalls.common.bus.connection import Bus

log = get_logger(__name__)

_PATIENCE = 30.0
_MINUTE = 60.0
_DAY = 24 * 60 * _MINUTE

PROVIDER_EVENTS = "PROVIDER_EVENTS"
CALL_EVENTS = "CALL_EVENTS"
JOBS = "JOBS"
DLQ = "DLQ"

STREAMS: dict[str, StreamConfig] = {
    # The flight recorder: refuses new messages rather than losing old ones that were not handled.
    PROVIDER_EVENTS: StreamConfig(
        name=PROVIDER_EVENTS,
        subjects=[subjects.PROVIDER_EVENTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=30 * _DAY,
        duplicate_window=20 * _MINUTE,
        allow_atomic=True,
    ),
    CALL_EVENTS: StreamConfig(
        name=CALL_EVENTS,
        subjects=[subjects.CALL_EVENTS, subjects.CONTACT_EVENTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=7 * _DAY,
        duplicate_window=20 * _MINUTE,
        allow_atomic=True,
    ),
    JOBS: StreamConfig(
        name=JOBS,
        subjects=[subjects.JOBS],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=60 * _MINUTE,
        duplicate_window=2 * _MINUTE,
    ),
    DLQ: StreamConfig(
        name=DLQ,
        subjects=[subjects.DEAD_LETTERS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=90 * _DAY,
        duplicate_window=20 * _MINUTE,
    ),
}


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer. `batch` is how many messages a handler gets at most at once, `readers` how many batches
    a process has in hand at most: while the database works on one, the next can be prepared."""

    stream: str
    durable: str
    batch: int
    ack_wait: float = 10.0
    readers: int = 1


CALLS_PROVIDER = Consumer(PROVIDER_EVENTS, "calls", batch=128, readers=3)
CALLS_JOBS = Consumer(JOBS, "calls", batch=1, ack_wait=120.0)
CONSUMERS = (CALLS_PROVIDER, CALLS_JOBS)
# For other services of the operator's.
SUBSCRIBER = Consumer(CALL_EVENTS, "subscriber", batch=128)


async def ensure_streams(bus: Bus, *names: str) -> None:
    """Create the streams, or bring them to what stands above, where that is ours to do. Two replicas may do this at
    once."""
    for name in names if bus.administers else ():
        wanted = replace(STREAMS[name], num_replicas=bus.replicas)
        try:
            found = (await bus.jetstream.stream_info(name)).config
        except NotFoundError:
            await bus.jetstream.add_stream(wanted)
            continue
        fields = ("subjects", "discard", "max_age", "duplicate_window", "num_replicas", "allow_atomic")
        if any(getattr(found, field) != getattr(wanted, field) for field in fields):
            log.info("stream_updated", stream=name)
            # What an operator set besides (size limits, say) stays.
            await bus.jetstream.update_stream(replace(found, **{field: getattr(wanted, field) for field in fields}))


async def wait_for_streams(bus: Bus, *names: str) -> None:
    """`ensure_streams` for a process that starts: a cluster may be without a leader for some seconds. Raises
    Unavailable after 30 s, or when the process is told to stop."""
    deadline = monotonic() + _PATIENCE
    while True:
        try:
            return await ensure_streams(bus, *names)
        except (NatsTimeout, NoRespondersError, ServiceUnavailableError) as error:
            if monotonic() > deadline or bus.runtime.stopping.is_set():
                raise Unavailable(f"JetStream does not answer: {type(error).__name__}: {error}"[:300]) from error
        await asyncio.sleep(0.5)


async def ensure_consumer(bus: Bus, consumer: Consumer) -> None:
    """Create or update the consumer, where that is ours to do. It never gives a message up: the dead-letter rule in
    consume.py decides. Raises NotFoundError where somebody else has yet to make it."""
    if not bus.administers:
        await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
        return
    wanted = ConsumerConfig(
        durable_name=consumer.durable,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait,
        max_deliver=-1,
        # Above what eight replicas together have in hand: a request beyond it would lie at the server and be
        # filled when its reader is busy with something else.
        max_ack_pending=max(8 * consumer.readers * consumer.batch, 64),
    )
    try:
        found = (await bus.jetstream.consumer_info(consumer.stream, consumer.durable)).config
    except NotFoundError:
        await bus.jetstream.add_consumer(consumer.stream, wanted)
        return
    fields = ("ack_wait", "max_deliver", "max_ack_pending")
    if any(getattr(found, field) != getattr(wanted, field) for field in fields):
        log.info("consumer_updated", stream=consumer.stream, consumer=consumer.durable)
        # Where an operator let it begin stays: that cannot be changed.
        changes = {field: getattr(wanted, field) for field in fields}
        await bus.jetstream.add_consumer(consumer.stream, replace(found, **changes))
