"""Striking a process and bringing it back: kill -9 or a freeze at random times, and a keeper that starts it again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.procs import descendants, frozen
from boostedcalls.devkit.servers import Server
from chaos.history import History

_FROZEN = 0.12
_ONE_OF_ITS_OWN = 0.2
_WHILE_STARTING = 0.2
_TOO_EARLY = 0.25
_DOWN = 1.5
_RETRY = 1.0
# A wave, then a lull in which all come up and the work goes on: without it a slow machine does nothing but start.
_WAVE = (10.0, 16.0)
_LULL = (1.5, 3.0)
_UP_WITHIN = 15.0


class Kept:
    """A process that is started again whenever it ends, after a random while, until it is ready. Mostly that waits for
    what it cannot start without (`needs`), at times not: then it ends by itself, and is started again."""

    def __init__(self, kind: str, server: Server, random: Random, needs: Sequence[Kept] = ()) -> None:
        self.kind = kind
        self.server = server
        self.up = asyncio.Event()
        self.up.set()
        self._needs = needs
        self._random = random

    def kill(self) -> None:
        """kill -9; `up` is set again once it is ready again."""
        self.up.clear()
        self.server.child.signal(signal.SIGKILL)

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            await self.server.child.wait()
            self.up.clear()
            await asyncio.sleep(self._random.uniform(0, _DOWN))
            while not await self._start():
                await asyncio.sleep(self._random.uniform(0.1, _RETRY))
            self.up.set()

    async def _start(self) -> bool:
        """False when it ended before it was ready (what it needs is away, or it was struck), or never got there."""
        if self._random.random() >= _TOO_EARLY:
            for needed in self._needs:
                await needed.up.wait()
        try:
            await self.server.start()
        except DevkitError:
            await self.server.child.stop()
            return False
        return True


class Waves:
    """When it is time to strike, for all strikers of a trial."""

    def __init__(self, all_kept: Sequence[Kept], random: Random) -> None:
        self.rising = asyncio.Event()
        self._kept = all_kept
        self._random = random

    async def roll(self) -> None:
        """Until cancelled."""
        while True:
            self.rising.set()
            await asyncio.sleep(self._random.uniform(*_WAVE))
            self.rising.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_UP_WITHIN):
                    for kept in self._kept:
                        await kept.up.wait()
            await asyncio.sleep(self._random.uniform(*_LULL))


class Striker:
    """Strikes one process again and again; the mean time between two strikes is `every` seconds while a wave lasts."""

    def __init__(self, kept: Kept, history: History, random: Random, every: float, tally: Counter[str]) -> None:
        self._kept = kept
        self._history = history
        self._random = random
        self._every = every
        self._tally = tally

    async def strike(self, waves: Waves) -> None:
        """Until cancelled. The times are those of a clock that does not wait for the process to come back, so that a
        slow start does not lower their number."""
        loop, kept, random = asyncio.get_running_loop(), self._kept, self._random
        due = loop.time() + random.uniform(0, self._every)
        while True:
            await asyncio.sleep(max(0, due - loop.time()))
            due = max(due, loop.time() - self._every) + random.uniform(0.4, 1.6) * self._every
            if not waves.rising.is_set():
                await waves.rising.wait()
                await asyncio.sleep(random.uniform(0, self._every / 2))
            if not kept.up.is_set() and random.random() >= _WHILE_STARTING:
                await kept.up.wait()
                await asyncio.sleep(random.uniform(0, 1))
            if not kept.server.child.running or not waves.rising.is_set():
                continue
            if random.random() < _FROZEN:
                await self._freeze(random.uniform(1, 4))
            elif parts := sorted(descendants(kept.server.child.pid)) if random.random() < _ONE_OF_ITS_OWN else []:
                # A Postgres of which one process was killed ends all others and recovers, and stays the same process.
                self._note("part kill")
                with suppress(ProcessLookupError):
                    os.kill(random.choice(parts), signal.SIGKILL)
            else:
                self._note("kill")
                kept.kill()

    async def _freeze(self, seconds: float) -> None:
        """It stands still and then goes on as if nothing had been: a zombie that believes its claims."""
        self._note("freeze")
        with frozen(self._kept.server.child.pid):
            await asyncio.sleep(seconds)

    def _note(self, how: str) -> None:
        kind = self._kept.kind
        self._tally[f"{how} {kind}"] += 1
        self._history.note("strike", kind=kind, process=self._kept.server.child.name, how=how)
