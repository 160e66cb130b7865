"""How late we are right when every webhook is lost: python bench/lost_webhooks.py [part ...]

Starts a whole system of its own on loopback, whose webhooks go to a closed port, places several hundred calls, and
compares for each call the time at which we had its right end, transcript and cost with the time at which the provider
had them. Nobody reads the calls meanwhile, so the schedule alone finds them. Prints the bound beside what was measured.

Parts (all, when none is named; about twelve minutes):
default   the default steps, calls of two seconds, every scenario
long      steps at a thirtieth, calls of up to two minutes (for an hour), every scenario
slow      a thousand calls due in the same second, by a provider that takes a second for each answer
killed    the same, and the calls service is killed twice meanwhile
away      the provider refuses connections for a while in which calls end
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import httpx2
from rig import Proxy, User, figures, proxy, user_of

from boostedcalls.devkit.stack import Stack
from boostedcalls.devkit.unlimited import UNLIMITED

SCENARIOS = ["00", "01", "02", "03", "04", "05", "10", "11", "12", "13", "20", "22", "23", "24"]
STATUS = {"01": "busy", "02": "no-answer", "03": "voicemail", "04": "failed", "05": "cancelled"}
COMMON = {
    "SIGNUP_ENABLED": "true",
    **UNLIMITED,
    "MAX_ACTIVE_CALLS_PER_USER": "10000",
    "VAPI_WEBHOOK_URL": "http://127.0.0.1:9/api/calls/webhook/",
}
# What is beside the steps: the publisher's interval, the provider's answer, and the way through queue and stream.
POLL, ANSWER, WAY = 1.0, 5.0, 2.0
LEASE = 60.0
FINAL = """
    SELECT id, contact_phone, status, ended_reason, transcript, cost, provider_call_id, updated_at
    FROM calls.calls WHERE final AND status = ANY('{completed,failed,cancelled,no-answer,busy,voicemail}')
"""


def bound(step: float, more: float = 0.0) -> float:
    """Seconds after the provider had the result: the step in force, and what is beside it."""
    return step + POLL + ANSWER + WAY + more


@dataclass
class Bench:
    """A running system without webhooks."""

    stack: Stack
    proxy: Proxy
    database: asyncpg.Connection
    provider: httpx2.AsyncClient
    user: User

    async def settled(self, count: int, timeout: float) -> dict[Any, asyncpg.Record]:
        """The final rows, as they are when there are `count` of them, or when time is over."""
        found: dict[Any, asyncpg.Record] = {}
        end = monotonic() + timeout
        while len(found) < count and monotonic() < end:
            for row in await self.database.fetch(FINAL):
                found.setdefault(row["id"], row)
            await asyncio.sleep(0.25)
        return found

    async def at_provider(self, provider_call_id: str) -> dict[str, Any]:
        return (await self.provider.get(f"/call/{provider_call_id}")).json()

    def dials(self) -> Counter[str]:
        return Counter(json.loads(line)["name"] for line in self.stack.dial_log.read_text().splitlines())


@asynccontextmanager
async def bench(**env: str) -> AsyncGenerator[Bench]:
    key = {"Authorization": "Bearer any"}
    async with AsyncExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        before = await opened.enter_async_context(proxy())
        settings = {**COMMON, **env, "VAPI_BASE_URL": before.url}
        stack = await opened.enter_async_context(Stack(home / "stack", env=settings))
        before.target = stack.simulator_url
        client = httpx2.AsyncClient(base_url=stack.simulator_url, headers=key, timeout=30)
        provider = await opened.enter_async_context(client)
        user = await opened.enter_async_context(user_of(stack.url))
        database = await asyncpg.connect(stack.database_url)
        opened.push_async_callback(database.close)
        yield Bench(stack, before, database, provider, user)


async def report(title: str, running: Bench, calls: list[dict[str, Any]], bounds: str, timeout: float) -> bool:
    """Wait for the calls' ends, compare them with the provider's, print, and say whether all are right."""
    found = await running.settled(len(calls), timeout)
    late: list[float] = []
    wrong: list[str] = []
    for row in found.values():
        shown = await running.at_provider(row["provider_call_id"])
        expected = STATUS.get(row["contact_phone"][-2:], "completed")
        ours = (row["status"], row["ended_reason"], row["transcript"] or "", float(row["cost"]))
        theirs = (expected, shown["endedReason"], shown["artifact"].get("transcript") or "", shown["cost"])
        if ours != theirs:
            wrong.append(f"{row['contact_phone'][-2:]} {row['id']}: {ours} is not {theirs}")
        late.append((row["updated_at"] - datetime.fromisoformat(shown["updatedAt"])).total_seconds())
    twice = [name for name, times in running.dials().items() if times > 1]
    print(f"{title}")
    print(
        f"  calls {len(calls)}, right {len(found) - len(wrong)}, wrong {len(wrong)},"
        f" without an end {len(calls) - len(found)}"
    )
    print(f"  dialled twice {len(twice)}; asked of the provider: {dict(running.proxy.asked)}")
    print(f"  right after the provider was: {figures(late)}")
    print(f"  bound: {bounds}", flush=True)
    for line in wrong[:5]:
        print(f"  {line}")
    return not wrong and len(found) == len(calls) and not twice


def mixed(count: int, numbers: list[str]) -> list[str]:
    chosen = [numbers[place % len(numbers)] for place in range(count)]
    random.shuffle(chosen)
    return chosen


async def end_at_provider(running: Bench, provider_call_id: str, after: float) -> None:
    await asyncio.sleep(after)
    answer = await running.provider.post(f"/{provider_call_id}/control", json={"type": "end-call"})
    answer.raise_for_status()


async def short_calls() -> bool:
    async with bench() as running:
        calls = await running.user.place_all(mixed(308, SCENARIOS))
        for call in calls:
            if call["contact"]["phone"].endswith("05"):
                answer = await running.user.http.post(f"/api/calls/{call['id']}/cancel/")
                assert answer.status_code == 200, answer.text  # noqa: S101
        told = f"steps 60, 300, ...: first step, {bound(60):.0f} s; twice that where a look came between end and report"
        return await report("default: calls of two seconds", running, calls, told, 60 * 3)


async def long_calls() -> bool:
    """A call of 05 goes on until somebody hangs up at the provider, after up to two minutes."""
    steps = {"SYNC_STEPS": "2,10,30,120", "RECONCILE_STEPS": "1,2,10,60", "SIMULATOR_SPEED": "0.5"}
    async with bench(**steps) as running:
        ends: list[asyncio.Task[None]] = []
        calls = await running.user.place_all(mixed(200, ["05"]) + mixed(112, SCENARIOS))
        for call in calls:
            if call["contact"]["phone"].endswith("05"):
                after = random.uniform(0.5, 120)  # noqa: S311
                ends.append(asyncio.create_task(end_at_provider(running, call["vapi_call_id"], after)))
        told = f"steps 2, 10, ...: a call that goes on is looked at every 10 s, so {bound(10):.0f} s"
        fine = await report("long: calls of up to 120 s, steps at a thirtieth", running, calls, told, 120 + 60)
        await asyncio.gather(*ends)
        return fine


async def all_due(running: Bench, count: int) -> list[dict[str, Any]]:
    """Calls that have ended at the provider; the first look at each is due now."""
    calls = await running.user.place_all(mixed(count, ["00", "01", "03", "13"]))
    await asyncio.sleep(3)
    running.proxy.delay = 1.0
    running.proxy.asked.clear()
    await running.database.execute("UPDATE calls.calls SET due_at = now()")
    # From now on counts, not from when the provider had them.
    return calls


async def since(
    running: Bench, calls: list[dict[str, Any]], began: datetime, title: str, bounds: str, timeout: float
) -> bool:
    found = await running.settled(len(calls), timeout)
    late = [(row["updated_at"] - began).total_seconds() for row in found.values()]
    print(f"{title}")
    print(f"  calls {len(calls)}, with their end {len(found)}; asked of the provider: {dict(running.proxy.asked)}")
    print(f"  right after they were due: {figures(late)}")
    print(f"  bound: {bounds}", flush=True)
    return len(found) == len(calls)


async def slow_provider() -> bool:
    async with bench(SIMULATOR_SPEED="0.5", SYNC_STEPS="600,3600") as running:
        calls = await all_due(running, 1000)
        told = "a process asks for 20 calls at once: 1000 / 20 x 1 s, what it does with the answers, poll and way"
        return await since(running, calls, datetime.now(UTC), "slow: 1,000 calls due at once, 1 s an answer", told, 240)


async def killed() -> bool:
    async with bench(SIMULATOR_SPEED="0.5", SYNC_STEPS="600,3600") as running:
        calls = await all_due(running, 300)
        began = datetime.now(UTC)
        for _ in range(2):
            await asyncio.sleep(3)
            await running.stack.kill("calls", number=signal.SIGKILL)
            await running.stack.wait_until_restarted("calls")
        told = f"300 / 20 x 1 s, two restarts, and a lease ({LEASE:.0f} s) for the job in hand at each"
        return await since(running, calls, began, "killed: 300 calls due at once, calls killed twice", told, 300)


async def away() -> bool:
    steps = {"SYNC_STEPS": "2,10,30,120", "RECONCILE_STEPS": "1,2,10,60", "SIMULATOR_SPEED": "10"}
    async with bench(**steps) as running:
        # Of twenty seconds each, so that all end while the provider is away; it hangs up on none.
        calls = await running.user.place_all(mixed(100, ["00", "03", "13"]))
        target, running.proxy.target = running.proxy.target, "http://127.0.0.1:9"
        await asyncio.sleep(60)
        running.proxy.target = target
        began = datetime.now(UTC)
        told = f"the second step after its return: {bound(10):.0f} s"
        return await since(running, calls, began, "away: the provider does not answer for 60 s", told, 120)


PARTS: dict[str, Callable[[], Any]] = {
    "default": short_calls,
    "long": long_calls,
    "slow": slow_provider,
    "killed": killed,
    "away": away,
}


async def main(names: list[str]) -> int:
    fine = [await PARTS[name]() for name in names or PARTS]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
