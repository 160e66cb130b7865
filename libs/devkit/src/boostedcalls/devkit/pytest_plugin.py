"""Fixtures: a real Postgres with migrated databases, a real NATS, and whole stacks of our processes.

Everything lives in pytest's temporary folders and is removed afterwards. Each xdist worker has servers of its own.
"""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from boostedcalls.devkit import leaks, servers
from boostedcalls.devkit.credentials import SCHEMAS
from boostedcalls.devkit.servers import Server
from boostedcalls.devkit.stack import Stack

Database = Callable[..., Awaitable["Dsn"]]
StackFactory = Callable[..., AbstractAsyncContextManager[Stack]]


def _on(server: Server, database: str) -> str:
    return urlsplit(server.url)._replace(path=f"/{database}").geturl()


class Dsn(str):
    """Where a database is: with the role of the one service that it is for, else with its owner's login."""

    __slots__ = ("owner",)

    owner: str
    """With the login of the owner, a superuser: for tests that look into tables."""

    def __new__(cls, owner: str, service: str | None = None, password: str = "") -> Dsn:
        parts = urlsplit(owner)
        address = parts.netloc.rpartition("@")[2]
        own = parts._replace(netloc=f"boostedcalls_{service}:{password}@{address}").geturl() if service else owner
        made = super().__new__(cls, own)
        made.owner = owner
        return made


class _Databases:
    """Makes and drops the databases of one test session."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._passwords = {service: secrets.token_hex(16) for service in SCHEMAS}
        self._templates: dict[tuple[str, ...], str] = {}
        self._numbers = itertools.count(1)

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self._server.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _template(self, services: tuple[str, ...]) -> str:
        if services not in self._templates:
            from boostedcalls.common.migrate import migrate

            name = "_".join(("template", *services))
            await self._execute(f"CREATE DATABASE {name}")
            for service in services:
                dsn, password = _on(self._server, name), self._passwords[service]
                await migrate(dsn, SCHEMAS[service], f"boostedcalls.{service}", service, password)
            self._templates[services] = name
        return self._templates[services]

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Database]:
        made: list[str] = []

        async def database(*services: str) -> Dsn:
            template = await self._template(tuple(sorted(services))) if services else "template1"
            name = f"test_{next(self._numbers)}"
            await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            made.append(name)
            service = services[0] if len(services) == 1 else None
            return Dsn(_on(self._server, name), service, self._passwords.get(service or "", ""))

        try:
            yield database
        finally:
            for name in made:
                await self._execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def _folder(factory: pytest.TempPathFactory, name: str) -> AsyncGenerator[Path]:
    folder = factory.mktemp(name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """The session's Postgres: `.url` (superuser), `.restart()`, `.kill()`, `.start()`. It does not fsync."""
    async with (
        _folder(tmp_path_factory, "postgres") as folder,
        servers.postgres_server(folder, durable=False) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def _databases(postgres_server: Server) -> _Databases:
    return _Databases(postgres_server)


@pytest_asyncio.fixture(loop_scope="session")
async def database(_databases: _Databases) -> AsyncGenerator[Database]:
    """`dsn = await database("contacts")`: a new database, migrated for the named services (gateway, contacts, calls).

    With one name the DSN has the role of that service, and `dsn.owner` the login of the owner; else both are the
    owner's. Without a name the database is empty. Dropped, connections and all, after the test.
    """
    async with _databases.lease() as make:
        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_database(_databases: _Databases) -> AsyncGenerator[Database]:
    """As `database`, for fixtures that live as long as a module."""
    async with _databases.lease() as make:
        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A fresh nats-server with JetStream for the module: `.url`, `.restart()`, `.stop()`, `.kill()`, `.start()`."""
    async with _folder(tmp_path_factory, "nats") as folder, servers.nats_server(folder) as server:
        yield server


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> StackFactory:
    """`async with stack(replicas={"calls": 2}) as s:` runs the real processes; the options are those of `Stack`.

    Their log lines are printed, so that pytest shows them beside a failure. When a stack ends, what left it is searched
    for what must not leave (`leaks`).
    """

    @asynccontextmanager
    async def make(**options: Any) -> AsyncGenerator[Stack]:
        async with _folder(tmp_path_factory, "stack") as folder:
            defaults: dict[str, Any] = {"durable": False, "sinks": _printed, "say": print}
            async with Stack(folder, **{**defaults, **options}) as running:
                yield running
                live = await leaks.live(running)
            leaked = leaks.search([*leaks.logs(folder / "logs"), *live], leaks.secrets_of(running.env))
            assert not leaked, "\n".join(leaked)

    return make


def _printed(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name} | {line}")
