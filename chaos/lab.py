"""What the campaign runs on: a real system (devkit's Stack), processes that fork cases, and ways to look at the system.

The calls service is stopped while cases run: each case's process is the one that would have done the work. It is
started again afterwards, as after a crash, and must set everything right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.bus.streams import CALLS_PROVIDER, JOBS, PROVIDER_EVENTS
from boostedcalls.common.context import Caller, caller
from boostedcalls.common.db import DatabaseSettings, Pool, open_pool
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.devkit.stack import Stack
from chaos.zygote import Zygotes, zygotes

# Minutes become seconds. A case's process may wait for others of its group; calls must not be overdue by then.
SETTINGS = {
    "SIMULATOR_SPEED": "0.2",
    "SIMULATOR_LIST_LAG": "0",
    "SYNC_STEPS": "1,2,4",
    "SYNC_POLL": "0.3",
    "RECONCILE_STEPS": "1,2,3,4",
    "DISPATCH_WAIT": "2",
    "DISPATCH_READ_TIMEOUT": "1",
    "DISPATCH_DEADLINE": "900",
    "LOG_LEVEL": "WARNING",
}
_READ_AT_ONCE = 500
_STILL = 0.7


@dataclass(frozen=True, slots=True)
class Lab:
    """A running system, seen from outside. `bus` and `pool` are the observer's own."""

    stack: Stack
    pool: Pool
    bus: Bus
    zygotes: Zygotes
    say: Callable[[str], None]

    async def stop_calls(self) -> None:
        await self.stack.stop("calls")

    async def start_calls(self) -> None:
        await self.stack.start("calls")

    async def fresh_simulator(self, env: Mapping[str, str]) -> None:
        """Start the simulator anew, with other settings and without the calls it had: every look for a lost call reads
        the list of all. The dial log stays."""
        await self.stack.stop("simulator")
        (self.stack.home / "simulator" / "calls.jsonl").unlink()
        self.stack.member("simulator").server.child.env.update({**SETTINGS, **env})
        await self.stack.start("simulator")

    def dials(self) -> list[dict[str, Any]]:
        """The dial log: every line is a telephone that rang."""
        if not self.stack.dial_log.exists():
            return []
        return [json.loads(line) for line in self.stack.dial_log.read_text().splitlines()]

    async def last(self, stream: str) -> int:
        """The sequence of a stream's newest message."""
        return (await self.bus.jetstream.stream_info(stream)).state.last_seq

    async def read(self, stream: str, after: int, until: int | None = None) -> list[Any]:
        """The messages of a stream with a sequence greater than `after`, in order."""
        until = await self.last(stream) if until is None else until
        found: list[Any] = []
        if until <= after:
            return found
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30,
        )
        subscription = await self.bus.jetstream.pull_subscribe("", stream=stream, config=config)
        while not found or found[-1].metadata.sequence.stream < until:
            try:
                found += await subscription.fetch(_READ_AT_ONCE, timeout=2)
            except (NatsTimeout, TimeoutError):
                break
        await subscription.unsubscribe()
        return [message for message in found if message.metadata.sequence.stream <= until]

    async def floor(self) -> int:
        """Up to which provider event the calls service's consumer has settled all; what is behind it is pending."""
        info = await self.bus.jetstream.consumer_info(PROVIDER_EVENTS, CALLS_PROVIDER.durable)
        return info.ack_floor.stream_seq if info.ack_floor else 0

    async def unsettled_calls(self, users: Iterable[UUID]) -> list[asyncpg.Record]:
        """Calls that are not over, or are still due for a look."""
        return await self.pool.fetch(
            "SELECT id, user_id, status, due_at FROM calls.calls WHERE user_id = ANY($1::uuid[])"
            " AND (due_at IS NOT NULL OR status IN ('pending', 'queued', 'initiated', 'ringing', 'in-progress'))",
            list(users),
        )

    async def quiet(self, users: Iterable[UUID], within: float) -> list[asyncpg.Record]:
        """Wait until nothing is left to do for these users' calls; return those that are stuck after `within` s."""
        wanted = list(users)
        deadline = asyncio.get_running_loop().time() + within
        last = -1
        while True:
            stuck = await self.unsettled_calls(wanted)
            # Webhooks may still be on their way: nothing new comes for a while.
            before, last = last, await self.last(PROVIDER_EVENTS)
            if not stuck and before == last and await self._at_rest(last):
                return []
            if asyncio.get_running_loop().time() > deadline:
                return stuck
            await asyncio.sleep(_STILL)

    async def _at_rest(self, last: int) -> bool:
        # In this order: a look that is under way may publish a report, and that a change.
        if (await self.bus.jetstream.stream_info(JOBS)).state.messages or await self.floor() < last:
            return False
        return not await self.pool.fetchval("SELECT count(*) FROM calls.outbox")

    async def ask(self, subject: str, body: Any, user: UUID, timeout: float = 5.0) -> Any:
        """Ask a service as the gateway would. Raises ServiceError."""
        who: Caller = caller(user)
        return json.loads(await self.bus.request(subject, json.dumps(body).encode(), who, timeout))


@asynccontextmanager
async def lab(home: Path, say: Callable[[str], None], processes: int = 2) -> AsyncGenerator[Lab]:
    """A fresh system below `home`, with the calls service stopped."""
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(Stack(home, env=SETTINGS, restart=False, durable=False, say=say))
        await stack.stop("calls")
        runtime = Runtime(RuntimeSettings())
        pool = await open_pool(exits, DatabaseSettings(database_url=stack.database_url), "chaos")
        bus = await connect(exits, runtime, NatsSettings(nats_url=stack.nats_url), "chaos")
        # Each case has a consumer of its own, which no service could make.
        env = stack.environment("calls") | {"NATS_URL": stack.nats_url}
        forking = await exits.enter_async_context(zygotes(processes, env, home))
        yield Lab(stack, pool, bus, forking, say)
