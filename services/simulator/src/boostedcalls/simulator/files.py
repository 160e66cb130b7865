"""Files of JSON lines that only ever grow: the dial log, the journal of calls, the tries of webhooks."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson


class AppendLog:
    """One such file. Lines are written in the order they were asked for, by one thread, off the event loop."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        """`sync`: a line is on disk (fsync) before `append` returns."""
        self._sync = sync
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            # A line torn by a crash must not swallow the next one.
            os.write(self._fd, b"\n")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.stem)

    async def append(self, record: dict[str, Any]) -> None:
        """Raises OSError when the disk refuses."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, orjson.dumps(record) + b"\n")

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]
        if self._sync:
            os.fsync(self._fd)

    def close(self) -> None:
        """Write what is waiting, then close."""
        self._thread.shutdown()
        os.close(self._fd)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every whole record of the file, oldest first; a torn line is left out."""
    records: list[dict[str, Any]] = []
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                try:
                    records.append(orjson.loads(line))
                except orjson.JSONDecodeError:
                    continue
    return records


def replace_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Put a shorter file with these records in the old one's place, all or nothing."""
    shorter = path.with_suffix(".new")
    with shorter.open("wb") as file:
        file.writelines(orjson.dumps(record) + b"\n" for record in records)
    shorter.replace(path)
