"""Data folders: made private, and locked for as long as any process that uses them lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from boostedcalls.devkit.errors import DevkitError


def private_folder(path: Path, *, passable: bool = False) -> Path:
    """Make a folder, with its parents, that only its owner may enter. An existing folder keeps its mode.

    `passable`: as root, others may pass through it to what is theirs below, but not list it (see `root`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o711 if passable and os.geteuid() == 0 else 0o700, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


@asynccontextmanager
async def locked(folder: Path, what: str, patience: float = 15) -> AsyncGenerator[int]:
    """Hold the folder's lock and yield its descriptor, to be passed on to the children.

    The kernel frees the lock when the last process that has the descriptor is gone. So a lock whose taker (named in
    the file) is dead belongs to leftovers of a crash that are about to end: they are waited for, up to `patience`
    seconds. Raises DevkitError when another live instance uses the folder, or when the leftovers do not end.
    """
    private_folder(folder)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                taker = _taker(handle)
                if taker and _alive(taker):
                    raise DevkitError(f"{what}: {folder} is in use by another instance (process {taker})") from None
                if asyncio.get_running_loop().time() > deadline:
                    text = f"{what}: processes of an earlier run still use {folder}; find them with: lsof {folder}/lock"
                    raise DevkitError(text) from None
            await asyncio.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield handle
        finally:
            # What still holds the lock from here on are children about to end, not a live instance.
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def in_use(folder: Path) -> bool:
    """Whether a live instance holds the folder's lock."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _taker(handle: int) -> int:
    text = os.pread(handle, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
