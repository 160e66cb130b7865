"""A call's state as the join of its facts: pure functions, no I/O, no clock.

Every field is a register that keeps the value with the greatest key. Keys are totally ordered and equal keys mean equal
values, so the join is commutative, associative and idempotent: any order of the facts, with any repeats, gives the
same state. The order of arrival is never part of a key.

Status: a rank never goes down, and among terminal verdicts the one with more authority wins. Other fields: authority of
the source, then the provider's time (which late results need not move), then how much it says, then a digest of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from boostedcalls.calls.reasons import status_of
from boostedcalls.common.messages.calls import CallStatus, Outcome

RANKS: dict[CallStatus, int] = {
    CallStatus.PENDING: 0,
    CallStatus.QUEUED: 1,
    CallStatus.INITIATED: 2,
    CallStatus.RINGING: 3,
    CallStatus.IN_PROGRESS: 4,
    CallStatus.COMPLETED: 9,
    CallStatus.FAILED: 9,
    CallStatus.CANCELLED: 9,
    CallStatus.NO_ANSWER: 9,
    CallStatus.BUSY: 9,
    CallStatus.VOICEMAIL: 9,
}
TERMINAL = frozenset(status for status, rank in RANKS.items() if rank == 9)
ACTIVE = frozenset(RANKS) - TERMINAL

# Between equally good verdicts: the one that says most about what happened.
_ORDER = {
    status: place
    for place, status in enumerate(
        (
            CallStatus.FAILED,
            CallStatus.CANCELLED,
            CallStatus.NO_ANSWER,
            CallStatus.BUSY,
            CallStatus.VOICEMAIL,
            CallStatus.COMPLETED,
        )
    )
}


class Source(StrEnum):
    """Where a fact comes from."""

    CANCEL = "cancel"
    REPORT = "end-of-call-report"
    SNAPSHOT = "call-snapshot"
    STATUS_UPDATE = "status-update"
    CREATE_ANSWER = "create-answer"
    OURS = "verdict"


_AUTHORITY = {
    Source.CANCEL: 60,
    Source.REPORT: 50,
    Source.SNAPSHOT: 40,
    Source.STATUS_UPDATE: 30,
    Source.CREATE_ANSWER: 20,
    Source.OURS: 10,
}
_ENDED_WITHOUT_REASON = 15

Key = list[int | str]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing we learned about a call.

    `at` is the provider's time (for display and for ties between fields), `status` what it claims, `reason` the
    provider's ended reason, `values` the fields of CallState that it carries (never None), `final` whether it is the
    complete result of an ended call.
    """

    source: Source
    at: datetime
    status: CallStatus | None = None
    reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    final: bool = False


@dataclass(frozen=True, slots=True)
class CallState:
    """What is known of a call. Fields are named as the table's columns; `cost` in US dollars."""

    status: CallStatus = CallStatus.PENDING
    ended_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    outcome: str | None = None
    analysed_outcome: str | None = None
    transcript: str | None = None
    summary: str | None = None
    analysis: dict[str, Any] | None = None
    messages: list[Any] | None = None
    recording_url: str | None = None
    stereo_recording_url: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_seconds: int | None = None
    cost: Decimal | None = None
    cost_breakdown: dict[str, Any] | None = None
    final: bool = False
    keys: dict[str, Key] = field(default_factory=dict[str, Key])


JOINED = tuple(CallState.__dataclass_fields__)
"""The names of the joined columns, in the order in which they are written."""


def _encoded(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


def _weight(value: Any, encoded: bytes) -> int:
    """How much a value says: a number by its size, anything else by its length."""
    return int(value * 1_000_000) if isinstance(value, int | Decimal) else len(encoded)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _status_key(fact: Fact) -> Key:
    status = fact.status or CallStatus.PENDING
    if status not in TERMINAL:
        return [RANKS[status]]
    authority = _AUTHORITY[fact.source]
    if fact.reason is None and fact.source not in {Source.CANCEL, Source.OURS}:
        authority = _ENDED_WITHOUT_REASON
    words = [fact.reason or "", fact.error_code or "", fact.error_message or ""]
    return [RANKS[status], authority, _ORDER[status], *words]


def _outcome(reason: str | None, analysed: str | None) -> str | None:
    by_reason = {
        CallStatus.BUSY: Outcome.BUSY,
        CallStatus.NO_ANSWER: Outcome.NO_ANSWER,
        CallStatus.VOICEMAIL: Outcome.VOICEMAIL,
    }
    return (by_reason.get(status_of(reason)) if reason else None) or analysed


def fold(state: CallState, facts: Iterable[Fact]) -> CallState:
    """The join of a state with facts."""
    keys = dict(state.keys)
    won: dict[str, Any] = {}
    final = state.final

    def offer(name: str, key: Key, values: Mapping[str, Any]) -> None:
        if name not in keys or key > keys[name]:
            keys[name] = key
            won.update(values)

    for fact in facts:
        authority, at = _AUTHORITY[fact.source], _milliseconds(fact.at)
        final = final or fact.final
        if fact.status is not None:
            verdict = {"status": fact.status, "error_code": fact.error_code, "error_message": fact.error_message}
            offer("status", _status_key(fact), verdict)
        if fact.reason is not None:
            # Ordered as the status is, so that the two agree, and without a time, which retries may change.
            key: Key = [authority, _ORDER[status_of(fact.reason)], fact.reason]
            offer("ended_reason", key, {"ended_reason": fact.reason})
        for name, value in fact.values.items():
            encoded = _encoded(value)
            offer(name, [authority, at, _weight(value, encoded), _digest(encoded)], {name: value})

    outcome = _outcome(won.get("ended_reason", state.ended_reason), won.get("analysed_outcome", state.analysed_outcome))
    return replace(state, **won, final=final, keys=keys, outcome=outcome)


def visibly_changed(old: CallState, new: CallState) -> bool:
    """Whether the two differ in anything but what their values won with."""
    return any(getattr(old, name) != getattr(new, name) for name in JOINED if name != "keys")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a call's timeline. The id is made from its content, so a repeated fact is the same line."""

    id: UUID
    at: datetime
    type: str
    source: str
    status: str | None
    detail: dict[str, Any] | None


_PUBLIC_SOURCE = {
    Source.CANCEL: "user",
    Source.REPORT: "webhook",
    Source.STATUS_UPDATE: "webhook",
    Source.SNAPSHOT: "sync",
    Source.CREATE_ANSWER: "dispatch",
    Source.OURS: "service",
}


def entry(call_id: UUID, fact: Fact) -> Entry:
    """The timeline's line for a fact: what it said of the call, without transcript or prices."""
    detail = {
        name: value
        for name, value in (
            ("ended_reason", fact.reason),
            ("error_code", fact.error_code),
            ("error_message", fact.error_message),
        )
        if value is not None
    }
    return timeline_entry(call_id, fact.source, _PUBLIC_SOURCE[fact.source], fact.at, fact.status, detail or None)


def timeline_entry(
    call_id: UUID, kind: str, source: str, at: datetime, status: str | None, detail: dict[str, Any] | None
) -> Entry:
    content = _digest(_encoded([kind, source, at.astimezone(UTC), status, detail]))
    return Entry(uuid5(NAMESPACE_URL, f"{call_id}/{content}"), at, kind, source, status, detail)
