"""Writing the spool's segments, and taking them to be drained. All of it blocks, and one thread at a time may use it.

`spool_files` knows the files' names, `segment` what stands in them. Several processes may share a folder: a segment's
writer holds its lock, a drainer takes the lock of a closed one; the kernel frees the locks of the dead, so that their
segments are drained by whoever lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter

from boostedcalls.common.logs import get_logger
from boostedcalls.gateway.segment import Contents, Record, decode, encode
from boostedcalls.gateway.spool_files import DAMAGED, DONE, NEW, REJECTED, SEGMENT, SpoolFiles

log = get_logger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

DAMAGED_PLACES = Counter("boostedcalls_spool_damaged_total", "Damaged places found in segments")
TORN = Counter("boostedcalls_spool_torn_total", "Torn tails cut off: nobody was told that they are stored")


@dataclass(slots=True)
class _Open:
    """The segment that this process writes. `size` counts what is synced; what stands behind it is not there."""

    name: str
    handle: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A closed segment in this process's hands."""

    name: str
    handle: int
    contents: Contents


class SpoolFolder:
    """`clock` tells the time of day; `sync` brings a file's, or a folder's, changes to the disk."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        segment_bytes: int,
        clock: Callable[[], float],
        sync: Callable[[int], None],
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._sync = sync
        self._files = SpoolFiles(path, segment_bytes, clock, sync)
        self.measure = self._files.measure
        self._open: _Open | None = None
        self._last_name = 0
        self._state = ""
        self._unreadable: set[str] = set()

    def write(self, batch: Sequence[bytes]) -> list[str]:
        """Store encoded records. Why each one was refused (`full`, `failed`); empty for what is on the disk now."""
        try:
            reasons = self._fill(batch)
        except OSError as error:
            self._abandon()
            self._tell("failed", error.strerror or type(error).__name__)
            return ["failed"] * len(batch)
        self._tell("full" if any(reasons) else "", f"{self._max_bytes} bytes are in use")
        return reasons

    def take(self) -> Taken | None:
        """The oldest segment that nobody has in hand; None when nothing waits. What is too old is deleted."""
        try:
            files = self._files.all()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell_unreadable("", error)
            return None
        self._files.forget(files)
        own = self._open.name if self._open else ""
        for file in files:
            if file.ending == SEGMENT and file.name != own and (taken := self._lock(file.name)):
                return taken
        if not own:
            return None
        # What comes in from now on goes into another segment.
        self.close()
        return self._lock(own)

    def finish(self, taken: Taken) -> None:
        """Everything in the segment is where it belongs. Raises OSError, and then the segment stays in hand."""
        with contextlib.suppress(FileNotFoundError):
            if taken.contents.damaged or taken.contents.records:
                self._files.keep(taken.name, DAMAGED if taken.contents.damaged else DONE)
            else:
                (self._path / taken.name).unlink()
        self.release(taken)

    def release(self, taken: Taken) -> None:
        """Leave the segment to whoever takes it next."""
        _close(taken.handle)

    def reject(self, taken: Taken, record: Record) -> Path:
        """Put one record of the segment aside. Raises OSError."""
        # Named after the record: should the segment be drained a second time, there is still one file.
        path = self._path / f"{taken.name.removesuffix(SEGMENT)}-{record.id[:16]}{REJECTED}"
        new = path.with_suffix(NEW)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(encode(record))
            file.flush()
            self._sync(handle)
        new.rename(path)
        self._sync_names()
        return path

    def close(self) -> None:
        """Write no more into the open segment, and leave it to whoever drains."""
        found, self._open = self._open, None
        if found is None:
            return
        if not found.size:
            with contextlib.suppress(OSError):
                (self._path / found.name).unlink()
        _close(found.handle)

    def _fill(self, batch: Sequence[bytes]) -> list[str]:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = self._files.all()
        if self._open and all(file.name != self._open.name for file in files):
            self._abandon()
        wanted = sum(map(len, batch))
        room = self._max_bytes - sum(file.size for file in files)
        room += self._files.give_up_copies(files, wanted - room)
        fitting: list[bytes] = []
        reasons: list[str] = []
        for data in batch:
            fits = len(data) <= room
            reasons.append("" if fits else "full")
            if fits:
                fitting.append(data)
                room -= len(data)
        if fitting:
            data = b"".join(fitting)
            try:
                self._store(data)
            except OSError as error:
                if error.errno not in _NO_SPACE or not self._files.give_up_copies(self._files.all(), wanted):
                    raise
                self._abandon()
                self._store(data)
        return reasons

    def _store(self, data: bytes) -> None:
        if self._open is None:
            self._open = self._new_segment()
        view, offset = memoryview(data), self._open.size
        while view:
            written = os.pwrite(self._open.handle, view, offset)
            view, offset = view[written:], offset + written
        self._sync(self._open.handle)
        self._open.size = offset
        if offset >= self._segment_bytes:
            self.close()

    def _new_segment(self) -> _Open:
        # The clock may be set back; the names of a process go on all the same.
        self._last_name = max(self._last_name + 1, int(self._clock() * 1000))
        new = self._path / f"{self._last_name:013d}-{secrets.token_hex(8)}{NEW}"
        path = new.with_suffix(SEGMENT)
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Nobody takes it before it has its name, and then its lock is held.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(path)
            self._sync_names()
        except OSError:
            for made in (new, path):
                with contextlib.suppress(OSError):
                    made.unlink()
            os.close(handle)
            raise
        return _Open(path.name, handle)

    def _sync_names(self) -> None:
        handle = os.open(self._path, os.O_RDONLY)
        try:
            self._sync(handle)
        finally:
            os.close(handle)

    def _abandon(self) -> None:
        """Cut off what is not synced, and go on in another segment: after a failed sync nobody knows what the disk has
        of this one's tail."""
        if self._open:
            with contextlib.suppress(OSError):
                os.ftruncate(self._open.handle, self._open.size)
            self.close()

    def _lock(self, name: str) -> Taken | None:
        """None when somebody else has it. One that cannot be read is left for later, so that others are not held up."""
        path, handle = self._path / name, -1
        try:
            handle = os.open(path, os.O_RDWR)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have drained it between our look at the folder and the lock.
            if os.path.samestat(os.fstat(handle), path.stat()):
                return Taken(name, handle, self._read(name, handle))
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            self._tell_unreadable(name, error)
        if handle >= 0:
            os.close(handle)
        return None

    def _read(self, name: str, handle: int) -> Contents:
        with os.fdopen(handle, "rb", closefd=False) as file:
            contents = decode(file.read())
        if contents.torn_at is not None:
            os.ftruncate(handle, contents.torn_at)
            TORN.inc()
            log.warning("torn_tail_cut_off", file=name, at=contents.torn_at, good=len(contents.records))
        if contents.damaged:
            DAMAGED_PLACES.inc(contents.damaged)
            log.error("segment_damaged", file=name, damaged=contents.damaged, good=len(contents.records))
        return contents

    def _tell(self, state: str, why: str) -> None:
        if state == self._state:
            return
        if state:
            log.error("spool_takes_nothing", folder=str(self._path), state=state, why=why)
        else:
            log.info("spool_takes_again", folder=str(self._path))
        self._state = state

    def _tell_unreadable(self, name: str, error: OSError) -> None:
        if name not in self._unreadable:
            log.error("spool_unreadable", file=str(self._path / name), why=error.strerror)
        self._unreadable.add(name)


def _close(handle: int) -> None:
    """Whatever the disk says to it, the handle is gone, and what counts was synced before."""
    with contextlib.suppress(OSError):
        os.close(handle)
