"""What a segment of the spool holds: records, framed so that a damaged one is known for what it is. Pure.

    mark 4 bytes | length of the content | crc32 of the content | crc32 of these three | content
    content: id 64 bytes | length of the headers | headers (JSON) | body

Lengths and checksums are 4 bytes, the first one first. A frame has a checksum of its own, so that its length can be
trusted: a record with a damaged content is stepped over, and only a damaged frame ends the reading.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import SEEK_CUR
from typing import BinaryIO, Self, cast
from zlib import crc32

import orjson

_MARK = b"BCR1"
_FRAME = struct.Struct(">4sIII")
_CHECKED = struct.Struct(">4sII")
_LENGTH = struct.Struct(">I")
_ID_BYTES = 64


@dataclass(frozen=True, slots=True)
class Record:
    """A webhook that came in: `id` is the SHA-256 of its body, in hex; `headers` what else must be kept of it."""

    id: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, body: bytes, headers: Mapping[str, str]) -> Self:
        return cls(hashlib.sha256(body).hexdigest(), headers, body)


@dataclass(slots=True)
class Contents:
    """What was read: the good records, how many damaged ones there are, and where a torn tail begins.

    A tail is torn when the bytes end before the record does, or when only zeros are left: a write that was cut short,
    of which nobody was told that it is stored.
    """

    records: list[Record] = field(default_factory=list[Record])
    damaged: int = 0
    torn_at: int | None = None


def encode(record: Record) -> bytes:
    headers = orjson.dumps(dict(record.headers))
    content = b"".join((record.id.encode(), _LENGTH.pack(len(headers)), headers, record.body))
    checked = _CHECKED.pack(_MARK, len(content), crc32(content))
    return b"".join((checked, _LENGTH.pack(crc32(checked)), content))


def decode(data: bytes) -> Contents:
    found = Contents()
    offset = 0
    while offset < len(data):
        frame = _frame(data[offset : offset + _FRAME.size])
        if frame is None:
            if len(data) - offset < _FRAME.size or not data[offset:].strip(b"\0"):
                found.torn_at = offset
            else:
                found.damaged += 1
            break
        length, checksum = frame
        content = data[offset + _FRAME.size : offset + _FRAME.size + length]
        if len(content) < length:
            found.torn_at = offset
            break
        record = _record(content) if crc32(content) == checksum else None
        if record is None:
            found.damaged += 1
        else:
            found.records.append(record)
        offset += _FRAME.size + length
    return found


def count(file: BinaryIO) -> int:
    """How many records there are, by their frames alone."""
    found = 0
    while frame := _frame(file.read(_FRAME.size)):
        file.seek(frame[0], SEEK_CUR)
        found += 1
    return found


def _frame(data: bytes) -> tuple[int, int] | None:
    """Length and checksum of the content."""
    if len(data) < _FRAME.size:
        return None
    mark, length, checksum, own = cast("tuple[bytes, int, int, int]", _FRAME.unpack(data))
    return (length, checksum) if mark == _MARK and own == crc32(data[: _CHECKED.size]) else None


def _record(content: bytes) -> Record | None:
    try:
        (length,) = cast("tuple[int]", _LENGTH.unpack_from(content, _ID_BYTES))
        start = _ID_BYTES + _LENGTH.size
        headers = orjson.loads(content[start : start + length])
        return Record(content[:_ID_BYTES].decode(), dict(headers), content[start + length :])
    except (struct.error, ValueError, TypeError):
        return None
