"""What the benches share: a user with a contact for each number, a proxy before the provider, and figures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import httpx2
from aiohttp import web

PASSWORD = "correct-horse-battery"  # noqa: S105 - of an account that lives as long as the run
# The host is passed on: of it the provider makes its control URLs.
_HOP = {"content-length", "transfer-encoding", "connection"}


def _text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def figures(values: Iterable[float]) -> str:
    """`median 40 ms, p99 1.2 s, max 1.3 s`, of seconds."""
    found = sorted(values)
    if not found:
        return "none"
    p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
    return f"median {_text(found[len(found) // 2])}, p99 {_text(p99)}, max {_text(found[-1])}"


@dataclass
class User:
    """Somebody who has an account, and a contact for each of the simulator's numbers."""

    http: httpx2.AsyncClient
    contacts: dict[str, str] = field(default_factory=dict)

    async def place(self, number: str) -> dict[str, Any]:
        """Ask for a call; raises what is no 201."""
        if number not in self.contacts:
            body = {"name": f"No. {number}", "phone": f"+120255501{number}"}
            self.contacts[number] = (await self.http.post("/api/contacts/", json=body)).json()["id"]
        answer = await self.http.post("/api/calls/", json={"contact_id": self.contacts[number]})
        if answer.status_code != 201:
            raise RuntimeError(f"call to {number}: {answer.status_code} {answer.text}")
        return answer.json()

    async def place_all(self, numbers: list[str], at_once: int = 20) -> list[dict[str, Any]]:
        slots = asyncio.Semaphore(at_once)

        async def one(number: str) -> dict[str, Any]:
            async with slots:
                return await self.place(number)

        for number in set(numbers):
            body = {"name": f"No. {number}", "phone": f"+120255501{number}"}
            self.contacts[number] = (await self.http.post("/api/contacts/", json=body)).json()["id"]
        return list(await asyncio.gather(*(one(number) for number in numbers)))


@asynccontextmanager
async def user_of(url: str) -> AsyncGenerator[User]:
    """A new account, logged in."""
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        email = f"{uuid4().hex}@example.com"
        (await http.post("/api/auth/signup", json={"email": email, "password": PASSWORD})).raise_for_status()
        tokens = await http.post("/api/token/", json={"username": email, "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {tokens.json()['access']}"
        yield User(http)


@dataclass
class Proxy:
    """Stands before the provider: counts what it is asked, and lets it answer late. `target` is the simulator's URL."""

    url: str = ""
    target: str = ""
    delay: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        what = "GET /call/{id}" if request.path.startswith("/call/") else f"{request.method} {request.path}"
        self.asked["control" if request.path.endswith("/control") else what] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        body = await request.read()
        if request.method == "GET":
            await asyncio.sleep(self.delay)
        session: aiohttp.ClientSession = request.app["session"]
        url = self.target + request.path_qs
        try:
            async with session.request(request.method, url, headers=headers, data=body) as answer:
                kind = answer.headers.get("Content-Type", "application/json")
                return web.Response(body=await answer.read(), status=answer.status, headers={"Content-Type": kind})
        except aiohttp.ClientError:
            # As the simulator does where it dials and drops the connection.
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=502)


@asynccontextmanager
async def proxy() -> AsyncGenerator[Proxy]:
    """A running proxy; set its `target` before it is used."""
    made = Proxy()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", made.handle)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app["session"] = session
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield made
        finally:
            await runner.cleanup()
