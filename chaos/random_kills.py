"""Every process but the provider killed and frozen at random, under load, with one NATS server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from boostedcalls.devkit.stack import Stack
from chaos.history import History
from chaos.strikes import Kept, Striker, Waves
from chaos.trial import Outcome, Say, System, Trial, run

KINDS = ("nats", "postgres", "gateway", "calls", "webhooks", "contacts")
_REPLICAS = {"gateway": 2, "calls": 2, "webhooks": 2, "contacts": 2}
_NEED_POSTGRES = {"calls", "contacts"}
# Seconds between two strikes at a kind of process, while a wave lasts.
_EVERY = 4.2


async def random_kills(home: Path, seed: str, seconds: float, say: Say, **more: Any) -> Outcome:
    """Strike for so many seconds, then judge. `more`: of Trial."""
    trial = Trial("random kills", home, seed, seconds, kinds=KINDS, **more)

    @asynccontextmanager
    async def open_system(settings: Mapping[str, str]) -> AsyncGenerator[System]:
        async with Stack(home, replicas=_REPLICAS, env=settings, restart=False, say=say) as stack:
            kept: list[Kept] = []
            for kind in KINDS:
                needs = [each for each in kept if each.kind == "postgres" and kind in _NEED_POSTGRES]
                for index in range(_REPLICAS.get(kind, 1)):
                    random = Random(f"{seed}/keep/{kind}/{index}")
                    kept.append(Kept(kind, stack.member(kind, index).server, random, needs))
            yield System(stack, kept)

    async def strike(system: System, history: History) -> None:
        waves = Waves(system.kept, Random(f"{seed}/waves"))
        async with asyncio.TaskGroup() as group:
            group.create_task(waves.roll())
            for kept in system.kept:
                every = _EVERY * _REPLICAS.get(kept.kind, 1)
                random = Random(f"{seed}/strike/{kept.server.child.name}")
                group.create_task(Striker(kept, history, random, every, system.tally).strike(waves))

    return await run(trial, open_system, strike, say)
