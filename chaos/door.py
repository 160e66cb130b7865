"""The way of the webhooks: a small load balancer between the provider and the gateways, as bad as those are.

It records every webhook and its answer, spreads them over the gateways, loses some, and sends some again: the same
bytes, at once or much later, or the same report with another time. Besides it lets in what nobody asked for: reports of
calls that are not ours, and garbage. All with the right secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
import orjson
from aiohttp import web

from boostedcalls.devkit.net import HOST
from chaos.history import History

PATH = "/hook"
_REMEMBERED = 500
_AT_ONCE = 30
_LOST = 0.03
_HOURS = 6 * 3600 * 1000


class Door:
    """`url` is what the provider is told; `urls` are set once the gateways are there."""

    def __init__(self, port: int, secret: str, history: History, random: random.Random) -> None:
        self.url = f"http://{HOST}:{port}{PATH}"
        self.urls: Sequence[str] = ()
        self._port = port
        self.secret = secret
        self._history = history
        self._random = random
        self._bodies: list[bytes] = []
        self._seen = 0
        self._http = httpx2.AsyncClient(timeout=httpx2.Timeout(10, connect=2), trust_env=False)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.add_routes([web.post(PATH, self._take)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self._port, reuse_address=True).start()
            yield
        finally:
            await runner.cleanup()
            await self._http.aclose()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._remember(body)
        if self._random.random() < _LOST:
            self._note("lost", body, 0)
            if request.transport:
                request.transport.close()
            return web.Response(status=502)
        status = await self._pass_on("real", body)
        return web.Response(status=status or 502)

    def _remember(self, body: bytes) -> None:
        """Of all that ever came, each with the same chance."""
        self._seen += 1
        place = self._random.randrange(self._seen)
        if len(self._bodies) < _REMEMBERED:
            self._bodies.append(body)
        elif place < _REMEMBERED:
            self._bodies[place] = body

    def _note(self, sort: str, body: bytes, status: int) -> None:
        self._history.note("webhook", sort=sort, sha256=hashlib.sha256(body).hexdigest(), status=status)

    async def _pass_on(self, sort: str, body: bytes) -> int:
        """Post it to a gateway; to the other one only where the first was not reached. 0: no answer."""
        headers = {"content-type": "application/json", "x-vapi-secret": self.secret}
        status = 0
        for url in self._random.sample(list(self.urls), len(self.urls)):
            try:
                answer = await self._http.post(f"{url}/api/calls/webhook/", content=body, headers=headers)
                status = answer.status_code
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except (httpx2.HTTPError, OSError):
                break
        self._note(sort, body, status)
        return status

    async def disturb(self, stop: asyncio.Event, rate: float) -> None:
        """Until told to stop, send what the provider did not send just now: `rate` times a second."""
        sending: set[asyncio.Task[int]] = set()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if self._bodies and len(sending) < _AT_ONCE:
                    for sort, body in self._disturbance():
                        task = group.create_task(self._pass_on(sort, body))
                        sending.add(task)
                        task.add_done_callback(sending.discard)
                await asyncio.sleep(self._random.expovariate(rate))

    def _disturbance(self) -> list[tuple[str, bytes]]:
        sort = self._random.choices(
            ("again", "thrice", "late", "unknown", "forged", "garbage"), (30, 10, 25, 10, 5, 20)
        )
        body = self._random.choice(self._bodies)
        match sort[0]:
            case "thrice":
                return [("again", body)] * 3
            case "late":
                return [("late", _changed(body, self._with_another_time))]
            case "unknown":
                return [("unknown", _changed(body, _of_another_call))]
            case "forged":
                return [("forged", _changed(body, _with_a_forged_claim))]
            case "garbage":
                return [("garbage", self._garbage())]
            case _:
                return [("again", body)]

    def _with_another_time(self, message: dict[str, Any]) -> None:
        message["timestamp"] += self._random.randint(-_HOURS, _HOURS)

    def _garbage(self) -> bytes:
        mark = uuid4().hex
        return self._random.choice(
            [
                f"<html>{mark}</html>".encode(),
                orjson.dumps([mark]),
                orjson.dumps({"nothing": mark}),
                orjson.dumps({"message": {"call": {"id": mark}}}),
                orjson.dumps({"message": {"type": "unheard-of", "mark": mark}}),
                orjson.dumps({"message": {"type": "status-update", "status": "ringing", "mark": mark}}),
                orjson.dumps({"message": {"type": "status-update", "call": {"id": mark}, "status": {"no": "text"}}}),
            ]
        )


def _changed(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    envelope = orjson.loads(body)
    change(envelope["message"])
    return orjson.dumps(envelope)


def _of_another_call(message: dict[str, Any]) -> None:
    message["call"]["id"] = str(uuid4())
    message["call"].pop("assistantOverrides", None)


def _with_a_forged_claim(message: dict[str, Any]) -> None:
    """A call that is not ours and says that it is."""
    message["call"]["id"] = str(uuid4())
    message["call"]["assistantOverrides"]["metadata"]["internalCallSignature"] = uuid4().hex
