"""A NATS cluster on loopback, from deploy/nats-cluster.conf: what `nats_server` is, in several nodes.

Owns their folders, ports, credentials and readiness, and knows which node leads. Each node can be killed and started
again on the same ports and data, as any `Server`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from boostedcalls.devkit.child import Probe
from boostedcalls.devkit.folder import locked, private_folder
from boostedcalls.devkit.net import HOST, http_status, reserved_port
from boostedcalls.devkit.servers import (
    CHECKOUT,
    NATS_ADMIN,
    Server,
    nats_child,
    nats_passwords,
    nats_variable,
    nats_variables,
)

CLUSTER_CONFIG = CHECKOUT / "deploy" / "nats-cluster.conf"


@dataclass
class NatsCluster:
    """The nodes, in the order of their names (nats-1, nats-2, ...)."""

    servers: list[Server]
    monitors: list[int]
    route_ports: list[int]

    @property
    def url(self) -> str:
        """For NATS_URL: every node's address, with the credentials of who may do everything."""
        return ",".join(server.url for server in self.servers)

    @property
    def env(self) -> dict[str, str]:
        """The variables for a stack on this cluster: the addresses, and everybody's password."""
        addresses = ",".join(f"nats://{HOST}:{server.port}" for server in self.servers)
        passwords = {nats_variable(user): password for user, password in self.servers[0].passwords.items()}
        return {"NATS_URL": addresses, "NATS_STREAM_REPLICAS": str(len(self.servers)), **passwords}

    async def start(self) -> None:
        """Start all nodes that do not run; a node alone is not ready, so they are waited for together."""
        async with asyncio.TaskGroup() as group:
            for server in self.servers:
                if not server.child.running:
                    group.create_task(server.start())

    async def leader(self, stream: str | None) -> Server | None:
        """The node that leads a stream, or, for None, the meta group. None while there is no leader, or it cannot be
        found out."""
        path = "/jsz?streams=true&accounts=true" if stream else "/jsz"
        for monitor in self.monitors:
            if name := _leader_in(await _asked(monitor, path), stream):
                return next((server for server in self.servers if server.child.name == name), None)
        return None


def _leader_in(found: dict[str, Any], stream: str | None) -> str | None:
    if stream is None:
        return found.get("meta_cluster", {}).get("leader")
    for account in found.get("account_details") or ():
        for detail in account.get("stream_detail") or ():
            if detail["name"] == stream:
                return detail.get("cluster", {}).get("leader")
    return None


async def _asked(monitor: int, path: str) -> dict[str, Any]:
    """What a node's monitor says; empty when it does not answer."""
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=2) as http:
            return json.loads((await http.get(f"http://{HOST}:{monitor}{path}")).content)
    except (httpx2.HTTPError, ValueError):
        return {}


@asynccontextmanager
async def nats_cluster(folder: Path, nodes: int = 3, *, logs: Path | None = None) -> AsyncGenerator[NatsCluster]:
    """Nodes with JetStream on disk below `folder`, all ready. Data is kept. `logs`: the folder of their logs.

    Raises DevkitError when one cannot start or another instance uses the folder.
    """
    private_folder(folder, passable=True)
    passwords, user, route_password = nats_passwords(), "route", secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        ports, monitors, route_ports = ([stack.enter_context(reserved_port()) for _ in range(nodes)] for _ in range(3))
        routes = [f"nats-route://{user}:{route_password}@{HOST}:{port}" for port in route_ports]
        cluster = NatsCluster([], monitors, route_ports)
        for index in range(nodes):
            name = f"nats-{index + 1}"
            lock = await stack.enter_async_context(locked(folder / name, name))
            env = {
                "NATS_LISTEN": f"{HOST}:{ports[index]}",
                "NATS_MONITOR": f"{HOST}:{monitors[index]}",
                **nats_variables(passwords),
                "NATS_SERVER_NAME": name,
                "NATS_CLUSTER_LISTEN": f"{HOST}:{route_ports[index]}",
                "NATS_CLUSTER_USER": user,
                "NATS_CLUSTER_PASSWORD": f'"{route_password}"',
                "NATS_CLUSTER_ROUTES": json.dumps(routes),
            }
            child = nats_child(name, CLUSTER_CONFIG, folder / name, lock, (logs or folder) / f"{name}.log", env)
            server = Server(child, ports[index], "", _ready(monitors[index]), passwords)
            server.url = server.url_of(NATS_ADMIN)
            stack.push_async_callback(server.stop)
            cluster.servers.append(server)
        await cluster.start()
        yield cluster


def _ready(monitor: int) -> Probe:
    async def ready() -> bool:
        # Once it has heard from the meta group's leader: before that no stream can be made or found.
        return await http_status(monitor, "/healthz?js-meta-only=true") == 200

    return ready
