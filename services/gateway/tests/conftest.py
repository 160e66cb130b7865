"""A gateway in this process, on a free port, with a real Postgres and a real NATS behind it, and no other service.

So a request that gets past the gateway's own judgement is answered 503: nobody is there to answer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import pytest_asyncio

from boostedcalls.common.bus import Endpoint, NatsSettings, connect, serve
from boostedcalls.common.context import Caller
from boostedcalls.common.http_server import bind
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.gateway.app import start
from boostedcalls.gateway.auth import issue_access
from boostedcalls.gateway.deps import Deps
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.users import User, insert_user


@dataclass
class Gateway:
    url: str
    client: httpx2.AsyncClient
    deps: Deps
    user_id: UUID = field(default_factory=uuid4)
    jwt_secret: str = "test-jwt-secret-of-more-than-32-bytes"
    webhook_secret: str = "test-webhook-secret"
    password: str = "correct horse"

    def bearer(self) -> dict[str, str]:
        """Headers of a user who is logged in."""
        access = issue_access(self.deps.keys.ring, self.user_id, uuid4(), timedelta(minutes=1))
        return {"Authorization": f"Bearer {access}"}

    @staticmethod
    def is_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
        """Assert that the answer is this problem, complete; return it."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["code"] == code
        assert body["status"] == status
        assert body["type"] == f"/problems/{code}"
        assert body["title"]
        assert body["detail"]
        assert body["request_id"] == answer.headers["x-request-id"]
        return body

    async def add_user(self) -> User:
        """A user of its own for a test; the password is `password`."""
        password_hash = await self.deps.passwords.hash(self.password)
        return await insert_user(self.deps.pool, f"user-{uuid4()}@example.com", password_hash)


@asynccontextmanager
async def _running(dsn: str, nats_url: str, **changes: Any) -> AsyncGenerator[Gateway]:
    values = {
        "jwt_secret": Gateway.jwt_secret,
        "vapi_webhook_secret": Gateway.webhook_secret,
        "database_url": dsn,
        "nats_url": nats_url,
    }
    settings = GatewaySettings(**{**values, **changes}, _env_file=None)
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(_env_file=None))
        sock = bind("127.0.0.1", 0)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        deps = await start(settings, sock, stack, runtime)
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=30))
        stack.callback(runtime.stop)
        yield Gateway(url, client, deps)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def dsn(module_database: Callable[..., Any]) -> str:
    return await module_database("gateway")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(dsn: str, nats_server: Any) -> AsyncGenerator[Gateway]:
    async with _running(dsn, nats_server.url) as found:
        yield found


@pytest.fixture
def client(gateway: Gateway) -> httpx2.AsyncClient:
    return gateway.client


@asynccontextmanager
async def _peer(nats_url: str, *endpoints: Endpoint) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(_env_file=None))
        bus = await connect(stack, runtime, NatsSettings(nats_url=nats_url, _env_file=None), "peer")
        await serve(stack, bus, "peer", "1.0.0", endpoints)
        stack.callback(runtime.stop)
        yield


@asynccontextmanager
async def _silent_peer(nats_url: str, *subjects: str) -> AsyncGenerator[asyncio.Event]:
    asked = asyncio.Event()

    async def never(_: Caller, __: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with _peer(nats_url, *(Endpoint(subject, never) for subject in subjects)):
        yield asked


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    """`async with running(dsn, nats_url, **settings) as gateway`: one more gateway."""
    return _running


@pytest.fixture
def peer() -> Callable[..., Any]:
    """`async with peer(nats_url, *endpoints)`: a service with these endpoints."""
    return _peer


@pytest.fixture
def silent_peer() -> Callable[..., Any]:
    """`async with silent_peer(nats_url, *subjects) as asked`: takes requests and never answers them."""
    return _silent_peer
