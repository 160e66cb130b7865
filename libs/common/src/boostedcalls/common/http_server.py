"""The HTTP server: uvicorn inside our own loop, on a socket that is bound beforehand.

What a connection may do is in http_protocol.py, what an answer carries in http_exchange.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

import uvicorn

from boostedcalls.common.http_exchange import SECURITY_HEADERS, Limits, State, lines_of
from boostedcalls.common.http_protocol import Connection
from boostedcalls.common.logs import get_logger
from boostedcalls.common.runtime import Runtime

log = get_logger(__name__)

_BACKLOG = 2048
_GRACE = 5
# Files that a process has open besides its connections: the database's and NATS's, the spool's, modules.
_OTHER_FILES = 256
# uvicorn ticks ten times a second.
_TICKS_BETWEEN_CHECKS = 5

# An ASGI application, as loosely typed as the several that there are.
type App = Callable[[Any, Any, Any], Awaitable[None]]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self.server_state: State = State(limits)

    async def on_tick(self, counter: int) -> bool:
        done = await super().on_tick(counter)
        state = self.server_state
        if counter % 10 == 0:
            state.block = lines_of(state.default_headers)
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(state.connections):
                cast("Connection", connection).check(now)
        return done

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the runtime's."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket on the port, not listening yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol's name asyncio does not switch Nagle's delay off, and every answer waits 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _room(wanted: int) -> int:
    """How many connections there are files for, with the process's limit raised as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - _OTHER_FILES, soft // 2))


async def serve_http(
    stack: AsyncExitStack, runtime: Runtime, app: App, sock: socket.socket, limits: Limits | None = None
) -> None:
    """Serve until the stack closes; then finish the requests at hand, within 5 s. Returns when it listens."""
    limits = limits or Limits()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE,
        headers=[(name.decode(), value.decode()) for name, value in SECURITY_HEADERS],
    )
    server = _Server(config, replace(limits, connections=_room(limits.connections)))
    task = runtime.spawn(server.serve(sockets=[sock]), "http")

    async def stop() -> None:
        server.should_exit = True
        await asyncio.wait([task])

    stack.push_async_callback(stop)
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.005)
    log.info("listening", address=f"{sock.getsockname()[0]}:{sock.getsockname()[1]}")
