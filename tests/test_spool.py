"""Webhooks while what is behind the gateway is away: each one is answered 200, and counts once when all is back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import httpx2
import nats
import orjson
import pytest
import pytest_asyncio

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import SignUp, User, is_over

Json = dict[str, Any]

PATH = "/api/calls/webhook/"
# Nobody is asked how a call went: what is known of it came by webhook.
BY_WEBHOOK_ALONE = {"SYNC_STEPS": "600", "SYNC_ON_READ": "600", "SIMULATOR_SPEED": "1"}
EXPECTED = {"00": "completed", "01": "busy", "03": "voicemail", "11": "completed", "13": "completed"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(stack: StackFactory, fast: dict[str, str]) -> AsyncGenerator[Stack]:
    """A system of this module's own, whose spool is soon full."""
    small = {"gateway": {"SPOOL_MAX_BYTES": str(2 * 1024**2)}}
    async with stack(env={**fast, **BY_WEBHOOK_ALONE}, service_env=small) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def caller(system: Stack, sign_up: SignUp) -> User:
    return await sign_up(system.url)


def tries(system: Stack, calls: list[Json]) -> list[Json]:
    """What the simulator noted of the webhooks of these calls: one line a try."""
    lines = (system.home / "simulator" / "webhooks.jsonl").read_text().splitlines()
    placed = {call["vapi_call_id"] for call in calls}
    return [line for line in map(json.loads, lines) if line["call"] in placed]


async def all_reported(system: Stack, calls: list[Json]) -> list[Json]:
    """Wait until every call's last word was sent; the tries by then."""
    async with asyncio.timeout(60):
        while True:
            sent = tries(system, calls)
            reported = {line["call"] for line in sent if line["type"] == "end-of-call-report"}
            if len(reported) == len(calls) and sent == tries(system, calls):
                return sent
            await asyncio.sleep(0.2)


async def stored(system: Stack) -> Counter[str]:
    """How often each webhook stands in PROVIDER_EVENTS, by the SHA-256 of its body."""
    connection = await nats.connect(system.nats_url)
    stream = connection.jetstream()
    state = (await stream.stream_info("PROVIDER_EVENTS")).state
    found: Counter[str] = Counter()
    for sequence in range(state.first_seq or 1, state.last_seq + 1):
        message = await stream.get_msg("PROVIDER_EVENTS", sequence)
        if orjson.loads(message.data)["source"] == "webhook":
            found[message.headers["Nats-Msg-Id"]] += 1
    await connection.close()
    return found


async def until_stored(system: Stack, wanted: set[str]) -> Counter[str]:
    """Wait until all of them are in the stream; how often each is."""
    async with asyncio.timeout(60):
        while True:
            found = await stored(system)
            if wanted <= found.keys():
                return Counter({name: found[name] for name in wanted})
            await asyncio.sleep(0.2)


async def drained(system: Stack) -> float:
    """How many webhooks the gateway has brought from its spool to the webhooks service."""
    async with httpx2.AsyncClient(base_url=system.url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("boostedcalls_spool_drained_total "))


async def placed(caller: User) -> list[Json]:
    return [{**await caller.place_call(number), "number": number} for number in EXPECTED]


async def all_ended_right(caller: User, calls: list[Json]) -> None:
    async with asyncio.timeout(60):
        for call in calls:
            # Reading a list asks nobody.
            while not (is_over(shown := await caller.call_to(call["contact_id"])) and shown["cost"] is not None):
                await asyncio.sleep(0.1)
            assert shown["status"] == EXPECTED[call["number"]]
            assert shown["transcript"] or shown["status"] != "completed"


async def test_webhooks_service_away_while_calls_run(system: Stack, caller: User) -> None:
    calls, before = await placed(caller), await drained(system)
    await system.stop("webhooks")
    try:
        sent = await all_reported(system, calls)
    finally:
        await system.start("webhooks")
    assert {line["status"] for line in sent} == {200}
    assert set((await until_stored(system, {line["sha256"] for line in sent})).values()) == {1}
    await all_ended_right(caller, calls)
    assert await drained(system) > before


async def test_nats_killed_while_calls_run(system: Stack, caller: User) -> None:
    calls, before = await placed(caller), await drained(system)
    await system.kill("nats")
    # So that it stays away.
    await system.stop("nats")
    try:
        sent = await all_reported(system, calls)
    finally:
        await system.start("nats")
    assert {line["status"] for line in sent} == {200}
    assert set((await until_stored(system, {line["sha256"] for line in sent})).values()) == {1}
    await all_ended_right(caller, calls)
    assert await drained(system) > before


async def test_gateway_killed_with_a_full_spool_drains_it_after_its_restart(system: Stack, caller: User) -> None:
    headers = {"x-vapi-secret": system.env["VAPI_WEBHOOK_SECRET"], "Authorization": ""}
    mark = uuid4().hex

    async def report(number: int) -> int:
        message = {"type": "hang", "call": {"id": mark}, "number": number, "filling": "x" * 50_000}
        answer = await caller.http.post(PATH, content=orjson.dumps({"message": message}), headers=headers)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
        else:
            assert answer.headers.get("x-stored") == "spool"
        return answer.status_code

    await system.stop("webhooks")
    try:
        answers = await asyncio.gather(*(report(number) for number in range(100)))
        assert set(answers) == {200, 503}
        await system.kill("gateway")
        await system.wait_until_restarted("gateway")
    finally:
        await system.start("webhooks")
    async with asyncio.timeout(60):
        while list((system.home / "spool").glob("*.seg")):
            await asyncio.sleep(0.1)
    connection = await nats.connect(system.nats_url)
    found = await connection.jetstream().stream_info("PROVIDER_EVENTS", subjects_filter=f"bc.evt.*.*.{mark}")
    await connection.close()
    assert sum((found.state.subjects or {}).values()) == answers.count(200)
    # There is room again.
    answer = await caller.http.post(PATH, content=b'{"message": {"type": "hang"}}', headers=headers)
    assert (answer.status_code, answer.headers.get("x-stored")) == (200, None)


@pytest.mark.parametrize("name", ["webhooks", "nats"])
async def test_process_that_is_frozen_for_a_moment_costs_no_webhook(system: Stack, caller: User, name: str) -> None:
    """A process that neither answers nor goes away (SIGSTOP) is the hardest to tell from a slow one."""
    calls, before = await placed(caller), await drained(system)
    await system.kill(name, number=signal.SIGSTOP)
    try:
        sent = await all_reported(system, calls)
    finally:
        await system.kill(name, number=signal.SIGCONT)
    assert {line["status"] for line in sent} == {200}
    assert set((await until_stored(system, {line["sha256"] for line in sent})).values()) == {1}
    await all_ended_right(caller, calls)
    assert await drained(system) > before
