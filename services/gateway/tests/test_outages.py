"""What people see while something behind the gateway is away, slow or broken."""

import asyncio

import pytest

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.messages.calls import PENDING_COUNT
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.gateway import app

LOGIN = {"username": "user@example.com", "password": "some password"}


async def test_service_that_nobody_runs_is_unavailable(gateway, client):
    for path in ("/api/calls/", "/api/contacts/", "/api/scripts/", "/api/calls/stats/"):
        answer = await client.get(path, headers=gateway.bearer())
        gateway.is_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_service_that_does_not_answer_times_out(gateway, client, nats_server, silent_peer):
    async with silent_peer(nats_server.url, PENDING_COUNT.subject):
        answer = await client.get("/api/calls/pending-count/", headers=gateway.bearer())
        gateway.is_problem(answer, 504, "timeout")


@pytest.fixture
async def small(running, dsn, nats_server, monkeypatch):
    """A gateway with a place for one request of users."""
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 1)
    async with running(dsn, nats_server.url) as found:
        yield found


async def test_request_beyond_those_that_fit_is_unavailable(small, nats_server, silent_peer):
    path, client, headers = "/api/calls/pending-count/", small.client, small.bearer()
    async with silent_peer(nats_server.url, PENDING_COUNT.subject) as asked:
        waiting = asyncio.create_task(client.get(path, headers=headers))
        await asked.wait()
        answer = await client.get("/api/calls/", headers=headers)
        small.is_problem(answer, 503, "unavailable")
        assert answer.json()["detail"] == "Too many requests at once"
        assert int(answer.headers["retry-after"]) > 0
        # It lives: to be started anew would help nobody.
        for other in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(other)).status_code == 200
        small.is_problem(await waiting, 504, "timeout")
    assert (await client.get(path)).status_code == 401


async def test_webhook_is_taken_however_many_other_requests_wait(small, nats_server, peer, silent_peer):
    async def ingest(who, body):
        return b'{"ok":true}'

    async with (
        peer(nats_server.url, Endpoint(INGEST_WEBHOOK, ingest)),
        silent_peer(nats_server.url, PENDING_COUNT.subject) as asked,
    ):
        waiting = asyncio.create_task(small.client.get("/api/calls/pending-count/", headers=small.bearer()))
        await asked.wait()
        answer = await small.client.post(
            "/api/calls/webhook/", content=b"{}", headers={"x-vapi-secret": small.webhook_secret}
        )
        assert answer.status_code == 200
        await waiting


async def test_gateway_lives_on_without_nats_but_is_not_ready(gateway, client, nats_server):
    await nats_server.stop()
    try:
        answer = await client.get("/api/calls/", headers=gateway.bearer())
        gateway.is_problem(answer, 503, "unavailable")
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"nats": False, "database": True})
    finally:
        await nats_server.start()


async def test_gateway_lives_on_without_its_database_but_is_not_ready(gateway, client, postgres_server):
    user = await gateway.add_user()
    login = {"username": user.email, "password": gateway.password}
    await postgres_server.stop()
    try:
        answer = await client.post("/api/token/", json=login)
        gateway.is_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, False)
        # Tokens are checked without it.
        gateway.is_problem(await client.get("/api/calls/", headers=gateway.bearer()), 503, "unavailable")
    finally:
        await postgres_server.start()
    assert (await client.post("/api/token/", json=login)).status_code == 200


@pytest.fixture
async def broken(running, database, nats_server):
    """A gateway whose database was never migrated."""
    async with running(await database(), nats_server.url) as found:
        yield found


async def test_fault_of_our_own_says_nothing_of_its_cause(broken, capfd):
    answer = await broken.client.post("/api/token/", json=LOGIN)
    body = broken.is_problem(answer, 500, "internal_error")
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id", "error_id"}
    assert "auth" not in answer.text
    logged = "".join(capfd.readouterr())
    assert body["error_id"] in logged
    assert "UndefinedTableError" in logged
