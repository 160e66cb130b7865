"""Whether a login tells who has an account: wrong passwords for unknown and known users, by turns: part `login`.

Over real HTTP, one at a time. What slows tries down or refuses them must be switched off: every variable of the
environment that starts with LOGIN_ is passed on to the gateway, after those in `UNTHROTTLED`.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any
from uuid import uuid4

import httpx2

from bench.setup import Figures, Setup, median

TRIES = 500
_WARM = 20
UNTHROTTLED: dict[str, str] = {}
"""Settings with which the gateway lets that many wrong passwords through."""
_PASSWORD = "the-right-password"  # noqa: S105


async def part(setup: Setup) -> Figures:
    """{"runs": [...]}: of each the medians in milliseconds, and how far they are apart in percent of the lesser."""
    runs: list[Figures] = []
    env = {"SIGNUP_ENABLED": "true", **UNTHROTTLED}
    env |= {name: value for name, value in os.environ.items() if name.startswith("LOGIN_")}
    for _ in range(setup.rounds if setup.chosen(["ours"]) else 0):
        async with setup.start("ours", "login", None, env=env) as contender:
            runs.append(await _measure(contender.url))
        setup.drop("ours", "login", None)
        setup.say(
            "login, {tries} wrong passwords each: unknown user {unknown_ms} ms, known user {known_ms} ms,"
            " {difference_percent} % apart (95th percentiles {unknown_p95_ms} and {known_p95_ms} ms)".format(**runs[-1])
        )
    return {"runs": runs}


async def _measure(url: str) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        known = f"{uuid4().hex}@example.com"
        made = await http.post("/api/auth/signup", json={"email": known, "password": _PASSWORD})
        made.raise_for_status()
        times: dict[str, list[float]] = {"unknown": [], "known": []}
        bodies: set[tuple[Any, ...]] = set()
        for number in range(_WARM + TRIES):
            # Neither is always the first.
            for kind in ("unknown", "known") if number % 2 else ("known", "unknown"):
                username = known if kind == "known" else f"{uuid4().hex}@example.com"
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
    unknown, known_ms = median(times["unknown"]), median(times["known"])
    return {
        "tries": TRIES,
        "unknown_ms": round(unknown, 2),
        "known_ms": round(known_ms, 2),
        "unknown_p95_ms": round(sorted(times["unknown"])[int(TRIES * 0.95)], 2),
        "known_p95_ms": round(sorted(times["known"])[int(TRIES * 0.95)], 2),
        "difference_percent": round(abs(unknown - known_ms) / min(unknown, known_ms) * 100, 2),
    }
