"""The one NATS connection of a process: request and publish. opening.py opens it."""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from time import monotonic

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError
from prometheus_client import Counter

from boostedcalls.common import subjects
from boostedcalls.common.bus.acks import Acks
from boostedcalls.common.bus.client import Client
from boostedcalls.common.bus.outgoing import Outgoing, once
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

UNPUBLISHED = Counter("boostedcalls_publish_failures_total", "Messages that a stream did not take in time", ["stream"])


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
