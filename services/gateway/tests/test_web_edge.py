"""What a browser is told with every answer, what web pages of others may do, and which port has what."""

import asyncio
import re
from dataclasses import replace

import httpx2
import pytest
import pytest_asyncio

from boostedcalls.common.http_exchange import SECURITY_HEADERS
from boostedcalls.gateway.app import build_app, build_operations
from boostedcalls.gateway.routes.operations import _ASSETS

EXPECTED = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
WEBHOOK = "/api/calls/webhook/"
PAGE = "https://app.example.com"
OTHER_PAGES = [
    "https://evil.example.com",
    "http://app.example.com",
    "https://app.example.com.evil.example",
    "https://app.example.com:444",
    "https://APP.example.com",
    "https://evil-app.example.com",
    "https://app.example.com/",
    "null",
    "*",
    "",
]


@pytest.fixture
def changed(gateway):
    """The same gateway with other settings, asked without a socket: `async with changed(...) as client`."""

    def make(build=build_app, **settings):
        app = build(replace(gateway.deps, settings=gateway.deps.settings.model_copy(update=settings)))
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_to_a_page(running, dsn, nats_server):
    async with running(dsn, nats_server.url, cors_origins=f"{PAGE},http://localhost:5173") as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 405),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("GET", "/docs/nothing", 404),
        ("OPTIONS", "/api/calls/", 405),
        ("GET", "/api/calls/", 401),
        ("POST", "/api/token/", 400),
        ("POST", WEBHOOK, 401),
        ("GET", WEBHOOK, 405),
    ],
)
async def test_every_answer_has_each_security_header_once(client, method, path, status):
    answer = await client.request(method, path)
    assert answer.status_code == status
    for name, value in EXPECTED.items():
        assert answer.headers.get_list(name) == [value]
    assert not answer.headers.keys() & {"server", "x-powered-by", "access-control-allow-origin", "vary"}


async def test_webhook_that_is_let_in_has_them_too(gateway):
    answer = await gateway.client.post(WEBHOOK, content=b"{}", headers={"x-vapi-secret": gateway.webhook_secret})
    assert answer.status_code == 503
    assert EXPECTED.items() <= answer.headers.items()


async def test_page_of_documents_runs_only_scripts_of_its_own(client):
    answer = await client.get("/docs")
    [policy] = answer.headers.get_list("content-security-policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["script-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "<script>" not in answer.text
    assert not re.search(r"\son[a-z]+=|style=|https?://", answer.text)
    for name in _ASSETS:
        asset = await client.get(f"/docs/{name}")
        assert asset.headers.get_list("cache-control") == ["max-age=3600"]
        assert asset.headers["x-content-type-options"] == "nosniff"


async def test_pages_of_others_are_told_nothing_where_none_is_configured(client, attacks):
    for origin in [PAGE, *OTHER_PAGES]:
        for method in ("OPTIONS", "GET", "POST"):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            answer = await client.request(method, "/api/calls/", headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    attacks("HTTP: pages of other origins", 3 * len([PAGE, *OTHER_PAGES]))


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/api/calls/", 401), ("/nothing", 404)])
async def test_page_that_is_configured_may_read_answers_and_errors(open_to_a_page, path, status):
    for origin in (PAGE, "http://localhost:5173"):
        answer = await open_to_a_page.client.get(path, headers={"Origin": origin})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_page_that_is_configured_may_send_what_the_api_takes(open_to_a_page):
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    answer = await open_to_a_page.client.options("/api/contacts/", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-max-age"] == "600"
    assert EXPECTED.items() <= answer.headers.items()


@pytest.mark.parametrize("origin", OTHER_PAGES)
async def test_page_that_is_not_configured_is_told_nothing(open_to_a_page, origin, attacks):
    for method in ("GET", "OPTIONS"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = await open_to_a_page.client.request(method, "/api/calls/", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
    attacks("HTTP: pages of other origins", 2)


async def test_webhook_is_for_no_page(open_to_a_page, attacks):
    secret = {"x-vapi-secret": open_to_a_page.webhook_secret}
    for method in ("OPTIONS", "POST"):
        headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST", **secret}
        answer = await open_to_a_page.client.request(method, WEBHOOK, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    attacks("HTTP: pages of other origins", 2)


OPERATIONS = ["/metrics", "/docs", "/docs/docs.js", "/openapi.json"]


@pytest.mark.parametrize("path", OPERATIONS)
async def test_what_is_for_operations_is_on_its_own_port_only(gateway, changed, path):
    async with changed(operations_port=1) as public, changed(build_operations, operations_port=1) as aside:
        gateway.is_problem(await public.get(path), 404, "not_found")
        assert (await aside.get(path)).status_code == 200


async def test_health_is_on_both_ports_and_the_api_on_one(gateway, changed):
    async with changed(operations_port=1) as public, changed(build_operations, operations_port=1) as aside:
        for client in (public, aside):
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).json() == {"nats": True, "database": True}
        gateway.is_problem(await public.get("/api/calls/"), 401, "token_invalid")
        for path in ("/api/calls/", "/api/token/", WEBHOOK):
            gateway.is_problem(await aside.post(path), 404, "not_found")


@pytest.mark.parametrize("build", [build_app, build_operations])
async def test_what_is_switched_off_is_nowhere(gateway, changed, build):
    port = 1 if build is build_operations else None
    async with changed(build, operations_port=port, docs_enabled=False, metrics_enabled=False) as client:
        for path in OPERATIONS:
            gateway.is_problem(await client.get(path), 404, "not_found")
    async with changed(build, operations_port=port, docs_enabled=False) as client:
        assert [(await client.get(path)).status_code for path in OPERATIONS] == [200, 404, 404, 404]


async def test_strangers_cannot_add_series_to_the_metrics(gateway, client, attacks):
    port = int(gateway.url.rpartition(":")[2])
    methods = ["PROPFIND", "TRACE", "MKCOL", "M-SEARCH", "UNSUBSCRIBE", "SOURCE", "QUERY", "LOCK"]
    for method in methods:
        for path in ("/a", "/api/calls/", WEBHOOK, "/api/calls/%00/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).split(b" ")[1] in {b"400", b"401", b"404", b"405"}
            writer.close()
    for number in range(50):
        assert (await client.get(f"/nothing/{number}")).status_code == 404
    found = set(
        re.findall(r'request_seconds_count\{(method="[^"]*",route="[^"]*")', (await client.get("/metrics")).text)
    )
    names = {re.findall(r'"([^"]*)"', one)[0] for one in found}
    assert names <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    assert "other" in names
    assert not [one for one in found if "/nothing" in one or "%00" in one]
    attacks("HTTP: names for the metrics", 4 * len(methods) + 50)
