"""Webhooks that come in at once share a request, and each is answered for itself. The webhooks service is played."""

import asyncio

import pytest

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.context import caller
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS, pack_answers, unpack

PATH = "/api/calls/webhook/"


class Service:
    """Answers each body with itself; what is in `refused`, with a problem. Waits for `go` before it answers at all."""

    def __init__(self):
        self.requests = []
        self.refused = set()
        self.lost = b"lost"
        self.go = asyncio.Event()
        self.asked = asyncio.Event()

    def endpoints(self):
        return Endpoint(INGEST_WEBHOOK, self.one), Endpoint(INGEST_WEBHOOKS, self.many)

    async def one(self, who, body):
        (answer,) = await self.take([(who, body)])
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def many(self, _, data):
        return pack_answers(await self.take([(webhook.who, webhook.body) for webhook in unpack(data)]))

    async def take(self, webhooks):
        self.requests.append(webhooks)
        self.asked.set()
        await self.go.wait()
        if self.lost in [body for _, body in webhooks]:
            await asyncio.Event().wait()
        return [problem("internal_error") if body in self.refused else b'"%s"' % body for _, body in webhooks]


@pytest.fixture
async def service(peer, nats_server):
    played = Service()
    async with peer(nats_server.url, *played.endpoints()):
        yield played


@pytest.fixture
def send(gateway):
    async def send(body, **headers):
        headers = {"x-vapi-secret": gateway.webhook_secret, **headers}
        return await gateway.client.post(PATH, content=body, headers=headers)

    return send


async def start_with(service, send, bodies):
    """One webhook under way, and the others behind it."""
    first = asyncio.create_task(send(b"first"))
    await service.asked.wait()
    rest = [asyncio.create_task(send(body)) for body in bodies]
    await asyncio.sleep(0.3)
    service.go.set()
    return [await first, *(await asyncio.gather(*rest))]


async def test_webhook_that_finds_nothing_under_way_goes_at_once_and_alone(service, send):
    service.go.set()
    answer = await send(b"alone")
    assert (answer.status_code, answer.content) == (200, b'"alone"')
    assert [[body for _, body in request] for request in service.requests] == [[b"alone"]]


async def test_webhook_that_comes_in_the_moment_the_last_one_is_answered_does_not_wait_for_a_third(service, gateway):
    service.go.set()
    for body in (b"1", b"2", b"3"):
        # In the same step of the loop in which the one before is answered.
        assert await gateway.deps.breaker.ask(caller(), body) == b'"%s"' % body


async def test_request_that_hangs_does_not_hold_up_what_comes_later(service, gateway):
    lost = asyncio.create_task(gateway.deps.breaker.ask(caller(), b"lost"))
    await service.asked.wait()
    await asyncio.sleep(0.4)
    service.go.set()
    assert await gateway.deps.breaker.ask(caller(), b"later") == b'"later"'
    with pytest.raises(ServiceError, match="timeout"):
        await lost


async def test_webhooks_behind_one_under_way_travel_together_and_each_gets_its_own_answer(service, send):
    bodies = [b"body %d" % number for number in range(20)]
    answers = await start_with(service, send, bodies)
    assert [answer.content for answer in answers] == [b'"%s"' % body for body in [b"first", *bodies]]
    assert len(service.requests) == 2
    assert sorted(body for _, body in service.requests[1]) == sorted(bodies)


async def test_each_webhook_keeps_its_own_ids_and_time(service, send):
    await start_with(service, send, [b"a", b"b"])
    callers = [who for request in service.requests for who, _ in request]
    assert len({who.request_id for who in callers}) == len({who.traceparent for who in callers}) == 3
    assert all(who.received_at for who in callers)


async def test_one_that_is_refused_does_not_take_the_others_with_it(service, send, gateway):
    service.refused = {b"bad"}
    _, good, bad = await start_with(service, send, [b"good", b"bad"])
    assert (good.status_code, good.content) == (200, b'"good"')
    # Without a spool: it is to be sent again.
    gateway.is_problem(bad, 503, "unavailable")


async def test_large_crowd_is_split_into_requests_of_bounded_size(service, send):
    answers = await start_with(service, send, [b"x%d" % number + b"x" * 100_000 for number in range(20)])
    assert {answer.status_code for answer in answers} == {200}
    sizes = [sum(len(body) for _, body in request) for request in service.requests]
    assert max(sizes) <= 512 * 1024
    assert sum(len(request) for request in service.requests) == 21


async def test_crowd_behind_a_service_that_hangs_is_answered_in_time(service, send, gateway):
    begin = asyncio.get_running_loop().time()
    service.go.clear()
    answers = await asyncio.gather(*(send(b"%d" % number) for number in range(30)))
    for answer in answers:
        gateway.is_problem(answer, 503, "unavailable")
    # The provider gives up after 20 s; each webhook has 3 s, whatever hangs before it.
    assert asyncio.get_running_loop().time() - begin < 10
