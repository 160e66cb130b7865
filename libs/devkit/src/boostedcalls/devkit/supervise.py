"""Keeping a server running: started again with growing pauses when it dies, unless it was stopped on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.servers import Server

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_CALM = 60.0
"""Seconds without a death after which the pauses start from the shortest again."""


class Supervised:
    """One process with its watcher. `generation` counts how often it became ready."""

    def __init__(self, server: Server, say: Callable[[str], None], *, restart: bool) -> None:
        self.server = server
        self.generation = 0
        self._killed_in = 0
        self._say = say
        self._restart = restart
        self._watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.server.child.name

    def watch(self) -> None:
        """Take over a server that is ready."""
        self.generation += 1
        if self._restart:
            self._watcher = asyncio.create_task(self._watch(), name=f"watcher of {self.name}")

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises DevkitError."""
        await self.server.start()
        self.watch()

    async def stop(self, timeout: float = 10) -> None:
        """Stop it, and leave it stopped."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await self.server.child.stop(timeout)

    async def kill(self, number: int) -> None:
        """Send a signal; after SIGKILL and SIGTERM wait for the end. The watcher starts it again, if there is one."""
        child = self.server.child
        self._killed_in = self.generation
        child.signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM) and child.process is not None:
            await child.process.wait()

    async def restarted(self) -> None:
        """Wait until it is ready again after the last `kill`."""
        while self.generation <= self._killed_in:  # noqa: ASYNC110 - a counter is all there is to wait for
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pause, since = _FIRST_PAUSE, loop.time()
        while True:
            code = await self.server.child.wait()
            if loop.time() - since > _CALM:
                pause = _FIRST_PAUSE
            self._say(f"{self.name} {_death(code)}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause, since = min(pause * 2, _LONGEST_PAUSE), loop.time()
            try:
                await self.server.start()
            except DevkitError as error:
                self._say(str(error))
                await self.server.child.stop()
            else:
                self.generation += 1
                self._say(f"{self.name} is back")


def _death(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
