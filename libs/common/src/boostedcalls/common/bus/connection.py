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
from datetime import datetime
from time import monotonic
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError
from pydantic import Field, SecretStr

from boostedcalls.common.context import Caller
from boostedcalls.common.errors import ServiceError, Unavailable, parse_problem, problem
from boostedcalls.common.events import EventType, cloud_event
from boostedcalls.common.logs import get_logger
from boostedcalls.common.runtime import Runtime
from boostedcalls.common.settings import Settings

log = get_logger(__name__)

USER = "Bc-User"
REQUEST_ID = "Bc-Request-Id"
TIMEOUT_MS = "Bc-Timeout-Ms"
TRACEPARENT = "traceparent"
ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
RETRY_AFTER = "Retry-After"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"

# nats-py counts only the body against the server's limit; going over it with headers closes the client for good.
HEADER_ROOM = 16 * 1024
_PUBLISH_TRY = 1.0
_PATIENCE = 30.0
ADVISED_PAYLOAD = 8 * 1024 * 1024


class NatsSettings(Settings):
    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    nats_stream_replicas: int = Field(1, ge=1, le=5)


def _headers(who: Caller, timeout: float) -> dict[str, str]:
    headers = {REQUEST_ID: who.request_id, TRACEPARENT: who.traceparent, TIMEOUT_MS: str(int(timeout * 1000))}
    if who.user_id is not None:
        headers[USER] = str(who.user_id)
    return headers


class Bus:
    """Requests and publishes. `client` and `jetstream` are for this package alone."""

    def __init__(self, client: Client, runtime: Runtime, replicas: int) -> None:
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream(timeout=5)
        self.runtime = runtime
        self.replicas = replicas

    async def connected(self) -> bool:
        """For readiness."""
        return self.client.is_connected

    def _fits(self, data: bytes) -> bool:
        return len(data) + HEADER_ROOM <= self.client.max_payload

    async def request(self, subject: str, data: bytes, who: Caller, timeout: float = 5.0) -> bytes:
        """Ask a service and return the bytes of its answer. `timeout` in seconds.

        Raises ServiceError: the service's own, `unavailable` when nobody answers for the subject or NATS is away,
        `timeout` when the answer is late, `payload_too_large` when the request does not fit into a message.
        """
        if not self._fits(data):
            raise problem("payload_too_large")
        if not self.client.is_connected:
            raise problem("unavailable", retry_after=1)
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
            raise parse_problem(message.data, int(status), int(after) if after else None)
        return message.data

    async def publish(
        self, subject: str, data: bytes, *, stream: str, message_id: str, headers: Mapping[str, str], timeout: float
    ) -> int:
        """Store a message durably and return its sequence in the stream; a repeat of `message_id` is stored once.

        Tries again with the same id until `timeout` seconds are over. Raises Unavailable when the stream did not
        confirm it by then (it may be stored all the same), and ServiceError when it is too large for a message.
        """
        if not self._fits(data):
            raise problem("payload_too_large")
        deadline = monotonic() + timeout
        pause = 0.05
        while True:
            left = deadline - monotonic()
            try:
                if not self.client.is_connected:
                    raise Unavailable("NATS is away")
                ack = await self.jetstream.publish(
                    subject,
                    data,
                    timeout=min(max(left, 0.05), _PUBLISH_TRY),
                    headers={**headers, MESSAGE_ID: message_id, EXPECTED_STREAM: stream},
                )
                return ack.seq
            except (NoStreamResponseError, NatsTimeout, NatsError, OSError, APIError, Unavailable) as error:
                if deadline - monotonic() <= pause:
                    raise Unavailable(f"{stream}: {type(error).__name__}: {error}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.25)

    async def publish_event(
        self,
        kind: EventType,
        subject: str,
        data: bytes,
        *,
        event_id: str,
        source: str,
        at: datetime,
        traceparent: str,
        message_id: str | None = None,
        timeout: float = 5.0,
    ) -> int:
        """Store an event in its stream, with its CloudEvents headers; repeats are told by `message_id`, else by
        `event_id`. Raises what `publish` raises."""
        headers = cloud_event(kind, event_id, source, subject, at, traceparent)
        return await self.publish(
            subject, data, stream=kind.stream, message_id=message_id or event_id, headers=headers, timeout=timeout
        )


class _Watcher:
    """What nats-py tells us. It awaits these in its read loop, so they only log, and not the same at every try."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.closing = False
        self.last_error = ""

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

    async def _on_disconnected(self) -> None:
        if not self.closing:
            log.warning("nats_disconnected")

    async def _on_reconnected(self) -> None:
        self.last_error = ""
        log.info("nats_reconnected")

    async def _on_closed(self) -> None:
        if not self.closing:
            self._runtime.fail("the NATS client closed for good")


async def connect(stack: AsyncExitStack, runtime: Runtime, settings: NatsSettings, name: str) -> Bus:
    """Connect, waiting up to 30 s for the server; the connection closes with the stack. Raises Unavailable, also when
    the process is told to stop meanwhile."""
    client = Client()
    watcher = _Watcher(runtime)

    async def close() -> None:
        watcher.closing = True
        # close() while reconnecting raises CancelledError or TypeError; the process ends either way.
        with contextlib.suppress(BaseException):
            await asyncio.wait_for(client.close(), 3)

    # A client that reconnects for ever also tries its first connection for ever, and hears of no wish to stop.
    connecting = asyncio.create_task(
        client.connect(
            settings.nats_url.get_secret_value().split(","),
            name=f"boostedcalls-{name}",
            inbox_prefix=f"_INBOX_{name}",
            connect_timeout=2,
            reconnect_time_wait=0.2,  # pyright: ignore[reportArgumentType] - it is only slept for
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=-1,
            **watcher.callbacks(),
        )
    )
    stopping = asyncio.create_task(runtime.stopping.wait())
    try:
        await asyncio.wait({connecting, stopping}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        connecting.cancel()
    (failure,) = await asyncio.gather(connecting, return_exceptions=True)
    if failure is not None:
        await close()
        raise Unavailable(f"NATS does not answer: {watcher.last_error or failure}") from failure
    if client.max_payload < ADVISED_PAYLOAD:
        log.warning("nats_max_payload_small", max_payload=client.max_payload, advised=ADVISED_PAYLOAD)
    stack.push_async_callback(close)
    return Bus(client, runtime, settings.nats_stream_replicas)


__all__ = ["Bus", "NatsSettings", "ServiceError", "connect"]
