"""Minutes without Postgres or without NATS, under a load of webhooks: python bench/outages.py [postgres|nats ...]

Options: --seconds 180 (of the outage), --frozen (the server stands still instead of being killed), --rate 50 (webhooks
a second). Starts a whole system of its own on loopback with 200 calls that talk on. Each call's end is told by one
webhook at a random moment of the outage; the rest of the load are transcripts. Prints what became of the webhooks and
calls, how soon each process said that it is not ready and ready again, how long it took to catch up, and the lines that
each process wrote about it. Takes a minute more than the outages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import nats  # noqa: TID251 - it looks at the streams from outside
import orjson
from rig import figures, user_of

from boostedcalls.devkit.procs import frozen
from boostedcalls.devkit.stack import Stack
from boostedcalls.devkit.unlimited import UNLIMITED

SERVICES = ("gateway", "calls", "contacts", "webhooks")
CALLS = 200
WELL_SECONDS = 10.0
SETTINGS = {"SIGNUP_ENABLED": "true", "MAX_ACTIVE_CALLS_PER_USER": "10000", **UNLIMITED}
ROUTINE = {"request", "call_placed", "call_ended", "ready", "dialled"}


@dataclass
class Load:
    """Webhooks for the calls, at a steady rate, whether answers come or not."""

    stack: Stack
    http: httpx2.AsyncClient
    calls: list[str]
    rate: float
    answered: dict[str, int] = field(default_factory=dict)
    """By message id."""
    seconds: list[float] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, message: dict[str, Any]) -> None:
        body = orjson.dumps({"message": message})
        headers = {"x-vapi-secret": self.stack.env["VAPI_WEBHOOK_SECRET"], "content-type": "application/json"}
        started = monotonic()
        try:
            status = (await self.http.post("/api/calls/webhook/", content=body, headers=headers)).status_code
        except httpx2.HTTPError:
            status = 0
        self.seconds.append(monotonic() - started)
        self.answered[sha256(body).hexdigest()] = status

    def begin(self, message: dict[str, Any]) -> None:
        self.tasks.append(asyncio.create_task(self.send(message)))

    async def run(self) -> None:
        """Transcripts, until it is cancelled."""
        started, number = monotonic(), 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, started + number / self.rate - monotonic()))
            call = {"id": random.choice(self.calls)}  # noqa: S311
            said = {"role": "user", "transcriptType": "final", "transcript": f"words {uuid4()} " * 40}
            self.begin({"type": "transcript", "timestamp": 1795343441230 + number, "call": call, **said})

    async def report_all(self, within: float) -> None:
        """Each call's end, once, at a random moment."""
        moments = sorted((random.uniform(0, within), call) for call in self.calls)  # noqa: S311
        started = monotonic()
        for at, call in moments:
            await asyncio.sleep(max(0.0, started + at - monotonic()))
            self.reported.add(call)
            self.begin(
                {
                    "type": "end-of-call-report",
                    "timestamp": 1795343441230,
                    "endedReason": "customer-ended-call",
                    "startedAt": "2026-11-22T10:30:09.020Z",
                    "endedAt": "2026-11-22T10:30:33.820Z",
                    "cost": 0.04,
                    "analysis": {"summary": "They agreed.", "successEvaluation": "true"},
                    "artifact": {"transcript": f"AI: Hi.\nUser: {call}."},
                    "call": {"id": call},
                }
            )


class Readiness:
    """Asks every process four times a second, and notes when its answer changed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.changes: dict[str, list[tuple[float, int]]] = {name: [(0.0, 200)] for name in SERVICES}
        self.slowest = 0.0

    async def watch(self, name: str) -> None:
        url = f"{self._stack.member(name).server.url}/readyz"
        async with httpx2.AsyncClient(timeout=5) as http:
            while True:
                asked = monotonic()
                try:
                    status = (await http.get(url)).status_code
                except httpx2.HTTPError:
                    status = 0
                self.slowest = max(self.slowest, monotonic() - asked)
                if self.changes[name][-1][1] != status:
                    self.changes[name].append((monotonic(), status))
                await asyncio.sleep(0.25)

    def after(self, moment: float, status: int) -> dict[str, str]:
        """How long after the moment each process first answered so."""
        found: dict[str, str] = {}
        for name, changes in self.changes.items():
            times = [at - moment for at, seen in changes if at >= moment and seen == status]
            found[name] = f"{times[0]:.1f} s" if times else "-"
        return found


async def caught_up(stack: Stack) -> float:
    """Seconds until what waits now in the spool, then in the stream, and then in the outbox, waits no more."""
    started = monotonic()
    client = await nats.connect(stack.nats_url)
    database = await asyncpg.connect(stack.database_url)
    jetstream = client.jetstream()
    while list((stack.home / "spool").glob("*.seg")):  # noqa: ASYNC110 - another process's files
        await asyncio.sleep(0.05)
    last = (await jetstream.stream_info("PROVIDER_EVENTS")).state.last_seq
    while True:
        consumer = await jetstream.consumer_info("PROVIDER_EVENTS", "calls")
        if consumer.ack_floor is not None and consumer.ack_floor.stream_seq >= last:
            break
        await asyncio.sleep(0.05)
    while await database.fetchval("SELECT count(*) FROM calls.outbox"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await client.close()
    await database.close()
    return monotonic() - started


async def stored(stack: Stack) -> tuple[set[str], int, int, int]:
    """The message ids in the stream, dead letters, and how many messages were delivered how often in all."""
    client = await nats.connect(stack.nats_url)
    jetstream = client.jetstream()
    subscription = await jetstream.subscribe("bc.evt.provider.>", ordered_consumer=True)
    state = (await jetstream.stream_info("PROVIDER_EVENTS")).state
    ids: set[str] = set()
    for _ in range(state.messages):
        message = await subscription.next_msg(timeout=10)
        ids.add((message.headers or {})["Nats-Msg-Id"])
    letters = (await jetstream.stream_info("DLQ")).state.messages
    delivered = (await jetstream.consumer_info("PROVIDER_EVENTS", "calls")).delivered
    await client.close()
    return ids, letters, state.messages, delivered.consumer_seq if delivered else 0


def told(stack: Stack, start: dict[str, int]) -> dict[str, dict[str, int]]:
    """How many lines of each kind each process wrote that is not of every day."""
    found: dict[str, dict[str, int]] = {}
    for name in SERVICES:
        text = stack.log(name).read_bytes()[start[name] :].decode()
        events = Counter(json.loads(line)["event"] for line in text.splitlines() if line.startswith("{"))
        found[name] = {event: count for event, count in events.most_common() if event not in ROUTINE}
    return found


async def outage(server: str, seconds: float, rate: float, *, standing_still: bool) -> bool:
    async with AsyncExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        stack = await opened.enter_async_context(Stack(home / "stack", env=SETTINGS))
        user = await opened.enter_async_context(user_of(stack.url))
        calls = [call["vapi_call_id"] for call in await user.place_all(["05"] * CALLS)]
        http = await opened.enter_async_context(httpx2.AsyncClient(base_url=stack.url, timeout=20))
        load, ready = Load(stack, http, calls, rate), Readiness(stack)
        running = [asyncio.create_task(load.run()), *(asyncio.create_task(ready.watch(name)) for name in SERVICES)]
        await asyncio.sleep(WELL_SECONDS)
        well = len(load.seconds)
        start = {name: stack.log(name).stat().st_size for name in SERVICES}
        gone_at = monotonic()
        if standing_still:
            with frozen(stack.member(server).server.child.pid):
                await load.report_all(seconds)
                await asyncio.sleep(max(0.0, gone_at + seconds - monotonic()))
                meanwhile = load.seconds[well:]
            returns_at = monotonic()
        else:
            await stack.member(server).stop(timeout=0)
            await load.report_all(seconds)
            await asyncio.sleep(max(0.0, gone_at + seconds - monotonic()))
            meanwhile = load.seconds[well:]
            returns_at = monotonic()
            await stack.start(server)
        starting = monotonic() - returns_at
        took = await caught_up(stack)
        await asyncio.sleep(WELL_SECONDS)
        running.pop(0).cancel()
        await asyncio.gather(*load.tasks)
        await caught_up(stack)
        for task in running:
            task.cancel()

        ids, letters, messages, deliveries = await stored(stack)
        taken = {digest for digest, status in load.answered.items() if status == 200}
        database = await asyncpg.connect(stack.database_url)
        right = await database.fetchval(
            "SELECT count(*) FROM calls.calls WHERE final AND status = 'completed' AND cost = 0.04"
            " AND transcript = 'AI: Hi.' || chr(10) || 'User: ' || provider_call_id || '.'"
        )
        await database.close()
        print(f"{server} {'frozen' if standing_still else 'killed'} for {seconds:.0f} s, {rate:.0f} webhooks a second")
        print(f"  webhooks sent {len(load.answered)}, answers {dict(Counter(load.answered.values()))}")
        print(f"  answered within, well: {figures(load.seconds[:well])}; during the outage: {figures(meanwhile)}")
        print(f"  answered 200 and not in the stream: {len(taken - ids)}; dead letters: {letters}")
        print(f"  calls whose end was told meanwhile: {len(load.reported)}, right: {right}")
        print(f"  messages {messages}, deliveries {deliveries}")
        print(f"  not ready after: {ready.after(gone_at, 503)}; slowest answer {ready.slowest:.1f} s")
        print(
            f"  ready again after: {ready.after(returns_at, 200)}; the server's own start took {starting:.1f} s of it"
        )
        print(f"  caught up {took:.1f} s after the server answered, the load going on")
        for name, lines in told(stack, start).items():
            print(f"  {name} logged {lines}")
        sys.stdout.flush()
        return not taken - ids and not letters and right == len(load.reported) == CALLS


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=["postgres", "nats"], metavar="postgres|nats")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--frozen", action="store_true")
    wanted = parser.parse_args()
    fine = [
        await outage(server, wanted.seconds, wanted.rate, standing_still=wanted.frozen) for server in wanted.servers
    ]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
