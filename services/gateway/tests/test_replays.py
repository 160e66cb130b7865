"""A signed webhook that comes again: no work for anybody, and never a reason to lose one."""

import asyncio
import hashlib
import hmac
from time import time

import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.common.provider import answer_for
from boostedcalls.gateway.replays import Replays

PATH = "/api/calls/webhook/"
SIGNING = "the-signing-secret"
TOOLS = orjson.dumps(
    {"message": {"type": "tool-calls", "toolCallList": [{"id": "one", "function": {"name": "weather"}}]}}
)


def signed(body, seconds=0):
    stamp = str(int(time()) + seconds)
    digest = hmac.digest(SIGNING.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hex()
    return {"x-signature": digest, "x-timestamp": stamp}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def signing(running, dsn, nats_server):
    async with running(dsn, nats_server.url, vapi_webhook_hmac_secret=SIGNING) as found:
        yield found


@pytest.fixture
def taken():
    return []


@pytest.fixture
def service(taken, peer, nats_server):
    """The webhooks service's place is taken by one that notes what it gets."""

    async def ingest(_, body):
        taken.append(body)
        return answer_for(body)

    return peer(nats_server.url, Endpoint(INGEST_WEBHOOK, ingest))


async def post(gateway, body, headers):
    return await gateway.client.post(PATH, content=body, headers=headers)


@pytest.mark.parametrize("body", [b'{"message": {"type": "status-update", "n": 1}}', TOOLS, b"\xff", b""])
async def test_repeat_of_a_stored_webhook_is_answered_alike_and_not_passed_on(signing, service, taken, body, attacks):
    headers = signed(body)
    spellings = [headers, {**headers, "x-signature": headers["x-signature"].upper()}]
    spellings.append({**headers, "x-signature": f"sha256={headers['x-signature']}"})
    async with service:
        first = await post(signing, body, headers)
        assert first.status_code == 200
        for again in spellings * 5:
            answer = await post(signing, body, again)
            assert (answer.status_code, answer.content) == (200, first.content)
    assert taken == [body]
    attacks("Webhook: replay", 15)


async def test_same_body_signed_anew_is_passed_on(signing, service, taken):
    """The provider's own retry: the stream knows it by its body, and we do not decide that here."""
    body = b'{"message": {"type": "hang", "n": 2}}'
    async with service:
        for seconds in (0, 1):
            assert (await post(signing, body, signed(body, seconds))).status_code == 200
    assert taken == [body, body]


async def test_webhook_that_was_not_stored_is_passed_on_when_it_comes_again(signing, service, taken):
    body = b'{"message": {"type": "hang", "n": 3}}'
    headers = signed(body)
    signing.is_problem(await post(signing, body, headers), 503, "unavailable")
    signing.is_problem(await post(signing, body, headers), 503, "unavailable")
    async with service:
        async with asyncio.timeout(30):
            while (await post(signing, body, headers)).status_code != 200:
                pass
        assert (await post(signing, body, headers)).status_code == 200
    assert taken == [body]


async def test_repeat_while_the_first_is_under_way_goes_its_own_way(signing, taken, peer, nats_server):
    body = b'{"message": {"type": "hang", "n": 4}}'
    headers, asked, gate = signed(body), asyncio.Event(), asyncio.Event()

    async def ingest(_, data):
        taken.append(data)
        asked.set()
        await gate.wait()
        return answer_for(data)

    async with peer(nats_server.url, Endpoint(INGEST_WEBHOOK, ingest)):
        first = asyncio.create_task(post(signing, body, headers))
        await asked.wait()
        second = asyncio.create_task(post(signing, body, headers))
        async with asyncio.timeout(30):
            while signing.deps.breaker._asking < 2:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
        gate.set()
        assert [(await one).status_code for one in (first, second)] == [200, 200]
    assert taken == [body, body]


async def test_webhook_in_the_spool_counts_as_stored(running, dsn, nats_server, tmp_path):
    body = b'{"message": {"type": "hang", "n": 5}}'
    options = {"vapi_webhook_hmac_secret": SIGNING, "spool_dir": tmp_path}
    async with running(dsn, nats_server.url, **options) as gateway:
        headers = signed(body)
        assert (await post(gateway, body, headers)).headers["x-stored"] == "spool"
        again = await post(gateway, body, headers)
        assert (again.status_code, again.content) == (200, answer_for(body))
        metrics = (await gateway.client.get("/metrics")).text
    assert "boostedcalls_spool_records 1.0" in metrics


async def test_webhook_with_the_secret_is_never_taken_for_a_repeat(signing, service, taken):
    body = b'{"message": {"type": "hang", "n": 6}}'
    async with service:
        for _ in range(3):
            assert (await post(signing, body, {"x-vapi-secret": signing.webhook_secret})).status_code == 200
    assert taken == [body] * 3


def test_memory_of_replays_is_bounded_in_number_and_keeps_the_youngest(attacks):
    replays = Replays(most=1000)
    for number in range(100_000):
        replays.add(number.to_bytes(16))
        assert len(replays) <= 1000
    assert all(number.to_bytes(16) in replays for number in range(99_500, 100_000))
    assert (0).to_bytes(16) not in replays
    attacks("Webhook: filling the memory of replays")


def test_replay_is_known_for_as_long_as_its_signature_is_good():
    now = 0.0
    replays = Replays(clock=lambda: now)
    replays.add(b"first")
    now = 599.0
    replays.add(b"second")
    now = 1199.0
    replays.add(b"third")
    assert b"second" in replays
    now = 1800.0
    replays.add(b"fourth")
    assert b"first" not in replays
    assert b"second" not in replays
    assert b"third" in replays
