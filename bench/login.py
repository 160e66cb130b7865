"""Whether a login tells who has an account, and who was moved here: wrong passwords, by turns: part `login`.

Over real HTTP, one at a time; first while nobody has a hash from Django, then while two users do, one of them with
fewer iterations. What slows tries down or refuses them must be switched off: every variable of the environment that
starts with LOGIN_ is passed on to the gateway, after those in `UNTHROTTLED`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from itertools import combinations
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2

from bench.contender import Contender
from bench.setup import Figures, Setup, median
from boostedcalls.devkit.unlimited import UNTHROTTLED
from boostedcalls.gateway.legacy_cost import EVERY

TRIES = 500
_WARM = 20
_PASSWORD = "the-right-password"  # noqa: S105
_ITERATIONS = {"moved": 100_000, "moved_less": 20_000}


async def part(setup: Setup) -> Figures:
    """{"runs": [...]}: of each, without and with hashes from Django, the medians in milliseconds, and how far any two
    of them are apart in percent of the lesser."""
    runs: list[Figures] = []
    env = {"SIGNUP_ENABLED": "true", **UNTHROTTLED}
    env |= {name: value for name, value in os.environ.items() if name.startswith("LOGIN_")}
    for _ in range(setup.rounds if setup.chosen(["ours"]) else 0):
        async with setup.start("ours", "login", None, env=env) as contender:
            runs.append(await _measure(contender))
        setup.drop("ours", "login", None)
        for name, found in runs[-1].items():
            medians = ", ".join(f"{kind} {ms} ms (p95 {found['p95_ms'][kind]})" for kind, ms in found["ms"].items())
            setup.say(f"login, {name}, {TRIES} wrong passwords each: {medians}; {found['difference_percent']} % apart")
    return {"runs": runs}


async def _measure(contender: Contender) -> Figures:
    async with httpx2.AsyncClient(base_url=contender.url, timeout=30, trust_env=False) as http:
        names = {kind: f"{uuid4().hex}@example.com" for kind in ("known", *_ITERATIONS)}
        for email in names.values():
            made = await http.post("/api/auth/signup", json={"email": email, "password": _PASSWORD})
            made.raise_for_status()
        found = {"before": await _compare(http, {"known": names["known"]})}
        await _move(contender, names)
        # The gateway looks that often.
        await asyncio.sleep(EVERY + 1)
        return {**found, "with hashes from Django": await _compare(http, names)}


async def _move(contender: Contender, names: dict[str, str]) -> None:
    connection = await asyncpg.connect(contender.database_url)
    try:
        for kind, iterations in _ITERATIONS.items():
            digest = hashlib.pbkdf2_hmac("sha256", _PASSWORD.encode(), b"salt", iterations)
            stored = f"pbkdf2_sha256${iterations}$salt${base64.b64encode(digest).decode()}"
            await connection.execute("UPDATE auth.users SET password_hash = $2 WHERE email = $1", names[kind], stored)
    finally:
        await connection.close()


async def _compare(http: httpx2.AsyncClient, names: dict[str, str]) -> Figures:
    kinds = ["unknown", *names]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    bodies: set[tuple[Any, ...]] = set()
    for number in range(_WARM + TRIES):
        # None is always the first.
        first = number % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            username = names.get(kind) or f"{uuid4().hex}@example.com"
            began = perf_counter()
            answer = await http.post("/api/token/", json={"username": username, "password": "a-wrong-password"})
            took = (perf_counter() - began) * 1000
            found: dict[str, Any] = answer.json()
            found.pop("request_id", None)
            bodies.add((answer.status_code, *sorted(found.items())))
            if number >= _WARM:
                times[kind].append(took)
    if len(bodies) != 1 or next(iter(bodies))[0] != 401:
        raise RuntimeError(f"login: the answers differ, or are no 401: {bodies}")
    medians = {kind: median(each) for kind, each in times.items()}
    apart = max(abs(one - other) / min(one, other) for one, other in combinations(medians.values(), 2))
    return {
        "ms": {kind: round(each, 2) for kind, each in medians.items()},
        "p95_ms": {kind: round(sorted(each)[int(TRIES * 0.95)], 2) for kind, each in times.items()},
        "difference_percent": round(apart * 100, 2),
    }
