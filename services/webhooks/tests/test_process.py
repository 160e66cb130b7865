"""The process as an operator starts it."""

import asyncio
import os
import signal
import sys

from boostedcalls.devkit.net import http_status, reserved_port


async def test_process_serves_and_stops_in_order(tmp_path, nats_server):
    with reserved_port() as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "boostedcalls.webhooks",
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "NATS_URL": nats_server.url,
                "HEALTH_HOST": "127.0.0.1",
                "HEALTH_PORT": str(port),
            },
        )
        try:
            while await http_status(port, "/readyz") != 200:
                assert process.returncode is None
                await asyncio.sleep(0.05)
            assert await http_status(port, "/metrics") == 200
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
