"""Start-up and memory of the whole stack: parts `startup` and `memory`. Ours only."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

import httpx2

from bench import usage
from bench.applied import prepared
from bench.bodies import EVENTS
from bench.contender import Contender, start_ours
from bench.data import call_id
from bench.open_loop import Order, drive
from bench.setup import BASE, Figures, Setup, log_in, median

SERVICES = ("gateway", "webhooks", "calls", "contacts")
_SETTLE = 5.0
# Of the ingest rate, with reading beside it.
_SHARE = 0.3
_FALLBACK_RATE = 300.0
_READS_A_SECOND = 20


async def startup(setup: Setup) -> Figures:
    """{"runs": [...]}: the first start on an empty folder (databases are made), the next one, and memory at rest."""
    runs: list[Figures] = []
    for _ in range(setup.rounds if setup.chosen(["ours"]) else 0):
        setup.drop("ours", "startup", None)
        times: list[float] = []
        idle: dict[str, int] = {}
        for _ in range(2):
            began = monotonic()
            # Past `setup.start`, which empties the folder each time.
            async with _whole(setup) as contender:
                times.append(monotonic() - began)
                if len(times) == 2:
                    await asyncio.sleep(_SETTLE)
                    idle = usage.memory(contender.processes())
        megabytes = {label: round(size / 1e6, 1) for label, size in idle.items()}
        runs.append(
            {
                "first_s": round(times[0], 2),
                "again_s": round(times[1], 2),
                "idle_mb": megabytes,
                "idle_total_mb": round(sum(megabytes.values()), 1),
            }
        )
        setup.say(f"startup: first {times[0]:.1f} s, again {times[1]:.1f} s, at rest {megabytes}")
        setup.drop("ours", "startup", None)
    return {"runs": runs}


def _whole(setup: Setup) -> contextlib.AbstractAsyncContextManager[Contender]:
    setup.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    return start_ours(setup.home("ours", "startup", None), None, nats_sync="always", simulator=True)


async def memory(setup: Setup) -> Figures:
    """Resident memory of every process, each minute of a steady load of webhooks and reads."""
    if not setup.chosen(["ours"]):
        return {}
    seconds, every = (20, 2) if setup.quick else (600, 60)
    found: list[dict[str, Any]] = setup.results.get("ingest", {}).get("ours", {}).get("always", [])
    rate = (median(run["applied_per_s"] for run in found) or _FALLBACK_RATE / _SHARE) * _SHARE
    async with setup.start("ours", "memory", BASE, "always") as contender:
        first = await prepared(contender, int(rate * seconds / EVENTS) + 1)
        token = await log_in(contender)
        order = Order(contender.url, contender.secret, rate, seconds, first)
        samples: list[Figures] = []
        reading = asyncio.create_task(_read(contender, token))
        watching = asyncio.create_task(_watch(contender, every, samples))
        try:
            async with usage.measured(contender.processes) as used:
                counted, _ = await drive(order)
        finally:
            for task in (reading, watching):
                task.cancel()
            done = await asyncio.gather(reading, watching, return_exceptions=True)
    setup.drop("ours", "memory", BASE)
    if faults := [each for each in done if not isinstance(each, asyncio.CancelledError)]:
        raise RuntimeError(f"memory: {faults[0]!r}")
    setup.say(f"memory: {rate:.0f} webhooks/s for {seconds} s: {samples[0] if samples else {}} ... {samples[-1:]}")
    return {
        "rate": round(rate, 1),
        "reads_per_s": _READS_A_SECOND,
        "seconds": seconds,
        "every_s": every,
        "errors": counted["errors"],
        "ack_ms": counted["ack_ms"],
        "samples_mb": samples,
        "peak_mb": used.peak_mb,
    }


async def _watch(contender: Contender, every: float, samples: list[Figures]) -> None:
    while True:
        await asyncio.sleep(every)
        found = usage.memory(contender.processes())
        samples.append({label: round(size / 1e6, 1) for label, size in found.items()})


async def _read(contender: Contender, token: str) -> None:
    """A bit of everything, round and round."""
    paths = ["/api/calls/", "/api/calls/stats/", "/api/calls/pending-count/", "/api/contacts/?limit=100"]
    paths += [f"/api/calls/{call_id(number)}/" for number in range(0, 1000, 100)]
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=contender.url, headers=headers, timeout=30, trust_env=False) as http:
        place = 0
        while True:
            answer = await http.get(paths[place % len(paths)])
            if answer.status_code != 200:
                raise RuntimeError(f"{paths[place % len(paths)]}: {answer.status_code}")
            place += 1
            await asyncio.sleep(1 / _READS_A_SECOND)
