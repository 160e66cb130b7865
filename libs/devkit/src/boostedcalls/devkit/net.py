"""Loopback ports and HTTP probes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

from boostedcalls.devkit.errors import DevkitError

HOST = "127.0.0.1"


@contextmanager
def reserved_port(port: int = 0) -> Generator[int]:
    """A port (any free one for 0) that nobody else is given while the context lasts. Raises DevkitError when taken.

    It is held by a socket that is bound but does not listen. On Linux a server that sets SO_REUSEADDR, as all of ours
    do, may still listen there; so a port cannot be lost between choosing it and using it, nor while its server is
    being started again. Elsewhere the port is only known to have been free a moment ago.
    """
    with socket.socket() as holder:
        if port:
            # Connections of the last run may still linger on it.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((HOST, port))
        except OSError:
            raise DevkitError(f"port {port} is taken; choose another one with PORT={port + 1}") from None
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        number = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield number


async def http_status(port: int, path: str, timeout: float = 2) -> int:
    """The status of a GET on loopback; 0 when there is no answer in time."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return 0
    parts = line.split()
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
