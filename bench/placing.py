"""Placing calls against the simulator, whose calls take half a second and send their webhooks: part `placing`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import httpx2
import orjson

from bench import usage, wrk
from bench.contender import Contender
from bench.data import contact_id
from bench.setup import BASE, Figures, Setup, log_in
from boostedcalls.devkit.stack import Stack

AT_ONCE = 16
_PEERS = ("django-persistent",)
_SETTINGS = {"SIMULATOR_SPEED": "0.25", "SIMULATOR_KEEP": "100000", "MAX_ACTIVE_CALLS_PER_USER": "1000000"}
# Their numbers end like those of people who answer; the simulator does other things for +1 202 555 01xx.
_CONTACTS = range(1_000, 2_000)
_PATIENCE = 60.0


@asynccontextmanager
async def _started(setup: Setup, name: str) -> AsyncGenerator[tuple[Contender, Path]]:
    """The contender with a simulator, and the simulator's log of dials."""
    if name == "ours":
        async with setup.start(name, "placing", BASE, simulator=True, env=_SETTINGS) as contender:
            assert contender.stack is not None  # noqa: S101 - ours
            yield contender, contender.stack.dial_log
        return
    async with Stack(setup.folder / f"simulator-{name}", parts=("simulator",), env=_SETTINGS) as stack:
        env = {"VAPI_BASE_URL": stack.simulator_url, "VAPI_API_KEY": "simulator"}
        async with setup.start(name, "placing", BASE, env=env) as contender:
            yield contender, stack.dial_log


def _dials(log: Path) -> Counter[str]:
    return Counter(json.loads(line)["name"] for line in log.read_text().splitlines()) if log.exists() else Counter()


def _requests(token: str) -> list[wrk.Request]:
    return [
        wrk.Request(
            "/api/calls/",
            token,
            orjson.dumps(
                {"contact_id": str(contact_id(number)), "assistant_id": "bench", "phone_number_id": "bench"}
            ).decode(),
            "POST",
        )
        for number in _CONTACTS
    ]


async def _until_over(contender: Contender, token: str) -> tuple[float, int]:
    """Wait until no call is active: the seconds, and how many still are when patience ends."""
    began = monotonic()
    headers = {"Authorization": f"Bearer {token}"}
    left = -1
    async with httpx2.AsyncClient(base_url=contender.url, headers=headers, timeout=30, trust_env=False) as http:
        while left and monotonic() - began < _PATIENCE:
            left = (await http.get("/api/calls/pending-count/")).json()["count"]
            await asyncio.sleep(0.1)
    return monotonic() - began, left


async def place(contender: Contender, log: Path, seconds: float) -> Figures:
    """One connection, then sixteen; then wait for the calls' ends and count who was dialled."""
    token = await log_in(contender)
    requests = _requests(token)
    before = _dials(log)
    alone = await wrk.ask(contender.url, requests, 2, 1)
    async with usage.measured(contender.processes) as used:
        many = await wrk.ask(contender.url, requests, seconds, AT_ONCE)
    over_after, left = await _until_over(contender, token)
    dialled = _dials(log) - before
    return {
        **wrk.figures(alone, many),
        "answered": alone.answered + many.answered,
        "dialled": dialled.total(),
        "dialled_twice": sum(times > 1 for times in dialled.values()),
        "over_after_s": round(over_after, 1),
        "never_over": left,
        "cpu_us": used.cpu_micros(many.answered),
        "peak_mb": used.peak_mb,
    }


async def part(setup: Setup) -> Figures:
    """{contender: [run, ...]}"""
    seconds = 3 if setup.quick else 5
    figures: Figures = {}
    for name in setup.chosen(("ours",) if setup.quick else ("ours", *_PEERS)):
        async with _started(setup, name) as (contender, log):
            for _ in range(setup.rounds):
                run = await place(contender, log, seconds)
                figures.setdefault(name, []).append(run)
                setup.say(
                    f"placing: {name}: {run['per_s']}/s, p50 {run['p50_ms']} ms alone; dialled twice"
                    f" {run['dialled_twice']}, never over {run['never_over']} {run['errors'] or ''}"
                )
        setup.drop(name, "placing", BASE)
    return figures
