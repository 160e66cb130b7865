"""Webhooks while something behind the gateway is away, slow or broken: each one is answered 200 and arrives in the end.

The webhooks service is played by an endpoint on a real NATS, so that it can be as bad as a test wants it.
"""

import asyncio
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from inspect import isawaitable

import pytest

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.devkit.child import Child
from boostedcalls.devkit.net import reserved_port
from boostedcalls.gateway import drain
from boostedcalls.gateway.segment import decode

PATH = "/api/calls/webhook/"


class Taker:
    """What the webhooks service is asked. `trouble` maps a body to what happens instead of taking it."""

    def __init__(self):
        self.taken = []
        self.trouble = {}
        self.refused = 0

    @property
    def bodies(self):
        return [body for _, body in self.taken]

    async def __call__(self, who, body):
        if body in self.trouble:
            self.refused += 1
            raise self.trouble[body]
        self.taken.append((who, body))
        return b'{"taken":true}'


@pytest.fixture
def taker():
    return Taker()


@pytest.fixture
def listening(peer, nats_server, taker):
    """`async with listening():` somebody answers for the webhooks service."""
    return lambda: peer(nats_server.url, Endpoint(INGEST_WEBHOOK, taker))


@pytest.fixture
async def spooling(running, dsn, nats_server, tmp_path):
    async with running(dsn, nats_server.url, spool_dir=tmp_path / "spool") as found:
        yield found


async def until(holds):
    """Wait until it holds: a function, or one that returns an awaitable."""
    async with asyncio.timeout(60):
        while not (await found if isawaitable(found := holds()) else found):  # noqa: ASYNC110 - others make it true
            await asyncio.sleep(0.02)


async def report(gateway, body, **headers):
    return await gateway.client.post(PATH, content=body, headers={"x-vapi-secret": gateway.webhook_secret, **headers})


async def assert_spooled(gateway, *bodies):
    for body in bodies:
        answer = await report(gateway, body)
        assert (answer.status_code, answer.headers.get("x-stored")) == (200, "spool"), answer.text


async def assert_taken_at_once(gateway, body):
    answer = await report(gateway, body)
    assert (answer.status_code, answer.content) == (200, b'{"taken":true}')
    assert "x-stored" not in answer.headers


async def test_webhook_goes_straight_to_the_service_that_answers(spooling, listening, taker, tmp_path):
    async with listening():
        before = datetime.now(UTC)
        await assert_taken_at_once(spooling, b"one")
    [(who, body)] = taker.taken
    assert body == b"one"
    assert before <= who.received_at <= datetime.now(UTC)
    assert not (tmp_path / "spool").exists()


async def test_webhooks_that_nobody_takes_are_kept_and_arrive_once_in_their_order(spooling, listening, taker):
    bodies = [b"%03d" % number for number in range(100)]
    await assert_spooled(spooling, *bodies)
    assert spooling.deps.breaker.is_open
    async with listening():
        await until(lambda: len(taker.taken) == len(bodies))
        assert sorted(taker.bodies) == bodies
        assert taker.bodies[0] == bodies[0]
        await assert_taken_at_once(spooling, b"direct")
        assert not spooling.deps.breaker.is_open


async def test_kept_webhook_arrives_as_it_came_in(spooling, listening, taker):
    trace = "0af7651916cd43dd8448eb211c80319c"
    body = b'\x00\xff{"message": broken'
    before = datetime.now(UTC)
    answer = await report(spooling, body, **{"x-request-id": "r-42", "traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    after = datetime.now(UTC)
    assert answer.headers["x-stored"] == "spool"
    async with listening():
        await until(lambda: taker.taken)
    [(who, found)] = taker.taken
    assert (found, who.request_id, who.user_id) == (body, "r-42", None)
    assert who.traceparent.split("-")[1] == trace
    assert before <= who.received_at <= after


async def test_secret_is_in_no_file_of_the_spool(spooling, tmp_path):
    await assert_spooled(spooling, b"one")
    [segment] = (tmp_path / "spool").iterdir()
    assert b"one" in segment.read_bytes()
    assert spooling.webhook_secret.encode() not in segment.read_bytes()


async def test_webhooks_while_nats_is_away_arrive_when_it_is_back(spooling, listening, taker, nats_server):
    await assert_spooled(spooling, b"before")
    await nats_server.stop()
    try:
        await assert_spooled(spooling, b"one", b"two")
    finally:
        await nats_server.start()
    async with listening():
        await until(lambda: set(taker.bodies) == {b"before", b"one", b"two"})


async def test_service_that_hangs_is_waited_for_once_and_then_not_asked_again(
    spooling, silent_peer, listening, taker, nats_server
):
    async with silent_peer(nats_server.url, INGEST_WEBHOOK) as asked:
        await assert_spooled(spooling, b"one")
        assert asked.is_set()
        assert spooling.deps.breaker.is_open
        await assert_spooled(spooling, b"two", b"three")
    async with listening():
        await until(lambda: set(taker.bodies) == {b"one", b"two", b"three"})


async def test_webhooks_beyond_those_that_may_wait_for_a_service_that_hangs_do_not_wait(
    spooling, silent_peer, nats_server, monkeypatch
):
    monkeypatch.setattr(drain, "_MOST_WAITING", 1)
    async with silent_peer(nats_server.url, INGEST_WEBHOOK) as asked:
        waiting = asyncio.create_task(assert_spooled(spooling, b"one"))
        await asked.wait()
        assert not spooling.deps.breaker.is_open
        await assert_spooled(spooling, b"two")
        await waiting


async def test_webhook_that_is_refused_again_and_again_is_put_aside_and_holds_up_nobody(
    spooling, listening, taker, tmp_path, monkeypatch
):
    monkeypatch.setattr(drain, "_LONGEST_PAUSE", 0.25)
    taker.trouble = {b"poison": ValueError("a bug")}
    await assert_spooled(spooling, b"poison", *(b"%d" % number for number in range(30)))
    async with listening():
        await until(lambda: len(taker.taken) == 30)
        while list((tmp_path / "spool").glob("*.seg")):
            await assert_taken_at_once(spooling, b"direct")
            await asyncio.sleep(0.1)
    [rejected] = (tmp_path / "spool").glob("*.rejected")
    assert [record.body for record in decode(rejected.read_bytes()).records] == [b"poison"]
    # An operator tries again what was put aside, once the bug is gone.
    taker.trouble = {}
    rejected.rename(rejected.with_suffix(".seg"))
    async with listening():
        await until(lambda: b"poison" in taker.bodies)


async def test_webhook_that_the_service_stumbles_over_is_kept_and_the_next_one_is_taken_at_once(
    spooling, listening, taker
):
    taker.trouble = {b"poison": ValueError("a bug")}
    async with listening():
        await assert_spooled(spooling, b"poison")
        assert not spooling.deps.breaker.is_open
        await assert_taken_at_once(spooling, b"next")
        taker.trouble = {}
        await until(lambda: b"poison" in taker.bodies)


async def test_webhook_that_alone_finds_nobody_holds_up_nobody_and_is_put_aside_in_the_end(
    spooling, listening, taker, tmp_path, monkeypatch
):
    monkeypatch.setattr(drain, "_TOO_MUCH", 2)
    # As when its event is larger than the stream takes.
    taker.trouble = {b"outcast": Unavailable("the stream does not take it")}
    async with listening():
        await assert_spooled(spooling, b"outcast")
        for number in range(1000):
            if list((tmp_path / "spool").glob("*.rejected")):
                break
            await report(spooling, b"%d" % number)
            await asyncio.sleep(0.1)
        await until(lambda: not list((tmp_path / "spool").glob("*.seg")))
    assert len(set(taker.bodies)) == number
    [rejected] = (tmp_path / "spool").glob("*.rejected")
    assert [record.body for record in decode(rejected.read_bytes()).records] == [b"outcast"]


async def test_nothing_is_put_aside_while_nobody_answers_at_all(spooling, listening, taker, tmp_path, monkeypatch):
    monkeypatch.setattr(drain, "_TOO_MUCH", 1)
    monkeypatch.setattr(drain, "_LONGEST_PAUSE", 0.05)
    await assert_spooled(spooling, b"one", b"two")
    for _ in range(5):
        await assert_spooled(spooling, b"three")
        await asyncio.sleep(0.3)
    async with listening():
        await until(lambda: not list((tmp_path / "spool").glob("*.seg")))
    assert set(taker.bodies) == {b"one", b"two", b"three"}
    assert not list((tmp_path / "spool").glob("*.rejected"))


async def test_nothing_is_put_aside_by_a_service_that_stumbles_over_everything(
    spooling, listening, taker, tmp_path, monkeypatch
):
    monkeypatch.setattr(drain, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(drain, "_LONGEST_PAUSE", 0.01)
    bodies = {b"one", b"two", b"three"}
    # As after an upgrade that went wrong, until the next one.
    taker.trouble = {body: ValueError("a bug") for body in bodies}
    async with listening():
        await assert_spooled(spooling, *bodies)
        await until(lambda: taker.refused > 300 or list((tmp_path / "spool").glob("*.rejected")))
        taker.trouble = {}
        await until(lambda: not list((tmp_path / "spool").glob("*.seg")))
    assert set(taker.bodies) == bodies
    assert not list((tmp_path / "spool").glob("*.rejected"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {"type": "tool-calls", "toolCallList": [{"id": "c1", "name": "book"}]},
            {"results": [{"toolCallId": "c1", "name": "book", "error": "No tool named book is available."}]},
        ),
        ({"type": "transfer-destination-request"}, {"error": "No transfer destination is available."}),
        ({"type": "knowledge-base-request"}, {"documents": []}),
        ({"type": "campaign.predial"}, {"eligible": False}),
        ({"type": "end-of-call-report"}, {"ok": True}),
        ({"no": "type"}, {"ok": True}),
    ],
)
async def test_type_that_wants_an_answer_gets_it_while_the_service_is_away(spooling, message, expected):
    answer = await report(spooling, json.dumps({"message": message}).encode())
    assert (answer.status_code, answer.headers["x-stored"], answer.json()) == (200, "spool", expected)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
async def test_bytes_that_are_no_message_are_kept_too(spooling, body):
    answer = await report(spooling, body)
    assert (answer.status_code, answer.headers["x-stored"], answer.json()) == (200, "spool", {"ok": True})


async def test_strangers_reach_no_spool(spooling, tmp_path):
    answer = await spooling.client.post(PATH, content=b"{}")
    spooling.is_problem(answer, 401, "webhook_auth_failed")
    assert not (tmp_path / "spool").exists()


async def test_full_spool_is_503_and_the_service_is_asked_all_the_same(
    running, dsn, nats_server, listening, taker, tmp_path
):
    options = {"spool_dir": tmp_path / "spool", "spool_max_bytes": 1024**2}
    too_large = b"x" * 2_000_000
    async with running(dsn, nats_server.url, **options) as gateway:
        answer = await report(gateway, too_large)
        gateway.is_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert gateway.deps.breaker.is_open
        async with listening():
            await assert_taken_at_once(gateway, too_large)


@asynccontextmanager
async def small_nats(program, folder):
    """A NATS that takes small messages only."""
    with reserved_port() as port:
        (folder / "nats.conf").write_text(f"listen: 127.0.0.1:{port}\nmax_payload: 100KB\n")
        child = Child("nats", [program, "--config", str(folder / "nats.conf")], {}, folder / "nats.log")
        await child.start()
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            await child.stop()


async def test_webhook_larger_than_a_nats_message_is_413(running, dsn, nats_server, tmp_path):
    async with (
        small_nats(nats_server.child.argv[0], tmp_path) as url,
        running(dsn, url, spool_dir=tmp_path / "spool") as gateway,
    ):
        await until(gateway.deps.bus.connected)
        gateway.is_problem(await report(gateway, b"x" * 100_000), 413, "payload_too_large")
        await assert_spooled(gateway, b"x" * 50_000)


async def test_webhooks_of_one_process_are_drained_by_the_next(running, dsn, nats_server, listening, taker, tmp_path):
    options = {"spool_dir": tmp_path / "spool"}
    async with running(dsn, nats_server.url, **options) as gateway:
        await assert_spooled(gateway, b"one", b"two")
    assert {path.suffix for path in (tmp_path / "spool").iterdir()} == {".seg"}
    async with listening(), running(dsn, nats_server.url, **options) as gateway:
        await until(lambda: taker.bodies == [b"one", b"two"])
        await until(lambda: {path.suffix for path in (tmp_path / "spool").iterdir()} == {".done"})


async def measured(gateway):
    """The spool's figures, as /metrics shows them."""
    text = (await gateway.client.get("/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^boostedcalls_(\w+) (\S+)$", text, re.MULTILINE)}


async def nothing_waits(gateway):
    return (await measured(gateway))["spool_records"] == 0


async def test_metrics_tell_what_waits_and_what_was_drained(spooling, listening, taker):
    before = await measured(spooling)
    await assert_spooled(spooling, b"one", b"two", b"three")
    during = await measured(spooling)
    assert (during["breaker_open"], during["spool_records"]) == (1, 3)
    assert during["spool_bytes"] > 300
    assert during["spool_oldest_seconds"] >= 0
    async with listening():
        await until(lambda: len(taker.taken) == 3)
        await assert_taken_at_once(spooling, b"direct")
        after = await measured(spooling)
        assert (after["breaker_open"], after["spool_drained_total"] - before["spool_drained_total"]) == (0, 3)
        await until(lambda: nothing_waits(spooling))


async def is_ready(gateway):
    return (await gateway.client.get("/readyz")).status_code == 200


async def test_gateway_that_starts_while_nats_and_its_database_are_away_takes_webhooks(
    running, dsn, nats_server, postgres_server, listening, taker, tmp_path
):
    login = {"username": "nobody@example.com", "password": "some password"}
    async with AsyncExitStack() as back:
        for server in (nats_server, postgres_server):
            await server.stop()
            back.push_async_callback(server.start)
        async with running(dsn, nats_server.url, spool_dir=tmp_path / "spool") as gateway:
            assert (await gateway.client.get("/healthz")).status_code == 200
            ready = await gateway.client.get("/readyz")
            assert (ready.status_code, ready.json()) == (503, {"nats": False, "database": False})
            await assert_spooled(gateway, b"one", b"two")
            gateway.is_problem(await gateway.client.post("/api/token/", json=login), 503, "unavailable")
            contacts = await gateway.client.get("/api/contacts/", headers=gateway.bearer())
            gateway.is_problem(contacts, 503, "unavailable")
            await back.aclose()
            async with listening():
                await until(lambda: taker.bodies == [b"one", b"two"])
                await assert_taken_at_once(gateway, b"direct")
            await until(lambda: is_ready(gateway))
            gateway.is_problem(await gateway.client.post("/api/token/", json=login), 401, "credentials_invalid")
