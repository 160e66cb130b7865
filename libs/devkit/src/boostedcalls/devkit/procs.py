"""Looking at processes through /proc (Linux only): for tests that must prove that none is left, and freezing them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
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
        yield
    finally:
        for each in still:
            _send(each, signal.SIGCONT)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
