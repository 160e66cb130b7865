import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from boostedcalls.common.context import caller, new_id
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOKS, Webhook
from boostedcalls.webhooks.vapi import DOCUMENTED


def update(call_id, **members):
    return {"message": {"type": "status-update", "status": "ringing", "call": {"id": str(call_id)}, **members}}


async def test_webhook_is_in_the_stream_when_it_is_answered(webhooks):
    call_id, trace = new_id(), "0af7651916cd43dd8448eb211c80319c"
    before = datetime.now(UTC)
    body = orjson.dumps(update(call_id, timestamp=1795343409120))
    assert await webhooks.send(body, caller(traceparent=f"00-{trace}-b7ad6b7169203331-01")) == b'{"ok":true}'
    subject = f"bc.evt.provider.status-update.{call_id}"
    event = await webhooks.event(subject)
    assert (event.source, event.kind, event.provider_call_id) == ("webhook", "status-update", str(call_id))
    assert event.message == update(call_id, timestamp=1795343409120)["message"]
    assert before <= event.received_at <= datetime.now(UTC)
    headers = (await webhooks.last("PROVIDER_EVENTS", subject)).headers
    assert headers["Nats-Msg-Id"] == headers["ce-id"] == hashlib.sha256(body).hexdigest()
    assert headers["ce-type"] == "io.boostedcalls.provider.v1.message"
    assert headers["ce-subject"] == subject
    assert headers["traceparent"].split("-")[1] == trace


@pytest.mark.parametrize("kind", [*sorted(DOCUMENTED), "brand.new", "spaces and > wildcards *", "x" * 300])
async def test_every_type_is_stored_whether_known_or_not(webhooks, kind):
    call_id = str(new_id())
    await webhooks.send({"message": {"type": kind, "call": {"id": call_id}}})
    assert (await webhooks.event(f"bc.evt.provider.*.{call_id}")).kind == kind


async def test_webhook_that_waited_before_it_came_here_keeps_the_time_at_which_it_came_in(webhooks):
    call_id, came_in = new_id(), datetime(2026, 11, 22, 10, 30, 9, 123456, UTC)
    await webhooks.send(update(call_id), replace(caller(), received_at=came_in))
    assert (await webhooks.event(f"bc.evt.provider.*.{call_id}")).received_at == came_in
    message = await webhooks.last("PROVIDER_EVENTS", f"bc.evt.provider.*.{call_id}")
    assert message.headers["ce-time"] == "2026-11-22T10:30:09.123456Z"


async def test_webhook_that_names_no_call_is_stored_under_none(webhooks):
    mark = str(new_id())
    await webhooks.send({"message": {"type": "chat.created", "chat": {"id": mark}}})
    event = await webhooks.event("bc.evt.provider.chat-created.none")
    assert (event.provider_call_id, event.message["chat"]["id"]) == (None, mark)


async def test_the_same_bytes_again_are_stored_once(webhooks):
    body = orjson.dumps(update(new_id()))
    before = await webhooks.count("PROVIDER_EVENTS")
    for _ in range(3):
        assert await webhooks.send(body) == b'{"ok":true}'
    assert await webhooks.count("PROVIDER_EVENTS") == before + 1


async def test_webhooks_that_come_together_are_each_stored_and_answered_for_themselves(webhooks):
    calls = [str(new_id()) for _ in range(40)]
    tools = {"message": {"type": "tool-calls", "call": {"id": calls[0]}, "toolCallList": [{"id": "c1", "name": "n"}]}}
    senders = [replace(caller(), received_at=datetime.now(UTC)) for _ in range(42)]
    bodies = [orjson.dumps(tools), b"no message", *(orjson.dumps(update(call_id)) for call_id in calls)]
    answers = await webhooks.send_many([Webhook(*pair) for pair in zip(senders, bodies, strict=True)])
    assert orjson.loads(answers[0])["results"][0]["toolCallId"] == "c1"
    assert answers[1:] == [b'{"ok":true}'] * 41
    for sender, call_id in zip(senders[2:], calls, strict=True):
        message = await webhooks.last("PROVIDER_EVENTS", f"bc.evt.provider.status-update.{call_id}")
        assert message.headers["traceparent"] == sender.traceparent
        event = await webhooks.event(f"bc.evt.provider.status-update.{call_id}")
        assert (event.provider_call_id, event.received_at) == (call_id, sender.received_at)
    kept = await webhooks.last("DLQ", f"bc.dlq.webhook.{hashlib.sha256(b'no message').hexdigest()[:32]}")
    assert kept.headers["Bc-Reason"] == "not JSON"


async def test_of_webhooks_that_come_together_the_one_that_cannot_be_stored_is_told_apart(webhooks):
    bodies = [orjson.dumps(update(new_id())), orjson.dumps(update(new_id(), text="x" * 5000)), b"no message"]
    await limit_message_size(webhooks, 3000)
    try:
        answers = await webhooks.send_many([Webhook(caller(), body) for body in bodies])
    finally:
        await limit_message_size(webhooks, -1)
    assert answers[0] == answers[2] == b'{"ok":true}'
    assert (answers[1].status, answers[1].code) == (503, "unavailable")


async def test_request_for_several_webhooks_that_does_not_add_up_is_refused(webhooks):
    for data in (b"", b"[]x", b'[[5,"r","t",null]]\nbody'):
        with pytest.raises(ServiceError) as caught:
            await webhooks.bus.request(INGEST_WEBHOOKS, data, caller())
        assert caught.value.code == "internal_error"


async def test_secrets_and_capability_urls_do_not_reach_the_stream(webhooks):
    call_id = new_id()
    secret = "s3cret-" + str(call_id)
    await webhooks.send(
        update(
            call_id,
            phoneNumber={"twilioAuthToken": secret, "twilioApiSecret": secret, "number": "+12025550100"},
            assistant={
                "server": {"url": "https://example.com", "headers": {"x-vapi-secret": secret}, "secret": secret},
                "credentials": [{"provider": "x", "apiKey": secret}],
                "credentialIds": [secret],
                "model": {"tools": [{"server": {"headers": {"Authorization": secret}}}], "maxTokens": 250},
            },
            monitor={"controlUrl": f"https://x.vapi.ai/{secret}", "listenUrl": f"wss://x.vapi.ai/{secret}"},
        )
    )
    raw = (await webhooks.last("PROVIDER_EVENTS", f"bc.evt.provider.*.{call_id}")).data.decode()
    assert secret not in raw
    event = await webhooks.event(f"bc.evt.provider.*.{call_id}")
    assert event.message["phoneNumber"] == {
        "twilioAuthToken": "[REDACTED]",
        "twilioApiSecret": "[REDACTED]",
        "number": "+12025550100",
    }
    assert event.message["assistant"]["model"]["maxTokens"] == 250


async def test_nul_and_lone_surrogates_do_not_lose_the_report(webhooks):
    call_id = new_id()
    text = b'"a\\u0000b \\ud83d"'
    await webhooks.send(
        b'{"message":{"type":"end-of-call-report","call":{"id":"%s"},"transcript":%s}}' % (str(call_id).encode(), text)
    )
    assert (await webhooks.event(f"bc.evt.provider.*.{call_id}")).message["transcript"] == "ab ?"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json at all", "not JSON"),
        (b"", "not JSON"),
        (b"[1,2]", "no JSON object"),
        (b'{"other":1}', "no message"),
        (b'{"message":{"status":"ended"}}', "no type"),
    ],
)
async def test_body_that_is_no_message_is_answered_and_kept_with_its_reason(webhooks, body, reason):
    events = await webhooks.count("PROVIDER_EVENTS")
    who = caller()
    assert await webhooks.send(body, who) == b'{"ok":true}'
    kept = await webhooks.last("DLQ", f"bc.dlq.webhook.{hashlib.sha256(body).hexdigest()[:32]}")
    assert (kept.data or b"") == body
    assert kept.headers["Bc-Reason"] == reason
    assert kept.headers["Bc-Origin-Subject"] == "bc.svc.webhooks.ingest"
    assert kept.headers["Bc-Request-Id"] == who.request_id
    assert datetime.fromisoformat(kept.headers["Bc-Received-At"]) <= kept.time
    assert kept.headers["Nats-Msg-Id"] == f"dlq:webhook:{hashlib.sha256(body).hexdigest()}"
    assert await webhooks.count("PROVIDER_EVENTS") == events


async def test_message_that_grows_beyond_a_nats_message_is_kept_as_a_dead_letter(webhooks):
    body = b'{"message":{"type":"hang","x":[' + b",".join([b"1e15"] * 600_000) + b"]}}"
    assert len(body) < 4 * 1024 * 1024
    assert await webhooks.send(body) == b'{"ok":true}'
    kept = await webhooks.last("DLQ", f"bc.dlq.webhook.{hashlib.sha256(body).hexdigest()[:32]}")
    assert (kept.headers["Bc-Reason"], kept.data) == ("too large", body)


async def test_type_that_wants_an_answer_is_stored_and_answered(webhooks):
    call_id = new_id()
    body = {"type": "tool-calls", "call": {"id": str(call_id)}, "toolCallList": [{"id": "c1", "name": "book"}]}
    assert orjson.loads(await webhooks.send({"message": body})) == {
        "results": [{"toolCallId": "c1", "name": "book", "error": "No tool named book is available."}]
    }
    assert (await webhooks.event(f"bc.evt.provider.tool-calls.{call_id}")).message == body


async def test_webhook_that_cannot_be_stored_is_not_answered_with_success(webhooks):
    wants_answer = {"message": {"type": "tool-calls", "toolCallList": [{"id": "c", "name": "n"}]}}
    bodies = [update("full"), b"no message", wants_answer]
    # Streams that take nothing, as on a full disk.
    await limit_message_size(webhooks, 1)
    try:
        answers = await asyncio.gather(*(webhooks.send(body) for body in bodies), return_exceptions=True)
    finally:
        await limit_message_size(webhooks, -1)
    assert all(isinstance(answer, ServiceError) for answer in answers)
    assert {(answer.status, answer.code) for answer in answers} == {(503, "unavailable")}
    assert b"" not in [await webhooks.send(body) for body in bodies]


async def limit_message_size(webhooks, size: int) -> None:
    for stream in ("PROVIDER_EVENTS", "DLQ"):
        config = (await webhooks.bus.jetstream.stream_info(stream)).config
        await webhooks.bus.jetstream.update_stream(config.evolve(max_msg_size=size))


async def test_webhooks_go_on_after_nats_was_killed(webhooks, nats_server):
    await nats_server.kill()
    with pytest.raises(ServiceError) as caught:
        await webhooks.send(update("away"))
    assert caught.value.code in {"unavailable", "timeout"}
    await nats_server.start()
    call_id = new_id()
    while True:
        try:
            assert await webhooks.send(update(call_id)) == b'{"ok":true}'
            break
        except ServiceError:
            await asyncio.sleep(0.05)
    assert (await webhooks.event(f"bc.evt.provider.*.{call_id}")).message["status"] == "ringing"
