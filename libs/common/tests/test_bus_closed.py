"""A NATS client that closed for good never opens again: its process must end, and a supervisor starts a new one."""

import asyncio
import os
import sys

SCRIPT = """
import asyncio
from boostedcalls.common.bus import NatsSettings, connect
from boostedcalls.common.runtime import run

async def main(stack, runtime):
    bus = await connect(stack, runtime, NatsSettings(), "test")
    # nats-py counts the body alone; the server closes a connection that goes over its limit with the headers.
    await bus.client.publish("x", b"x" * bus.client.max_payload, headers={"a": "b"})

run(main, "sample")
"""


async def test_process_whose_nats_client_closed_for_good_ends_with_exit_code_1(tmp_path, nats_server):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "NATS_URL": nats_server.url},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert b"maximum payload" in errors
    assert b"the NATS client closed for good" in errors
