"""Events: what their data holds, and their CloudEvents 1.0 attributes (as `ce-…` headers, body as plain JSON).

`ALL` is the complete list; `docs/messaging.md` and `docs/asyncapi.json` are held to it by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from boostedcalls.common.messages.base import Moment, rfc3339
from boostedcalls.common.messages.calls import CallStatus, Outcome


class EventData(BaseModel):
    """Base of every event's data. Readers ignore members they do not know: events only ever grow."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProviderEvent(EventData):
    """One report of the provider, as it came (secrets removed): a webhook's message, or what a sync was told.

    `kind` is the provider's `message.type`, or `call-snapshot` for a call object that we asked for.
    """

    source: Literal["webhook", "sync"]
    kind: str
    provider_call_id: str | None
    received_at: Moment
    message: dict[str, Any]


def provider_event_json(
    source: str, kind: str, provider_call_id: str | None, received_at: datetime, message: Mapping[str, Any]
) -> bytes:
    """What ProviderEvent would write, for a message that is decoded JSON: without checking and copying all of it."""
    return orjson.dumps(
        {
            "source": source,
            "kind": kind,
            "provider_call_id": provider_call_id,
            "received_at": rfc3339(received_at),
            "message": message,
        }
    )


class CallEvent(EventData):
    """A call was created or changed. `version` grows with every change of the call: keep the highest."""

    call_id: UUID
    user_id: UUID
    version: int
    contact_id: UUID
    script_id: UUID | None
    vapi_call_id: str | None
    status: CallStatus
    previous_status: CallStatus | None
    outcome: Outcome | None
    ended_reason: str | None
    error_code: str | None
    started_at: Moment | None
    ended_at: Moment | None
    duration_seconds: int | None
    cost: float | None


class ContactEvent(EventData):
    """A contact was created, updated or deleted."""

    contact_id: UUID
    user_id: UUID


class SyncJob(EventData):
    """Calls that are due for a look: at our own dispatch, or at what the provider says of them."""

    call_ids: list[UUID]


@dataclass(frozen=True, slots=True)
class EventType:
    """A kind of event: CloudEvents type, subject pattern, stream, who publishes it, and its data."""

    type: str
    subject: str
    stream: str
    source: str
    data: type[EventData]


PROVIDER_MESSAGE = EventType(
    "io.boostedcalls.provider.v1.message",
    "bc.evt.provider.<type>.<provider call id>",
    "PROVIDER_EVENTS",
    "/webhooks, /calls",
    ProviderEvent,
)
CALL_CREATED, CALL_STATUS_CHANGED, CALL_UPDATED = (
    EventType(
        f"io.boostedcalls.call.v1.{what.replace('-', '_')}",
        f"bc.evt.call.{what}.<user id>.<call id>",
        "CALL_EVENTS",
        "/calls",
        CallEvent,
    )
    for what in ("created", "status-changed", "updated")
)
CONTACT_CREATED, CONTACT_UPDATED, CONTACT_DELETED = (
    EventType(
        f"io.boostedcalls.contact.v1.{what}",
        f"bc.evt.contact.{what}.<user id>.<contact id>",
        "CALL_EVENTS",
        "/contacts",
        ContactEvent,
    )
    for what in ("created", "updated", "deleted")
)
SYNC_DUE = EventType("io.boostedcalls.job.v1.sync", "bc.job.sync", "JOBS", "/calls", SyncJob)

ALL = (
    PROVIDER_MESSAGE,
    CALL_CREATED,
    CALL_STATUS_CHANGED,
    CALL_UPDATED,
    CONTACT_CREATED,
    CONTACT_UPDATED,
    CONTACT_DELETED,
    SYNC_DUE,
)


def cloud_event(
    kind: EventType, event_id: str, source: str, subject: str, at: datetime, traceparent: str
) -> Mapping[str, str]:
    """The headers of an event: CloudEvents 1.0 attributes in the NATS binding, and the trace."""
    return {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": kind.type,
        "ce-source": source,
        "ce-subject": subject,
        "ce-time": rfc3339(at),
        "ce-datacontenttype": "application/json",
        "traceparent": traceparent,
    }
