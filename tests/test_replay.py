"""The operator's commands beside the running system: dead letters sent again, and the books."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from hashlib import sha256
from uuid import uuid4

import orjson
import pytest_asyncio

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.bus.streams import DLQ
from boostedcalls.common.runtime import Runtime, RuntimeSettings

TALKS = "05"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bus(running) -> AsyncGenerator[Bus]:
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(health_host="127.0.0.1", health_port=0, _env_file=None))
        stack.callback(runtime.stop)
        yield await connect(stack, runtime, NatsSettings(nats_url=running.nats_url, _env_file=None), "test")
        runtime.stop()


async def test_webhook_that_a_mended_service_can_read_ends_its_call_by_a_replay(running, bus, user):
    call = await user.place_call(TALKS)
    call = await user.wait_for(call, lambda found: found["status"] == "in-progress")
    report = {"type": "end-of-call-report", "endedReason": "customer-ended-call", "transcript": "AI: Hi.", "cost": 0.04}
    body = orjson.dumps({"message": {**report, "mark": str(uuid4()), "call": {"id": call["vapi_call_id"]}}})
    digest = sha256(body).hexdigest()
    headers = {"Bc-Reason": "not JSON", "Bc-Origin-Subject": "bc.svc.webhooks.ingest", "Bc-Request-Id": digest}
    place = await bus.publish(
        f"bc.dlq.webhook.{digest[:32]}",
        body,
        stream=DLQ,
        message_id=f"dlq:webhook:{digest}",
        headers=headers | {"Bc-Received-At": "2026-11-22T10:30:41Z"},
        timeout=5,
    )
    # By our id of the call: the letter names the provider's, in its body alone.
    code, _ = await running.command("calls", "dead-letters", "replay", "--call", call["id"])
    assert code == 0
    ended = await user.wait_for(call)
    assert (ended["status"], ended["transcript"], ended["cost"]) == ("completed", "AI: Hi.", 0.04)
    event = await bus.jetstream.get_last_msg(
        "PROVIDER_EVENTS", f"bc.evt.provider.end-of-call-report.{call['vapi_call_id']}"
    )
    assert orjson.loads(event.data)["received_at"] == "2026-11-22T10:30:41Z"
    note = await bus.jetstream.get_last_msg(DLQ, f"bc.dlq.replayed.{place}")
    assert note.headers["Bc-Replay-Result"] == "replayed"


async def test_audit_of_a_running_system_finds_every_event_accounted_for(running, user):
    await user.wait_for(await user.place_call("00"))
    code, _ = await running.command("calls", "audit")
    assert code == 0
