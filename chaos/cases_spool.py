"""The gateway's spool inside a case's process: webhooks that go into it, and its way out of it.

Every sync of a file is a point of its own, and is noted: what was not synced does not survive a power loss.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from boostedcalls.common.context import caller
from boostedcalls.gateway import webhook
from boostedcalls.gateway.deps import Deps
from boostedcalls.gateway.drain import Breaker, Drainer
from boostedcalls.gateway.spool import Spool
from chaos.cases import Args, World

_MAX_BYTES = 2**20


def _open_spool(world: World, folder: str) -> Spool:
    return Spool(Path(folder), _MAX_BYTES, sync=_syncing(world))


def _syncing(world: World) -> Callable[[int], None]:
    def sync(handle: int) -> None:
        world.trace.blocking("gateway/spool_folder.py:sync", lambda: os.fsync(handle))
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_dir():
            world.note({"names": os.listdir(path)})
        else:
            world.note({"synced": path.name, "size": os.fstat(handle).st_size})

    return sync


async def append(world: World, args: Args) -> list[int]:
    """Webhooks that come in at the same time; which of them were answered 200 is noted when it is decided."""
    spool = _open_spool(world, args["folder"])
    # What taking in a webhook touches of the gateway's dependencies.
    deps = cast("Deps", _Taking(Breaker(world.bus), spool))

    async def one(body: str) -> int:
        # What it returns is answered 200; everything else is raised.
        await webhook._take_in(deps, caller(), body.encode())
        world.note({"answered": body, "status": 200})
        return 200

    found = await asyncio.gather(*(one(body) for body in args["bodies"]), return_exceptions=True)
    return [status for status in found if isinstance(status, int)]


class _Taking:
    def __init__(self, breaker: Breaker, spool: Spool) -> None:
        self.breaker = breaker
        self.spool = spool


async def drain(world: World, folder: str) -> Any:
    """What the drainer does until nothing waits any more."""
    spool = _open_spool(world, folder)
    drainer = Drainer(world.bus.runtime, spool, Breaker(world.bus))
    while job := await drainer._next(True):
        await drainer._drain(job)
