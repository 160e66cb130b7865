"""A webhook's way: through the gateway's door into the stream and the call; what is broken is kept aside; and nothing
that is secret stays anywhere behind it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.bus import Bus, NatsSettings, connect
from boostedcalls.common.bus.streams import DLQ, JOBS, PROVIDER_EVENTS, STREAMS
from boostedcalls.common.runtime import Runtime, RuntimeSettings

Json = dict[str, Any]

PATH = "/api/calls/webhook/"
TALKS = "05"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bus(running) -> AsyncGenerator[Bus]:
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(health_host="127.0.0.1", health_port=0, _env_file=None))
        stack.callback(runtime.stop)
        yield await connect(stack, runtime, NatsSettings(nats_url=running.nats_url, _env_file=None), "test")
        runtime.stop()


@pytest.fixture
def post(running, user) -> Callable[..., Any]:
    """`await post({...})` sends what the provider would send: a message, or bytes as they are."""

    async def send(message: Json | bytes) -> Any:
        body = message if isinstance(message, bytes) else orjson.dumps({"message": message})
        headers = {"x-vapi-secret": running.env["VAPI_WEBHOOK_SECRET"], "Content-Type": "application/json"}
        answer = await user.http.post(PATH, content=body, headers={**headers, "Authorization": ""})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


async def stored(bus: Bus, stream: str) -> list[Any]:
    """All messages that a stream holds."""
    state = (await bus.jetstream.stream_info(stream)).state
    if not state.messages:
        return []
    assert not state.num_deleted
    return [await bus.jetstream.get_msg(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]


async def shown(user, call: Json, until: Callable[[Json], bool]) -> Json:
    """The call as the list shows it, once the predicate holds: reading a list asks nobody."""
    async with asyncio.timeout(30):
        while True:
            item = await user.call_to(call["contact_id"])
            if until(item):
                return item
            await asyncio.sleep(0.05)


def report(call: Json) -> Json:
    """An end-of-call-report as the provider words it."""
    return {
        "type": "end-of-call-report",
        "timestamp": 1795343441230,
        "endedReason": "customer-ended-call",
        "startedAt": "2026-11-22T10:30:09.020Z",
        "endedAt": "2026-11-22T10:30:33.820Z",
        "cost": 0.04,
        "analysis": {"summary": "They agreed.", "successEvaluation": "true"},
        "artifact": {"transcript": "AI: Hi.\nUser: Yes.", "recordingUrl": "https://storage.example.test/mono.wav"},
        "call": {"id": call["vapi_call_id"]},
    }


async def talking(user, **body: Any) -> Json:
    """A call that goes on until it is told to end, so that only what a test posts ends it."""
    call = await user.place_call(TALKS, **body)
    return await user.wait_for(call, lambda call: call["status"] == "in-progress")


async def test_report_ends_the_call_and_what_comes_late_or_twice_changes_nothing(user, post):
    call = await talking(user)
    assert await post(report(call)) == {"ok": True}
    item = await shown(user, call, lambda item: item["status"] == "completed")
    expected = {"outcome": "success", "summary": "They agreed.", "transcript": "AI: Hi.\nUser: Yes.", "cost": 0.04}
    expected |= {"duration_seconds": 25, "started_at": "2026-11-22T10:30:09.020000Z", "contact": item["contact"]}
    assert item | expected == item
    whole = await user.found(f"/api/calls/{call['id']}/")
    assert (
        whole["metadata"] | {"recordingUrl": "https://storage.example.test/mono.wav", "cost": 0.04} == whole["metadata"]
    )
    late = {"type": "status-update", "status": "ringing", "timestamp": 1795343442000, "call": report(call)["call"]}
    assert [await post(message) for message in (report(call), late, report(call))] == [{"ok": True}] * 3
    # A last message that does show says that those before it were taken in.
    marker = await talking(user)
    await post(report(marker))
    await shown(user, marker, lambda item: item["status"] == "completed")
    again = await user.found(f"/api/calls/{call['id']}/")
    assert again | {"updated_at": whole["updated_at"]} == whole
    timeline = await user.found(f"/api/calls/{call['id']}/events/")
    assert [entry["source"] for entry in timeline if entry["type"] == "end-of-call-report"] == ["webhook"]


async def test_status_update_shows_in_the_call(user, post):
    call = await talking(user)
    ended = {"type": "status-update", "status": "ended", "endedReason": "customer-busy"}
    await post({**ended, "call": {"id": call["vapi_call_id"]}})
    item = await shown(user, call, lambda item: item["status"] == "busy")
    assert item["outcome"] == "busy"


async def test_report_without_a_secret_changes_nothing(user, post):
    call = await talking(user)
    refused = await user.http.post(PATH, json={"message": report(call)})
    assert refused.status_code == 401
    await post({"type": "status-update", "status": "ended", "endedReason": "voicemail", "call": report(call)["call"]})
    item = await shown(user, call, lambda item: item["status"] == "voicemail")
    assert item["transcript"] is None


@pytest.mark.parametrize("kind", ["hang", "speech-update", "brand-new", "chat.created", "x" * 300, "spaces > and *"])
async def test_message_of_any_type_is_kept(post, bus, kind):
    call_id = str(uuid4())
    assert await post({"type": kind, "call": {"id": call_id}, "more": [kind]}) == {"ok": True}
    message = await bus.jetstream.get_last_msg(PROVIDER_EVENTS, f"bc.evt.provider.*.{call_id}")
    assert orjson.loads(message.data)["message"]["more"] == [kind]


CALL = {"id": "c1", "type": "function"}
TOOL_CALLS = {
    "arguments as text": {"toolCallList": [{**CALL, "function": {"name": "book", "arguments": '{"day":"1"}'}}]},
    "arguments as object": {"toolCallList": [{**CALL, "function": {"name": "book", "arguments": {"day": "1"}}}]},
    "name beside the id": {"toolCallList": [{"id": "c1", "name": "book", "parameters": {"day": "1"}}]},
    "with its tool": {"toolWithToolCallList": [{"name": "book", "toolCall": {"id": "c1", "name": "book"}}]},
}


@pytest.mark.parametrize("members", TOOL_CALLS.values(), ids=TOOL_CALLS)
async def test_tool_call_of_every_shape_is_answered_in_the_body(post, members):
    answer = await post({"type": "tool-calls", "call": {"id": str(uuid4())}, **members})
    (result,) = answer["results"]
    assert (result["toolCallId"], result["name"]) == ("c1", "book")
    assert isinstance(result["error"], str)


BROKEN = {
    "no JSON": b"{'message': 'single quotes %s'}",
    "cut off": b'{"message": {"type": "status-update", "call": {"id": "%s"',
    "no UTF-8": b"\xff\xfe%s",
    "array": b'[{"type": "hang", "mark": "%s"}]',
    "no message": b'{"type": "hang", "mark": "%s"}',
    "message is no object": b'{"message": "%s"}',
    "no type": b'{"message": {"mark": "%s"}}',
    "type is no text": b'{"message": {"type": ["hang"], "mark": "%s"}}',
    "10,000 levels": b'{"message": {"type": "hang", "mark": "%s", "a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_body_is_answered_200_and_kept_with_a_reason(post, bus, body):
    mark = uuid4().hex.encode()
    assert await post(body % mark) == {"ok": True}
    (kept,) = [message for message in await stored(bus, DLQ) if mark in message.data]
    assert kept.subject == f"bc.dlq.webhook.{sha256(body % mark).hexdigest()[:32]}"
    assert kept.headers["Bc-Reason"]


def planted(secret: str) -> Json:
    """A provider's message with a secret in every place where one was seen."""
    server = {"url": "https://example.test/hook", "secret": secret, "headers": {"x-vapi-secret": secret}}
    assistant = {
        "server": server,
        "credentials": [{"provider": "openai", "apiKey": secret}],
        "model": {"tools": [{"type": "function", "server": {**server, "headers": {"Authorization": secret}}}]},
    }
    number = {"provider": "twilio", "twilioAuthToken": secret, "twilioApiSecret": secret, "server": server}
    monitor = {"controlUrl": f"https://c.vapi.ai/{secret}", "listenUrl": f"wss://c.vapi.ai/{secret}"}
    call = {"assistant": assistant, "phoneNumber": number, "monitor": monitor, "assistantOverrides": {"server": server}}
    return {"phoneNumber": number, "assistant": assistant, "x-vapi-secret": secret, "call": call}


async def rows(dsn: str) -> AsyncGenerator[tuple[str, str]]:
    """(table, row as text) of every row of every table of ours."""
    connection = await asyncpg.connect(dsn)
    try:
        for schema, table in await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('auth', 'contacts', 'calls')"
        ):
            for row in await connection.fetch(f'SELECT t::text FROM "{schema}"."{table}" AS t'):  # noqa: S608
                yield f"{schema}.{table}", row[0]
    finally:
        await connection.close()


async def test_secrets_stay_nowhere_and_what_people_say_is_in_no_log(running, user, post, bus):
    secret, said = f"canary-{uuid4().hex}", f"spoken {uuid4().hex}"
    call = await talking(user, first_message=said, custom_prompt=said)
    members = planted(secret)
    members["call"]["id"] = call["vapi_call_id"]
    transcript = {"type": "transcript", "role": "user", "transcriptType": "final", "transcript": said}
    for message in (
        transcript,
        {"type": "brand-new"},
        {"type": "tool-calls"},
        {"type": "status-update", "status": "x"},
    ):
        await post({**members, **message})
    await post({"type": "assistant-request", **members, "call": {**members["call"], "id": None}})
    await post({**members, "type": None})
    # One for a call that nobody knows is parked with all it holds.
    await post({**report(call), **members, "call": {**members["call"], "id": str(uuid4())}})
    artifact = {"transcript": said, "messages": [{"role": "user", "message": said}], "variables": {"apiKey": secret}}
    await post({**report(call), **members, "artifact": artifact, "summary": said})
    await shown(user, call, lambda item: item["status"] == "completed" and item["transcript"] == said)
    number = call["contact"]["phone"].removeprefix("+")
    await post(f'{{"message": {said} +{number}'.encode())

    # The stack's own secrets are canaries too, and so are the user's.
    access = user.http.headers["Authorization"].removeprefix("Bearer ")
    own = [running.env[name] for name in ("JWT_SECRET", "VAPI_WEBHOOK_SECRET", "CALL_SIGNING_SECRET")]
    secrets = [secret, user.password, access, *own]
    seen = 0
    for stream in STREAMS.keys() - {JOBS}:
        for message in await stored(bus, stream):
            text = message.data.decode(errors="replace") + str(message.headers)
            assert not [each for each in secrets if each in text], f"{stream} {message.subject}"
            seen += said in text
    assert seen >= 2
    seen = 0
    async for table, text in rows(running.database_url):
        assert not [each for each in secrets if each in text], table
        seen += said in text
    assert seen >= 1
    logs = {path.name: path.read_text(errors="replace") for path in (running.home / "logs").iterdir()}
    assert logs.keys() >= {f"{name}.log" for name in ("gateway", "calls", "contacts", "webhooks", "simulator")}
    for name, text in logs.items():
        assert not [each for each in (*secrets, said, number) if each in text], name
        assert not re.search(r"\+?1202555\d{4}", text), name
