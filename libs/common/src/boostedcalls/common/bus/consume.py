"""Consuming a stream in batches, and the one place that decides between ack, nak and dead letter.

| the handler | what happens to the message |
|---|---|
| returns | ack |
| raises, batch of several | each is handled again alone, so that a poison message stands alone |
| raises Unavailable | nak with a delay, and no fetching until `ready` answers true: no deliveries are burnt |
| raises Poison | stored in DLQ, then term |
| raises anything else | nak with growing delay; in DLQ after 10 deliveries, then term |
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
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter

from boostedcalls.common import subjects
from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.streams import DLQ, Consumer, ensure_consumer, ensure_streams
from boostedcalls.common.errors import Poison, Unavailable
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

MAX_DELIVERIES = 10
# A fetch under way does not survive a reconnect, so it must be short.
_FETCH_SECONDS = 2.0
_IDLE_CHECK = 15

CONSUMED = Counter("boostedcalls_consumed_total", "Messages consumed", ["consumer", "result"])


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
    subscription: JetStreamContext.PullSubscription | None = None
    idle = 0
    while not bus.runtime.stopping.is_set():
        try:
            if subscription is None:
                await ensure_streams(bus, consumer.stream, DLQ)
                await ensure_consumer(bus, consumer)
                subscription = await bus.jetstream.pull_subscribe_bind(durable=consumer.durable, stream=consumer.stream)
            messages = await _fetch(subscription, consumer.batch)
            idle = 0 if messages else idle + 1
            if idle >= _IDLE_CHECK:
                # A deleted consumer looks like silence.
                idle = 0
                await bus.jetstream.consumer_info(consumer.stream, consumer.durable)
        except (NatsError, APIError, NotFoundError, OSError, TimeoutError) as error:
            log.warning("consumer_trouble", stream=consumer.stream, error=f"{type(error).__name__}: {error}"[:300])
            subscription = await _forget(subscription)
            await asyncio.sleep(0.5)
            continue
        if messages and not await _settle(bus, consumer, messages, handler):
            await _until(ready, bus)
    await _forget(subscription)


async def _forget(subscription: JetStreamContext.PullSubscription | None) -> None:
    if subscription is not None:
        with contextlib.suppress(Exception):
            await subscription.unsubscribe()


async def _fetch(subscription: JetStreamContext.PullSubscription, batch: int) -> list[Msg]:
    """Up to `batch` messages, without waiting for more than there are (nats-py waits its whole timeout for a full
    batch, so the first is fetched alone and says how many are behind it)."""
    try:
        messages = await subscription.fetch(1, timeout=_FETCH_SECONDS)
    except TimeoutError:
        return []
    waiting = min(messages[0].metadata.num_pending, batch - 1)
    if waiting > 0:
        with contextlib.suppress(TimeoutError):
            messages += await subscription.fetch(waiting, timeout=0.1)
    return messages


async def _until(ready: Ready, bus: Bus) -> None:
    log.warning("fetching_paused")
    while not bus.runtime.stopping.is_set():
        with contextlib.suppress(Exception):
            if await ready():
                break
        await asyncio.sleep(0.5)
    log.info("fetching_resumed")


def _delivery(message: Msg) -> Delivery:
    meta = message.metadata
    return Delivery(
        message.subject,
        message.data,
        dict(message.headers or {}),
        meta.sequence.stream,
        meta.num_delivered,
        meta.timestamp,
    )


async def _settle(bus: Bus, consumer: Consumer, messages: list[Msg], handler: Handler) -> bool:
    """Handle and settle the messages; False when something the handler needs is away."""
    deliveries = [_delivery(message) for message in messages]
    try:
        await handler(deliveries)
    except Unavailable as error:
        log.warning("handler_unavailable", stream=consumer.stream, reason=str(error)[:300])
        for message in messages:
            await _tell(message.nak(delay=random.uniform(0.5, 1.5)), consumer, "nak")  # noqa: S311
        return False
    except Exception as error:
        if len(messages) > 1:
            log.warning("batch_failed", stream=consumer.stream, size=len(messages), error=repr(error)[:300])
            # No early end: one message without its database does not excuse the others from being settled.
            results = [await _settle(bus, consumer, [message], handler) for message in messages]
            return all(results)
        await _settle_failure(bus, consumer, messages[0], deliveries[0], error)
    else:
        for message in messages:
            await _tell(message.ack(), consumer, "ack")
    return True


async def _settle_failure(bus: Bus, consumer: Consumer, message: Msg, delivery: Delivery, error: Exception) -> None:
    if not isinstance(error, Poison) and delivery.deliveries < MAX_DELIVERIES:
        log.warning("message_failed", subject=delivery.subject, sequence=delivery.sequence, exc_info=error)
        delay = min(300.0, 2.0**delivery.deliveries) * random.uniform(0.5, 1.0)  # noqa: S311
        await _tell(message.nak(delay=delay), consumer, "nak")
        return
    try:
        # Stored first, given up second: the other order could lose it.
        await dead_letter(bus, consumer.stream, delivery, f"{type(error).__name__}: {error}")
    except Unavailable as trouble:
        log.error("dead_letter_not_stored", sequence=delivery.sequence, reason=str(trouble))
        await _tell(message.nak(delay=5), consumer, "nak")
        return
    log.error("dead_letter", subject=delivery.subject, sequence=delivery.sequence, error=repr(error)[:300])
    await _tell(message.term(), consumer, "dead-letter")


async def dead_letter(bus: Bus, origin: str, delivery: Delivery, reason: str) -> None:
    """Store a message that cannot be handled, with where it came from and why. Raises Unavailable."""
    headers = {
        **{name: value for name, value in delivery.headers.items() if not name.startswith("Nats-")},
        "Bc-Origin-Stream": origin,
        "Bc-Origin-Subject": delivery.subject,
        "Bc-Origin-Sequence": str(delivery.sequence),
        "Bc-Deliveries": str(delivery.deliveries),
        "Bc-Reason": " ".join(reason.split())[:500].encode("ascii", "replace").decode(),
    }
    await bus.publish(
        subjects.dead_letter(origin),
        delivery.data,
        stream=DLQ,
        message_id=f"dlq:{origin}:{delivery.sequence}",
        headers=headers,
        timeout=5.0,
    )


async def _tell(verdict: Awaitable[None], consumer: Consumer, result: str) -> None:
    CONSUMED.labels(f"{consumer.stream}/{consumer.durable}", result).inc()
    try:
        await verdict
    except (NatsError, OSError) as error:
        # Not told means delivered again: the handler's work can be repeated.
        log.warning("not_settled", result=result, error=type(error).__name__)
