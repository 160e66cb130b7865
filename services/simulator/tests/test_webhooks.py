"""How webhooks are sent: which, with what headers, and how often one is tried."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from boostedcalls.simulator.files import read_records
from boostedcalls.simulator.requests import BackoffPlan
from boostedcalls.simulator.webhooks import pause_before, shuffled

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from conftest import Launch, Receiver, Simulator

BUSY = "+12025550101"


def server(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"url": receiver.url, **more}


async def test_the_given_headers_are_sent(sim: Simulator, receiver: Receiver) -> None:
    await sim.create(BUSY)
    await receiver.until("end-of-call-report")
    for headers in receiver.headers:
        lower = {name.lower(): value for name, value in headers.items()}
        assert lower["x-vapi-secret"] == "s3cret"
        assert lower["content-type"] == "application/json"


async def test_without_a_secret_the_secret_header_is_there_and_empty(sim: Simulator, receiver: Receiver) -> None:
    await sim.create(BUSY, server=server(receiver))
    await receiver.until("end-of-call-report")
    assert {headers["x-vapi-secret"] for headers in receiver.headers} == {""}


async def test_only_the_types_asked_for_are_sent(sim: Simulator, receiver: Receiver) -> None:
    await sim.create(BUSY, serverMessages=["end-of-call-report"])
    assert await receiver.until("end-of-call-report") == ["end-of-call-report"]


async def test_the_default_types_are_sent_when_none_is_named(sim: Simulator, receiver: Receiver) -> None:
    await sim.create("+12025550100", serverMessages=None)
    await receiver.until("end-of-call-report")
    assert {message["type"] for message in receiver.messages} == {
        "status-update",
        "speech-update",
        "conversation-update",
        "end-of-call-report",
    }


async def test_final_transcripts_can_be_asked_for(sim: Simulator, receiver: Receiver) -> None:
    await sim.create("+12025550100", serverMessages=["end-of-call-report", 'transcript[transcriptType="final"]'])
    await receiver.until("end-of-call-report")
    first = receiver.one("transcript")
    assert (first["role"], first["transcriptType"]) == ("assistant", "final")
    assert first["transcript"] == "Hi Dana, this is Harbor Clinic."


async def test_the_inline_assistants_server_is_used_when_no_override_names_one(
    sim: Simulator, receiver: Receiver
) -> None:
    order = sim.order(BUSY) | {"assistant": {"server": server(receiver)}, "assistantOverrides": {}}
    assert (await sim.ask("POST", "/call", order))[0] == 201
    await receiver.until("end-of-call-report")


async def test_a_webhook_is_tried_once_without_a_backoff_plan(sim: Simulator, receiver: Receiver) -> None:
    receiver.answers = [503]
    await sim.create(BUSY)
    assert await receiver.until("end-of-call-report") == ["queued", "ringing", "ended", "end-of-call-report"]


async def test_a_webhook_is_tried_again_until_it_is_taken_with_fresh_links_and_the_same_time(
    sim: Simulator, receiver: Receiver
) -> None:
    plan = {"type": "exponential", "maxRetries": 3, "baseDelaySeconds": 0.1}
    receiver.answers = [500, 302]
    await sim.create("+12025550100", server=server(receiver, backoffPlan=plan), serverMessages=["end-of-call-report"])
    await receiver.until("end-of-call-report", times=3)
    tries = receiver.messages
    assert len({message["timestamp"] for message in tries}) == 1
    assert len({message["artifact"]["presignedMonoUrl"] for message in tries}) == 3


async def test_tries_end_with_the_plan(launch: Launch, receiver: Receiver) -> None:
    sim = await launch()
    plan = {"type": "fixed", "maxRetries": 2, "baseDelaySeconds": 0}
    receiver.answers = [500] * 100
    await sim.create("+12025550113", server=server(receiver, backoffPlan=plan))
    await receiver.until("ended", times=3)
    assert {receiver.seen().count(what) for what in set(receiver.seen())} == {3}


async def test_an_excluded_status_is_not_tried_again(sim: Simulator, receiver: Receiver) -> None:
    plan = {"type": "fixed", "maxRetries": 5, "baseDelaySeconds": 0, "excludedStatusCodes": [401]}
    receiver.answers = [401]
    await sim.create(BUSY, server=server(receiver, backoffPlan=plan))
    assert await receiver.until("end-of-call-report") == ["queued", "ringing", "ended", "end-of-call-report"]


async def test_a_receiver_that_is_away_does_not_stop_the_call(sim: Simulator) -> None:
    created = await sim.create(BUSY, server={"url": "http://127.0.0.1:9/"})
    assert (await sim.ended(created["id"]))["endedReason"] == "customer-busy"


async def test_every_try_is_a_line_with_the_digest_of_its_body_and_what_was_answered(
    launch: Launch, receiver: Receiver, stack: AsyncExitStack
) -> None:
    sim = await launch()
    plan = {"type": "fixed", "maxRetries": 3, "baseDelaySeconds": 0}
    receiver.answers = [503]
    asked = server(receiver, backoffPlan=plan)
    call = await sim.create("+12025550100", server=asked, serverMessages=["end-of-call-report"])
    await receiver.until("end-of-call-report", times=2)
    await stack.aclose()
    lines = read_records(sim.data / "webhooks.jsonl")
    assert [line["status"] for line in lines] == [503, 200]
    assert [line["sha256"] for line in lines] == [hashlib.sha256(body).hexdigest() for body in receiver.bodies]
    assert lines[0]["sha256"] != lines[1]["sha256"]
    assert {(line["call"], line["type"]) for line in lines} == {(call["id"], "end-of-call-report")}
    assert all(datetime.fromisoformat(line["at"]).tzinfo for line in lines)
    assert all(line.keys() == {"at", "call", "type", "sha256", "status"} for line in lines)


async def test_a_try_that_nobody_answered_has_status_0(sim: Simulator) -> None:
    await sim.create(BUSY, server={"url": "http://127.0.0.1:9/"})
    lines: list[dict[str, Any]] = []
    while not any(line["type"] == "end-of-call-report" for line in lines):
        await asyncio.sleep(0.01)
        lines = read_records(sim.data / "webhooks.jsonl")
    assert {line["status"] for line in lines} == {0}
    assert {line["type"] for line in lines} == {"status-update", "end-of-call-report"}


async def test_a_webhook_that_is_lost_on_purpose_is_no_try(launch: Launch, stack: AsyncExitStack) -> None:
    sim = await launch()
    created = await sim.create("+12025550110")
    await sim.ended(created["id"])
    await stack.aclose()
    assert read_records(sim.data / "webhooks.jsonl") == []


@pytest.mark.parametrize(("kind", "pauses"), [("fixed", [2, 2, 2]), ("exponential", [2, 4, 8])])
def test_pauses_follow_the_plan(kind: Any, pauses: list[float]) -> None:
    plan = BackoffPlan.model_validate({"type": kind, "maxRetries": 3, "baseDelaySeconds": 2})
    assert [pause_before(plan, retry) for retry in (1, 2, 3)] == pauses


def test_shuffled_never_begins_with_the_oldest_and_keeps_every_message() -> None:
    messages = [{"n": n} for n in range(4)]
    for _ in range(200):
        copies = shuffled(messages)
        assert copies[0] is not messages[0]
        assert {copies.count(message) for message in messages} <= {2, 3}
    assert shuffled([]) == []
    assert {"n": 0} in shuffled(messages[:1])
