"""A message on its way into a stream: what it is told apart by, and the headers that it goes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from boostedcalls.common.events import EventType, cloud_event

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be stored once under its id."""

    subject: str
    data: bytes
    message_id: str
    headers: Mapping[str, str]


def event_message(
    kind: EventType,
    subject: str,
    data: bytes,
    *,
    event_id: str,
    source: str,
    at: datetime,
    traceparent: str,
    message_id: str | None = None,
) -> Outgoing:
    """An event with its CloudEvents headers; repeats are told by `message_id`, else by `event_id`."""
    headers = cloud_event(kind, event_id, source, subject, at, traceparent)
    return Outgoing(subject, data, message_id or event_id, headers)


def once(stream: str, message_id: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a message that this stream, and no other, stores once."""
    return {**headers, MESSAGE_ID: message_id, EXPECTED_STREAM: stream}
