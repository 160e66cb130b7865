"""Our call id in the provider's metadata, signed: only a report of a call that we placed may claim one of our calls."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

CALL_ID = "internalCallId"
SIGNATURE = "internalCallSignature"


def sign(secret: bytes, call_id: UUID, user_id: UUID) -> str:
    """HMAC-SHA256 over call and user, 32 hex digits."""
    return hmac.new(secret, f"{call_id}|{user_id}".encode(), hashlib.sha256).hexdigest()[:32]


def metadata(secret: bytes, call_id: UUID, user_id: UUID) -> dict[str, str]:
    """What goes into `assistantOverrides.metadata`."""
    return {CALL_ID: str(call_id), SIGNATURE: sign(secret, call_id, user_id)}


def claimed_call(call: Mapping[str, Any]) -> tuple[UUID, str] | None:
    """The call id and signature that a provider's call object carries, unverified; None when it carries none."""
    overrides = call.get("assistantOverrides")
    carried = cast("Mapping[str, Any]", overrides).get("metadata") if isinstance(overrides, Mapping) else None
    if not isinstance(carried, Mapping):
        return None
    found = cast("Mapping[str, Any]", carried)
    try:
        return UUID(str(found[CALL_ID])), str(found[SIGNATURE])
    except (KeyError, ValueError):
        return None


def verified(secret: bytes, signature: str, call_id: UUID, user_id: UUID) -> bool:
    """Whether the signature was made by us for this call of this user; constant time."""
    expected = sign(secret, call_id, user_id)
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
