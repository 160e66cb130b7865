"""What a provider's message changes in a call: shared by the peers that apply webhooks. Pure.

The same rules as the seed's product: a status never goes back, an end needs a reason, a report brings the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

WORDS = {
    "scheduled": "queued",
    "queued": "queued",
    "ringing": "ringing",
    "in-progress": "in-progress",
    "forwarding": "in-progress",
}
RANKS = {"pending": 0, "queued": 1, "initiated": 2, "ringing": 3, "in-progress": 4}
ACTIVE = tuple(RANKS)
TERMINAL = ("completed", "failed", "cancelled", "no-answer", "busy", "voicemail")
STATUSES = (*ACTIVE, *TERMINAL)
_ENDED = 9
_REASONS = {
    "customer-busy": "busy",
    "customer-did-not-answer": "no-answer",
    "voicemail": "voicemail",
    "manually-canceled": "cancelled",
    "assistant-ended-call": "completed",
    "assistant-said-end-call-phrase": "completed",
    "assistant-forwarded-call": "completed",
    "customer-ended-call": "completed",
    "exceeded-max-duration": "completed",
    "silence-timed-out": "completed",
}
_OUTCOMES = {"busy": "busy", "no-answer": "no_answer", "voicemail": "voicemail"}
_EVALUATIONS = {"true": "success", "success": "success", "false": "failed", "failed": "failed"}


def call_id_of(message: Mapping[str, Any]) -> str | None:
    """The provider's id of the call that the message is about."""
    return (message.get("call") or {}).get("id")


def changes(status: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """The columns to write for a call that has `status` now; empty when the message says nothing new."""
    match message.get("type"):
        case "status-update":
            return _status_update(status, message)
        case "end-of-call-report":
            return _report(message)
        case _:
            return {}


def _status_update(status: str, message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("status") == "ended":
        return {} if status in TERMINAL else _end(message.get("endedReason"))
    word = WORDS.get(message.get("status") or "")
    if word is None or RANKS[word] <= RANKS.get(status, _ENDED):
        return {}
    started_at = (message.get("call") or {}).get("startedAt")
    return {"status": word} | ({"started_at": _moment(started_at)} if started_at else {})


def _end(reason: str | None) -> dict[str, Any]:
    status = _REASONS.get(reason or "", "failed")
    return {"status": status, "ended_reason": reason} | ({"outcome": _OUTCOMES[status]} if status in _OUTCOMES else {})


def _report(message: Mapping[str, Any]) -> dict[str, Any]:
    artifact, analysis = message.get("artifact") or {}, message.get("analysis") or {}
    started_at, ended_at = _moment(message.get("startedAt")), _moment(message.get("endedAt"))
    cost = message.get("cost")
    found = {
        "outcome": _EVALUATIONS.get(str(analysis.get("successEvaluation")).lower()),
        **_end(message.get("endedReason")),
        "transcript": artifact.get("transcript"),
        "summary": analysis.get("summary"),
        "analysis": analysis or None,
        "messages": artifact.get("messages"),
        "recording_url": artifact.get("recordingUrl"),
        "started_at": started_at,
        "ended_at": ended_at,
        "duration_seconds": round((ended_at - started_at).total_seconds()) if started_at and ended_at else None,
        "cost": None if cost is None else Decimal(str(cost)),
    }
    return {name: value for name, value in found.items() if value is not None}


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
