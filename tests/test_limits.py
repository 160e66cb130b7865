"""What a user may ask for, and how often a password may be tried: over two of every process that counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx2

from boostedcalls.devkit.pytest_plugin import StackFactory

from .conftest import PASSWORD, SignUp

Attacks = Callable[..., None]
WRONG = "wrong password"
LIMITS = {
    "REQUESTS_PER_USER_PER_MINUTE": "60",
    "SIGNUPS_PER_ADDRESS_PER_HOUR": "4",
    "CREATE_CALLS_PER_MINUTE": "5",
    "NUMBER_COOLDOWN": "60",
    "TRUSTED_PROXIES": "127.0.0.0/8",
}


async def try_login(http: httpx2.AsyncClient, email: str, address: str, password: str = WRONG) -> httpx2.Response:
    body = {"username": email, "password": password}
    return await http.post("/api/token/", json=body, headers={"X-Forwarded-For": address, "Authorization": ""})


async def test_limits_hold_over_two_gateways_and_a_restart(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp, is_problem: Callable[..., Any], attacks: Attacks
) -> None:
    async with stack(env={**fast, **LIMITS}, replicas={"gateway": 2, "calls": 2}) as system:
        user, second = await sign_up(system.urls[0]), await sign_up(system.urls[1])
        second.http.headers["Authorization"] = user.http.headers["Authorization"]
        doors = [user.http, second.http]

        # The same number a moment later, and then as often as the rate allows.
        contacts = [await user.contact(number) for number in ("00", "01", "03")]
        placed = await doors[0].post("/api/calls/", json={"contact_id": contacts[0]["id"]})
        assert placed.status_code == 201
        again = await doors[1].post("/api/calls/", json={"contact_id": contacts[0]["id"]})
        is_problem(again, 429, "number_cooldown")
        assert 1 <= int(again.headers["retry-after"]) <= 60
        wanted = {"contact_id": contacts[0]["id"], "allow_repeat": True}
        answers = await asyncio.gather(*(doors[n % 2].post("/api/calls/", json=wanted) for n in range(10)))
        assert Counter(answer.status_code for answer in answers) == Counter({201: 4, 429: 6})
        is_problem(next(answer for answer in answers if answer.status_code == 429), 429, "call_rate_exceeded")
        assert len(system.dial_log.read_text().splitlines()) == 5
        attacks("Limits: one number again and again")
        attacks("Limits: calls of one user at once", 10)

        third = await sign_up(system.urls[0])
        headers = {"Authorization": third.http.headers["Authorization"]}
        reads = await asyncio.gather(
            *(doors[n % 2].get("/api/calls/pending-count/", headers=headers) for n in range(100))
        )
        assert Counter(answer.status_code for answer in reads) == Counter({200: 60, 429: 40})
        refused = next(answer for answer in reads if answer.status_code == 429)
        is_problem(refused, 429, "rate_limited")
        assert refused.headers["ratelimit-policy"] == '"requests";q=60;w=60'
        assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
        attacks("Limits: requests of one user over two gateways", 100)

        # Somebody else tries her password; she comes in from where she was before.
        home, attacker = "203.0.113.9", "198.51.100.66"
        assert (await try_login(doors[0], user.email, home, PASSWORD)).status_code == 200
        tries = await asyncio.gather(*(try_login(doors[n % 2], user.email, attacker) for n in range(40)))
        statuses = Counter(answer.status_code for answer in tries)
        assert 5 <= statuses[401] <= 8
        assert statuses[401] + statuses[429] == 40
        for n in range(8):
            await try_login(doors[n % 2], user.email, f"198.51.100.{n}")
        database = await asyncpg.connect(system.database_url)
        await database.execute("UPDATE auth.tries SET blocked_until = now() + interval '900 s' WHERE kind < 9")
        await database.execute("UPDATE auth.tries SET blocked_until = 'epoch' WHERE kind = 1 AND count = 0")
        await database.close()
        # 127.0.0.1 is believed; what it says of others is not worth more for being said by the attacker.
        is_problem(await try_login(doors[1], user.email, f"{home}, {attacker}", PASSWORD), 429, "too_many_tries")
        assert (await try_login(doors[1], user.email, f"{attacker}, {home}", PASSWORD)).status_code == 200
        attacks("Login: locking a person out", 50)

        for index in range(2):
            await system.restart("gateway", index)
        is_problem(await try_login(doors[0], user.email, attacker, PASSWORD), 429, "too_many_tries")
        assert (await try_login(doors[0], user.email, home, PASSWORD)).status_code == 200

        body = {"email": "another@example.com", "password": PASSWORD}
        signups = [
            await doors[n % 2].post(
                "/api/auth/signup", json={**body, "email": f"{n}@example.com"}, headers={"X-Forwarded-For": attacker}
            )
            for n in range(6)
        ]
        assert [answer.status_code for answer in signups] == [201] * 4 + [429] * 2
        attacks("Limits: many accounts from one address", 6)
