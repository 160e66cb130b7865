"""A whole BoostedCalls on this machine: any of its processes, in any number, with embedded NATS and Postgres.

Owns the order of start and stop, the ports and the environment of each process. `run` makes it `make run`; tests use
it to run the real processes, to kill them and to watch them come back.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import asyncpg

from boostedcalls.common.migrate import MigrationError, migrate
from boostedcalls.common.roles import RoleMissing
from boostedcalls.devkit.child import Child, LineSink, until_ready
from boostedcalls.devkit.credentials import (
    SCHEMAS,
    WITH_MIGRATIONS,
    beside_simulator,
    new_environment,
    own_variables,
    password_variable,
)
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.folder import private_folder
from boostedcalls.devkit.net import HOST, http_status, reserved_port
from boostedcalls.devkit.servers import (
    NATS_ADMIN,
    NATS_CONFIG,
    Server,
    nats_server,
    nats_variable,
    postgres_server,
)
from boostedcalls.devkit.supervise import Supervised

SERVERS = ("nats", "postgres")
SERVICES = ("simulator", "webhooks", "contacts", "calls", "gateway")
EVERYTHING = (*SERVERS, *SERVICES)
_WITH_STREAMS = {"webhooks", "contacts", "calls"}
# What runs once, as the administrator of NATS.
_MODULES = {NATS_ADMIN: "common.streams"}
_STOP_ORDER = (("gateway",), ("calls", "contacts", "webhooks"), ("simulator",), SERVERS)
_LARGE_LOG = 20_000_000

Sinks = Callable[[str], LineSink]


class Stack:
    """Async context manager: everything is ready inside it and gone after it. Raises DevkitError, one line.

    home         data, logs, the gateways' spools (`spool`, `spool-2`); kept afterwards
    parts        which of EVERYTHING to start; what is left out is expected in `env` (NATS_URL, DATABASE_URL, …)
    replicas     {"calls": 2}: how many processes of a service (1)
    env          variables for every service; service_env: for one. Both win over what the stack sets
    port         of the first gateway (a free one)
    restart      start again what dies
    durable      False: Postgres without fsync
    nats_config, nats_passwords  of the NATS server (deploy/nats.conf, new ones)
    sinks, say   where the lines of the processes and of the stack itself go (nowhere: log files only)
    """

    def __init__(
        self,
        home: Path,
        *,
        parts: Iterable[str] = EVERYTHING,
        replicas: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        service_env: Mapping[str, Mapping[str, str]] | None = None,
        port: int | None = None,
        restart: bool = True,
        durable: bool = True,
        nats_passwords: Mapping[str, str] | None = None,
        nats_config: Path = NATS_CONFIG,
        sinks: Sinks | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.parts = tuple(parts)
        self._replicas = dict(replicas or {})
        self._service_env = {name: dict(values) for name, values in (service_env or {}).items()}
        self._port = port or 0
        self._simulator_port = 0
        self._given = dict(env or {})
        self._restart, self._durable, self._nats_passwords = restart, durable, nats_passwords
        self._nats_config = nats_config
        self._sinks = sinks
        self._say: Callable[[str], None] = say or _silent
        self._members: dict[tuple[str, int], Supervised] = {}
        self._exit = AsyncExitStack()
        self.env: dict[str, str] = {}
        """What all services were given, as an operator has it; complete once the stack is ready. A process gets its own
        credentials only: see `environment`."""

    @property
    def urls(self) -> list[str]:
        """The gateways' addresses."""
        return [self.member("gateway", index).server.url for index in range(self._count("gateway"))]

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def simulator_url(self) -> str:
        return f"http://{HOST}:{self._simulator_port}"

    @property
    def dial_log(self) -> Path:
        """One JSON line for each dial that the simulator accepted."""
        return self.home / "simulator" / "dials.jsonl"

    @property
    def nats_url(self) -> str:
        """With the credentials of who may do everything."""
        if "nats" in self.parts:
            return self.member("nats").server.url
        user = f"//{NATS_ADMIN}:{quote(self.env.get(nats_variable(NATS_ADMIN), ''), safe='')}@"
        return ",".join(url if "@" in url else url.replace("//", user, 1) for url in self.env["NATS_URL"].split(","))

    @property
    def database_url(self) -> str:
        """With the owner's credentials."""
        return self.env["DATABASE_URL"]

    def environment(self, name: str, *, owner: bool = False, operator: bool = False) -> dict[str, str]:
        """The variables of a service's processes: with its own login to the database, and the owner's for `owner` or
        where it has none of its own; with its own login to NATS, and everybody's for `operator`."""
        return own_variables(self.env, name, owner=owner, operator=operator)

    def log(self, name: str, index: int = 0) -> Path:
        """The log file of a process."""
        return self.home / "logs" / f"{_label(name, index)}.log"

    def member(self, name: str, index: int = 0) -> Supervised:
        return self._members[name, index]

    def services(self) -> list[Server]:
        """Our own processes that run, without the simulator."""
        members = [(name, member) for (name, _), member in self._members.items() if name in SERVICES]
        return [member.server for name, member in members if name != "simulator" and member.server.child.running]

    async def kill(self, name: str, index: int = 0, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process; after SIGKILL and SIGTERM wait for its end."""
        await self.member(name, index).kill(number)

    async def wait_until_restarted(self, name: str, index: int = 0, timeout: float = 60) -> None:
        """After `kill`: wait until the process is ready again. Raises TimeoutError."""
        await asyncio.wait_for(self.member(name, index).restarted(), timeout)

    async def stop(self, name: str, index: int = 0) -> None:
        """Stop a process in order, and leave it stopped."""
        await self.member(name, index).stop()

    async def start(self, name: str, index: int = 0) -> None:
        """Start a stopped process again, on the same port and data, and wait until it is ready."""
        await self.member(name, index).start()

    async def restart(self, name: str, index: int = 0) -> None:
        await self.stop(name, index)
        await self.start(name, index)

    async def __aenter__(self) -> Self:
        private_folder(self.home, passable=True)
        private_folder(self.home / "logs")
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        self._port = self._exit.enter_context(reserved_port(self._port))
        self._simulator_port = self._exit.enter_context(reserved_port())
        await _together(self._start_server(name) for name in SERVERS if name in self.parts)
        self.env = self._environment()
        await _together([self._migrate_all(), *([self.make_streams()] if _WITH_STREAMS & set(self.parts) else [])])
        wanted = [(name, index) for name in SERVICES if name in self.parts for index in range(self._count(name))]
        await _together(self._start_service(name, index) for name, index in wanted)

    async def _stop(self) -> None:
        for names in _STOP_ORDER:
            await asyncio.gather(*(member.stop() for key, member in self._members.items() if key[0] in names))
        await self._exit.aclose()

    def _count(self, name: str) -> int:
        return 1 if name == "simulator" else self._replicas.get(name, 1)

    def _environment(self) -> dict[str, str]:
        servers = {name: self.member(name).server for name in SERVERS if name in self.parts}
        env = new_environment(servers.get("nats"), servers.get("postgres"))
        env["VAPI_WEBHOOK_URL"] = f"http://{HOST}:{self._port}/api/calls/webhook/"
        if "simulator" in self.parts:
            env |= beside_simulator(self.simulator_url, self._simulator_port, self.home / "simulator")
        return env | self._given

    async def _start_server(self, name: str) -> None:
        folder, log = self.home / name, self._fresh_log(name, 0)
        if name == "nats":
            opened = nats_server(folder, passwords=self._nats_passwords, log=log, config=self._nats_config)
        else:
            opened = postgres_server(folder, durable=self._durable, log=log)
        server = await self._exit.enter_async_context(opened)
        self._supervise(name, 0, server)

    def _child(self, name: str, index: int, env: Mapping[str, str], *arguments: str) -> Child:
        label = _label(name, index)
        return Child(
            name=label,
            argv=[sys.executable, "-m", f"boostedcalls.{_MODULES.get(name, name)}", *arguments],
            env={
                **self.environment(name, owner=arguments[:1] == ("migrate",), operator=bool(arguments)),
                **env,
                **self._service_env.get(name, {}),
            },
            log=self._fresh_log(name, index),
            sink=self._sinks(label) if self._sinks else None,
            # Not the caller's: a `.env` there would be read.
            cwd=self.home,
        )

    def _fresh_log(self, name: str, index: int) -> Path:
        log = self.log(name, index)
        if log.exists() and log.stat().st_size > _LARGE_LOG:
            log.replace(log.with_suffix(".log.1"))
        return log

    async def command(self, name: str, *arguments: str) -> tuple[int, str]:
        """Run `python -m boostedcalls.<name> <arguments>` with the service's settings: exit code, last line."""
        child = self._child(name, 0, {}, *arguments)
        try:
            await child.start()
            return await child.wait(), child.last_words(1)
        finally:
            await child.stop()

    async def _migrate_all(self) -> None:
        for name in (each for each in WITH_MIGRATIONS if each in self.parts):
            if "postgres" in self.parts:
                await self._migrate_ours(name)
            elif (done := await self.command(name, "migrate"))[0] != 0:
                raise DevkitError(f"migration of {name} failed with exit code {done[0]}: {done[1]}")

    async def _migrate_ours(self, name: str) -> None:
        """What the service's command does, without the second that a process takes to begin."""
        password = self.env.get(password_variable(name))
        try:
            await migrate(self.env["DATABASE_URL"], SCHEMAS[name], f"boostedcalls.{name}", name, password)
        except (MigrationError, RoleMissing, OSError, asyncpg.PostgresError) as error:
            raise DevkitError(f"migration of {name} failed: {error}") from None

    async def make_streams(self) -> None:
        """Make the streams in NATS, or bring them up to date. Raises DevkitError."""
        code, words = await self.command(NATS_ADMIN)
        if code != 0:
            raise DevkitError(f"making the streams failed with exit code {code}: {words}")

    async def _start_service(self, name: str, index: int) -> None:
        variable = {"gateway": "PORT", "simulator": "SIMULATOR_PORT"}.get(name, "HEALTH_PORT")
        # The gateway does its work, or what matters most of it, without NATS and Postgres too.
        path = "/healthz" if name in ("simulator", "gateway") else "/readyz"
        known = {"gateway": self._port, "simulator": self._simulator_port}.get(name) if index == 0 else None
        port = known or self._exit.enter_context(reserved_port())
        child = self._child(name, index, {variable: str(port), **self._spool(name, index)})

        async def ready() -> bool:
            return await http_status(port, path) == 200

        async def all_is_there() -> bool:
            return await http_status(port, "/readyz") == 200

        server = Server(child, port, f"http://{HOST}:{port}", ready)
        try:
            await server.start()
            if name == "gateway":
                await until_ready(child, all_is_there)
        except BaseException:
            await server.stop()
            raise
        self._supervise(name, index, server)

    def _spool(self, name: str, index: int) -> dict[str, str]:
        """Each gateway keeps webhooks in a folder of its own, unless the caller names one."""
        own = name == "gateway" and "SPOOL_DIR" not in self._given
        return {"SPOOL_DIR": str(self.home / _label("spool", index))} if own else {}

    def _supervise(self, name: str, index: int, server: Server) -> None:
        self._members[name, index] = Supervised(server, self._say, restart=self._restart)
        self._members[name, index].watch()


def _label(name: str, index: int) -> str:
    return f"{name}-{index + 1}" if index else name


def _silent(_: str) -> None:
    """Nobody listens."""


async def _together(work: Iterable[Awaitable[Any]]) -> None:
    """Run side by side, wait for all, then raise the first error: nothing is left half-started behind the caller."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
