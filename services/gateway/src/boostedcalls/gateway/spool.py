"""Webhooks on this machine's disk until the webhooks service can take them.

Owns that nothing counts as stored before it is synced, and that the event loop never waits for the disk: what comes in
at the same time is written and synced together, in a thread. `spool_folder` writes the files, `drain` empties them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from time import time

from prometheus_client import Counter, Gauge

from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.segment import Record, encode
from boostedcalls.gateway.spool_folder import SpoolFolder, Taken

log = get_logger(__name__)

_SEGMENT_BYTES = 4 * 1024 * 1024
_MEASURE_SECONDS = 1.0
# A disk that takes longer than this for a few kilobytes is as good as broken.
_PATIENCE = 10.0

BYTES = Gauge("boostedcalls_spool_bytes", "Size of all files in the spool")
RECORDS = Gauge("boostedcalls_spool_records", "Webhooks in the spool that wait to be drained")
OLDEST = Gauge("boostedcalls_spool_oldest_seconds", "Age of the oldest segment that waits to be drained")
REFUSED = Counter("boostedcalls_spool_refused_total", "Webhooks that the spool did not take", ["reason"])
REJECTED = Counter("boostedcalls_spool_rejected_total", "Webhooks put aside: the webhooks service would not take them")


class Refused(Exception):
    """A record that is not on the disk for sure. `reason`: full, failed or slow."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Spool:
    """`clock` tells the time of day; `sync` brings a file's, or a folder's, changes to the disk. `appended` is set when
    there is something new to drain."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        clock: Callable[[], float] = time,
        sync: Callable[[int], None] = os.fsync,
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        self.appended = asyncio.Event()
        self._folder = SpoolFolder(folder, max_bytes, segment_bytes, clock, sync)
        self._segment_bytes = segment_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: list[tuple[bytes, asyncio.Future[str]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None

    async def append(self, record: Record) -> None:
        """Returns when the record is on the disk. Raises Refused."""
        stored: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((encode(record), stored))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        try:
            async with asyncio.timeout(_PATIENCE):
                reason = await stored
        except TimeoutError:
            reason = "slow"
            # A disk that hangs must not fill the memory.
            self._waiting = [entry for entry in self._waiting if entry[1] is not stored]
        if reason:
            REFUSED.labels(reason).inc()
            raise Refused(reason)
        self.appended.set()

    async def _commit(self) -> None:
        """Write what waits, as much of it at once as fits into a segment, until nothing does."""
        while self._waiting:
            size = number = 0
            while number < len(self._waiting) and size < self._segment_bytes:
                size += len(self._waiting[number][0])
                number += 1
            batch, self._waiting = self._waiting[:number], self._waiting[number:]
            reasons = await self._run(self._folder.write, [data for data, _ in batch])
            for (_, stored), reason in zip(batch, reasons, strict=True):
                if not stored.done():
                    stored.set_result(reason)

    async def take(self) -> Taken | None:
        """The oldest segment that nobody has in hand; None when nothing waits."""
        return await self._run(self._folder.take)

    async def finish(self, taken: Taken) -> None:
        """Everything in the segment is where it belongs. Raises OSError, and then the segment stays in hand."""
        await self._run(self._folder.finish, taken)

    async def reject(self, taken: Taken, record: Record) -> None:
        """Put one record of the segment aside. Raises OSError."""
        path = await self._run(self._folder.reject, taken, record)
        REJECTED.inc()
        log.error("webhook_rejected", file=str(path), message_id=record.id)

    async def release(self, taken: Taken) -> None:
        """Leave the segment to whoever takes it next."""
        await self._run(self._folder.release, taken)

    async def measure(self) -> None:
        """Bring the gauges up to date; where the disk hangs they stay as they are, and one thread waits for it."""
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure())
        await asyncio.wait({self._measuring}, timeout=_MEASURE_SECONDS)

    async def _measure(self) -> None:
        with contextlib.suppress(OSError):
            found = await asyncio.to_thread(self._folder.measure)
            BYTES.set(found.size)
            RECORDS.set(found.records)
            OLDEST.set(found.oldest)

    async def close(self) -> None:
        if self._committing is not None:
            await self._committing
        await self._run(self._folder.close)
        self._thread.shutdown()

    async def _run[*Args, Result](self, work: Callable[[*Args], Result], *arguments: *Args) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def open_spool(stack: AsyncExitStack, folder: Path, max_bytes: int) -> Spool:
    """The spool in this folder, which is made when it is needed; it closes with the stack."""
    spool = Spool(folder, max_bytes)
    stack.push_async_callback(spool.close)
    return spool
