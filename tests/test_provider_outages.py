"""A provider that is slow, away, or late with its list, and whose webhooks are all lost: nobody is rung twice, and what
happened is found out in the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from boostedcalls.devkit.procs import frozen
from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import FAST, Json, SignUp, User, is_over
from .watch import ANSWERED, dials, has_result, metric, seen, streams


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(stack: StackFactory) -> AsyncGenerator[Stack]:
    """One for the module; it names no address for webhooks, so that there are none but those that a test posts."""
    async with stack(env=FAST, service_env={"calls": {"VAPI_WEBHOOK_URL": ""}}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def user(system: Stack, sign_up: SignUp) -> User:
    return await sign_up(system.url)


async def started_with_lag(system: Stack, seconds: float) -> None:
    """Start the simulator anew: a call is missing from its list for so long."""
    system.member("simulator").server.child.env["SIMULATOR_LIST_LAG"] = str(seconds)
    await system.restart("simulator")


async def right(system: Stack, user: User, call: Json) -> None:
    await seen(user, call)
    found = await user.found(f"/api/calls/{call['id']}/")
    assert (found["status"], found["outcome"], found["ended_reason"]) == ANSWERED
    assert found["transcript"]
    assert dials(system)[call["id"]] == 1


async def test_provider_that_stands_still_slows_nobody_down_and_is_asked_again_when_it_goes_on(
    system: Stack, user: User
) -> None:
    before = [await user.place_call("00") for _ in range(3)]
    with frozen(system.member("simulator").server.child.pid):
        asked = [asyncio.create_task(user.place_call("00")) for _ in range(5)]
        async with asyncio.timeout(30):
            while not all(task.done() for task in asked):
                # Within the reader's patience, whoever waits for the provider meanwhile.
                async with asyncio.timeout(5):
                    await user.found("/api/calls/pending-count/")
                    await user.found("/api/calls/")
                    assert (await user.found(f"/api/calls/{before[0]['id']}/"))["id"] == before[0]["id"]
        made = [task.result() for task in asked]
        assert {(call["status"], call["vapi_call_id"]) for call in made} == {("pending", None)}
        async with streams(system) as jetstream:
            assert (await jetstream.stream_info("JOBS")).state.messages <= len(before) + len(made)
    for call in (*before, *made):
        await right(system, user, call)


@pytest.mark.parametrize("number", ["20", "22"])
async def test_call_of_an_unclear_dial_that_the_list_shows_late_is_found(
    system: Stack, user: User, number: str
) -> None:
    await started_with_lag(system, 2.5)
    answer, _ = await user.request_call(number)
    assert (answer.status_code, answer.json()["vapi_call_id"]) == (201, None)
    await right(system, user, answer.json())


@pytest.mark.parametrize("number", ["20", "22"])
async def test_call_that_the_list_shows_too_late_counts_as_not_placed_until_a_webhook_proves_that_it_was(
    system: Stack, user: User, number: str
) -> None:
    await started_with_lag(system, 3600)
    before = await metric(system, "calls", "boostedcalls_late_evidence_total")
    answer, _ = await user.request_call(number)
    call = await seen(user, answer.json(), is_over)
    found = await user.found(f"/api/calls/{call['id']}/")
    assert (found["status"], found["error_code"], found["vapi_call_id"]) == ("failed", "not_placed", None)
    # Not before it is over at the provider: the report tells all.
    shown = await _provider_shows(system, call["id"])
    await _post(system, user, {"type": "end-of-call-report", "endedReason": shown["endedReason"], "call": shown})
    await right(system, user, call)
    found = await user.found(f"/api/calls/{call['id']}/")
    assert (found["error_code"], found["error_message"], found["vapi_call_id"]) == (None, None, shown["id"])
    assert await metric(system, "calls", "boostedcalls_late_evidence_total") == before + 1


async def _provider_shows(system: Stack, call_id: str) -> Json:
    """The provider's call object for our call, with its result."""
    lines = [json.loads(line) for line in system.dial_log.read_text().splitlines()]
    (provider_call_id,) = [line["id"] for line in lines if line["name"] == call_id]
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer any"}) as http, asyncio.timeout(30):
        while "cost" not in (shown := (await http.get(f"{system.simulator_url}/call/{provider_call_id}")).json()):
            await asyncio.sleep(0.1)
        return shown


async def _post(system: Stack, user: User, message: dict[str, Any]) -> None:
    headers = {"x-vapi-secret": system.env["VAPI_WEBHOOK_SECRET"], "Authorization": ""}
    answer = await user.http.post("/api/calls/webhook/", json={"message": message}, headers=headers)
    assert answer.status_code == 200


async def test_calls_asked_for_while_the_provider_cannot_be_reached_are_placed_when_it_can(
    system: Stack, user: User
) -> None:
    await system.stop("simulator")
    try:
        made = await asyncio.gather(*(user.place_call("00") for _ in range(3)))
        assert {(call["status"], call["vapi_call_id"]) for call in made} == {("pending", None)}
        assert not dials(system).keys() & {call["id"] for call in made}
    finally:
        await started_with_lag(system, 0)
    for call in made:
        await right(system, user, call)


async def test_provider_that_goes_away_under_live_calls_is_asked_for_their_end_when_it_is_back(
    system: Stack, user: User
) -> None:
    made = await asyncio.gather(*(user.place_call("05") for _ in range(3)))
    calls = [await user.wait_for(call, lambda call: call["status"] == "in-progress") for call in made]
    await system.stop("simulator")
    answer = await user.http.post(f"/api/calls/{calls[0]['id']}/cancel/")
    assert (answer.status_code, answer.json()["code"]) == (504, "provider_timeout")
    await asyncio.sleep(2)
    await system.start("simulator")
    for call in calls:
        # The provider hung up on them when it came back.
        item = await seen(user, call, has_result)
        assert item["status"] == "failed"
        assert dials(system)[call["id"]] == 1
