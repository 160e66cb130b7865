"""Canaries: people's data and secrets sent through every door, right and wrong ways, with servers dying meanwhile; then
searched for in all that leaves the system. (Every other stack of the tests is searched too: devkit/leaks.py.)
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson

from boostedcalls.devkit import leaks
from boostedcalls.devkit.attacks import Attacks
from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import FAST, is_over
from .watch import all_ready, streams

_PASSWORD = "canary-password-0b1c2d"
_PERSON = {"name": "Canary Nightingale", "email": "canary.bird@example.org", "metadata": {"note": "canary-metadata"}}
_WORDS = {"custom_prompt": "canary-prompt", "first_message": "canary-first-message", "metadata": {"x": "canary-meta"}}
_WEBHOOK = "/api/calls/webhook/"


class Canaries:
    """Sends requests; keeps the secrets that must be found nowhere, and every error that was answered."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.secrets: dict[str, str] = {}
        self.errors: list[tuple[str, bytes]] = []
        self.sent = 0

    async def send(self, method: str, path: str, **options: Any) -> httpx2.Response | None:
        self.sent += 1
        try:
            answer = await self.http.request(method, path, **options)
        except httpx2.HTTPError:
            return None
        if answer.status_code >= 400:
            head = "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
            self.errors.append((f"the answer to {method} {path.partition('?')[0]}", head.encode() + answer.content))
        return answer

    async def log_in(self, email: str, password: str) -> dict[str, Any]:
        answer = await self.send("POST", "/api/token/", json={"username": email, "password": password})
        assert answer is not None
        if answer.status_code == 200:
            tokens = answer.json()
            self.secrets |= {f"{name} token {len(self.secrets)}": value for name, value in tokens.items()}
            return tokens
        return {}


def _report(call: dict[str, Any], **message: Any) -> bytes:
    return orjson.dumps({"message": {"type": "status-update", "call": {"id": call["vapi_call_id"]}, **message}})


async def _everywhere(canaries: Canaries, call: dict[str, Any], secret: str) -> None:
    """Tokens, passwords and people's data where they belong and where they do not."""
    wrong = {"a wrong password": "canary-wrong-password", "a wrong secret": "canary-wrong-secret-value"}
    canaries.secrets |= wrong
    await canaries.log_in("canary.user@example.org", wrong["a wrong password"])
    await canaries.log_in("canary.nobody@example.org", wrong["a wrong password"])
    await canaries.send("POST", "/api/token/", json={"username": "canary.user@example.org", "password": [_PASSWORD]})
    await canaries.send("POST", "/api/token/", content=f'{{"password": "{_PASSWORD}"')
    access = canaries.http.headers["authorization"].removeprefix("Bearer ")
    for token in (access[:-4] + "AAAA", access + "x", "Bearer " + access):
        await canaries.send("GET", "/api/calls/", headers={"Authorization": f"Bearer {token}"})
    await canaries.send("GET", f"/api/contacts/?q=Canary&token={access}&cursor=canary-cursor")
    await canaries.send("GET", f"/api/contacts/{access}/")
    await canaries.send("GET", "/api/calls/canary-id/?api_key=canary-api-key-in-query")
    await canaries.send("POST", "/api/token/refresh/", json={"refresh": "canary-refresh-token-that-is-wrong"})
    for body in (
        {**_PERSON, "phone": "canary-phone"},
        {**_PERSON, "phone": "+12025550100", "email": "canary@@example"},
        {**_PERSON, "phone": "+12025550100", "password": _PASSWORD},
        {"phone": "+12025550100", "name": ["Canary Nightingale"]},
    ):
        await canaries.send("POST", "/api/contacts/", json=body)
    headers = {"Idempotency-Key": "canary-idempotency-key", "X-Request-Id": f"bad id {access}"}
    for _ in range(2):
        body = {"contact_id": str(uuid4()), **_WORDS}
        await canaries.send("POST", "/api/calls/", json=body, headers=headers)
    for given in (secret, wrong["a wrong secret"]):
        for body in (
            _report(call, status="in-progress", transcript="canary-transcript"),
            _report(
                call, type="end-of-call-report", transcript="canary-transcript", summary="canary-summary", cost="x"
            ),
            _report(call, type="transcript", transcript="canary-transcript", startedAt="canary-time"),
            _report({"vapi_call_id": "canary/../id"}, customer={"number": "+12025550100"}, secret="canary-in-body"),
            b'{"message": "canary-transcript',
            b'["canary-transcript", "+12025550100"]',
            b'{"message": {"type": "canary-type", "authorization": "Bearer canary-inner-token"}}',
        ):
            await canaries.send("POST", _WEBHOOK, content=body, headers={"x-vapi-secret": given, "Authorization": ""})


async def _letters(system: Stack) -> list[tuple[str, bytes]]:
    """What stands on the dead letters; what they are of is the provider's message, kept as evidence."""
    found: list[tuple[str, bytes]] = []
    async with streams(system) as jetstream:
        state = (await jetstream.stream_info("DLQ")).state
        for sequence in range(max(state.first_seq, 1), state.last_seq + 1):
            message = await jetstream.get_msg("DLQ", sequence)
            head = "".join(f"{name}: {value}\n" for name, value in (message.headers or {}).items())
            found.append((f"dead letter {sequence}", head.encode()))
    return found


async def test_what_people_say_and_secrets_are_leave_the_system_nowhere(stack: StackFactory, attacks: Attacks) -> None:
    async with stack(env={**FAST, "LOG_LEVEL": "DEBUG"}) as system:
        async with httpx2.AsyncClient(base_url=system.url, timeout=20) as http:
            canaries = Canaries(http)
            await canaries.send(
                "POST", "/api/auth/signup", json={"email": "canary.user@example.org", "password": _PASSWORD}
            )
            tokens = await canaries.log_in("canary.user@example.org", _PASSWORD)
            http.headers["Authorization"] = f"Bearer {tokens['access']}"
            contact = await canaries.send("POST", "/api/contacts/", json={**_PERSON, "phone": "+12025550100"})
            assert contact is not None
            placed = await canaries.send("POST", "/api/calls/", json={"contact_id": contact.json()["id"], **_WORDS})
            assert placed is not None
            call = placed.json()
            secret = system.env["VAPI_WEBHOOK_SECRET"]
            await _everywhere(canaries, call, secret)
            # And while nobody behind the gateway answers, or answers in time.
            for server in ("postgres", "nats"):
                await system.kill(server)
                await _everywhere(canaries, call, secret)
                await system.wait_until_restarted(server)
                await all_ready(system)
            async with asyncio.timeout(60):
                while not is_over((await http.get(f"/api/calls/{call['id']}/")).json()):
                    await asyncio.sleep(0.2)
            outputs = [*await leaks.live(system), *await _letters(system), *canaries.errors]
        folder: Path = system.home / "logs"
        words = {word: word for word in ("canary-password", "canary-wrong", "canary-metadata", "canary-prompt")}
        words |= {word: word for word in ("canary-first", "canary-meta", "canary-transcript", "canary-summary")}
        words |= {word: word for word in ("canary.user@", "canary.bird@", "Nightingale", "canary-api-key", "canary-in")}
        words |= {word: word for word in ("canary-refresh", "canary-inner", "canary-idempotency", "canary-cursor")}
        found = leaks.search([*leaks.logs(folder), *outputs], {**words, **canaries.secrets})
        assert found == []
        assert len(outputs) > 40
        attacks("Leak: canary sent", canaries.sent)
        attacks("Leak: output searched", len(outputs) + len(leaks.logs(folder)))


def test_the_search_finds_what_it_looks_for() -> None:
    secrets = leaks.secrets_of(
        {
            "JWT_SECRET": "0123456789abcdef",
            "DATABASE_URL": "postgresql://u:pass-word-in-url@h/n",
            "PORT": "8000",
            "NATS_CALLS_PASSWORD": "nats-password-1",
        }
    )
    assert set(secrets.values()) == {"0123456789abcdef", "pass-word-in-url", "nats-password-1"}
    for said in (
        *secrets.values(),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIwMTk4YjFmMCJ9.c2lnbmF0dXJl",
        "$argon2id$v=19$m=9216",
        "to +12025550123 now",
        "Yes, this is Ada. That sounds good to me.",
    ):
        (found,) = leaks.search([("a log", f"first line\nsecond {said} line\nthird".encode())], secrets)
        assert "in a log: second" in found
        assert "third" not in found
    assert leaks.search([("a log", b"first line +\xe2\x80\xa2\xe2\x80\xa20123")], secrets) == []
