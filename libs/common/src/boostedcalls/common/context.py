"""Who asks, under which request, in which trace; and how that is told to the logs.

Trace ids follow W3C Trace Context: `00-<32 hex trace id>-<16 hex span id>-<2 hex flags>`.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog
from uuid_utils import compat

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


def new_id() -> UUID:
    """A UUID of version 7: unique, and in the order of its making."""
    return compat.uuid7()


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf something is done. `user_id` is None for work that no person asked for; `received_at` says when
    what is passed on came in, where that matters."""

    user_id: UUID | None
    request_id: str
    traceparent: str
    received_at: datetime | None = None

    @property
    def user(self) -> UUID:
        """The user. Raises LookupError where only a person may ask."""
        if self.user_id is None:
            raise LookupError("this needs a user")
        return self.user_id


def caller(
    user_id: UUID | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
    received_at: str | None = None,
) -> Caller:
    """A caller with well-formed ids: those given where they are so, new ones elsewhere; a new span in the trace.
    `received_at` is written as in RFC 3339; what is no such time counts as absent."""
    fresh = secrets.token_hex(24)
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    trace = match[1] if match and set(match[1]) != {"0"} else fresh[16:]
    flags = match[3] if match else "00"
    if not request_id or not _REQUEST_ID.fullmatch(request_id):
        request_id = str(new_id())
    return Caller(
        user_id, request_id, f"00-{trace}-{fresh[:16]}-{flags}", _moment(received_at) if received_at else None
    )


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def bind(who: Caller) -> None:
    """Put the ids on every log line of the current task."""
    structlog.contextvars.bind_contextvars(request_id=who.request_id, trace_id=who.traceparent.split("-")[1])
