"""A webhook's way into the stream. Owns what is stored where, and that nothing is answered before it is stored."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from prometheus_client import Counter

from boostedcalls.common import subjects
from boostedcalls.common.bus import Bus
from boostedcalls.common.bus.connection import RECEIVED_AT, REQUEST_ID, TRACEPARENT
from boostedcalls.common.bus.streams import DLQ
from boostedcalls.common.context import Caller
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.events import PROVIDER_MESSAGE, ProviderEvent
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import rfc3339
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.common.provider import OK, answer_to
from boostedcalls.webhooks.vapi import Message, NotAMessage, parse

log = get_logger(__name__)

STORED = Counter("boostedcalls_webhooks_stored_total", "Webhooks stored as provider events", ["type"])
REFUSED = Counter("boostedcalls_webhooks_dead_letters_total", "Webhooks kept as dead letters", ["reason"])

_ORIGIN = "webhook"
# Below the gateway's patience, so that it hears that NATS is away from us and not from a time-out.
_PUBLISH_SECONDS = 2.5


async def ingest(bus: Bus, who: Caller, body: bytes) -> bytes:
    """Store one authenticated webhook, then return the body to answer with. Raises Unavailable when it is not stored:
    the sender must try again, also where the provider waits for an answer."""
    try:
        message = parse(body)
    except NotAMessage as fault:
        await _keep_aside(bus, who, body, fault.reason, fault.data)
        return OK
    try:
        await _publish(bus, who, body, message)
    except ServiceError:
        # Written out it is larger than a message may be: numbers such as 1e99 grow.
        await _keep_aside(bus, who, body, "too large", body)
    return answer_to(message.content)


async def _publish(bus: Bus, who: Caller, body: bytes, message: Message) -> None:
    digest = hashlib.sha256(body).hexdigest()
    came_in = who.received_at or datetime.now(UTC)
    event = ProviderEvent(
        source="webhook",
        kind=message.kind,
        provider_call_id=message.call_id,
        received_at=came_in,
        message=dict(message.content),
    )
    await bus.publish_event(
        PROVIDER_MESSAGE,
        subjects.provider_event(message.kind, message.call_id),
        event.model_dump_json().encode(),
        event_id=digest,
        source="/webhooks",
        at=came_in,
        traceparent=who.traceparent,
        timeout=_PUBLISH_SECONDS,
    )
    STORED.labels(message.label).inc()


async def _keep_aside(bus: Bus, who: Caller, body: bytes, reason: str, data: bytes) -> None:
    digest = hashlib.sha256(body).hexdigest()
    await bus.publish(
        subjects.dead_letter(_ORIGIN, digest[:32]),
        data,
        stream=DLQ,
        message_id=f"dlq:{_ORIGIN}:{digest}",
        headers={
            "Bc-Origin-Subject": INGEST_WEBHOOK,
            "Bc-Reason": reason,
            REQUEST_ID: who.request_id,
            TRACEPARENT: who.traceparent,
            RECEIVED_AT: rfc3339(who.received_at or datetime.now(UTC)),
        },
        timeout=_PUBLISH_SECONDS,
    )
    REFUSED.labels(reason).inc()
    log.warning("webhook_is_no_message", reason=reason, size=len(body))
