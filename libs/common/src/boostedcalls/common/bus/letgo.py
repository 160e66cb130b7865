"""Freeing a NATS client that cannot leave its server.

Before nats-py connects anew it closes the old connection, and closing waits until what was still to be sent is sent.
A server that stands still, or whose machine is gone, never takes it: with other servers at hand the client would stay
with that one for a quarter of an hour.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client

from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

_LOOK_EVERY = 1.0


def _closing(client: Client) -> Any:
    """The transport of the connection that the client is leaving, and that is not closed yet. nats-py shows none."""
    if not client.is_reconnecting:
        return None
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    return writer.transport if writer is not None and writer.transport.is_closing() else None


async def let_go(client: Client) -> None:
    """Run while the client lives: a connection that is still closing at a second look is cut off."""
    before = None
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        found = _closing(client)
        if found is not None and found is before and found.get_write_buffer_size():
            log.warning("nats_connection_cut", unsent=found.get_write_buffer_size())
            found.abort()
        before = found
