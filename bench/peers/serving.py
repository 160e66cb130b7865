"""Starting what a peer consists of: processes with an environment of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from boostedcalls.devkit.child import Child, until_ready
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.net import http_status
from boostedcalls.devkit.servers import CHECKOUT

SECRET = "webhook-secret-of-the-bench"  # noqa: S105 - of a system that lives as long as the run
JWT_SECRET = "of-a-system-that-lives-as-long-as-the-run"  # noqa: S105
# One process, as fast as uvicorn goes: uvloop, httptools, and no line for each request.
UVICORN = ("-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--ws", "none", "--no-access-log")


def python(name: str, folder: Path, arguments: tuple[str, ...], env: Mapping[str, str]) -> Child:
    """A Python process, not started yet."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"}}
    return Child(
        name=name,
        argv=[sys.executable, *arguments],
        env={**kept, "PYTHONPATH": str(CHECKOUT), **env},
        log=folder / f"{name}.log",
    )


async def run_once(child: Child) -> None:
    """Run it to its end. Raises DevkitError when it fails."""
    await child.start()
    if (code := await child.wait()) != 0:
        raise DevkitError(f"{child.name} ended with exit code {code}: {child.last_words(lines=8)}")


@asynccontextmanager
async def running(child: Child, port: int | None = None, path: str = "/healthz") -> AsyncGenerator[Child]:
    """The process, ready: when it answers on the port, or at once without one. Stopped afterwards."""
    try:
        await child.start()
        if port is not None:
            await until_ready(child, lambda: _answers(port, path))
        yield child
    finally:
        await child.stop()


async def _answers(port: int, path: str) -> bool:
    return await http_status(port, path) == 200
