"""What each number of the table does: the answer, the webhooks, the call as it can be read, and the dial log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

if TYPE_CHECKING:
    from conftest import Launch, Receiver, Simulator

ANSWERED = ["queued", "ringing", "in-progress", "ended", "end-of-call-report"]
UNANSWERED = ["queued", "ringing", "ended", "end-of-call-report"]


def number(xx: str) -> str:
    return f"+120255501{xx}"


@pytest.mark.parametrize("dialled", [number("00"), number("77"), "+4915112345678"])
async def test_an_ordinary_call_is_answered_talks_and_reports(sim: Simulator, receiver: Receiver, dialled: str) -> None:
    created = await sim.create(dialled)
    assert created["status"] == "queued"
    assert created["monitor"]["controlUrl"] == f"{sim.url}/{created['id']}/control"
    assert await receiver.until("end-of-call-report") == ANSWERED

    assert receiver.one("ended")["endedReason"] == "assistant-ended-call"
    report = receiver.one("end-of-call-report")
    assert report["artifact"]["transcript"].startswith("AI: Hi Dana, this is Harbor Clinic.\nUser: ")
    assert report["analysis"]["successEvaluation"] == "true"
    assert report["analysis"]["summary"] == report["summary"]
    assert report["transcript"] == report["artifact"]["transcript"]
    assert report["startedAt"] < report["endedAt"]
    assert report["durationSeconds"] > 0
    assert report["call"]["assistantOverrides"]["metadata"] == {"callId": "c-1"}
    assert report["call"]["name"] == "job-1"
    assert report["phoneNumber"]["twilioAuthToken"]

    read = await sim.ended(created["id"])
    assert read["endedReason"] == "assistant-ended-call"
    assert read["analysis"] == report["analysis"]
    assert read["cost"] == report["cost"] > 0
    assert read["artifact"]["messages"] == report["artifact"]["messages"]
    assert [dial["id"] for dial in sim.dials()] == [created["id"]]
    assert sim.dials()[0] | {"at": ""} == {"at": "", "id": created["id"], "name": "job-1", "number": dialled}


@pytest.mark.parametrize(("xx", "reason"), [("01", "customer-busy"), ("02", "customer-did-not-answer")])
async def test_a_call_that_nobody_takes_ends_without_talk_or_cost(
    sim: Simulator, receiver: Receiver, xx: str, reason: str
) -> None:
    created = await sim.create(number(xx))
    assert await receiver.until("end-of-call-report") == UNANSWERED
    assert receiver.one("ended")["endedReason"] == reason
    report = receiver.one("end-of-call-report")
    assert (report["analysis"], report["cost"], report["costs"]) == ({}, 0, [])
    assert report["artifact"]["transcript"] == ""
    read = await sim.ended(created["id"])
    assert read["endedReason"] == reason
    assert "startedAt" not in read


async def test_a_voicemail_costs_something(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(number("03"), voicemailMessage="Please call us back, {{first_name}}.")
    assert await receiver.until("end-of-call-report") == ANSWERED
    read = await sim.ended(created["id"])
    assert read["endedReason"] == "voicemail"
    assert read["cost"] > 0
    assert read["artifact"]["transcript"].endswith("AI: Please call us back, Dana.\n")


async def test_a_pipeline_error_cuts_the_conversation_off(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(number("04"))
    assert await receiver.until("end-of-call-report") == ANSWERED
    read = await sim.ended(created["id"])
    assert read["endedReason"].startswith("pipeline-error-")
    assert read["endedMessage"]
    assert read["analysis"] == {}


async def test_an_endless_call_goes_on_until_its_longest_duration(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(number("05"), maxDurationSeconds=10)
    assert await receiver.until("end-of-call-report") == ANSWERED
    assert (await sim.ended(created["id"]))["endedReason"] == "exceeded-max-duration"


async def test_lost_webhooks_leave_everything_to_reading(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(number("10"))
    read = await sim.ended(created["id"])
    assert read["endedReason"] == "assistant-ended-call"
    assert read["artifact"]["transcript"]
    assert receiver.messages == []


async def test_duplicated_webhooks_come_two_or_three_times_and_out_of_order(sim: Simulator, receiver: Receiver) -> None:
    await sim.create(number("11"))
    for what in ANSWERED:
        await receiver.until(what, times=2)
    assert receiver.seen()[0] != "queued"
    assert set(receiver.seen()) == set(ANSWERED)
    assert {receiver.seen().count(what) for what in ANSWERED} <= {2, 3}


async def test_hasty_webhooks_arrive_before_the_answer(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(number("12"))
    assert receiver.seen() == ANSWERED
    assert created["status"] == "queued"


async def test_the_report_can_arrive_before_any_status(sim: Simulator, receiver: Receiver) -> None:
    await sim.create(number("13"))
    assert await receiver.until("ended") == ["end-of-call-report", "queued", "ringing", "in-progress", "ended"]


async def test_500_after_dialling_leaves_a_call_that_goes_on(sim: Simulator, receiver: Receiver) -> None:
    answer = await sim.ask("POST", "/call", sim.order(number("20")))
    assert answer == (500, {"statusCode": 500, "message": "Internal server error"})
    await receiver.until("end-of-call-report")
    _, found = await sim.ask("GET", "/call")
    assert [(call["name"], call["status"]) for call in found] == [("job-1", "ended")]
    assert len(sim.dials()) == 1


async def test_500_without_dialling_leaves_nothing(sim: Simulator) -> None:
    status, _ = await sim.ask("POST", "/call", sim.order(number("21")))
    assert status == 500
    assert await sim.ask("GET", "/call") == (200, [])
    assert sim.dials() == []


async def test_a_dropped_connection_gives_no_answer_to_a_dialled_call(sim: Simulator, receiver: Receiver) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await sim.ask("POST", "/call", sim.order(number("22")))
    await receiver.until("end-of-call-report")
    assert len(sim.dials()) == 1


async def test_a_late_answer_comes_after_the_call_is_over(launch: Launch, receiver: Receiver) -> None:
    sim = await launch(simulator_speed=0.02)
    created = await sim.create(number("23"))
    assert created["status"] == "queued"
    assert receiver.seen() == ANSWERED
    assert len(sim.dials()) == 1


async def test_two_429_come_before_a_name_is_dialled(sim: Simulator) -> None:
    for _ in range(2):
        async with sim.http.post(
            f"{sim.url}/call", json=sim.order(number("24")), headers={"Authorization": "Bearer test-key"}
        ) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["statusCode"] == 429
    assert sim.dials() == []
    status, _ = await sim.ask("POST", "/call", sim.order(number("24")) | {"name": "job-2"})
    assert status == 429
    await sim.create(number("24"))
    assert [dial["name"] for dial in sim.dials()] == ["job-1"]


async def test_a_refused_number_is_a_400_with_a_list_and_not_dialled(sim: Simulator) -> None:
    status, fault = await sim.ask("POST", "/call", sim.order(number("25")))
    assert (status, fault["error"], fault["statusCode"]) == (400, "Bad Request", 400)
    assert isinstance(fault["message"], list)
    assert sim.dials() == []
