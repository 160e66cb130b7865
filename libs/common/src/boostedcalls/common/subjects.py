"""Every subject, built from checked tokens, with its inverse.

| kind | pattern |
|---|---|
| request/reply | `bc.svc.<noun>.<verb>` |
| provider event | `bc.evt.provider.<type>.<provider call id>` |
| call event | `bc.evt.call.<what happened>.<user id>.<call id>` |
| contact event | `bc.evt.contact.<what happened>.<user id>.<contact id>` |
| job | `bc.job.<what>` |
| dead letter | `bc.dlq.<origin>.<sequence or digest>` |
| note of a replay | `bc.dlq.replayed.<sequence of the dead letter>` |
| readiness | `bc.ping` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

PROVIDER_EVENTS = "bc.evt.provider.>"
CALL_EVENTS = "bc.evt.call.>"
CONTACT_EVENTS = "bc.evt.contact.>"
JOBS = "bc.job.>"
DEAD_LETTERS = "bc.dlq.>"
REPLAY_NOTES = "bc.dlq.replayed.*"
JOB_SYNC = "bc.job.sync"
# Nobody listens there: who asks learns that the server answers.
PING = "bc.ping"

NO_CALL = "none"
_REPLAYED = "replayed"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def token(text: str) -> str:
    """The text itself when it may stand between two dots. Raises ValueError otherwise."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"not a subject token: {text[:80]!r}")
    return text


def slug(text: str) -> str:
    """A token made from anything: `assistant.started` becomes `assistant-started`; never empty."""
    return _UNSAFE.sub("-", text)[:64].strip("-") or "unknown"


def service(noun: str, verb: str) -> str:
    return f"bc.svc.{token(noun)}.{token(verb)}"


def provider_event(kind: str, provider_call_id: str | None) -> str:
    """Raises ValueError for a call id that is no token; the kind is made one."""
    return f"bc.evt.provider.{slug(kind)}.{token(provider_call_id) if provider_call_id else NO_CALL}"


def call_event(what: str, user_id: UUID, call_id: UUID) -> str:
    return f"bc.evt.call.{token(what)}.{user_id}.{call_id}"


def contact_event(what: str, user_id: UUID, contact_id: UUID) -> str:
    return f"bc.evt.contact.{token(what)}.{user_id}.{contact_id}"


def dead_letter(origin: str, mark: int | str) -> str:
    """`mark` tells the letters of an origin apart: the message's place in its stream, or its digest. Raises ValueError
    for one that is no token."""
    return f"bc.dlq.{slug(origin)}.{token(str(mark))}"


def dead_letters_of(origin: str) -> str:
    """All letters of an origin, to listen to or to read."""
    return f"bc.dlq.{slug(origin)}.*"


def replay_note(sequence: int) -> str:
    return dead_letter(_REPLAYED, sequence)


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A call or contact event's subject, taken apart."""

    noun: str
    what: str
    user_id: UUID
    object_id: UUID


def parse_object_event(subject: str) -> ObjectEvent:
    """The inverse of call_event and contact_event. Raises ValueError for any other subject."""
    parts = subject.split(".")
    if len(parts) != 6 or parts[:2] != ["bc", "evt"] or parts[2] not in {"call", "contact"}:
        raise ValueError(f"not a call or contact event: {subject[:200]!r}")
    return ObjectEvent(parts[2], token(parts[3]), UUID(parts[4]), UUID(parts[5]))


def parse_provider_event(subject: str) -> tuple[str, str | None]:
    """The inverse of provider_event: (kind, provider call id or None). Raises ValueError for any other subject."""
    parts = subject.split(".")
    if len(parts) != 5 or parts[:3] != ["bc", "evt", "provider"]:
        raise ValueError(f"not a provider event: {subject[:200]!r}")
    return token(parts[3]), None if parts[4] == NO_CALL else token(parts[4])


def is_replay_note(subject: str) -> bool:
    return subject.startswith(f"bc.dlq.{_REPLAYED}.")


def parse_dead_letter(subject: str) -> tuple[str, str]:
    """The inverse of dead_letter: (origin, mark). Raises ValueError for any other subject."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[:2] != ["bc", "dlq"] or is_replay_note(subject):
        raise ValueError(f"not a dead letter: {subject[:200]!r}")
    return token(parts[2]), token(parts[3])


def parse_replay_note(subject: str) -> int:
    """The inverse of replay_note. Raises ValueError for any other subject."""
    if not is_replay_note(subject):
        raise ValueError(f"not the note of a replay: {subject[:200]!r}")
    return int(subject.split(".", 3)[3])
