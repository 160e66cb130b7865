"""Child processes that die with their parent: started in a session of their own, watched, stopped in order.

Owns how one process is started, logged and ended. Does not know what it starts; restarts are `stack`'s.

On Linux every child asks the kernel for a signal at its parent's death (PR_SET_PDEATHSIG), so that `kill -9` of the
supervisor leaves nothing. The wish is tied to the parent's *thread*: start children from the main thread only. It is
lost when the uid changes, so it is set after that; and it comes too late when the parent died in between, so the parent
is checked once more afterwards. Elsewhere (macOS) children end on the parent's orderly end only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from boostedcalls.devkit.errors import ChildDied, DevkitError

_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)

LineSink = Callable[[str], None]
Probe = Callable[[], Awaitable[bool]]


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask for `number` at the death of the thread that started this process. Nothing outside Linux."""
    if _LINUX:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _before_exec(parent: int, death_signal: int, prepare: Callable[[], None] | None) -> Callable[[], None]:
    def run() -> None:
        if prepare is not None:
            prepare()
        die_with_parent(death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return run


@dataclass
class Child:
    """One process: what to run, and how to end it. Its output goes to `log` and, line by line, to `sink`."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    sink: LineSink | None = None
    cwd: Path | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    prepare: Callable[[], None] | None = None
    """Runs in the child between fork and exec."""
    pass_fds: tuple[int, ...] = ()
    process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the process; it is not ready yet. Raises DevkitError when the program cannot be run."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    env=self.env,
                    cwd=self.cwd,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log if self.sink is None else asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=self.pass_fds,
                    preexec_fn=_before_exec(os.getpid(), self.death_signal, self.prepare),
                )
            except OSError as error:
                raise DevkitError(f"{self.name}: cannot run {self.argv[0]}: {error.strerror}") from error
        if self.sink is not None:
            self._reader = asyncio.create_task(self._read(self.sink), name=f"output of {self.name}")

    async def _read(self, sink: LineSink) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        pending = b""
        with self.log.open("ab", buffering=0) as log:
            while chunk := await self.process.stdout.read(65536):
                log.write(chunk)
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    sink(line.decode(errors="replace"))
        if pending:
            sink(pending.decode(errors="replace"))

    async def wait(self) -> int:
        """Wait for the end, its last output included, and return the exit code (negative: the signal)."""
        assert self.process is not None
        code = await self.process.wait()
        if self._reader is not None:
            # A grandchild may hold the pipe open; its output is not worth waiting for.
            await asyncio.wait({self._reader}, timeout=2)
            self._reader.cancel()
        return code

    def signal(self, number: int) -> None:
        """Send a signal if the process still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, timeout: float = 10) -> None:
        """Ask it to stop; after `timeout` seconds kill it with everything in its session."""
        if self.process is None:
            return
        self.signal(self.stop_signal)
        try:
            await asyncio.wait_for(self.process.wait(), timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait()

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, on one line: for an error message."""
        try:
            text = self.log.read_bytes()[-4000:].decode(errors="replace")
        except OSError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())


async def until_ready(child: Child, probe: Probe, timeout: float = 30) -> None:
    """Poll until `probe` says yes. Raises ChildDied if the process ends first, DevkitError after `timeout` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not await probe():
        if not child.running:
            code = await child.wait()
            raise ChildDied(f"{child.name} ended with exit code {code}: {child.last_words() or 'it said nothing'}")
        if asyncio.get_running_loop().time() > deadline:
            raise DevkitError(f"{child.name} is not ready after {timeout:.0f} s: {child.last_words()}")
        await asyncio.sleep(0.02)
