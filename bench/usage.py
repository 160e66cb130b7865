"""What processes use, read from /proc: CPU time, and resident memory with its peak. Linux only.

A label stands for a process with its children. CPU time holds what children that have ended used. The memory of one
process is its resident set; of several it is their shares (PSS), because they share most of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

Processes = Callable[[], Mapping[str, list[int]]]

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 2.0
_GONE = (FileNotFoundError, ProcessLookupError)
SHARED = ("postgres",)
"""Of these the sum of shares is told even for one process: its size would hang on how often one looks."""


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except _GONE:
        return 0.0
    # utime, stime, and those of its children that were waited for.
    return sum(int(value) for value in fields[11:15]) / _TICKS


def _status(pid: int, name: str) -> int:
    """A size in the process's status, in bytes; 0 when it is gone."""
    with contextlib.suppress(*_GONE):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _share(pid: int) -> int:
    with contextlib.suppress(*_GONE, PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu(processes: Mapping[str, list[int]]) -> dict[str, float]:
    """Seconds of CPU time so far, by label."""
    return {label: sum(map(_cpu_seconds, pids)) for label, pids in processes.items()}


def memory(processes: Mapping[str, list[int]]) -> dict[str, int]:
    """Bytes that are resident now, by label."""
    return {
        label: _status(pids[0], "VmRSS") if len(pids) == 1 and label not in SHARED else sum(map(_share, pids))
        for label, pids in processes.items()
    }


def forget_peaks(processes: Mapping[str, list[int]]) -> None:
    """Let VmHWM count from now on, where we may."""
    for pids in processes.values():
        for pid in pids:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass
class Usage:
    """Between begin and end, by label: seconds of CPU time, and the greatest memory in bytes."""

    cpu: dict[str, float] = field(default_factory=dict[str, float])
    peak: dict[str, int] = field(default_factory=dict[str, int])

    def cpu_micros(self, count: int) -> dict[str, float]:
        """Microseconds of CPU time for each of `count` events."""
        return {label: round(seconds * 1e6 / max(count, 1), 1) for label, seconds in self.cpu.items()}

    @property
    def peak_mb(self) -> dict[str, float]:
        return {label: round(size / 1e6, 1) for label, size in self.peak.items()}


@asynccontextmanager
async def measured(processes: Processes) -> AsyncGenerator[Usage]:
    """The usage is complete once the context is left. Programs that we ran meanwhile (wrk) count as `load`."""
    usage = Usage()
    known = processes()
    forget_peaks(known)
    before, own = cpu(known), _children()
    sampler = asyncio.create_task(_sample(processes, usage))
    try:
        yield usage
    finally:
        sampler.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampler
        known = processes()
        _take(known, usage)
        usage.cpu = {label: seconds - before.get(label, 0.0) for label, seconds in cpu(known).items()}
        usage.cpu["load"] = _children() - own
        for label, pids in known.items():
            if len(pids) == 1 and label not in SHARED:
                usage.peak[label] = max(usage.peak[label], _status(pids[0], "VmHWM"))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _take(processes: Mapping[str, list[int]], usage: Usage) -> None:
    for label, size in memory(processes).items():
        usage.peak[label] = max(usage.peak.get(label, 0), size)


async def _sample(processes: Processes, usage: Usage) -> None:
    while True:
        _take(processes(), usage)
        await asyncio.sleep(_SAMPLE_SECONDS)
