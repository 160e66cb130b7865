"""The one NATS connection of a process: connect, request, publish.

nats-py is set up as its measured faults demand: it reconnects for ever, buffers nothing while it is away (what it
buffered would be sent late, after the caller was told that it failed), and a client that closed for good ends the
process, because it never comes back by itself.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError
from prometheus_client import Counter

from boostedcalls.common import subjects
from boostedcalls.common.bus.acks import Acks
from boostedcalls.common.bus.client import Client
from boostedcalls.common.bus.letgo import let_go
from boostedcalls.common.bus.outgoing import Outgoing, once
from boostedcalls.common.bus.settings import NatsSettings
from boostedcalls.common.bus.streams import ensure_streams
from boostedcalls.common.context import Caller
from boostedcalls.common.errors import Unavailable, parse_problem, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import Replayed, rfc3339
from boostedcalls.common.runtime import Runtime
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

USER = "Bc-User"
REQUEST_ID = "Bc-Request-Id"
TIMEOUT_MS = "Bc-Timeout-Ms"
TRACEPARENT = "traceparent"
RECEIVED_AT = "Bc-Received-At"
ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
RETRY_AFTER = "Retry-After"
REPLAYED = "Bc-Replayed"

# nats-py counts only the body against the server's limit; going over it with headers closes the client for good.
HEADER_ROOM = 16 * 1024
PUBLISH_TRY = 1.0
_PROBE_SECONDS = 1.0
_RESTORE_EVERY = 5.0
_PATIENCE = 30.0
_MOMENT = 1.0
ADVISED_PAYLOAD = 8 * 1024 * 1024

UNPUBLISHED = Counter("boostedcalls_publish_failures_total", "Messages that a stream did not take in time", ["stream"])
DISCONNECTS = Counter("boostedcalls_nats_disconnects_total", "How often the connection to NATS was lost")


def _headers(who: Caller, timeout: float) -> dict[str, str]:
    headers = {REQUEST_ID: who.request_id, TRACEPARENT: who.traceparent, TIMEOUT_MS: str(int(timeout * 1000))}
    if who.user_id is not None:
        headers[USER] = str(who.user_id)
    if who.received_at is not None:
        headers[RECEIVED_AT] = rfc3339(who.received_at)
    return headers


class Bus:
    """Requests and publishes. `client` and `jetstream` are for this package alone. `administers`: whether it may make
    streams and consumers."""

    def __init__(
        self, client: Client, runtime: Runtime, replicas: int, *, atomic_batches: bool = True, administers: bool = True
    ) -> None:
        self.client = client
        self.administers = administers
        self.acks = Acks(client)
        self.atomic_batches = atomic_batches
        self.jetstream: JetStreamContext = client.jetstream(timeout=5)
        self.runtime = runtime
        self.replicas = replicas
        self._troubles: dict[str, Trouble] = {}
        self._restore_at: dict[str, float] = {}
        self.no_batches_until: dict[str, float] = {}
        """For batch.py: until when a stream's messages go one by one."""

    async def connected(self) -> bool:
        """Whether the server answers within a second; for readiness."""
        if not self.client.is_connected:
            return False
        # That the server tells of nobody listening there proves that it answers, and that its answers reach us. Not by
        # `flush`: the answer to one that was given up makes nats-py deaf, and a deaf client's `flush` finds all well.
        try:
            await self.client.request(subjects.PING, b"", timeout=_PROBE_SECONDS)
        except NoRespondersError:
            return True
        except (NatsError, OSError):
            return False
        return True

    def fits(self, data: bytes) -> bool:
        """Whether a body, with its headers, is one that the server takes."""
        return len(data) + HEADER_ROOM <= self.client.max_payload

    async def request(self, subject: str, data: bytes, who: Caller, timeout: float = 5.0) -> bytes:
        """Ask a service and return the bytes of its answer; as Replayed, where they were given before. `timeout` in
        seconds.

        Raises ServiceError: the service's own, `unavailable` when nobody answers for the subject or NATS is away,
        `timeout` when the answer is late, `payload_too_large` when the request does not fit into a message.
        """
        if not self.client.is_connected:
            raise problem("unavailable", retry_after=1)
        # Only a server that was reached has told what it takes.
        if not self.fits(data):
            raise problem("payload_too_large")
        try:
            message = await self.client.request(subject, data, timeout=timeout, headers=_headers(who, timeout))
        except NoRespondersError:
            log.warning("no_responders", subject=subject)
            raise problem("unavailable", retry_after=1) from None
        except NatsTimeout:
            raise problem("timeout") from None
        except (NatsError, OSError) as error:
            log.warning("request_not_sent", subject=subject, error=type(error).__name__)
            raise problem("unavailable", retry_after=1) from error
        headers = message.headers or {}
        if status := headers.get(ERROR_CODE):
            after = headers.get(RETRY_AFTER)
            error = parse_problem(message.data, int(status), int(after) if after else None)
            error.replayed = REPLAYED in headers
            raise error
        return Replayed(message.data) if REPLAYED in headers else message.data

    async def publish(
        self, subject: str, data: bytes, *, stream: str, message_id: str, headers: Mapping[str, str], timeout: float
    ) -> int:
        """Store a message durably and return its sequence in the stream; a repeat of `message_id` is stored once.

        Tries again with the same id until `timeout` seconds are over. Raises Unavailable when the stream did not
        confirm it by then (it may be stored all the same), and ServiceError when it is too large for a message.
        """
        if not self.fits(data):
            raise problem("payload_too_large")
        deadline = monotonic() + timeout
        pause = 0.05
        trouble = self._troubles.setdefault(stream, Trouble("stream_trouble", "stream_trouble_over", stream=stream))
        while True:
            left = deadline - monotonic()
            try:
                if not self.client.is_connected:
                    raise Unavailable("NATS is away")
                ack = await self.jetstream.publish(
                    subject,
                    data,
                    timeout=min(max(left, 0.05), PUBLISH_TRY),
                    headers=once(stream, message_id, headers),
                )
                trouble.over()
                return ack.seq
            except (NoStreamResponseError, NatsTimeout, NatsError, OSError, APIError, Unavailable) as error:
                if isinstance(error, NoStreamResponseError):
                    await self._restore(stream)
                if deadline - monotonic() <= pause:
                    UNPUBLISHED.labels(stream).inc()
                    trouble.seen(f"{type(error).__name__}: {error}")
                    raise Unavailable(f"{stream}: {type(error).__name__}: {error}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.25)

    def stored(self, stream: str) -> None:
        """A stream took what it was given: its trouble, if it had one, is over."""
        if (trouble := self._troubles.get(stream)) is not None:
            trouble.over()

    async def _restore(self, stream: str) -> None:
        """Make the stream anew should it be gone, looking at most every five seconds."""
        now = monotonic()
        if now < self._restore_at.get(stream, 0):
            return
        self._restore_at[stream] = now + _RESTORE_EVERY
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(PUBLISH_TRY):
                await ensure_streams(self, stream)

    async def send(self, stream: str, message: Outgoing, timeout: float = 5.0) -> int:
        """`publish` for a message that is put together already."""
        return await self.publish(
            message.subject,
            message.data,
            stream=stream,
            message_id=message.message_id,
            headers=message.headers,
            timeout=timeout,
        )


class _Watcher:
    """What nats-py tells us. It awaits these in its read loop, so they only log, and not the same at every try."""

    def __init__(self, runtime: Runtime, client: Client) -> None:
        self._runtime = runtime
        self._client = client
        self.closing = False
        self.last_error = ""
        self.refused = asyncio.Event()
        """Set when the server does not know our user, or not with this password."""

    def callbacks(self) -> dict[str, Any]:
        return {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }

    async def _on_error(self, error: Exception) -> None:
        text = (str(error) or type(error).__name__)[:500]
        if text != self.last_error:
            log.warning("nats_error", error=text)
        self.last_error = text
        if "authorization violation" in text.lower():
            self.refused.set()

    async def _on_disconnected(self) -> None:
        if not self.closing:
            DISCONNECTS.inc()
            log.warning("nats_disconnected")

    async def _on_reconnected(self) -> None:
        self.last_error = ""
        log.info("nats_reconnected")

    async def _on_closed(self) -> None:
        if not self.closing:
            self._runtime.fail(f"the NATS client closed for good: {self._client.last_error}")

    def on_tried(self, connecting: asyncio.Task[None]) -> None:
        """The first connection, for which nobody waited, was made or cannot be."""
        if not connecting.cancelled() and (error := connecting.exception()):
            self._runtime.fail(f"the NATS client cannot connect: {error}")


async def connect(
    stack: AsyncExitStack, runtime: Runtime, settings: NatsSettings, name: str, *, wait: bool = True
) -> Bus:
    """Connect, waiting up to 30 s for the server; the connection closes with the stack. Raises Unavailable, also when
    the process is told to stop meanwhile.

    `wait=False`: for a process that has work to do without NATS. After a moment it gets its Bus all the same; the
    connection comes when the server does, and until then requests are `unavailable`.
    """
    client = Client()
    watcher = _Watcher(runtime, client)

    async def close() -> None:
        watcher.closing = True
        for task in (connecting, letting_go):
            task.cancel()
        await asyncio.gather(connecting, letting_go, return_exceptions=True)
        # close() while reconnecting raises CancelledError or TypeError; the process ends either way.
        with contextlib.suppress(BaseException):
            await asyncio.wait_for(client.close(), 3)

    async def open_client() -> None:
        await client.connect(
            settings.servers(),
            name=f"boostedcalls-{name}",
            inbox_prefix=f"_INBOX_{name}",
            **settings.credentials(name),
            connect_timeout=2,
            reconnect_time_wait=0.2,  # pyright: ignore[reportArgumentType] - it is only slept for
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=-1,
            **watcher.callbacks(),
        )
        watcher.last_error = ""
        log.info("nats_connected")
        if client.max_payload < ADVISED_PAYLOAD:
            log.warning("nats_max_payload_small", max_payload=client.max_payload, advised=ADVISED_PAYLOAD)

    # A client that reconnects for ever also tries its first connection for ever, and hears of no wish to stop.
    connecting = asyncio.create_task(open_client())
    letting_go = asyncio.create_task(let_go(client))
    stopping = asyncio.create_task(runtime.stopping.wait())
    refused = asyncio.create_task(watcher.refused.wait())
    patience = _PATIENCE if wait else _MOMENT
    try:
        await asyncio.wait({connecting, stopping, refused}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        connecting.cancel()
        letting_go.cancel()
        raise
    finally:
        stopping.cancel()
        refused.cancel()
    late = not connecting.done() and not wait and not runtime.stopping.is_set()
    if not connecting.done() and watcher.refused.is_set():
        refusal = f"NATS refuses the user {name}: look at NATS_URL and NATS_{name.upper()}_PASSWORD"
        if wait:
            await close()
            raise Unavailable(refusal)
        log.error("nats_refuses", reason=refusal)
    if late:
        log.warning("nats_away", reason=watcher.last_error, text="going on without it until it answers")
        connecting.add_done_callback(watcher.on_tried)
    elif not connecting.done() or connecting.exception():
        failure = connecting.exception() if connecting.done() else None
        await close()
        raise Unavailable(f"NATS does not answer: {watcher.last_error or failure}") from failure
    stack.push_async_callback(close)
    return Bus(
        client,
        runtime,
        settings.nats_stream_replicas,
        atomic_batches=settings.nats_atomic_batches,
        administers=settings.administers(name),
    )
