"""How a process lives: event loop, signals, one AsyncExitStack, side tasks that are watched, and an ordered end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import uvloop
from pydantic import Field

from boostedcalls.common.errors import Unavailable
from boostedcalls.common.logs import get_logger, setup_logs
from boostedcalls.common.settings import Settings, load

log = get_logger(__name__)


class RuntimeSettings(Settings):
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    health_host: str = "0.0.0.0"
    health_port: int = Field(8081, ge=0, le=65535)


class Runtime:
    """What a running process shares: the wish to stop, and the tasks that must not die unseen."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.failed = False
        self._told_at: float | None = None
        self.tasks: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        self._told_at = self._told_at or monotonic()
        self.stopping.set()

    def left(self, until: float) -> float:
        """The seconds left until `until` seconds after the process was told to stop: each step of the end takes what
        the earlier ones left of the ten seconds there are."""
        return max(0.0, (self._told_at or monotonic()) + until - monotonic())

    def fail(self, reason: str) -> None:
        """End the process with exit code 1: it cannot do its work any more, a fresh one can."""
        log.error("fatal", reason=reason)
        self.failed = True
        self.stop()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a side task for the process's whole life. One that raises, or returns early, ends the process."""
        task = asyncio.create_task(coro, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if task.cancelled() or self.stopping.is_set():
            return
        error = task.exception()
        log.error("side_task_died", task=task.get_name(), exc_info=error)
        self.fail(f"side task {task.get_name()} died")

    async def cancel(self, *tasks: asyncio.Task[Any]) -> None:
        """Cancel side tasks and wait for their end."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Main = Callable[[AsyncExitStack, Runtime], Awaitable[None]]


async def _serve(main: Main, runtime: Runtime) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.stop)
    async with AsyncExitStack() as stack:
        await main(stack, runtime)
        _settle_memory()
        log.info("ready")
        await runtime.stopping.wait()
        log.info("stopping")


def _settle_memory() -> None:
    """What was made to start lives as long as the process: the collector need not look through it again and again, nor
    as often as it does by default, where every 2,000 new objects (a few requests) are a reason."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def run(main: Main, name: str, *, quiet: bool = False) -> None:
    """Start a process: `main` opens everything on the stack and returns; the stack closes, last in first out, at
    SIGTERM, SIGINT or `Runtime.fail`. Exit code 1 when it failed. `quiet`: for a command that speaks for itself, only
    troubles are logged."""
    settings = load(RuntimeSettings)
    setup_logs(name, "WARNING" if quiet and settings.log_level == "INFO" else settings.log_level)

    async def guarded() -> int:
        runtime = Runtime(settings)
        try:
            await _serve(main, runtime)
        except Unavailable as error:
            if runtime.stopping.is_set() and not runtime.failed:
                return 0
            log.error("cannot_start", reason=str(error))
            return 1
        except Exception as error:
            log.error("stopped_badly" if runtime.stopping.is_set() else "cannot_start", exc_info=error)
            return 1
        return 1 if runtime.failed else 0

    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(uvloop.run(guarded()))
