"""The OpenAPI document is complete, in step with the code and with itself, and its page asks nobody but us."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from boostedcalls.gateway.app import api_document
from boostedcalls.gateway.examples import ANSWERS, REQUESTS

DOCUMENT = api_document()
COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
PROBLEM = {"$ref": "#/components/schemas/Problem"}
OPEN = {"create_token", "refresh_token", "signup", "logout", "healthz", "readyz", "metrics"}


def check(schema, value):
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_committed_document_is_up_to_date():
    assert json.loads(COMMITTED.read_text()) == DOCUMENT, "run: python -m boostedcalls.gateway openapi"


async def test_served_document_is_the_committed_one(client):
    assert (await client.get("/openapi.json")).json() == DOCUMENT


def test_every_schema_is_one():
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere():
    for name in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"]["schemas"]
    assert '"$ref": "#/$defs' not in json.dumps(DOCUMENT)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_described_completely(name):
    path, method, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["tags"]
    assert bool(operation.get("security")) == (name not in OPEN)
    for parameter in re.findall(r"\{(\w+)\}", path):
        assert parameter in [found["name"] for found in operation["parameters"]]
    (success,) = [status for status in operation["responses"] if status.startswith("2")]
    if name not in {"logout", "change_own_password", "metrics"}:
        content = operation["responses"][success]["content"]["application/json"]
        assert content["schema"]
        check(content["schema"], content["example"])
        assert content["example"] == ANSWERS[name]
    if method in {"post", "put", "patch"} and name not in {"cancel_call", "sync_call"}:
        content = operation["requestBody"]["content"]["application/json"]
        check(content["schema"], content["example"])
        assert content["example"] == REQUESTS[name]
    for status, answer in operation["responses"].items():
        if status != success and name != "readyz":
            assert answer["content"] == {"application/problem+json": {"schema": PROBLEM}}
            assert answer["description"]


async def test_error_answers_are_as_documented(gateway, client):
    check(PROBLEM, DOCUMENT["components"]["schemas"]["Problem"]["examples"][0])
    for answer in [
        await client.get("/nothing"),
        await client.get("/api/calls/"),
        await client.post("/api/token/", json={}),
        await client.post("/api/token/", content=b"["),
        await client.put("/api/calls/"),
        await client.get("/api/calls/", headers=gateway.bearer()),
    ]:
        assert answer.is_error
        check(PROBLEM, answer.json())


async def test_health_answers_are_as_documented(client):
    for path in ("/healthz", "/readyz"):
        answer = await client.get(path)
        assert answer.status_code == 200
        check(
            DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"], answer.json()
        )


async def test_metrics_tell_of_requests_by_their_template(gateway, client):
    await client.get("/api/calls/019c4a7d-7e0a-7b1e-9f5c-2d8a1c6e4b90", headers=gateway.bearer())
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert (
        'boostedcalls_http_request_seconds_count{method="GET",route="/api/calls/{call_id}/",status="503"}'
        in answer.text
    )
    assert "019c4a7d" not in answer.text


async def test_docs_page_asks_nobody_but_us(client):
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(found) == 4
    script = (await client.get("/docs/docs.js")).text
    assert "validatorUrl: null" in script
    found += re.findall(r'url: "([^"]+)"', script)
    assert "//" not in page.text
    for path in found:
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert answer.content
        assert answer.headers["content-type"].split(";")[0] in {
            "text/css",
            "image/png",
            "text/javascript",
            "application/json",
        }


@pytest.mark.parametrize("name", ["nothing.js", "..", "%2e%2e%2fapp.py", "swagger-ui.LICENSE", "docs.html", "%00"])
async def test_docs_serve_their_own_files_only(gateway, client, name):
    answer = await client.get(f"/docs/{name}")
    if answer.status_code != 200 or name != "..":
        gateway.is_problem(answer, 404, "not_found")
