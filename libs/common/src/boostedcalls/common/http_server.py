"""The HTTP server: uvicorn inside our own loop, on a socket that is bound beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from typing import Any

import uvicorn

from boostedcalls.common.logs import get_logger
from boostedcalls.common.runtime import Runtime

log = get_logger(__name__)

_BACKLOG = 2048
# Longer than the minute for which proxies keep a connection: they, not we, close it, and lose no request to the race.
_KEEP_ALIVE = 75
_GRACE = 5

# An ASGI application, as loosely typed as the several that there are.
type App = Callable[[Any, Any, Any], Awaitable[None]]


class _Server(uvicorn.Server):
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


async def serve_http(stack: AsyncExitStack, runtime: Runtime, app: App, sock: socket.socket) -> None:
    """Serve until the stack closes; then finish the requests at hand, within 5 s. Returns when it listens."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
    )
    server = _Server(config)
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
