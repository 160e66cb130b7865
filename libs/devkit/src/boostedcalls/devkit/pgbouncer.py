"""A pgbouncer in transaction mode before a Postgres, for tests: the program comes from the system's packages
(scripts/test-packages)."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from boostedcalls.devkit.child import Child
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.folder import private_folder, write_private
from boostedcalls.devkit.net import HOST, reserved_port
from boostedcalls.devkit.root import drop_root, unprivileged_uid
from boostedcalls.devkit.servers import Server


def pgbouncer_program() -> str | None:
    """Where it is; None when it is not installed. Debian puts it where not everybody's PATH leads."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def pgbouncer(
    folder: Path, postgres_port: int, users: Mapping[str, str], database: str, *, pool_size: int
) -> AsyncGenerator[Server]:
    """Let `users` (name -> password, the first one's is in `.url`) through to the server on loopback, each with at most
    `pool_size` connections there. Raises DevkitError."""
    program = pgbouncer_program()
    if program is None:
        raise DevkitError("pgbouncer is not installed; run: scripts/test-packages")
    private_folder(folder, passable=True)
    with reserved_port() as port:
        lines = [f'"{name}" "{password}"\n' for name, password in users.items()]
        write_private(folder / "users.txt", "".join(lines))
        settings = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": pool_size,
            "max_client_conn": 200,
        }
        config = folder / "pgbouncer.ini"
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        write_private(config, f"[databases]\n* = host={HOST} port={postgres_port}\n[pgbouncer]\n{text}")
        if (uid := unprivileged_uid()) is not None:
            for path in (config, folder / "users.txt"):
                os.chown(path, uid, -1)
        name, password = next(iter(users.items()))
        url = f"postgresql://{name}:{password}@{HOST}:{port}/{database}"

        async def ready() -> bool:
            try:
                connection = await asyncpg.connect(url, timeout=5, statement_cache_size=0)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return False
            await connection.close()
            return True

        child = Child(
            name="pgbouncer",
            argv=[program, str(config)],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            log=folder / "pgbouncer.log",
            cwd=Path("/"),
            prepare=drop_root(),
        )
        server = Server(child, port, url, ready)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
