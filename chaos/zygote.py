"""Runs each case in a fresh process without starting Python anew: a process that has imported everything forks.

The process (`python -m chaos.zygote`) has no event loop and no thread. It reads one case a line, forks a child that
runs it (`chaos.cases`), waits for the child's end, and writes what is known of it as one line. What the child noted
before it was killed survives it in memory that both share.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import select
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from boostedcalls.devkit.child import die_with_parent

PATIENCE = 60.0
_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a case's process ended. `end`: "completed", "killed", "hung" (it did not end in time) or "failed" (the
    harness itself). `waits`: our lines at each point, in order. `outcome`: what the work returned or raised, in short.
    `notes`: what else it noted."""

    end: str
    waits: list[tuple[str, ...]] = field(default_factory=list)
    struck: bool = False
    outcome: str = ""
    notes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def _serve() -> None:
    from chaos import cases, cases_spool

    assert cases_spool
    _warm_up()
    # The answers' way is not open to what a child prints.
    answers = os.dup(1)
    os.dup2(2, 1)
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        notes = os.memfd_create("notes")
        pid = os.fork()
        if pid == 0:
            _child(cases.run, json.loads(line), notes)
        answer = _wait(pid) | {"notes": os.pread(notes, os.fstat(notes).st_size, 0).decode()}
        os.close(notes)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _warm_up() -> None:
    """What costs every child time otherwise: libraries that import late, and certificates, which nobody needs here."""
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None  # type: ignore[method-assign]
    httpx.AsyncClient()
    importlib.import_module("anyio._backends._asyncio")


def _child(run: Any, spec: dict[str, Any], notes: int) -> None:
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        os.environ.update(spec.get("env", {}))
        run(spec, lambda note: os.write(notes, json.dumps(note).encode() + b"\n"))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> dict[str, Any]:
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    hung = not poll.poll(PATIENCE * 1000)
    if hung:
        os.kill(pid, signal.SIGKILL)
    os.close(process)
    _, status = os.waitpid(pid, 0)
    return {"hung": hung, "code": os.waitstatus_to_exitcode(status)}


class Zygotes:
    """A few such processes, and their cases one after the other in each."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self.count = len(processes)
        self._free: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        for process in processes:
            self._free.put_nowait(process)

    async def run(self, spec: Mapping[str, Any]) -> Ending:
        """Run one case (`chaos.cases`) in a process of its own."""
        process = await self._free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(spec).encode() + b"\n")
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError("the forking process died")
        self._free.put_nowait(process)
        return _ending(json.loads(line))


def _ending(answer: dict[str, Any]) -> Ending:
    notes = [json.loads(line) for line in answer["notes"].splitlines()]
    waits = [tuple(note["waits"]) for note in notes if "waits" in note]
    last = next((note for note in notes if "outcome" in note), None)
    others = [note for note in notes if "waits" not in note and "outcome" not in note]
    if answer["hung"]:
        return Ending("hung", waits, notes=others)
    if answer["code"] == -signal.SIGKILL:
        return Ending("killed", waits, struck=True, notes=others)
    if answer["code"] != 0 or last is None:
        return Ending("failed", waits, outcome=f"exit code {answer['code']}", notes=others)
    return Ending("completed", waits, last["struck"], last["outcome"], others)


@asynccontextmanager
async def zygotes(count: int, env: Mapping[str, str], home: Path) -> AsyncGenerator[Zygotes]:
    """Start that many, with these settings; their children's logs go to `<home>/logs/cases.log`."""
    processes: list[asyncio.subprocess.Process] = []
    log = home / "logs" / "cases.log"
    path = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    try:
        for _ in range(count):
            with log.open("ab") as lines:
                processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        "chaos.zygote",
                        env={**env, "PYTHONPATH": os.pathsep.join([str(_CHECKOUT), *path])},
                        cwd=home,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        stderr=lines,
                        limit=2**24,
                        start_new_session=True,
                    )
                )
        yield Zygotes(processes)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


if __name__ == "__main__":
    _serve()
