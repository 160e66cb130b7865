"""The small HTTP port of a process behind the gateway: /healthz, /readyz and /metrics.

Also a command for a container's health check: `python -m boostedcalls.common.health [url]` exits 0 when it answers 200.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from boostedcalls.common.http_server import bind, serve_http
from boostedcalls.common.readiness import Check, ready_report
from boostedcalls.common.runtime import Runtime

_JSON = "application/json"

type Answer = tuple[int, str, bytes]


async def serve_health(stack: AsyncExitStack, runtime: Runtime, checks: Mapping[str, Check]) -> None:
    """Listen until the stack closes, where the settings say. Raises OSError when that is taken."""

    async def answer(method: str, path: str) -> Answer:
        if method not in {"GET", "HEAD"}:
            return 405, _JSON, b"{}"
        if path == "/healthz":
            return 200, _JSON, orjson.dumps({"status": "ok"})
        if path == "/readyz":
            report = await ready_report(checks)
            return 200 if all(report.values()) else 503, _JSON, orjson.dumps(report)
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        return 404, _JSON, b"{}"

    async def app(scope: Any, _: Any, send: Any) -> None:
        status, kind, body = await answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    sock = bind(runtime.settings.health_host, runtime.settings.health_port)
    await serve_http(stack, runtime, app, sock)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{os.environ.get('HEALTH_PORT', '8081')}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310 - our own container's port
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
