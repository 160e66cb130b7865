"""An answer of the HTTP server, on top of uvicorn's, and what all its connections share: their limits, and the header
lines that every answer carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

Headers = tuple[tuple[bytes, bytes], ...]

# On every answer, whoever makes it; an answer that brings one of them itself keeps its own.
SECURITY_HEADERS: Headers = (
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_REPLACEABLE = frozenset(name for name, _ in SECURITY_HEADERS)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_FORBIDDEN = re.compile(b"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds: `head` from connecting, or from a head's first byte, to its end; `body` from there to the end
    of the body; `answer` for a peer to take what was written to it; `idle` between requests; `linger` for reading on
    after the last answer. `head_bytes` counts request line and headers; a chunked body may take `overhead` bytes and
    ten for each byte of its content."""

    head: float = 10.0
    body: float = 10.0
    answer: float = 60.0
    # Longer than the minute for which proxies keep a connection: they, not we, close it, and lose no request to the
    # race.
    idle: float = 75.0
    linger: float = 2.0
    head_bytes: int = 64 * 1024
    header_count: int = 128
    # Requests that came before the answer to an earlier one.
    waiting: int = 64
    overhead: int = 64 * 1024
    connections: int = 10_000


class State(ServerState):
    """`block`: the header lines of every answer, brought up to date once a second."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.block = b""


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class Exchange(RequestResponseCycle):
    """One request and its answer. The head is written in one go: uvicorn looks at each of its headers several times."""

    state: State
    # The connection ends with this answer while the rest of the body is still coming.
    lingers = False

    async def send(self, message: Any) -> None:
        if self.response_started:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] != "http.response.start":
            raise RuntimeError(f"not the start of an answer: {message['type']}")
        head = self._head(message["status"], message["headers"])
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head)

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINE[status], self.state.block]
        own: set[bytes] = set()
        for name, value in headers:
            if _FORBIDDEN.search(value):
                raise RuntimeError("a header's value has a control character in it")
            if name in _FRAMING:
                self._frame(name, value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif name in _REPLACEABLE:
                own.add(name)
            lines += (name, b": ", value, b"\r\n")
        if own:
            lines[1] = lines_of(header for header in self.default_headers if header[0] not in own)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
            # Not closed at once by what is above us.
            self.lingers = self.keep_alive = self.more_body
        if self.chunked_encoding is None and status not in _BODILESS and self.scope["method"] != "HEAD":
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _frame(self, name: bytes, value: bytes) -> None:
        self.chunked_encoding = name == b"transfer-encoding"
        self.expected_content_length = 0 if self.chunked_encoding else int(value)
