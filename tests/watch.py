"""What the outage tests see of a running system from outside: dials, logs, metrics, readiness, dead letters."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx2
import nats
from nats.js import JetStreamContext

from boostedcalls.devkit.stack import Stack

from .conftest import Json, User, is_over

SERVICES = ("gateway", "calls", "contacts", "webhooks")
ANSWERED = ("completed", "success", "assistant-ended-call")


def dials(system: Stack) -> Counter[str]:
    """How often each of our call ids was dialled."""
    if not system.dial_log.exists():
        return Counter()
    return Counter(json.loads(line)["name"] for line in system.dial_log.read_text().splitlines())


def has_result(call: Json) -> bool:
    return is_over(call) and call["cost"] is not None


async def seen(user: User, call: Json, until: Callable[[Json], bool] = has_result) -> Json:
    """The call as the list shows it, once the predicate holds: reading a list asks the provider nothing."""
    async with asyncio.timeout(60):
        while not until(item := await user.call_to(call["contact_id"])):
            await asyncio.sleep(0.1)
        return item


async def readiness(system: Stack, name: str) -> int:
    """The status of a process's /readyz; 0 when it does not answer within two seconds."""
    try:
        async with httpx2.AsyncClient(timeout=2) as http:
            return (await http.get(f"{system.member(name).server.url}/readyz")).status_code
    except httpx2.HTTPError:
        return 0


async def all_ready(system: Stack) -> None:
    async with asyncio.timeout(60):
        while {await readiness(system, name) for name in SERVICES} != {200}:
            await asyncio.sleep(0.1)


async def metric(system: Stack, name: str, series: str) -> float:
    """A number of a process's metrics; 0 while it has none."""
    async with httpx2.AsyncClient(timeout=10) as http:
        text = (await http.get(f"{system.member(name).server.url}/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == series)


@dataclass
class Log:
    """What a process has logged since this was made."""

    system: Stack
    name: str
    start: int = 0

    def __post_init__(self) -> None:
        self.start = self.system.log(self.name).stat().st_size

    def lines(self) -> list[dict[str, Any]]:
        text = self.system.log(self.name).read_bytes()[self.start :].decode()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def events(self) -> Counter[str]:
        return Counter(line["event"] for line in self.lines())

    async def until(self, event: str) -> dict[str, Any]:
        """The first line with this event, once it is there."""
        async with asyncio.timeout(60):
            while True:
                for line in self.lines():
                    if line["event"] == event:
                        return line
                await asyncio.sleep(0.1)


@asynccontextmanager
async def streams(system: Stack) -> AsyncGenerator[JetStreamContext]:
    client = await nats.connect(system.nats_url, max_reconnect_attempts=-1)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def dead_letters(system: Stack) -> int:
    async with streams(system) as jetstream:
        return (await jetstream.stream_info("DLQ")).state.messages


async def deliveries(system: Stack) -> tuple[int, int]:
    """Of the provider events: how many there are, and how often one was delivered."""
    async with streams(system) as jetstream:
        stream = await jetstream.stream_info("PROVIDER_EVENTS")
        consumer = await jetstream.consumer_info("PROVIDER_EVENTS", "calls")
        return stream.state.last_seq, consumer.delivered.consumer_seq


@asynccontextmanager
async def database(system: Stack) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(system.database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def nothing_waits(system: Stack) -> None:
    """Wait until every event that was written has been published."""
    async with database(system) as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM calls.outbox"):
            await asyncio.sleep(0.1)
