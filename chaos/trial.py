"""One trial: a whole system under load while something strikes it, then rest, then the checker's verdict.

What is started and what strikes it is given; everything else is the same for one NATS server and for a cluster.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from boostedcalls.devkit.net import reserved_port
from boostedcalls.devkit.stack import Stack
from boostedcalls.devkit.unlimited import UNLIMITED
from chaos.check import Verdict, check
from chaos.door import Door
from chaos.evidence import gather
from chaos.history import History
from chaos.load import Load
from chaos.quiet import until_quiet
from chaos.strikes import Kept

# Minutes become seconds; nothing that is decided by them becomes another one.
SETTINGS = {
    "SIMULATOR_SPEED": "0.2",
    "SIMULATOR_LIST_LAG": "2",
    "SYNC_STEPS": "1,2,4,8",
    "RECONCILE_STEPS": "1,2,4,8,16",
    "DISPATCH_WAIT": "2",
    "DISPATCH_READ_TIMEOUT": "3",
    "DISPATCH_DEADLINE": "30",
    "SYNC_ON_READ": "0.5",
    "SIGNUP_ENABLED": "true",
    **UNLIMITED,
    "ACCESS_TOKEN_MINUTES": "60",
    "MAX_ACTIVE_CALLS_PER_USER": "10000",
    "LOG_LEVEL": "WARNING",
}
_SETTLED_AGAIN = 60.0
_TELL_EVERY = 15.0

Say = Callable[[str], None]


@dataclass(slots=True)
class System:
    """What runs: the stack, its processes with their keepers, and how often which was struck."""

    stack: Stack
    kept: list[Kept]
    tally: Counter[str] = field(default_factory=Counter[str])


Open = Callable[[Mapping[str, str]], AbstractAsyncContextManager[System]]
Strike = Callable[[System, History], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Trial:
    """`name` stands in the table; `rate` is in calls a second; `least`: so often each of `kinds` is killed, even
    if that takes longer; `patience`: so many seconds it may take to come to rest."""

    name: str
    home: Path
    seed: str
    seconds: float
    rate: float = 4.0
    kinds: tuple[str, ...] = ()
    least: int = 0
    patience: float = 240


@dataclass(slots=True)
class Outcome:
    """A trial's result. `quiet` is how many seconds it took to come to rest."""

    name: str
    seconds: float
    quiet: float
    tally: Counter[str]
    verdict: Verdict


async def run(trial: Trial, open_system: Open, strike: Strike, say: Say) -> Outcome:
    trial.home.mkdir(parents=True, exist_ok=True)
    path = trial.home / "history.jsonl"
    with History(path) as history, reserved_port() as port:
        door = Door(port, secrets.token_hex(32), history, Random(f"{trial.seed}/door"))
        settings = SETTINGS | {"VAPI_WEBHOOK_URL": door.url, "VAPI_WEBHOOK_SECRET": door.secret}
        async with door.open(), open_system(settings) as system:
            stack = system.stack
            door.urls = stack.urls
            async with _kept_up(system), Load(stack.urls, history, Random(f"{trial.seed}/load"), trial.rate) as load:
                started = monotonic()
                seconds = await _under_fire(trial, system, history, load, door, strike, say) - started
                say(f"{trial.name}: struck for {seconds:.0f} s; waiting until it is quiet")
                await asyncio.gather(*(kept.up.wait() for kept in system.kept))
                await load.end_what_talks_on()
                places = (stack.home, stack.database_url, stack.nats_url)
                waiting = await until_quiet(*places, trial.patience)
                quiet = monotonic() - started - seconds
                # What the provider would still try again was not taken: nothing was promised for it. It must not come
                # while the books are read.
                await stack.stop("simulator")
                if not waiting:
                    waiting = await until_quiet(*places, _SETTLED_AGAIN)
                say(f"{trial.name}: quiet after {quiet:.0f} s; reading the books")
                found = await gather(stack.home, path, stack.database_url, stack.nats_url)
    verdict = await asyncio.to_thread(check, found)
    for what in waiting:
        verdict.wrong("not quiet", trial.name, f"after {quiet:.0f} s there are still {what}")
    return Outcome(trial.name, seconds, quiet, system.tally, verdict)


@asynccontextmanager
async def _kept_up(system: System) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        keepers = [group.create_task(kept.keep(), name=f"keeper of {kept.server.child.name}") for kept in system.kept]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()


async def _under_fire(
    trial: Trial, system: System, history: History, load: Load, door: Door, strike: Strike, say: Say
) -> float:
    """Load and strikes together; returns when the strikes ended. The last requests are over when it does."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(stop))
        group.create_task(door.disturb(stop, rate=trial.rate / 2))
        striking = group.create_task(strike(system, history))
        await _watched(trial, system, load, say)
        striking.cancel()
        await asyncio.wait([striking])
        ended = monotonic()
        stop.set()
    return ended


async def _watched(trial: Trial, system: System, load: Load, say: Say) -> None:
    """Let the time pass, and tell of it; go on until each kind was killed often enough."""
    started = told = monotonic()

    def enough() -> bool:
        return all(system.tally[f"kill {kind}"] >= trial.least for kind in trial.kinds)

    while (passed := monotonic() - started) < trial.seconds or (not enough() and passed < trial.seconds * 1.5 + 30):
        await asyncio.sleep(0.2)
        if monotonic() - told >= _TELL_EVERY:
            told = monotonic()
            struck = ", ".join(f"{what} {count}" for what, count in sorted(system.tally.items()))
            say(f"{trial.name} {passed:4.0f} s: {load.requested} calls asked for, {load.answered} answered; {struck}")
