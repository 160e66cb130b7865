"""The service's commands, as processes of their own beside a test's world."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any


class Commands:
    """`await commands("audit")`: exit code, stdout, and what of stderr is no log line."""

    def __init__(self, world: Any, nats: Any, folder: Path) -> None:
        self._world = world
        self._nats = nats
        self._folder = folder

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "boostedcalls.calls",
            *arguments,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "NATS_URL": self._nats.url, "DATABASE_URL": self._world.dsn},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        lines = [line for line in err.decode().splitlines() if not line.startswith("{")]
        return process.returncode or 0, out.decode(), "\n".join(lines)
