"""nats-py's client, with the headers of a message written and read in one go.

An event has ten headers. nats-py writes and checks each by itself, which takes longer than everything else it does to
send a message, and reads each name letter by letter (figures: docs/benchmarks.md). What is unusual is left to its own
way. The release is pinned to 2.16, whose code this is.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nats.aio.client import Client as NatsClient

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BLANKS = " \t\r\n\x0b\x0c"


@lru_cache(maxsize=256)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def written(headers: Mapping[str, str]) -> bytes | None:
    """The headers as they go over the wire; None when one of them is not quite in order."""
    # Added and not formatted: names may be members of nats-py's enum, and what is no text must raise.
    lines = [name + ": " + value.strip() for name, value in headers.items() if _is_name(name)]
    block = "\r\n".join(lines)
    # Line ends in a value would make headers of their own.
    if not lines or len(lines) < len(headers) or max(block.count("\r"), block.count("\n")) >= len(lines):
        return None
    return f"NATS/1.0\r\n{block}\r\n\r\n".encode()


class Client(NatsClient):
    """A NatsClient in all but speed."""

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        head = written(headers) if headers else None
        if head is None or not subject:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        sizes = f"{len(head)} {len(head) + len(payload)}"
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(b"".join((f"HPUB {subject} {reply} {sizes}\r\n".encode(), head, payload, b"\r\n")))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon and (_is_name(name) or _is_odd_name(name := name.strip(_BLANKS))):
                found[name] = value.strip(_BLANKS)
        return found


def _is_odd_name(name: str) -> bool:
    """What nats-py takes for a name besides those that it would send."""
    return name.isascii() and not any(letter.isspace() for letter in name)
