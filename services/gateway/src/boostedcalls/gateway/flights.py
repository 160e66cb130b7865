"""One question for many who ask the same at the same time: a dashboard in several tabs costs what one tab does.

Whoever comes while the question is under way does not get its answer, which may be older than something he knows of,
but joins the next one, which starts when that one is answered.
"""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import Awaitable, Callable, Hashable

_PATIENCE = 0.5

Question = Callable[[], Awaitable[bytes]]


class Flights:
    """The questions under way, by what they ask for."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Task[bytes]] = {}
        self._next: dict[Hashable, Task[bytes]] = {}

    async def ask(self, key: Hashable, question: Question) -> bytes:
        """The answer to a question that was asked after this call. Raises what `question` raises."""
        flight = self._next.get(key)
        if flight is None:
            before = self._under_way.get(key)
            flight = asyncio.create_task(self._fly(key, before, question))
            # Its askers may all have gone when it fails.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
            (self._under_way if before is None else self._next)[key] = flight
        # Whoever leaves does not take the answer from the others.
        return await asyncio.shield(flight)

    async def _fly(self, key: Hashable, before: Task[bytes] | None, question: Question) -> bytes:
        me = asyncio.current_task()
        if before is not None:
            # One that hangs, because its service died with it, is not waited for.
            await asyncio.wait({before}, timeout=_PATIENCE)
            self._under_way[key] = self._next.pop(key)
        try:
            return await question()
        finally:
            if self._under_way.get(key) is me:
                del self._under_way[key]
