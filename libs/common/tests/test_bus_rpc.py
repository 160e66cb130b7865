"""Requests and answers on a real server."""

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
import pytest_asyncio
import structlog
from pydantic import BaseModel

from boostedcalls.common.bus import Endpoint, endpoint, serve
from boostedcalls.common.bus.rpc import CONCURRENCY
from boostedcalls.common.context import Caller, caller, new_id
from boostedcalls.common.errors import ServiceError, Unavailable, problem
from boostedcalls.common.messages.base import Replayed, Rpc

_NUMBERS = itertools.count(1)


class Question(BaseModel):
    number: int


class Reply(BaseModel):
    text: str


@pytest_asyncio.fixture(loop_scope="session")
async def answering(new_bus):
    """`subject = await answering(handle)`: a service of its own that answers with `handle(caller, bytes) -> bytes`."""
    async with AsyncExitStack() as stack:

        async def start(handle, stack=stack) -> str:
            subject = f"bc.svc.test.s{next(_NUMBERS)}"
            await serve(stack, await new_bus(), "test", "1.0.0", [Endpoint(subject, handle)])
            return subject

        yield start


async def refused(awaitable) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value


async def test_answer_reaches_the_asker_with_the_callers_identity_passed_on(bus, answering):
    seen: list[Caller] = []

    async def handle(who, data):
        seen.append(who)
        return data[::-1]

    subject = await answering(handle)
    trace = "0af7651916cd43dd8448eb211c80319c"
    who = caller(new_id(), "request-1", f"00-{trace}-b7ad6b7169203331-01")
    assert await bus.request(subject, b"abc", who) == b"cba"
    [found] = seen
    assert (found.user_id, found.request_id) == (who.user_id, "request-1")
    assert found.traceparent.split("-")[1] == trace
    assert found.traceparent != who.traceparent


async def test_time_at_which_something_came_in_is_passed_on(bus, answering):
    async def handle(who, data):
        return str(who.received_at).encode()

    subject = await answering(handle)
    came_in = datetime(2026, 11, 22, 10, 30, 9, 123456, UTC)
    assert await bus.request(subject, b"", replace(caller(), received_at=came_in)) == str(came_in).encode()
    assert await bus.request(subject, b"", caller()) == b"None"


async def test_work_of_nobody_has_no_user(bus, answering):
    async def handle(who, data):
        return str(who.user_id).encode()

    assert await bus.request(await answering(handle), b"", caller()) == b"None"


async def test_twenty_requests_are_at_work_at_the_same_time(bus, answering):
    everyone_is_here = asyncio.Barrier(20)

    async def handle(who, data):
        # Served one after the other, the first would wait here until its time is over.
        await everyone_is_here.wait()
        return data

    subject = await answering(handle)
    answers = await asyncio.gather(*(bus.request(subject, b"%d" % number, caller()) for number in range(20)))
    assert answers == [b"%d" % number for number in range(20)]


async def test_no_more_than_the_limit_are_at_work_at_once_and_the_others_wait(bus, answering):
    at_work = most = 0
    full, release = asyncio.Event(), asyncio.Event()

    async def handle(who, data):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if at_work == CONCURRENCY:
            full.set()
        await release.wait()
        at_work -= 1
        return b""

    subject = await answering(handle)
    asking = [asyncio.create_task(bus.request(subject, b"", caller())) for _ in range(CONCURRENCY + 20)]
    await full.wait()
    release.set()
    assert await asyncio.gather(*asking) == [b""] * (CONCURRENCY + 20)
    assert most == CONCURRENCY


async def test_request_whose_time_is_over_before_its_turn_is_dropped(bus, answering):
    handled: list[bytes] = []
    full, release = asyncio.Event(), asyncio.Event()

    async def handle(who, data):
        handled.append(data)
        if len(handled) == CONCURRENCY:
            full.set()
        await release.wait()
        return b""

    subject = await answering(handle)
    asking = [asyncio.create_task(bus.request(subject, b"early", caller())) for _ in range(CONCURRENCY)]
    await full.wait()
    assert (await refused(bus.request(subject, b"late", caller(), timeout=0.1))).code == "timeout"
    while True:
        stats = orjson.loads((await bus.client.request("$SRV.STATS.test", b"", timeout=5)).data)
        if stats["endpoints"][0]["num_requests"] == CONCURRENCY + 1:
            break
    # Received by now, so its time is over when it has passed once more.
    await asyncio.sleep(0.15)
    release.set()
    await asyncio.gather(*asking)
    assert await bus.request(subject, b"after", caller()) == b""
    assert b"late" not in handled


async def test_handler_that_is_late_is_cancelled_and_the_asker_told(bus, answering):
    ended = asyncio.Event()

    async def handle(who, data):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    error = await refused(bus.request(await answering(handle), b"", caller(), timeout=0.1))
    assert (error.status, error.code) == (504, "timeout")
    await ended.wait()


async def test_exception_is_masked_on_the_wire_and_found_by_its_id_in_the_log(bus, answering):
    async def handle(who, data):
        raise ValueError("postgresql://user:s3cret@host/db")

    subject = await answering(handle)
    with structlog.testing.capture_logs() as logs:
        message = await bus.client.request(subject, b"", timeout=5)
    assert b"s3cret" not in message.data
    assert "s3cret" not in str(message.headers)
    assert message.headers["Nats-Service-Error-Code"] == "500"
    assert message.headers["Nats-Service-Error"] == "internal_error"
    body = orjson.loads(message.data)
    assert (body["code"], body["title"]) == ("internal_error", "Something went wrong on our side")
    [cause] = [entry["exc_info"] for entry in logs if entry.get("error_id") == body["error_id"]]
    assert "s3cret" in str(cause)
    assert (await refused(bus.request(subject, b"", caller()))).error_id


async def test_service_error_reaches_the_asker_whole(bus, answering):
    sent = problem("max_active_calls", "Ten are enough", errors=[{"field": "a", "message": "b"}], retry_after=7)

    async def handle(who, data):
        raise sent

    assert vars(await refused(bus.request(await answering(handle), b"", caller()))) == vars(sent)


async def test_answer_given_before_reaches_the_asker_as_such_and_no_other_does(bus, answering):
    async def handle(who, data):
        return Replayed(data) if data == b"old" else data

    subject = await answering(handle)
    assert [type(await bus.request(subject, data, caller())) for data in (b"old", b"new")] == [Replayed, bytes]
    assert await bus.request(subject, b"old", caller()) == b"old"
    message = await bus.client.request(subject, b"old", timeout=5)
    assert message.headers == {"Bc-Replayed": "true"}


async def test_error_given_before_reaches_the_asker_as_such_under_its_own_request_id(bus, answering):
    sent = problem("provider_error", "no", instance="/api/calls/1/")
    sent.replayed = True

    async def handle(who, data):
        raise sent

    subject = await answering(handle)
    assert vars(await refused(bus.request(subject, b"", caller()))) == vars(sent)
    message = await bus.client.request(subject, b"", timeout=5, headers={"Bc-Request-Id": "again"})
    assert (message.headers["Bc-Replayed"], orjson.loads(message.data)["request_id"]) == ("true", "again")


async def test_bytes_of_a_handler_are_sent_as_they_are(bus, new_bus):
    async def handler(deps, who, request: Question) -> bytes:
        return b'{ "text": "1" }'

    rpc = Rpc(f"bc.svc.test.s{next(_NUMBERS)}", Question, Reply)
    async with AsyncExitStack() as stack:
        await serve(stack, await new_bus(), "test", "1.0.0", [endpoint(rpc, handler, None)])
        assert await bus.request(rpc.subject, b'{"number":1}', caller()) == b'{ "text": "1" }'


async def test_missing_part_is_told_as_unavailable_with_a_time_to_try_again(bus, answering):
    async def handle(who, data):
        raise Unavailable("database: ConnectionRefusedError at 10.0.0.7")

    error = await refused(bus.request(await answering(handle), b"", caller()))
    assert (error.status, error.code, error.retry_after) == (503, "unavailable", 1)
    assert "10.0.0.7" not in str(error.to_dict(""))


async def test_subject_that_nobody_serves_is_unavailable_at_once(bus):
    error = await refused(bus.request("bc.svc.nobody.there", b"", caller(), timeout=100))
    assert (error.status, error.code, error.retry_after) == (503, "unavailable", 1)


@pytest.mark.parametrize("headers", [{"Bc-User": "not a uuid"}, {"Bc-Timeout-Ms": "soon"}, {"Bc-Timeout-Ms": "-1e9"}])
async def test_malformed_headers_are_answered_and_not_left_to_time_out(bus, answering, headers):
    async def handle(who, data):
        return b"handled"

    message = await bus.client.request(await answering(handle), b"", timeout=5, headers=headers)
    assert message.headers["Nats-Service-Error-Code"] == "500"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"number":1}', b'{"text":"1"}'), (b'{"number":"x"}', None), (b"{", None), (b"[]", None), (b"", None)],
)
async def test_handler_sees_only_requests_of_the_right_shape(bus, new_bus, body, expected):
    async def handler(deps, who, request: Question) -> Reply:
        return Reply(text=str(request.number))

    rpc = Rpc(f"bc.svc.test.s{next(_NUMBERS)}", Question, Reply)
    async with AsyncExitStack() as stack:
        await serve(stack, await new_bus(), "test", "1.0.0", [endpoint(rpc, handler, None)])
        if expected is None:
            error = await refused(bus.request(rpc.subject, body, caller()))
            assert (error.status, error.code) == (422, "validation_failed")
            assert error.errors
        else:
            assert await bus.request(rpc.subject, body, caller()) == expected


async def test_answer_that_fits_no_message_is_an_error_and_the_connection_lives_on(bus, answering):
    async def handle(who, data):
        return b"x" * int(data)

    subject = await answering(handle)
    error = await refused(bus.request(subject, b"%d" % bus.client.max_payload, caller()))
    assert (error.status, error.code) == (500, "answer_too_large")
    assert await bus.request(subject, b"3", caller()) == b"xxx"


async def test_request_that_fits_no_message_is_refused_and_the_connection_lives_on(bus, answering):
    async def handle(who, data):
        return b"%d" % len(data)

    subject = await answering(handle)
    error = await refused(bus.request(subject, b"x" * bus.client.max_payload, caller()))
    assert (error.status, error.code) == (413, "payload_too_large")
    assert await bus.request(subject, b"abc", caller()) == b"3"


async def test_stopping_finishes_what_is_at_hand_and_takes_nothing_new(bus, new_bus):
    started, release = asyncio.Event(), asyncio.Event()

    async def handle(who, data):
        started.set()
        await release.wait()
        return b"finished"

    subject = f"bc.svc.test.s{next(_NUMBERS)}"
    stack = AsyncExitStack()
    await serve(stack, await new_bus(), "test", "1.0.0", [Endpoint(subject, handle)])
    asking = asyncio.create_task(bus.request(subject, b"", caller()))
    await started.wait()
    closing = asyncio.create_task(stack.aclose())
    while True:
        try:
            await bus.request(subject, b"", caller(), timeout=0.05)
        except ServiceError as error:
            if error.code == "unavailable":
                break
    assert not closing.done()
    release.set()
    assert await asking == b"finished"
    await closing


async def test_replicas_share_the_requests(bus, new_bus):
    subject = f"bc.svc.test.s{next(_NUMBERS)}"
    counts = [0, 0]

    def replica(number):
        async def handle(who, data):
            counts[number] += 1
            return b""

        return handle

    async with AsyncExitStack() as stack:
        for number in (0, 1):
            await serve(stack, await new_bus(), "test", "1.0.0", [Endpoint(subject, replica(number))])
        await asyncio.gather(*(bus.request(subject, b"", caller()) for _ in range(100)))
    assert sum(counts) == 100
    assert min(counts) > 0


async def test_service_is_seen_by_the_nats_tools(bus, answering):
    async def handle(who, data):
        return b""

    subject = await answering(handle)
    info = orjson.loads((await bus.client.request("$SRV.INFO.test", b"", timeout=5)).data)
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert subject in [found["subject"] for found in info["endpoints"]]


async def test_what_was_not_asked_at_an_endpoint_is_dropped(bus, answering):
    """The server lets whoever reads a stream direct its messages here, and whoever asks direct the answer anywhere."""
    seen = []

    async def handle(who, data):
        seen.append(data)
        return data

    subject = await answering(handle)
    elsewhere = await bus.client.subscribe("bc.evt.provider.test.none")
    await bus.client.publish(subject, b"answer to a stream", reply="bc.evt.provider.test.none")
    await bus.client.publish(subject, b"no answer wanted")
    assert await bus.request(subject, b"asked", caller()) == b"asked"
    assert (seen, elsewhere.pending_msgs) == ([b"asked"], 0)
