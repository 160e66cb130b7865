"""A real simulator on a free port, and a real receiver of its webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from boostedcalls.simulator.app import serve
from boostedcalls.simulator.settings import SimulatorSettings

KEY = "test-key"
SPEED = 0.05


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true; the test's own time-out bounds it."""
    while not (answer := await check()):  # noqa: ASYNC110 - what is asked lives behind HTTP and rings no bell
        await asyncio.sleep(0.01)
    return answer


@dataclass
class Receiver:
    """Takes webhooks. `answers` are the statuses of the next ones; then 200."""

    url: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    bodies: list[bytes] = field(default_factory=list[bytes])
    answers: list[int] = field(default_factory=list[int])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.messages.append((await request.json())["message"])
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.read())
        self.arrived.set()
        return web.json_response({"ok": True}, status=self.answers.pop(0) if self.answers else 200)

    def seen(self) -> list[str]:
        """The statuses and types that arrived, in order."""
        return [message.get("status", message["type"]) for message in self.messages]

    async def until(self, what: str, times: int = 1) -> list[str]:
        while self.seen().count(what) < times:
            self.arrived.clear()
            await self.arrived.wait()
        return self.seen()

    def one(self, what: str) -> dict[str, Any]:
        return next(message for message in self.messages if message.get("status", message["type"]) == what)


@dataclass
class Simulator:
    """A running simulator, asked through HTTP."""

    url: str
    data: Path
    http: aiohttp.ClientSession
    receiver: Receiver

    def order(self, number: str, **overrides: Any) -> dict[str, Any]:
        """A create request as our dispatcher sends it."""
        return {
            "name": "job-1",
            "assistantId": "assistant-1",
            "phoneNumberId": "phone-1",
            "customer": {"number": number, "name": "Dana"},
            "assistantOverrides": {
                "firstMessage": "Hi {{ first_name }}, this is Harbor Clinic.",
                "variableValues": {"first_name": "Dana"},
                "metadata": {"callId": "c-1"},
                "server": {"url": self.receiver.url, "headers": {"X-Vapi-Secret": "s3cret"}},
                "serverMessages": ["status-update", "end-of-call-report"],
                **overrides,
            },
        }

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}"} | more.pop("headers", {})
        async with self.http.request(method, self.url + path, json=body, headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def create(self, number: str, **overrides: Any) -> dict[str, Any]:
        status, call = await self.ask("POST", "/call", self.order(number, **overrides))
        assert status == 201, call
        return call

    async def ended(self, call_id: str) -> dict[str, Any]:
        """The call, once its post-processing is done."""

        async def done() -> Any:
            _, call = await self.ask("GET", f"/call/{call_id}")
            return call if "cost" in call else None

        return await eventually(done)

    async def reaches(self, call_id: str, status: str) -> dict[str, Any]:
        async def there() -> Any:
            _, call = await self.ask("GET", f"/call/{call_id}")
            return call if call["status"] == status else None

        return await eventually(there)

    def dials(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.data / "dials.jsonl").read_text().splitlines()]


type Launch = Callable[..., Awaitable[Simulator]]


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    taken = Receiver()
    app = web.Application()
    app.add_routes([web.post("/hook", taken.take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield taken
    await runner.cleanup()


@pytest.fixture
def settings(tmp_path: Path) -> SimulatorSettings:
    return SimulatorSettings(
        simulator_host="127.0.0.1",
        simulator_port=0,
        simulator_data=tmp_path / "data",
        simulator_speed=SPEED,
        simulator_list_lag=0,
        simulator_api_key=KEY,  # pyright: ignore[reportArgumentType]
        simulator_http_hosts=("gateway",),
    )


@pytest_asyncio.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    """Closing it stops the simulators launched so far."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def launch(settings: SimulatorSettings, receiver: Receiver, stack: AsyncExitStack) -> Launch:
    async def launch(**changes: Any) -> Simulator:
        changed = settings.model_copy(update=changes)
        url = await stack.enter_async_context(serve(changed))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        return Simulator(url, changed.simulator_data, http, receiver)

    return launch


@pytest_asyncio.fixture
async def sim(launch: Launch) -> Simulator:
    return await launch()
