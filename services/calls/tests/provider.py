"""A provider that answers what a test tells it to, on a socket of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from boostedcalls.common.context import new_id


class Provider:
    """`calls`: its call objects by id, as GET and the list show them. `failing`: by question ("create", "get", "list",
    "control") a status to refuse it with. `raw`: by question the bytes of a 200. `asked`: what came in, as (question,
    id or name). `came`: set when a "create" has come in, which waits for its answer while `going` is cleared."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Any]] = {}
        self.failing: dict[str, int] = {}
        self.raw: dict[str, bytes] = {}
        self.message = "no"
        self.asked: list[tuple[str, str]] = []
        self.came = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.url = ""

    def count(self, what: str) -> int:
        return sum(asked == what for asked, _ in self.asked)

    def place(self, body: dict[str, Any], **members: Any) -> dict[str, Any]:
        """A new call, as the answer to `body` shows it."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        call = {"id": str(new_id()), "orgId": "org", "status": "queued", "createdAt": now, "updatedAt": now, **body}
        call["monitor"] = {"controlUrl": f"{self.url}/control/{call['id']}"}
        self.calls[call["id"]] = {**call, **members}
        return self.calls[call["id"]]

    def _answer(self, what: str, name: str, value: Any, status: int = 200) -> web.Response:
        self.asked.append((what, name))
        if refused := self.failing.get(what):
            status, value = refused, {"message": self.message, "statusCode": refused}
        return web.Response(
            body=self.raw.get(what) or orjson.dumps(value), status=status, content_type="application/json"
        )

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        placed = None if "create" in self.failing else self.place(body)
        answer = self._answer("create", body["name"], placed, 201)
        self.came.set()
        await self.going.wait()
        return answer

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name in self.calls or "get" in self.raw:
            return self._answer("get", name, self.calls.get(name))
        return self._answer("get", name, {"message": "no"}, 404)

    async def list(self, _: web.Request) -> web.Response:
        return self._answer("list", "", list(self.calls.values()))

    async def control(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self.calls[name]["status"] == "ended":
            return self._answer("control", name, {"message": "The call has ended"}, 400)
        if "control" not in self.failing:
            self.calls[name].update(status="ended", endedReason="manually-canceled", cost=0.01)
        return self._answer("control", name, {})


@asynccontextmanager
async def provider_server() -> AsyncGenerator[Provider]:
    provider = Provider()
    app = web.Application()
    app.add_routes(
        [
            web.post("/call", provider.create),
            web.get("/call/{id}", provider.get),
            web.get("/call", provider.list),
            web.post("/control/{id}", provider.control),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    provider.url = f"http://127.0.0.1:{port}"
    try:
        yield provider
    finally:
        await runner.cleanup()
