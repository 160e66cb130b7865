"""Starting each peer: what it needs, in order, and a Contender that says where it is. `PEERS` names them all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import nats as nats_client  # noqa: TID251 - the peers know nothing of our bus
from argon2 import PasswordHasher
from sqlalchemy.ext.asyncio import create_async_engine

from bench.contender import Contender, NatsSync, nats_config, with_children
from bench.data import PASSWORD, DataSet, User
from bench.peers.django_app import peer as django
from bench.peers.load import Tables, add_live, load
from bench.peers.serving import JWT_SECRET, SECRET, UVICORN, python, running
from bench.peers.tables import Base
from boostedcalls.common.bus.streams import PROVIDER_EVENTS, STREAMS
from boostedcalls.devkit.child import Child
from boostedcalls.devkit.net import HOST, reserved_port
from boostedcalls.devkit.servers import Server, nats_server, postgres_server

_SECRETS = {"JWT_SECRET": JWT_SECRET, "VAPI_WEBHOOK_SECRET": SECRET}


@cache
def _password() -> str:
    return PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)


def _login(user: User) -> tuple[Any, ...]:
    return user.id, user.email, _password()


TABLES = Tables("users", "contacts", "calls", ("id", "email", "password"), _login)


async def migrate(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


@asynccontextmanager
async def _nats(folder: Path, sync: NatsSync) -> AsyncGenerator[Server]:
    """A nats-server set as ours, with our stream of provider events in it."""
    async with nats_server(folder / "nats", config=nats_config(folder, sync)) as server:
        client = await nats_client.connect(server.url)
        await client.jetstream().add_stream(STREAMS[PROVIDER_EVENTS])
        await client.close()
        yield server


@asynccontextmanager
async def _uvicorn(
    name: str, folder: Path, app: str, env: dict[str, str], *, lifespan: str = "on"
) -> AsyncGenerator[tuple[Child, str]]:
    """The process, ready, and its URL."""
    with reserved_port() as port:
        arguments = (*UVICORN, "--port", str(port), "--lifespan", lifespan, app)
        async with running(python(name, folder, arguments, env), port) as child:
            yield child, f"http://{HOST}:{port}"


@asynccontextmanager
async def start_constant(folder: Path, data: DataSet | None, *, nats_sync: NatsSync) -> AsyncGenerator[Contender]:
    """Has neither data nor NATS."""
    async with _uvicorn("constant", folder, "bench.peers.floor:constant", {}, lifespan="off") as (app, url):
        yield Contender("floor: constant", url, SECRET, lambda: {"app": with_children(app.pid)})


@asynccontextmanager
async def start_publish(folder: Path, data: DataSet | None, *, nats_sync: NatsSync) -> AsyncGenerator[Contender]:
    """Has no data."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_nats(folder, nats_sync))
        started = _uvicorn("publish", folder, "bench.peers.floor:publish", {"NATS_URL": server.url})
        app, url = await stack.enter_async_context(started)
        yield Contender(
            name="floor: publish",
            url=url,
            secret=SECRET,
            processes=lambda: {"app": with_children(app.pid), "nats": with_children(server.child.pid)},
        )


@asynccontextmanager
async def start_sqlalchemy(folder: Path, data: DataSet | None, *, nats_sync: NatsSync) -> AsyncGenerator[Contender]:
    """Without `data` the folder's database is used as it is. `nats_sync` says nothing here."""
    if data is not None:
        await load(folder, data, TABLES, migrate)
    async with postgres_server(folder / "postgres") as postgres:
        if data is None:
            await migrate(postgres.url)
        env = {**_SECRETS, "DATABASE_URL": postgres.url}
        async with _uvicorn("sqlalchemy", folder, "bench.peers.sqlalchemy_app:app", env) as (app, url):
            yield Contender(
                name="FastAPI + SQLAlchemy",
                url=url,
                secret=SECRET,
                processes=lambda: {"uvicorn": with_children(app.pid), "postgres": with_children(postgres.child.pid)},
                database_url=postgres.url,
                add_live=partial(add_live, postgres.url, TABLES, data or DataSet()),
                live_rows=TABLES.live_rows,
            )


@asynccontextmanager
async def start_faststream(folder: Path, data: DataSet | None, *, nats_sync: NatsSync) -> AsyncGenerator[Contender]:
    """Without `data` the folder's database is used as it is. It has no REST API but the webhook."""
    if data is not None:
        await load(folder, data, TABLES, migrate)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_nats(folder, nats_sync))
        postgres = await stack.enter_async_context(postgres_server(folder / "postgres"))
        if data is None:
            await migrate(postgres.url)
        env = {**_SECRETS, "NATS_URL": server.url, "DATABASE_URL": postgres.url}
        children: dict[str, Child] = {}
        for name in ("consumer", "ingest"):
            child = python(name, folder, ("-m", "bench.peers.faststream_app", name), env)
            children[name] = await stack.enter_async_context(running(child))
        gateway = _uvicorn("gateway", folder, "bench.peers.faststream_app:gateway", env)
        children["gateway"], url = await stack.enter_async_context(gateway)
        servers = {"nats": server.child, "postgres": postgres.child}
        yield Contender(
            name="FastStream",
            url=url,
            secret=SECRET,
            processes=lambda: {name: with_children(child.pid) for name, child in (children | servers).items()},
            database_url=postgres.url,
            add_live=partial(add_live, postgres.url, TABLES, data or DataSet()),
            live_rows=TABLES.live_rows,
        )


PEERS: dict[str, Callable[..., AbstractAsyncContextManager[Contender]]] = {
    "django": django.start,
    "django-persistent": partial(django.start, tuned=True),
    "django-indexed": partial(django.start, tuned=True, index=True),
    "sqlalchemy": start_sqlalchemy,
    "faststream": start_faststream,
    "floor-publish": start_publish,
    "floor-constant": start_constant,
}
