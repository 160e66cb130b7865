"""Opaque cursors for keyset pages: a creation time and an id, in 32 URL-safe characters."""

from __future__ import annotations

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

from boostedcalls.common.errors import problem

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def encode_cursor(created_at: datetime, object_id: UUID) -> str:
    packed = struct.pack(">q", (created_at - _EPOCH) // _MICROSECOND) + object_id.bytes
    return base64.urlsafe_b64encode(packed).decode()


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """The inverse of encode_cursor. Raises ServiceError validation_failed for anything else."""
    try:
        packed = base64.b64decode(cursor, altchars=b"-_", validate=True)
        (microseconds,) = struct.unpack(">q", packed[:8])
        return _EPOCH + microseconds * _MICROSECOND, UUID(bytes=packed[8:])
    except (binascii.Error, struct.error, ValueError, OverflowError):
        raise problem(
            "validation_failed", errors=[{"field": "cursor", "message": "is not a cursor that we gave"}]
        ) from None
