"""A webhook's way into the stream. Owns what is stored where, and that nothing is answered before it is stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter

from boostedcalls.common import subjects
from boostedcalls.common.bus import Bus, Outgoing, event_message, publish_all
from boostedcalls.common.bus.connection import RECEIVED_AT, REQUEST_ID, TRACEPARENT
from boostedcalls.common.bus.streams import DLQ
from boostedcalls.common.context import Caller
from boostedcalls.common.errors import ServiceError, Unavailable, masked, problem
from boostedcalls.common.events import PROVIDER_MESSAGE, provider_event_json
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import rfc3339
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, Webhook, pack_answers, unpack
from boostedcalls.common.provider import OK, answer_to
from boostedcalls.webhooks.vapi import NotAMessage, parse

log = get_logger(__name__)

STORED = Counter("boostedcalls_webhooks_stored_total", "Webhooks stored as provider events", ["type"])
NOT_STORED = Counter("boostedcalls_webhooks_not_stored_total", "Webhooks that no stream took: to be sent again")
REFUSED = Counter("boostedcalls_webhooks_dead_letters_total", "Webhooks kept as dead letters", ["reason"])

_ORIGIN = "webhook"
# Below the gateway's patience, so that it hears that NATS is away from us and not from a time-out.
_PUBLISH_SECONDS = 2.5
_LETTER_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class _Event:
    """A webhook that can be stored: its event, ready to go, what it is counted as, and what it is answered with."""

    webhook: Webhook
    outgoing: Outgoing
    label: str
    answer: bytes


async def ingest(bus: Bus, who: Caller, body: bytes) -> bytes:
    """Store one authenticated webhook, then return the body to answer with. Raises ServiceError when it is not stored:
    the sender must try again, also where the provider waits for an answer."""
    (answer,) = await _ingest(bus, [Webhook(who, body)])
    if isinstance(answer, ServiceError):
        raise answer
    return answer


async def ingest_many(bus: Bus, _: Caller, data: bytes) -> bytes:
    """Store webhooks that came in together; each is answered for itself (messages/webhooks.py)."""
    return pack_answers(await _ingest(bus, unpack(data)))


async def _ingest(bus: Bus, webhooks: Sequence[Webhook]) -> list[bytes | ServiceError]:
    # Many wait for the slowest of them: what is not stored soon is sent again by itself.
    seconds = _PUBLISH_SECONDS if len(webhooks) == 1 else _LETTER_SECONDS
    answers: list[bytes | ServiceError] = [OK] * len(webhooks)
    events: list[tuple[int, _Event]] = []
    letters: list[tuple[int, Awaitable[None]]] = []
    for place, webhook in enumerate(webhooks):
        try:
            events.append((place, _event(webhook)))
        except NotAMessage as fault:
            letters.append((place, _keep_aside(bus, webhook, fault.reason, fault.data, seconds)))
        except Exception as error:
            # One that cannot be worked on does not take the others with it.
            answers[place] = masked(error)
    outcomes = await publish_all(
        bus, PROVIDER_MESSAGE.stream, [event.outgoing for _, event in events], _PUBLISH_SECONDS
    )
    for (place, event), outcome in zip(events, outcomes, strict=True):
        if isinstance(outcome, ServiceError):
            # Written out it is larger than a message may be: a number such as 1e15 grows.
            letters.append((place, _keep_aside(bus, event.webhook, "too large", event.webhook.body, seconds)))
        answers[place] = _unavailable(event.webhook, outcome) if isinstance(outcome, Unavailable) else event.answer
        if outcome is None:
            STORED.labels(event.label).inc()
    kept = await asyncio.gather(*(letter for _, letter in letters), return_exceptions=True)
    for (place, _), fault in zip(letters, kept, strict=True):
        if isinstance(fault, Unavailable):
            answers[place] = _unavailable(webhooks[place], fault)
        elif fault is not None:
            answers[place] = fault if isinstance(fault, ServiceError) else masked(fault)
    return answers


def _unavailable(webhook: Webhook, reason: Unavailable) -> ServiceError:
    NOT_STORED.inc()
    log.warning("webhook_not_stored", request_id=webhook.who.request_id, reason=str(reason)[:300])
    return problem("unavailable", retry_after=1)


def _event(webhook: Webhook) -> _Event:
    """Raises NotAMessage."""
    message = parse(webhook.body)
    digest = hashlib.sha256(webhook.body).hexdigest()
    came_in = webhook.who.received_at or datetime.now(UTC)
    return _Event(
        webhook,
        event_message(
            PROVIDER_MESSAGE,
            subjects.provider_event(message.kind, message.call_id),
            provider_event_json("webhook", message.kind, message.call_id, came_in, message.content),
            event_id=digest,
            source="/webhooks",
            at=came_in,
            traceparent=webhook.who.traceparent,
        ),
        message.label,
        answer_to(message.content),
    )


async def _keep_aside(bus: Bus, webhook: Webhook, reason: str, data: bytes, seconds: float) -> None:
    digest, who = hashlib.sha256(webhook.body).hexdigest(), webhook.who
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
        timeout=seconds,
    )
    REFUSED.labels(reason).inc()
    log.warning("webhook_is_no_message", request_id=who.request_id, reason=reason, size=len(webhook.body))
