"""What lies in the spool's folder: names, sizes and ages of its files, and which of them go. All of it blocks.

A name sorts by its age, its ending says what the file is:

| ending | what |
|---|---|
| `.new` | being made |
| `.seg` | being written, or waiting to be drained: the lock (flock) on it tells |
| `.done` | drained; a second copy for a day, and the first to go when space runs out |
| `.damaged` | drained as far as it could be read; kept until an operator removes it |
| `.rejected` | one record that the webhooks service would not take; renamed to `.seg` it is tried again |
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path

from boostedcalls.gateway.segment import count

NEW, SEGMENT, DONE, DAMAGED, REJECTED = ".new", ".seg", ".done", ".damaged", ".rejected"
_KEPT_SECONDS = 24 * 3600.0
_FORGOTTEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class File:
    name: str
    size: int
    changed_at: float

    @property
    def ending(self) -> str:
        return os.path.splitext(self.name)[1]

    @property
    def born_at(self) -> float:
        """When the segment was made: its name tells, unless an operator gave it another one."""
        stamp = self.name[:13]
        return int(stamp) / 1000 if stamp.isdecimal() else self.changed_at


@dataclass(frozen=True, slots=True)
class Measure:
    """All files' size, how many records wait to be drained, and since when the oldest does (0: none)."""

    size: int
    records: int
    oldest: float


class SpoolFiles:
    """Every method raises OSError."""

    def __init__(self, path: Path, segment_bytes: int, clock: Callable[[], float], sync: Callable[[int], None]) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._sync = sync
        self._copy: Path | None = None
        self._counted: dict[tuple[str, int], int] = {}

    def all(self) -> list[File]:
        """Every file, oldest first."""
        found: list[File] = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                # Another process may take it away meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    found.append(File(entry.name, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda file: file.name)

    def measure(self) -> Measure:
        """May run beside everything else."""
        files = self.all()
        waiting = [file for file in files if file.ending == SEGMENT and file.size]
        counted: dict[tuple[str, int], int] = {}
        for file in waiting:
            key = (file.name, file.size)
            # Somebody may have drained it since.
            with contextlib.suppress(FileNotFoundError):
                counted[key] = self._counted[key] if key in self._counted else self._count(file.name)
        self._counted = counted
        oldest = max(0.0, self._clock() - waiting[0].born_at) if waiting else 0.0
        return Measure(sum(file.size for file in files), sum(counted.values()), oldest)

    def _count(self, name: str) -> int:
        with (self._path / name).open("rb") as file:
            return count(file)

    def keep(self, name: str, ending: str) -> None:
        """Give a segment that is drained its last ending."""
        path = self._path / name
        if ending == DONE and self._join(path):
            path.unlink()
            return
        self._touch(path)
        kept = path.rename(path.with_suffix(ending))
        if ending == DONE:
            self._copy = kept

    def _join(self, path: Path) -> bool:
        """Append a small segment to the last second copy: looking at a folder of very many files takes too long."""
        # Where that fails, its tail may be torn, and nothing is appended to it any more.
        copy, self._copy = self._copy, None
        if copy is None:
            return False
        with contextlib.suppress(OSError), copy.open("r+b") as file:
            data = path.read_bytes()
            if file.seek(0, SEEK_END) + len(data) <= self._segment_bytes:
                file.write(data)
                file.flush()
                self._sync(file.fileno())
                self._touch(copy)
                self._copy = copy
        return self._copy is not None

    def _touch(self, path: Path) -> None:
        now = self._clock()
        os.utime(path, (now, now))

    def give_up_copies(self, files: Sequence[File], wanted: int) -> int:
        """Delete second copies, oldest first, until so many bytes are free; how many are."""
        freed = 0
        for file in files:
            if file.ending == DONE and freed < wanted:
                (self._path / file.name).unlink(missing_ok=True)
                freed += file.size
        return freed

    def forget(self, files: Sequence[File]) -> None:
        """Delete what is too old."""
        for file in files:
            kept = {DONE: _KEPT_SECONDS, NEW: _FORGOTTEN_SECONDS}.get(file.ending)
            if kept is not None and self._clock() - file.changed_at > kept:
                with contextlib.suppress(OSError):
                    (self._path / file.name).unlink()
