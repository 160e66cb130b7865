"""Calls: requests, answers, and their request/reply pairs."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from pydantic import Field

from boostedcalls.common import subjects
from boostedcalls.common.messages.base import (
    Answer,
    Cursor,
    GivenMoment,
    Goal,
    Goals,
    Id,
    IdempotencyKey,
    Line,
    Metadata,
    Model,
    Moment,
    Nothing,
    Prompt,
    Rpc,
)
from boostedcalls.common.messages.contacts import Count


class CallStatus(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NO_ANSWER = "no-answer"
    BUSY = "busy"
    VOICEMAIL = "voicemail"


class Outcome(StrEnum):
    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"
    NOT_INTERESTED = "not_interested"
    WRONG_NUMBER = "wrong_number"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    VOICEMAIL = "voicemail"
    LANGUAGE_BARRIER = "language_barrier"


class CreateCall(Model):
    """A call to place. What is left out comes from the script, then from the service's settings."""

    contact_id: UUID
    assistant_id: Id | None = Field(None, examples=["vapi-assistant-id"])
    phone_number_id: Id | None = Field(None, examples=["vapi-phone-number-id"])
    script_id: UUID | None = None
    custom_prompt: Prompt | None = Field(None, examples=["optional custom prompt"])
    first_message: Line | None = Field(None, examples=["optional first message"])
    call_goals: Goals | None = Field(None, examples=[["goal1", "goal2"]])
    metadata: Metadata | None = Field(None, examples=[{"key": "value"}])


class PlaceCall(CreateCall):
    """A call to place, at most one for a key of the user: a repeat with the same key and members gets the answer that
    the first one got."""

    idempotency_key: IdempotencyKey | None = None


class ContactBrief(Answer):
    id: UUID
    name: str
    phone: str


class CallItem(Answer):
    """A call in a list. `contact_id`, `contact_name` and `contact_phone` serve clients of the earlier API."""

    id: UUID
    contact: ContactBrief
    contact_id: UUID
    contact_name: str
    contact_phone: str
    script_id: UUID | None
    status: CallStatus
    outcome: Outcome | None
    transcript: str | None
    summary: str | None
    started_at: Moment | None
    ended_at: Moment | None
    duration_seconds: int | None
    cost: float | None = Field(description="US dollars")
    created_at: Moment


class CallContact(ContactBrief):
    """The contact as it was when the call was made."""

    email: str | None
    metadata: dict[str, object] | None


class CallScript(Answer):
    """The script as it was when the call was made, with what the request itself said in place of its members."""

    id: UUID
    name: str
    custom_prompt: str | None
    first_message: str | None
    call_goals: list[str | Goal] | None


class Call(Answer):
    """The whole call."""

    id: UUID
    contact: CallContact
    contact_id: UUID
    contact_name: str
    contact_phone: str
    script: CallScript | None
    script_id: UUID | None
    custom_prompt: str | None
    first_message: str | None
    call_goals: list[str | Goal] | None
    vapi_call_id: str | None
    assistant_id: str | None
    phone_number_id: str | None
    status: CallStatus
    outcome: Outcome | None
    ended_reason: str | None = Field(description="The provider's own word")
    transcript: str | None
    summary: str | None
    analysis: dict[str, object] | None
    started_at: Moment | None
    ended_at: Moment | None
    duration_seconds: int | None
    cost: float | None = Field(description="US dollars")
    metadata: dict[str, object] = Field(
        description="What the request gave, enriched with recordingUrl, stereoRecordingUrl, messages, cost, "
        "costBreakdown"
    )
    error_code: str | None = Field(
        description="Why a failed call failed: rejected, not_placed, provider_failure, lost or timed_out"
    )
    error_message: str | None
    created_at: Moment
    updated_at: Moment


class ListCalls(Model):
    """A page by number, or by cursor. `created_from` is included, `created_to` is not."""

    page: int = Field(1, ge=1, le=1_000_000)
    limit: int = Field(20, ge=1, le=100)
    cursor: Cursor | None = None
    status: list[CallStatus] = Field(default_factory=list[CallStatus], max_length=11)
    contact_id: UUID | None = None
    script_id: UUID | None = None
    created_from: GivenMoment | None = None
    created_to: GivenMoment | None = None


class CallPage(Answer):
    total: int
    page: int
    limit: int
    total_pages: int
    next_cursor: str | None
    data: list[CallItem]


class CallId(Model):
    call_id: UUID


class TimelineEntry(Answer):
    """One thing that became known of a call. `at` is the time that its source gives."""

    id: UUID
    at: Moment
    type: str = Field(
        description="created, dispatch (an attempt whose outcome is unclear), create-answer, status-update, "
        "end-of-call-report, call-snapshot, cancel, or verdict (the service's own)"
    )
    source: str = Field(description="user, dispatch, webhook, sync, or service")
    status: str | None
    detail: dict[str, object] | None


class Timeline(Answer):
    data: list[TimelineEntry]


class Card(Answer):
    title: str
    value: str


class Point(Answer):
    x: int
    y: int
    label: str


class LineChart(Answer):
    title: str
    subtitle: str
    badge: str
    points: list[Point]


class Stats(Answer):
    cards: list[Card]
    lineChart: LineChart


_CALL = ("call_not_found",)

CREATE_CALL = Rpc(
    subjects.service("calls", "create"),
    PlaceCall,
    Call,
    (
        "contact_not_found",
        "script_not_found",
        "max_active_calls",
        "provider_error",
        "idempotency_key_reused",
        "idempotency_key_in_use",
    ),
)
LIST_CALLS = Rpc(subjects.service("calls", "list"), ListCalls, CallPage)
GET_CALL = Rpc(subjects.service("calls", "get"), CallId, Call, _CALL)
CANCEL_CALL = Rpc(
    subjects.service("calls", "cancel"),
    CallId,
    Call,
    (*_CALL, "call_not_cancellable", "provider_error", "provider_timeout"),
)
SYNC_CALL = Rpc(subjects.service("calls", "sync"), CallId, Call, (*_CALL, "provider_error", "provider_timeout"))
CALL_TIMELINE = Rpc(subjects.service("calls", "events"), CallId, Timeline, _CALL)
PENDING_COUNT = Rpc(subjects.service("calls", "pending-count"), Nothing, Count)
CALL_STATS = Rpc(subjects.service("calls", "stats"), Nothing, Stats)
