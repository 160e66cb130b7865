"""How long the provider waits for its answer while something behind the gateway is away: python bench/spool_latency.py

Starts NATS, Postgres, the webhooks service and a gateway of its own on loopback, sends webhooks at a steady rate while
one of them is frozen or killed, and prints the times of the answers: from the fault until the breaker opened, and after
that. Takes about a minute.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import aiohttp
import orjson
from uuid_utils import compat

from boostedcalls.devkit.stack import Stack

RATE = 50
WELL_SECONDS = 3
OUTAGE_SECONDS = 10
LARGE_EVERY = 20


@dataclass
class Sent:
    at: float
    seconds: float
    status: int
    spooled: bool


def body(number: int) -> bytes:
    """2 KB, and now and then 100 KB: a report with its transcript."""
    size = 100_000 if number % LARGE_EVERY == 0 else 2_000
    call = {"id": str(compat.uuid7())}
    return orjson.dumps({"message": {"type": "status-update", "status": "x", "call": call, "text": "x" * size}})


async def send(session: aiohttp.ClientSession, url: str, secret: str, number: int) -> Sent:
    started = monotonic()
    headers = {"x-vapi-secret": secret, "content-type": "application/json"}
    async with session.post(url, data=body(number), headers=headers) as answer:
        await answer.read()
        return Sent(started, monotonic() - started, answer.status, "x-stored" in answer.headers)


async def steadily(stack: Stack, session: aiohttp.ClientSession, seconds: float) -> list[asyncio.Task[Sent]]:
    """Send at the rate, whether answers come or not."""
    url, secret = f"{stack.url}/api/calls/webhook/", stack.env["VAPI_WEBHOOK_SECRET"]
    tasks: list[asyncio.Task[Sent]] = []
    started = monotonic()
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(max(0.0, started + number / RATE - monotonic()))
        tasks.append(asyncio.create_task(send(session, url, secret, number)))
    return tasks


def show(fault: str, phase: str, sent: list[Sent]) -> None:
    times = sorted(one.seconds * 1000 for one in sent)
    if times:
        p50, p99 = (times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99))
        lost = sum(one.status != 200 for one in sent)
        print(f"{fault:28}{phase:22}{len(sent):6}{p50:10.1f}{p99:10.1f}{times[-1]:10.1f}{lost:9}")


async def drained(stack: Stack) -> float:
    """Seconds until nothing waits in the spool."""
    started = monotonic()
    while list((stack.home / "spool").glob("*.seg")):  # noqa: ASYNC110 - another process's files
        await asyncio.sleep(0.05)
    return monotonic() - started


async def measure(
    stack: Stack, fault: str, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        well = await asyncio.gather(*await steadily(stack, session, WELL_SECONDS))
        await begin()
        faulty = await asyncio.gather(*await steadily(stack, session, OUTAGE_SECONDS))
        await end()
    opened_at = min((one.at + one.seconds for one in faulty if one.spooled), default=float("inf"))
    show(fault, "well", well)
    show(fault, "until it opened", [one for one in faulty if one.at < opened_at])
    show(fault, "after it opened", [one for one in faulty if one.at >= opened_at])
    spooled = sum(one.spooled for one in faulty)
    print(f"{fault:28}{spooled} spooled, drained {await drained(stack):.1f} s after the end of the fault")


async def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        parts = ("nats", "postgres", "webhooks", "gateway")
        async with Stack(Path(home) / "home", parts=parts, durable=False) as stack:
            print(f"{'fault':28}{'breaker':22}{'n':>6}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'not 200':>9}")

            async def killed() -> None:
                await stack.kill("nats")
                # So that it is not started again.
                await stack.stop("nats")

            for fault, begin, end in (
                (
                    "webhooks service frozen",
                    lambda: stack.kill("webhooks", number=signal.SIGSTOP),
                    lambda: stack.kill("webhooks", number=signal.SIGCONT),
                ),
                ("NATS killed", killed, lambda: stack.start("nats")),
                (
                    "NATS frozen",
                    lambda: stack.kill("nats", number=signal.SIGSTOP),
                    lambda: stack.kill("nats", number=signal.SIGCONT),
                ),
            ):
                await measure(stack, fault, begin, end)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
