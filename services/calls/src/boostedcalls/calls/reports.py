"""What the provider says -> facts: pure functions over its payloads (reference: Vapi's published schema).

Payloads are foreign data: a member of the wrong type counts as absent, never as an error. Values are looked for where
the schema puts them first (`artifact`, `analysis`), then where real payloads were seen to carry them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from boostedcalls.calls.reasons import status_of
from boostedcalls.calls.state import Fact, Source
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.messages.calls import CallStatus, Outcome
from boostedcalls.common.provider import as_object

Json = Mapping[str, Any]

SNAPSHOT = "call-snapshot"

_STATUSES = {
    "scheduled": CallStatus.QUEUED,
    "queued": CallStatus.QUEUED,
    "ringing": CallStatus.RINGING,
    "in-progress": CallStatus.IN_PROGRESS,
    "forwarding": CallStatus.IN_PROGRESS,
}
_ENDED = "ended"
_EVALUATIONS = {
    "true": Outcome.SUCCESS,
    "pass": Outcome.SUCCESS,
    "passed": Outcome.SUCCESS,
    "success": Outcome.SUCCESS,
    "false": Outcome.FAILED,
    "fail": Outcome.FAILED,
    "failed": Outcome.FAILED,
}
_OUTCOMES = {outcome.value for outcome in Outcome}
_MAX_COST = 1_000_000
# asyncpg writes the first and the last time that Python knows as infinities and cannot read them back.
_YEARS = range(2000, 3000)


def _text(*values: Any) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)


def _number(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def moment(value: Any) -> datetime | None:
    """A time of the years 2000 to 2999 from ISO 8601 text or from epoch milliseconds; None for anything else."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        elif (number := _number(value)) is not None:
            found = datetime.fromtimestamp(number / 1000, UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.year in _YEARS else None


def call_of(event: ProviderEvent) -> Json:
    """The provider's call object in an event; empty when there is none."""
    return as_object(event.message.get("call"))


def facts_of(event: ProviderEvent) -> list[Fact]:
    """The facts in a provider event; none in one that says nothing about a call's state."""
    match event.kind:
        case "status-update":
            return _status_update(event)
        case "end-of-call-report":
            return [_report(event)]
        case kind if kind == SNAPSHOT:
            return [snapshot(call_of(event), event.received_at)]
        case _:
            return []


def _status_update(event: ProviderEvent) -> list[Fact]:
    message = event.message
    at = moment(message.get("timestamp")) or event.received_at
    word = message.get("status")
    if word == _ENDED:
        return [_ended(Source.STATUS_UPDATE, at, message, call_of(event), {}, final=False)]
    status = _STATUSES.get(word) if isinstance(word, str) else None
    if status is None:
        return []
    started = moment(call_of(event).get("startedAt"))
    return [Fact(Source.STATUS_UPDATE, at, status, values={"started_at": started} if started else {})]


def _report(event: ProviderEvent) -> Fact:
    message, call = event.message, call_of(event)
    at = moment(message.get("timestamp")) or event.received_at
    return _ended(Source.REPORT, at, message, call, _values(message, call), final=True)


def snapshot(call: Json, asked_at: datetime) -> Fact:
    """The fact in a call object that we asked the provider for."""
    at = moment(call.get("updatedAt")) or asked_at
    values = _values(call, call)
    if call.get("status") == _ENDED:
        # The provider shows an ended call before it has worked out analysis and cost: those make it complete.
        worked_out = isinstance(call.get("analysis"), dict) and "cost" in values
        complete = worked_out and _text(call.get("endedReason")) is not None
        return _ended(Source.SNAPSHOT, at, call, call, values, final=complete)
    word = call.get("status")
    return Fact(Source.SNAPSHOT, at, _STATUSES.get(word) if isinstance(word, str) else None, values=values)


def create_answer(call: Json, asked_at: datetime) -> Fact:
    """The fact in the answer to our own `POST /call`. Queued there means accepted: still `pending` for our clients."""
    word = call.get("status")
    status = _STATUSES.get(word) if isinstance(word, str) else None
    return Fact(
        Source.CREATE_ANSWER,
        moment(call.get("createdAt")) or asked_at,
        CallStatus.PENDING if status in {None, CallStatus.QUEUED} else status,
    )


def _ended(source: Source, at: datetime, message: Json, call: Json, values: Json, *, final: bool) -> Fact:
    reason = _text(message.get("endedReason"), call.get("endedReason"))
    reason = reason[:200] if reason else None
    if reason is not None:
        status = status_of(reason)
    else:
        connected = moment(message.get("startedAt")) or moment(call.get("startedAt"))
        status = CallStatus.COMPLETED if connected else CallStatus.FAILED
    failed = status is CallStatus.FAILED
    return Fact(
        source,
        at,
        status,
        reason,
        error_code="provider_failure" if failed else None,
        error_message=(_text(message.get("endedMessage"), call.get("endedMessage"), reason) or "")[:2000] or None
        if failed
        else None,
        values=values,
        final=final,
    )


def _values(message: Json, call: Json) -> dict[str, Any]:
    """The fields of a call's result, from a report's message or from a call object (then both are the same)."""
    artifact = as_object(message.get("artifact")) or as_object(call.get("artifact"))
    analysis = dict(as_object(message.get("analysis")) or as_object(call.get("analysis")))
    structured = as_object(artifact.get("structuredOutputs"))
    recording = as_object(artifact.get("recording"))
    started = moment(message.get("startedAt")) or moment(call.get("startedAt"))
    ended = moment(message.get("endedAt")) or moment(call.get("endedAt"))
    cost = _number(message.get("cost"))
    messages = artifact.get("messages") or message.get("messages")
    found: dict[str, Any] = {
        "transcript": _text(artifact.get("transcript"), message.get("transcript")),
        "summary": _text(analysis.get("summary"), message.get("summary")),
        "analysed_outcome": _analysed_outcome(analysis, structured),
        "analysis": {**analysis, "structuredOutputs": structured} if structured else analysis or None,
        "messages": messages if isinstance(messages, list) and messages else None,
        "recording_url": _text(
            artifact.get("recordingUrl"),
            as_object(recording.get("mono")).get("combinedUrl"),
            message.get("recordingUrl"),
        ),
        "stereo_recording_url": _text(
            artifact.get("stereoRecordingUrl"), recording.get("stereoUrl"), message.get("stereoRecordingUrl")
        ),
        "started_at": started,
        "ended_at": ended,
        "duration_seconds": _duration(message, started, ended),
        "cost": _money(cost if cost is not None else _number(call.get("cost"))),
        "cost_breakdown": as_object(message.get("costBreakdown")) or as_object(call.get("costBreakdown")) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _duration(message: Json, started: datetime | None, ended: datetime | None) -> int | None:
    reported = _number(message.get("durationSeconds"))
    if reported is None and started and ended:
        reported = (ended - started).total_seconds()
    return round(reported) if reported is not None and 0 <= reported < 10_000_000 else None


def _money(value: float | None) -> Decimal | None:
    return round(Decimal(str(value)), 6) if value is not None and 0 <= value < _MAX_COST else None


def _analysed_outcome(analysis: Json, structured: Json) -> str | None:
    """What the provider's analysis says of the outcome, in our words; None where it says nothing that is one."""
    for output in structured.values():
        name = _text(as_object(output).get("name"))
        if name and name.lower() == "outcome":
            result = as_object(output).get("result")
            word = _text(result, as_object(result).get("outcome"))
            if word and (normal := word.strip().lower().replace("-", "_").replace(" ", "_")) in _OUTCOMES:
                return normal
    evaluation = analysis.get("successEvaluation")
    word = str(evaluation).strip().lower().replace("-", "_").replace(" ", "_") if evaluation is not None else ""
    if word in _OUTCOMES:
        return word
    return _EVALUATIONS.get(word)
