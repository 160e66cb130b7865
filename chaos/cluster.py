"""A NATS cluster of three under load, its leaders killed and frozen: of the stream of provider events, and of the meta
group that knows what streams there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from boostedcalls.devkit.cluster import NatsCluster, nats_cluster
from boostedcalls.devkit.procs import frozen
from boostedcalls.devkit.stack import EVERYTHING, Stack
from chaos.history import History
from chaos.strikes import Kept
from chaos.trial import Outcome, Say, System, Trial, run

_STREAM = "PROVIDER_EVENTS"
_NODES = 3
_REPLICAS = {"gateway": 2, "calls": 2, "webhooks": 2}
_SERVICES = tuple(part for part in EVERYTHING if part != "nats")
KIND = "nats leader"


async def leader_kills(home: Path, seed: str, seconds: float, say: Say, **more: Any) -> Outcome:
    """Strike for so many seconds, then judge. `more`: of Trial."""
    trial = Trial("cluster", home, seed, seconds, **more)
    opened: list[NatsCluster] = []

    @asynccontextmanager
    async def open_system(settings: Mapping[str, str]) -> AsyncGenerator[System]:
        async with nats_cluster(home / "nats", _NODES, logs=home / "logs") as cluster:
            opened.append(cluster)
            env = {**settings, **cluster.env}
            async with Stack(home, parts=_SERVICES, replicas=_REPLICAS, env=env, restart=False, say=say) as stack:
                servers = [(KIND, server) for server in cluster.servers]
                # The services are not struck, and started again where one ends by itself.
                for name in _SERVICES:
                    if name not in {"postgres", "simulator"}:
                        servers += [(name, stack.member(name, n).server) for n in range(_REPLICAS.get(name, 1))]
                kept = [Kept(kind, server, Random(f"{seed}/keep/{server.child.name}")) for kind, server in servers]
                yield System(stack, kept)

    async def strike(system: System, history: History) -> None:
        await _strike_leaders(opened[0], system, history, Random(f"{seed}/leaders"))

    return await run(trial, open_system, strike, say)


async def _strike_leaders(cluster: NatsCluster, system: System, history: History, random: Random) -> None:
    while True:
        await asyncio.sleep(random.uniform(1, 5))
        leads, how = random.choice((_STREAM, _STREAM, None)), random.choice(("kill", "freeze"))
        seconds = random.uniform(5, 10)
        leader = await cluster.leader(leads)
        if leader is None or not leader.child.running:
            continue
        system.tally[f"{how} {KIND}"] += 1
        what = leads or "the meta group"
        history.note("strike", kind=KIND, process=leader.child.name, how=how, leads=what)
        if how == "kill":
            kept = next(kept for kept in system.kept if kept.server is leader)
            kept.kill()
            # Two nodes are a majority, one is none: the next leader is struck when this node is back.
            await kept.up.wait()
        else:
            with frozen(leader.child.pid):
                await asyncio.sleep(seconds)
