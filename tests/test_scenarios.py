"""Calls to each of the simulator's numbers, through REST alone; the dial log is the judge of who was rung."""

import asyncio
import json
from collections import Counter
from datetime import datetime
from typing import Any

import httpx2
import pytest

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import SignUp, User, is_over

GREETING = "Hello, this is the test."
ANSWERED = ("completed", "success", "assistant-ended-call")

# number -> (status, outcome, ended reason, transcript?, does it cost?)
ENDINGS: dict[str, tuple[str, str | None, str, bool, bool]] = {
    "00": (*ANSWERED, True, True),
    "01": ("busy", "busy", "customer-busy", False, False),
    "02": ("no-answer", "no_answer", "customer-did-not-answer", False, False),
    "03": ("voicemail", "voicemail", "voicemail", True, True),
    "04": ("failed", None, "pipeline-error-openai-llm-failed", True, True),
    "10": (*ANSWERED, True, True),
    "11": (*ANSWERED, True, True),
    "12": (*ANSWERED, True, True),
    "13": (*ANSWERED, True, True),
    "99": (*ANSWERED, True, True),
}


def _dials(system: Stack) -> Counter[str]:
    """How often each of our call ids was dialled."""
    if not system.dial_log.exists():
        return Counter()
    return Counter(json.loads(line)["name"] for line in system.dial_log.read_text().splitlines())


def _has_result(call: dict[str, Any]) -> bool:
    return is_over(call) and call["cost"] is not None


@pytest.mark.parametrize("number", ENDINGS)
async def test_a_call_reaches_its_end_with_result_and_timeline(running: Stack, user: User, number: str) -> None:
    status, outcome, reason, talked, costs = ENDINGS[number]
    placed = await user.place_call(number, first_message=GREETING)
    call = await user.wait_for(placed, _has_result)

    assert (call["status"], call["outcome"], call["ended_reason"]) == (status, outcome, reason)
    assert bool(call["transcript"]) is talked
    assert (call["cost"] > 0) is costs
    if status == "completed":
        assert call["transcript"].startswith(f"AI: {GREETING}")
        assert call["summary"]
        assert call["analysis"]["successEvaluation"] == "true"
        assert call["metadata"]["recordingUrl"].startswith("https://")
        assert call["metadata"]["cost"] == call["cost"] == call["metadata"]["costBreakdown"]["total"]
        assert [message["role"] for message in call["metadata"]["messages"]][:2] == ["system", "bot"]
        assert datetime.fromisoformat(call["started_at"]) < datetime.fromisoformat(call["ended_at"])

    timeline = await user.found(f"/api/calls/{call['id']}/events/")
    assert (timeline[0]["type"], timeline[0]["status"]) == ("created", "pending")
    assert status in {entry["status"] for entry in timeline}
    moments = [datetime.fromisoformat(entry["at"]) for entry in timeline]
    assert moments == sorted(moments)
    if number == "10":
        assert "webhook" not in {entry["source"] for entry in timeline}
    assert _dials(running)[call["id"]] == 1


async def test_a_call_that_talks_on_ends_when_it_is_cancelled_and_keeps_its_result(running: Stack, user: User) -> None:
    placed = await user.place_call("05")
    await user.wait_for(placed, lambda call: call["status"] == "in-progress")
    path = f"/api/calls/{placed['id']}/cancel/"
    first, second = await user.http.post(path), await user.http.post(path)
    assert [(answer.status_code, answer.json()["status"]) for answer in (first, second)] == [(200, "cancelled")] * 2
    call = await user.wait_for(placed, _has_result)
    assert (call["status"], call["ended_reason"]) == ("cancelled", "manually-canceled")
    assert call["transcript"]
    simulated = await _ask_simulator(running, call["vapi_call_id"])
    assert simulated["status"] == "ended"
    assert _dials(running)[call["id"]] == 1


async def _ask_simulator(system: Stack, provider_call_id: str) -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        answer = await http.get(
            f"{system.simulator_url}/call/{provider_call_id}", headers={"Authorization": "Bearer any"}
        )
    return answer.json()


async def test_a_finished_call_cannot_be_cancelled(user: User) -> None:
    call = await user.wait_for(await user.place_call("01"))
    answer = await user.http.post(f"/api/calls/{call['id']}/cancel/")
    assert (answer.status_code, answer.json()["code"]) == (400, "call_not_cancellable")
    assert (await user.found(f"/api/calls/{call['id']}/"))["status"] == "busy"


async def test_a_manual_sync_brings_the_result_though_every_webhook_is_lost(user: User) -> None:
    placed = await user.place_call("10")
    answers: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while not answers or not _has_result(answers[-1]):
            answer = await user.http.post(f"/api/calls/{placed['id']}/sync/")
            assert answer.status_code == 200
            answers.append(answer.json())
            await asyncio.sleep(0.1)
    assert (answers[-1]["status"], answers[-1]["id"]) == ("completed", placed["id"])


async def test_without_any_reading_the_scheduled_sync_ends_a_call_whose_webhooks_are_lost(user: User) -> None:
    placed = await user.place_call("10")
    async with asyncio.timeout(60):
        # Lists and counts sync nothing: only the publisher and its workers can end the call.
        while (await user.found("/api/calls/pending-count/"))["count"]:
            await asyncio.sleep(0.2)
        while (item := await user.call_to(placed["contact"]["id"]))["cost"] is None:
            await asyncio.sleep(0.2)
    assert (item["status"], item["outcome"]) == ("completed", "success")


@pytest.mark.parametrize("number", ["20", "22", "23"])
async def test_a_dial_with_an_unclear_answer_is_found_again_and_not_repeated(
    running: Stack, user: User, number: str
) -> None:
    answer, contact_id = await user.request_call(number)
    assert answer.status_code == 201
    call = await user.wait_for(answer.json(), _has_result)
    assert (call["status"], call["outcome"], call["ended_reason"]) == ANSWERED
    assert call["vapi_call_id"]
    assert (await user.call_to(contact_id))["id"] == call["id"]
    assert _dials(running)[call["id"]] == 1


async def test_a_500_that_dialled_nobody_ends_as_not_placed_without_a_dial(running: Stack, user: User) -> None:
    answer, _ = await user.request_call("21")
    assert (answer.status_code, answer.json()["vapi_call_id"], answer.json()["status"]) == (201, None, "pending")
    call = await user.wait_for(answer.json())
    assert (call["status"], call["error_code"], call["vapi_call_id"]) == ("failed", "not_placed", None)
    assert "safe" in call["error_message"]
    timeline = await user.found(f"/api/calls/{call['id']}/events/")
    assert [entry["type"] for entry in timeline] == ["created", "dispatch", "verdict"]
    assert timeline[1]["detail"] == {"outcome": "unclear", "reason": "HTTP 500"}
    moments = [datetime.fromisoformat(entry["at"]) for entry in timeline]
    assert moments[0] < moments[1] < moments[2]
    assert _dials(running)[call["id"]] == 0


async def test_a_429_is_tried_again_only_after_the_list_shows_that_nobody_was_dialled(
    running: Stack, user: User
) -> None:
    placed = await user.place_call("24")
    call = await user.wait_for(placed, _has_result)
    assert (call["status"], call["outcome"], call["ended_reason"]) == ANSWERED
    assert _dials(running)[call["id"]] == 1


async def test_a_refusal_fails_the_call_with_the_providers_words_and_answers_502(running: Stack, user: User) -> None:
    answer, contact_id = await user.request_call("25")
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_error")
    assert "customer.number" in answer.json()["detail"]
    item = await user.call_to(contact_id)
    assert answer.json()["instance"] == f"/api/calls/{item['id']}/"
    call = await user.found(f"/api/calls/{item['id']}/")
    assert (call["status"], call["error_code"], call["error_message"]) == (
        "failed",
        "rejected",
        answer.json()["detail"],
    )
    assert _dials(running)[call["id"]] == 0


async def test_killed_while_the_dial_is_under_way_the_call_is_found_and_not_dialled_again(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast) as system:
        user = await sign_up(system.url)
        contact = await user.contact("23")
        asked = asyncio.create_task(user.http.post("/api/calls/", json={"contact_id": contact["id"]}))
        async with asyncio.timeout(30):
            while not _dials(system):
                await asyncio.sleep(0.05)
        await system.kill("calls")
        asked.cancel()
        await system.wait_until_restarted("calls")
        call = await user.wait_for(await user.call_to(contact["id"]), _has_result)
        assert (call["status"], call["outcome"], call["ended_reason"]) == ANSWERED
        assert _dials(system) == Counter({call["id"]: 1})


async def test_while_the_provider_cannot_be_reached_a_call_waits_and_is_then_given_up_undialled(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    settings = {**fast, "DISPATCH_DEADLINE": "4", "VAPI_BASE_URL": "http://127.0.0.1:9"}
    async with stack(env=settings) as system:
        user = await sign_up(system.url)
        placed = await user.place_call("00")
        assert (placed["status"], placed["vapi_call_id"]) == ("pending", None)
        call = await user.wait_for(placed)
        assert (call["status"], call["error_code"]) == ("failed", "not_placed")
        second = await user.place_call("00")
        cancelled = await user.http.post(f"/api/calls/{second['id']}/cancel/")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert not _dials(system)


async def test_a_call_cancelled_while_its_dial_is_unclear_is_hung_up_when_it_turns_up(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    """Number 05 dialled by a process that dies before the answer: cancelled at once, found later, and hung up then."""
    settings = {**fast, "SIMULATOR_LIST_LAG": "3"}
    async with stack(env=settings, service_env={"calls": {"VAPI_WEBHOOK_URL": ""}}) as system:
        user = await sign_up(system.url)
        contact = await user.contact("05")
        asked = asyncio.create_task(user.http.post("/api/calls/", json={"contact_id": contact["id"]}))
        async with asyncio.timeout(30):
            while not _dials(system):
                await asyncio.sleep(0.002)
        await system.kill("calls")
        asked.cancel()
        await system.wait_until_restarted("calls")
        call = await user.call_to(contact["id"])
        answer = await user.http.post(f"/api/calls/{call['id']}/cancel/")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        done = await user.wait_for(call["id"], _has_result)
        assert (done["status"], done["ended_reason"]) == ("cancelled", "manually-canceled")
        assert _dials(system) == Counter({call["id"]: 1})
