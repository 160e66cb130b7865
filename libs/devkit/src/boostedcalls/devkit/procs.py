"""Looking at processes through /proc (Linux only): for tests that must prove that none is left, and freezing them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None when there is none."""
    return _stat_of(Path(f"/proc/{pid}/stat"))


def _stat_of(path: Path) -> tuple[str, int] | None:
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be collected by its parent does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """The process's children, their children, and so on."""
    parents = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = {pid}
    while more := {child for child, stat in parents.items() if stat and stat[1] in found} - found:
        found |= more
    return found - {pid}


async def until_gone(pids: set[int], timeout: float = 15) -> set[int]:
    """Wait until none of them runs; return those that still do after `timeout` seconds."""
    for _ in range(int(timeout / 0.05)):
        if not any(alive(pid) for pid in pids):
            break
        await asyncio.sleep(0.05)
    return {pid for pid in pids if alive(pid)}


@contextmanager
def frozen(pid: int) -> Generator[None]:
    """Inside, the process and its children (a Postgres has some) stand still: ports are open, and nobody answers."""
    still = [pid, *descendants(pid)]
    try:
        for each in still:
            _send(each, signal.SIGSTOP)
        # A thread on the other processor, or in the midst of a write, goes on for a moment.
        while not all(_stands_still(each) for each in still):
            time.sleep(0.001)
        yield
    finally:
        for each in still:
            _send(each, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    """Whether every thread is stopped, or gone."""
    states = (_stat_of(path) for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(stat is None or stat[0] in "TtZX" for stat in states)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
