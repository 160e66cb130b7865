"""How long a webhook waits for its answer at half of what a contender takes, and how soon at four fifths its call shows
what it said: part `latency`."""

from __future__ import annotations

import asyncio
import math
from time import time
from typing import Any

from bench import usage
from bench.applied import database, live, prepared
from bench.bodies import EVENTS
from bench.contender import Contender, NatsSync
from bench.data import DataSet, live_provider_id
from bench.open_loop import Order, drive, percentiles
from bench.setup import BASE, Figures, Setup, log_in, median

HALF, MOST = 0.5, 0.8
PROBES = 10.0
LATE = 1.0
_STATUS = ("ringing", "in-progress", "completed", "completed")
_QUIET = 10.0


async def acknowledged(contender: Contender, rate: float, seconds: float) -> Figures:
    """Answers at a steady rate."""
    first = await prepared(contender, int(rate * seconds / EVENTS) + 1) if contender.add_live else 0
    order = Order(contender.url, contender.secret, rate, seconds, first)
    counted, _ = await drive(order)
    return {"rate": round(rate, 1), **counted}


async def visible(contender: Contender, data: DataSet, rate: float, seconds: float, probes: float = PROBES) -> Figures:
    """From each acknowledgement to the writing of the row it changes; from some, to the first answer that shows it."""
    first = await prepared(contender, int(rate * seconds) + 1)
    token = await log_in(contender) if probes else ""
    arguments = {"calls": data.calls, "users": data.users, "contacts": data.contacts}
    order = Order(
        contender.url, contender.secret, rate, seconds, first, own=True, probes=probes, token=token, data=arguments
    )
    async with usage.measured(contender.processes) as used:
        counted, acks = await drive(order)
        rows = await _rows(contender, first, acks)
    lags: list[float] = []
    way: list[float] = []
    lost = 0
    for number, ack in enumerate(acks):
        if math.isnan(ack):
            continue
        status, at = rows.get(first + number, ("pending", 0.0))
        if status != _STATUS[number % EVENTS]:
            lost += 1
            continue
        lags.append(max(0.0, at - ack))
        way.append(at - counted["began"] - number / rate)
    return {
        "rate": round(rate, 1),
        **counted,
        "lost": lost,
        "late": sum(lag > LATE for lag in lags),
        "lag_ms": percentiles(lags),
        "sent_to_applied_ms": percentiles(way),
        "cpu_us": used.cpu_micros(len(acks)),
        "peak_mb": used.peak_mb,
    }


async def _rows(contender: Contender, first: int, acks: list[float]) -> dict[int, tuple[str, float]]:
    """(status, written at) of the calls, once as many have changed as were acknowledged, or nothing moves any more."""
    bounds = live_provider_id(first), live_provider_id(first + len(acks) - 1)
    wanted = sum(not math.isnan(ack) for ack in acks)
    changed, since = -1, time()
    async with database(contender) as connection:
        while changed < wanted and time() - since < _QUIET:
            found = await connection.fetchval(
                f"SELECT count(*) FROM {live(contender)} WHERE status <> 'pending'",  # noqa: S608
                *bounds,
            )
            if found != changed:
                changed, since = found, time()
            await asyncio.sleep(0.1)
        rows = await connection.fetch(f"SELECT * FROM {live(contender)}", *bounds)  # noqa: S608 - the contender's own
    return {
        int(row["provider_call_id"].rpartition("-")[2]): (row["status"], row["updated_at"].timestamp()) for row in rows
    }


def _rate(setup: Setup, name: str, sync: str) -> float:
    runs: list[dict[str, Any]] = setup.results.get("ingest", {}).get(name, {}).get(sync, [])
    return median(run["applied_per_s"] for run in runs)


async def part(setup: Setup) -> Figures:
    """Needs the part `ingest`: the rates are shares of what it found."""
    seconds = 5 if setup.quick else 8
    plan: list[tuple[str, NatsSync]] = [("ours", "default")]
    if not setup.quick:
        plan = [("ours", "always"), ("ours", "default"), ("faststream", "default"), ("django-persistent", "default")]
    figures: Figures = {}
    for name, sync in plan:
        if name not in setup.chosen([name]):
            continue
        rate = _rate(setup, name, sync)
        if not rate:
            setup.say(f"latency: {name}, sync {sync}: no rate, run the part ingest first")
            continue
        # The others cannot list one contact's calls; those that apply in the request are visible when they answer.
        probes = PROBES if name == "ours" else 0
        kept = figures.setdefault(name, {}).setdefault(sync, {"half": [], "most": []})
        async with setup.start(name, "ingest", BASE, sync) as contender:
            for _ in range(setup.rounds):
                half = await acknowledged(contender, rate * HALF, seconds)
                kept["half"].append(half)
                setup.say(f"latency: {name}, sync {sync}, {half['rate']:.0f}/s: ack {half['ack_ms']} {half['errors']}")
                most = await visible(contender, BASE, rate * MOST, seconds, probes=probes)
                kept["most"].append(most)
                setup.say(
                    f"latency: {name}, sync {sync}, {most['rate']:.0f}/s: written after {most['lag_ms']},"
                    f" visible after {most['visible_ms']}, lost {most['lost']}, late {most['late']} {most['errors']}"
                )
    return figures
