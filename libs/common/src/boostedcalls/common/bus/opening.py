"""Opening the NATS connection of a process.

nats-py is set up as its measured faults demand: it reconnects for ever, buffers nothing while it is away (what it
buffered would be sent late, after the caller was told that it failed), and a client that closed for good ends the
process, because it never comes back by itself.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import Counter

from boostedcalls.common.bus.client import Client
from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.letgo import let_go
from boostedcalls.common.bus.settings import NatsSettings
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger
from boostedcalls.common.runtime import Runtime

log = get_logger(__name__)

_PATIENCE = 30.0
_MOMENT = 1.0
ADVISED_PAYLOAD = 8 * 1024 * 1024

DISCONNECTS = Counter("boostedcalls_nats_disconnects_total", "How often the connection to NATS was lost")


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
