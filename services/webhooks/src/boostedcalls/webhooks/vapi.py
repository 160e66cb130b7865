"""The provider's webhooks: raw bytes -> the message in them. Pure. Reference: Vapi's published `ServerMessage` schemas.

Bodies are foreign data and their types grow all the time, so nothing is demanded of a message but a `type`.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from boostedcalls.common import lenient_json, subjects
from boostedcalls.common.provider import Json, as_object, message_in
from boostedcalls.common.redact import redact

DOCUMENTED = frozenset(
    {
        "assistant-request",
        "assistant.speechStarted",
        "assistant.started",
        "call.artifact.upload",
        "call.delete.failed",
        "call.deleted",
        "call.endpointing.request",
        "campaign.event",
        "campaign.predial",
        "chat.created",
        "chat.deleted",
        "conversation-update",
        "end-of-call-report",
        "function-call",
        "handoff-destination-request",
        "hang",
        "knowledge-base-request",
        "language-change-detected",
        "language-changed",
        "model-output",
        "phone-call-control",
        "session.created",
        "session.deleted",
        "session.updated",
        "speech-update",
        "status-update",
        "tool-calls",
        "transcript",
        'transcript[transcriptType="final"]',
        "transfer-destination-request",
        "transfer-update",
        "user-interrupted",
        "voice-input",
        "voice-request",
    }
)


class NotAMessage(Exception):
    """A body that no message can be read from. `reason` says why; `data` is what may be kept of it."""

    def __init__(self, reason: str, data: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.data = data


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook's message, fit to be stored, and the call it is about (None where it names none that is a token)."""

    kind: str
    call_id: str | None
    content: Json

    @property
    def label(self) -> str:
        """The type for a metric: one of a bounded number."""
        return subjects.slug(self.kind) if self.kind in DOCUMENTED else "other"


def parse(body: bytes) -> Message:
    """Raises NotAMessage when the body is no JSON object with a `message` that has a `type`."""
    try:
        envelope = redact(lenient_json.loads(body))
    except ValueError:
        raise NotAMessage("not JSON", body) from None
    content = message_in(envelope)
    kind = content.get("type")
    if not isinstance(kind, str) or not kind:
        reason = "no type" if content else "no message" if isinstance(envelope, dict) else "no JSON object"
        raise NotAMessage(reason, orjson.dumps(envelope))
    return Message(kind, _call_id(content), content)


def _call_id(content: Json) -> str | None:
    candidates = (
        as_object(content.get("call")).get("id"),
        content.get("callId"),
        as_object(content.get("data")).get("callId"),
    )
    for found in candidates:
        if isinstance(found, str):
            try:
                return subjects.token(found)
            except ValueError:
                continue
    return None
