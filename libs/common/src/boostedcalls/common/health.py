"""The small HTTP port of a process behind the gateway: /healthz, /readyz and /metrics.

Also a command for a container's health check: `python -m boostedcalls.common.health [url]` exits 0 when it answers 200.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import AsyncExitStack

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from boostedcalls.common.readiness import Check, ready_report


async def serve_health(stack: AsyncExitStack, host: str, port: int, checks: Mapping[str, Check]) -> None:
    """Listen until the stack closes."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        report = await ready_report(checks)
        return web.json_response(report, status=200 if all(report.values()) else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{os.environ.get('HEALTH_PORT', '8081')}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310 - our own container's port
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
