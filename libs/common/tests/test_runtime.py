"""A process's life, in processes of its own."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator

import pytest

from boostedcalls.devkit.net import http_status, reserved_port

SCRIPT = """
import asyncio, sys
from boostedcalls.common.health import serve_health
from boostedcalls.common.runtime import run

async def side(how):
    await asyncio.sleep(0.05)
    if how == "raises":
        raise ValueError("s3cret")

async def check(how):
    if how == "unready":
        raise ValueError("s3cret")
    return True

async def main(stack, runtime):
    how = sys.argv[1]
    for name in ("first", "second"):
        stack.callback(print, "closed", name, flush=True)
    if how == "cannot start":
        raise OSError("no server")
    if how in ("raises", "returns"):
        runtime.spawn(side(how), "side")
    await serve_health(stack, runtime, {"part": lambda: check(how)})
    print("started", flush=True)

run(main, "sample")
"""


@contextlib.asynccontextmanager
async def started(tmp_path, how: str, port: int = 0) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        how,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HEALTH_HOST": "127.0.0.1", "HEALTH_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_closes_everything_last_in_first_out(tmp_path, number):
    async with started(tmp_path, "well") as process:
        assert await process.stdout.readline() == b"started\n"
        process.send_signal(number)
        output, _ = await process.communicate()
        assert (process.returncode, output) == (0, b"closed second\nclosed first\n")


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_side_task_that_ends_ends_the_process_in_order(tmp_path, how):
    async with started(tmp_path, how) as process:
        output, errors = await process.communicate()
        assert process.returncode == 1
        assert output.endswith(b"closed second\nclosed first\n")
        assert b"side task side died" in errors


async def test_process_that_cannot_start_says_so_and_closes_what_was_open(tmp_path):
    async with started(tmp_path, "cannot start") as process:
        output, errors = await process.communicate()
        assert (process.returncode, output) == (1, b"closed second\nclosed first\n")
        assert b"no server" in errors


@pytest.mark.parametrize(("how", "ready"), [("well", 200), ("unready", 503)])
async def test_health_port_tells_living_from_ready(tmp_path, how, ready):
    with reserved_port() as port:
        async with started(tmp_path, how, port) as process:
            assert await process.stdout.readline() == b"started\n"
            found = [await http_status(port, path) for path in ("/healthz", "/readyz", "/metrics", "/other")]
    assert found == [200, ready, 200, 404]


async def test_health_command_tells_by_its_exit_code(tmp_path):
    with reserved_port() as port:
        command = [sys.executable, "-m", "boostedcalls.common.health", f"http://127.0.0.1:{port}/readyz"]
        nobody = await asyncio.create_subprocess_exec(*command)
        assert await nobody.wait() == 1
        async with started(tmp_path, "well", port) as process:
            assert await process.stdout.readline() == b"started\n"
            somebody = await asyncio.create_subprocess_exec(*command)
            assert await somebody.wait() == 0
