"""A connection of the HTTP server, on top of uvicorn's: bounded in time and size, and strict where two readers of the
same bytes could come to two opinions.

uvicorn's own has no deadline for a request's arrival, nor a bound on its head, and answers broken bytes while an
earlier request still waits for its answer. Deadlines cost nothing per request: each connection notes when its time is
over, and the server looks at all of them twice a second (`check`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from enum import Enum, auto
from typing import Any, cast
from urllib.parse import unquote

import httptools
from prometheus_client import Counter
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from boostedcalls.common.context import new_id
from boostedcalls.common.errors import problem
from boostedcalls.common.http_exchange import Exchange, State

# On the scope of a request whose body did not come in time: whoever reads it answers 408, request_timeout.
LATE = "boostedcalls.late"

_NEVER = float("inf")
_OF_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_NO_LINGERING = struct.pack("ii", 1, 0)

REFUSED = Counter("boostedcalls_http_refused_total", "Connections ended by us for what came, or did not come", ["why"])


class _Stage(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    # A request is here in full; no other has begun to come.
    FULL = auto()
    # Nothing is read any more.
    OVER = auto()


class _Trailers(list[tuple[bytes, bytes]]):
    """Fields after a chunked body are no headers: an outer server has not looked at them."""

    def append(self, item: tuple[bytes, bytes], /) -> None:
        raise _Broken("bad_request")


class _Broken(Exception):
    """Why the bytes are refused: a code of common/errors.py."""


class Connection(HttpToolsProtocol):
    """Stages follow what is being received; which answer is being made is the business of `_answering`."""

    server_state: State
    parser: Any
    app: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = self.server_state.limits
        self._stage = _Stage.HEAD
        self._deadline = _NEVER
        # At most how many bytes of the current head came; of a body those after its head's data, and of its content.
        self._head_bytes = 0
        self._chunk = 0
        self._wire_bytes = 0
        self._body_bytes = 0
        self._answering: Exchange | None = None
        self._stalled_at: float | None = None
        self._why = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            REFUSED.labels("connections").inc()
            self._stage = _Stage.OVER
            transport.abort()
            return
        self._enter(_Stage.HEAD, self._limits.head)

    def _enter(self, stage: _Stage, seconds: float) -> None:
        self._stage = stage
        self._deadline = self.loop.time() + seconds

    # What comes in

    def data_received(self, data: bytes) -> None:
        stage = self._stage
        if stage is _Stage.OVER or self.transport.is_closing():
            return
        self._chunk = len(data)
        if stage is _Stage.IDLE:
            # Empty lines may come before a request: they begin none, and must not keep the connection either.
            self._enter(_Stage.HEAD, self._limits.head)
            self._head_bytes = self._chunk
        elif stage is _Stage.HEAD:
            self._head_bytes += self._chunk
        elif stage is _Stage.BODY:
            self._wire_bytes += self._chunk
        self._why = "bad_request"
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # What follows is in a language that we do not speak.
            self._close_after_answers()
        except httptools.HttpParserError:
            self._refuse(self._why)
        else:
            if self._stage is _Stage.HEAD and self._head_bytes > self._limits.head_bytes:
                self._refuse("headers_too_large")
            elif self._stage is _Stage.BODY and self._wire_bytes > self._limits.overhead + 10 * self._body_bytes:
                self._refuse("bad_request")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._stage is not _Stage.HEAD:
            self._enter(_Stage.HEAD, self._limits.head)
            self._head_bytes = self._chunk

    def on_headers_complete(self) -> None:
        headers, limits = self.headers, self._limits
        if len(headers) > limits.header_count or (
            self._head_bytes > limits.head_bytes
            and len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers) > limits.head_bytes
        ):
            self._broken("headers_too_large")
        if len(self.pipeline) >= limits.waiting:
            self._broken("bad_request")
        version = self.parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                self._broken("bad_request")
            self.scope["http_version"] = version
        url = httptools.parse_url(self.url)
        if not url.path:
            self._broken("bad_request")
        path = url.path.decode("ascii")
        if self.parser.should_upgrade() and any(name in _OF_A_BODY for name, _ in headers):
            # The parser would take its body for another language.
            self._broken("bad_request")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        self.headers = _Trailers()
        self._enter(_Stage.BODY, limits.body)
        self._wire_bytes = self._body_bytes = 0
        exchange = self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        exchange.state = self.server_state
        if self._answering is None or self._answering.response_complete:
            self._start(exchange)
        else:
            # One after another.
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def _broken(self, why: str) -> None:
        self._why = why
        raise _Broken(why)

    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        self._body_bytes += len(body)
        if exchange.response_complete:
            return
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()

    def on_message_complete(self) -> None:
        exchange = self.cycle
        exchange.more_body = False
        exchange.message_event.set()
        if exchange.response_complete:
            self._enter(_Stage.IDLE, self._limits.idle)
        else:
            self._stage = _Stage.FULL
            self._deadline = _NEVER

    # What goes out

    def _start(self, exchange: Exchange) -> None:
        self._answering = exchange
        self._start_asgi_task(exchange, self.app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._answering is not None and self._answering.body:
            # Nobody read it, and nobody will, however long the connection stays.
            self._answering.body = bytearray()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._answering is not None and self._answering.lingers:
            self._linger()
        elif self.pipeline:
            self._start(cast("Exchange", self.pipeline.pop()[0]))
        elif self._stage is _Stage.FULL:
            self._enter(_Stage.IDLE, self._limits.idle)

    def _refuse(self, code: str) -> None:
        """End the connection for what came. The request that it belongs to is answered so, unless it was answered
        already; those before it get their answers first, and then nobody is left to be told."""
        REFUSED.labels(code).inc()
        exchange = self.cycle if self._stage is _Stage.BODY else None
        if self._answering is not exchange and self._is_answering():
            if self.pipeline and self.pipeline[0][0] is exchange:
                self.pipeline.popleft()
            self._close_after_answers()
            return
        if exchange is None or not exchange.response_started:
            if exchange is not None:
                exchange.disconnected = True
                exchange.message_event.set()
            self._write_problem(code)
        self._linger()

    def _write_problem(self, code: str) -> None:
        request_id = str(new_id())
        error = problem(code)
        body = error.to_json(request_id)
        self.transport.write(
            b"%b%bcontent-type: application/problem+json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"connection: close\r\n\r\n%b"
            % (STATUS_LINE[error.status], self.server_state.block, len(body), request_id.encode(), body)
        )

    def _close_after_answers(self) -> None:
        self._stage = _Stage.OVER
        self._deadline = _NEVER
        if not self._is_answering():
            self._linger()
        elif last := self.pipeline[0][0] if self.pipeline else self._answering:
            last.more_body = False
            last.message_event.set()
            last.keep_alive = False

    def _is_answering(self) -> bool:
        exchange = self._answering
        return exchange is not None and not (exchange.response_complete or exchange.disconnected)

    def shutdown(self) -> None:
        """The server ends: what is at hand is answered, and nothing else."""
        if self._is_answering() and self._answering is not None:
            (self.pipeline[0][0] if self.pipeline else self._answering).keep_alive = False
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close, but read on for a moment what is still coming: a reset would take our answer away from its reader."""
        self.flow.resume_reading()
        self._enter(_Stage.OVER, self._limits.linger)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # What does not come in, and what is not taken

    def check(self, now: float) -> None:
        """Called now and then. A peer that lets us wait longer than it may is let go."""
        # A connection that is closing waits for its peer to take what was written.
        closing = self.transport.is_closing()
        if not (closing or self.flow.write_paused):
            self._stalled_at = None
        elif self._stalled_at is None:
            self._stalled_at = now
        elif now - self._stalled_at > self._limits.answer:
            self._abort("slow_reader")
            return
        if closing or now < self._deadline:
            return
        if self.flow.read_paused or (self._stage is _Stage.BODY and self.cycle is not self._answering):
            # It is we who did not read, or whose answer to an earlier request is awaited.
            self._deadline = now + self._limits.body
        elif self._stage is _Stage.HEAD:
            REFUSED.labels("slow_head").inc()
            self._close_after_answers()
        elif self._stage is _Stage.BODY:
            self._end_body(now)
        else:
            self.transport.close()

    def _end_body(self, now: float) -> None:
        exchange = self.cycle
        if exchange.response_complete:
            REFUSED.labels("slow_body").inc()
            self.transport.close()
        elif LATE in exchange.scope:
            # Whoever answers was told, and did not.
            self._abort("slow_body")
        else:
            cast("dict[str, Any]", exchange.scope)[LATE] = True
            exchange.message_event.set()
            self._deadline = now + self._limits.answer

    def _abort(self, why: str) -> None:
        REFUSED.labels(why).inc()
        # Without it the system would go on offering to the peer what it does not take.
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()
