"""Consuming a stream in batches, and the one place that decides between ack, nak and dead letter.

| the handler | what happens to the message |
|---|---|
| returns | ack |
| raises, batch of several | each is handled again alone, so that a poison message stands alone |
| raises Unavailable | nak with a delay, and no fetching until `ready` answers true: no deliveries are burnt |
| raises Poison | stored in DLQ, then term |
| raises anything else | nak with growing delay; in DLQ after 10 deliveries, then term |

A message that DLQ does not take (it is full, or away) is given back with a growing delay: it stays in its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter, Gauge

from boostedcalls.common import subjects
from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.pull import Puller
from boostedcalls.common.bus.streams import DLQ, Consumer, ensure_consumer, ensure_streams
from boostedcalls.common.errors import Poison, ServiceError, Unavailable
from boostedcalls.common.logs import get_logger, scrub
from boostedcalls.common.messages.base import rfc3339
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

MAX_DELIVERIES = 10
# A fetch under way does not survive a reconnect, so it must be short.
_FETCH_SECONDS = 2.0
_IDLE_CHECK = 15
# Where many come at once, and are all taken, a moment's wait makes the next batch larger and each message cheaper.
_MANY = 8
_GATHERING = 0.02
# Between looks whether what a handler needs is back; and, growing up to the second, where it is back each time and the
# handler fails again (a full disk can be read): every try counts as a delivery.
_LOOK_SECONDS = 0.5
_LONGEST_PAUSE = 30.0
_LETTER_SECONDS = 2.0

# What a dead letter says of its message. A webhook's has the first two only.
REASON = "Bc-Reason"
ORIGIN_SUBJECT = "Bc-Origin-Subject"
ORIGIN_STREAM = "Bc-Origin-Stream"
ORIGIN_SEQUENCE = "Bc-Origin-Sequence"
ORIGIN_TIME = "Bc-Origin-Time"
DELIVERIES = "Bc-Deliveries"
# On a message that was sent again, and on the note that says so.
REPLAY_OF = "Bc-Replay-Of"
REPLAY_RUN = "Bc-Replay-Run"
REPLAY_SEQUENCE = "Bc-Replay-Sequence"
REPLAY_RESULT = "Bc-Replay-Result"

CONSUMED = Counter("boostedcalls_consumed_total", "Messages consumed", ["consumer", "result"])
TROUBLES = Counter("boostedcalls_consumer_troubles_total", "Attempts to fetch from a stream that failed", ["stream"])
PAUSED = Gauge("boostedcalls_fetching_paused", "Consumers that fetch nothing while the database is away", ["stream"])


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from a stream, as its handler sees it."""

    subject: str
    data: bytes
    headers: dict[str, str]
    sequence: int
    deliveries: int
    stored_at: datetime


Handler = Callable[[Sequence[Delivery]], Awaitable[None]]
Ready = Callable[[], Awaitable[bool]]


async def consume(bus: Bus, consumer: Consumer, handler: Handler, ready: Ready) -> None:
    """Run until the process stops: fetch, handle, settle. Meant as a side task; survives NATS and the database."""
    trouble = Trouble("consumer_trouble", "consumer_trouble_over", stream=consumer.stream)
    pause = _Pause(bus, consumer.stream, ready)
    async with asyncio.TaskGroup() as readers:
        for _ in range(consumer.readers):
            readers.create_task(_read(bus, consumer, handler, trouble, pause))


async def _read(bus: Bus, consumer: Consumer, handler: Handler, trouble: Trouble, pause: _Pause) -> None:
    puller: Puller | None = None
    idle = 0
    while not bus.runtime.stopping.is_set():
        await pause.over()
        number = pause.number
        try:
            if puller is None:
                await ensure_streams(bus, consumer.stream, DLQ)
                await ensure_consumer(bus, consumer)
                puller = Puller(bus, consumer)
                await puller.open()
            messages = await puller.fetch(consumer.batch, _FETCH_SECONDS)
            idle = 0 if messages else idle + 1
            if idle >= _IDLE_CHECK:
                # A deleted consumer looks like silence.
                idle = 0
                await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
        except (NatsError, APIError, NotFoundError, OSError, TimeoutError) as error:
            TROUBLES.labels(consumer.stream).inc()
            hint = "; run: python -m boostedcalls.common.streams" if isinstance(error, NotFoundError) else ""
            trouble.seen(f"{type(error).__name__}: {error}{hint}")
            if puller is not None:
                await puller.close()
                puller = None
            await asyncio.sleep(0.5)
            continue
        trouble.over()
        if messages and (missing := await _settle(bus, consumer, messages, handler)):
            await pause.take(missing, number)
        elif messages:
            pause.reset()
        if _MANY <= len(messages) < consumer.batch:
            await asyncio.sleep(_GATHERING)
    if puller is not None:
        await puller.close()


class _Pause:
    """The times in which no reader begins to fetch because something that the handler needs is away. (A fetch under way
    may still bring a batch.)"""

    def __init__(self, bus: Bus, stream: str, ready: Ready) -> None:
        self._bus, self._ready = bus, ready
        self._paused = PAUSED.labels(stream)
        self._trouble = Trouble("fetching_paused", "fetching_resumed", stream=stream)
        self._length = 0.0
        self._over = asyncio.Event()
        self._over.set()
        self.number = 0
        """How many pauses there were."""

    async def over(self) -> None:
        await self._over.wait()

    def reset(self) -> None:
        self._length = 0.0

    async def take(self, missing: Unavailable, number: int) -> None:
        """Pause, unless there was another since the number was `number`: then what failed is what that one was for."""
        if number != self.number:
            return
        self.number += 1
        self._over.clear()
        self._paused.inc()
        self._trouble.seen(missing)
        try:
            await self._sleep(self._length)
            self._length = min(max(self._length * 2, _LOOK_SECONDS), _LONGEST_PAUSE)
            while not self._bus.runtime.stopping.is_set():
                with contextlib.suppress(Exception):
                    if await self._ready():
                        break
                await self._sleep(_LOOK_SECONDS)
        finally:
            self._trouble.over()
            self._paused.dec()
            self._over.set()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bus.runtime.stopping.wait(), seconds)


def _delivery(message: Msg) -> Delivery:
    meta = message.metadata
    return Delivery(
        message.subject,
        message.data,
        message.headers or {},
        meta.sequence.stream,
        meta.num_delivered,
        meta.timestamp,
    )


async def _settle(bus: Bus, consumer: Consumer, messages: list[Msg], handler: Handler) -> Unavailable | None:
    """Handle and settle the messages. What is returned says that something the handler needs is away."""
    deliveries = [_delivery(message) for message in messages]
    try:
        await handler(deliveries)
    except Unavailable as error:
        for message in messages:
            await _tell(message.nak(delay=random.uniform(0.5, 1.5)), consumer, "nak")  # noqa: S311
        return error
    except Exception as error:
        if len(messages) > 1:
            log.warning("batch_failed", stream=consumer.stream, size=len(messages), error=repr(error)[:300])
            # No early end: one message without its database does not excuse the others from being settled.
            results = [await _settle(bus, consumer, [message], handler) for message in messages]
            return next((missing for missing in results if missing), None)
        await _settle_failure(bus, consumer, messages[0], deliveries[0], error)
    else:
        CONSUMED.labels(f"{consumer.stream}/{consumer.durable}", "ack").inc(len(messages))
        try:
            for message in messages:
                await message.ack()
        except (NatsError, OSError) as error:
            _not_settled("ack", error)
    return None


async def _settle_failure(bus: Bus, consumer: Consumer, message: Msg, delivery: Delivery, error: Exception) -> None:
    if not isinstance(error, Poison) and delivery.deliveries < MAX_DELIVERIES:
        log.warning("message_failed", subject=delivery.subject, sequence=delivery.sequence, exc_info=error)
        await _tell(message.nak(delay=_growing(delivery)), consumer, "nak")
        return
    try:
        # Stored first, given up second: the other order could lose it.
        await dead_letter(bus, consumer.stream, delivery, f"{type(error).__name__}: {error}")
    except (Unavailable, ServiceError) as trouble:
        log.error(
            "dead_letter_not_stored", subject=delivery.subject, sequence=delivery.sequence, reason=str(trouble)[:300]
        )
        await _tell(message.nak(delay=_growing(delivery)), consumer, "nak")
        return
    log.error("dead_letter", subject=delivery.subject, sequence=delivery.sequence, error=repr(error)[:300])
    await _tell(message.term(), consumer, "dead-letter")


def _growing(delivery: Delivery) -> float:
    return min(300.0, 2.0 ** min(delivery.deliveries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311


async def dead_letter(bus: Bus, origin: str, delivery: Delivery, reason: str) -> None:
    """Store a message that cannot be handled, with where it came from and why; a repeat is stored once. Raises
    Unavailable, and ServiceError where it does not fit into a message any more."""
    headers = {
        **{name: value for name, value in delivery.headers.items() if not name.startswith("Nats-")},
        ORIGIN_STREAM: origin,
        ORIGIN_SUBJECT: delivery.subject,
        ORIGIN_SEQUENCE: str(delivery.sequence),
        ORIGIN_TIME: rfc3339(delivery.stored_at),
        DELIVERIES: str(delivery.deliveries),
        REASON: " ".join(scrub(reason).split())[:500].encode("ascii", "replace").decode(),
    }
    await bus.publish(
        subjects.dead_letter(origin, delivery.sequence),
        delivery.data,
        stream=DLQ,
        # With the time: a stream that was made anew counts from one again.
        message_id=f"dlq:{origin}:{delivery.sequence}:{int(delivery.stored_at.timestamp() * 1000)}",
        headers=headers,
        timeout=_LETTER_SECONDS,
    )


async def _tell(verdict: Awaitable[None], consumer: Consumer, result: str) -> None:
    CONSUMED.labels(f"{consumer.stream}/{consumer.durable}", result).inc()
    try:
        await verdict
    except (NatsError, OSError) as error:
        _not_settled(result, error)


def _not_settled(result: str, error: Exception) -> None:
    # Not told means delivered again: the handler's work can be repeated.
    log.warning("not_settled", result=result, error=type(error).__name__)
