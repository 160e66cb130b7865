"""Every path of the contract, with and without its slash; methods; and what every answer carries."""

import re
from uuid import uuid4

import pytest

from boostedcalls.gateway.app import api_document
from boostedcalls.gateway.examples import REQUESTS

OPERATIONS = [
    (method.upper(), path, operation["operationId"])
    for path, methods in api_document()["paths"].items()
    for method, operation in methods.items()
]
ALLOWED = {}
for _method, _path, _ in OPERATIONS:
    ALLOWED.setdefault(_path, set()).add(_method)


def address(path, slash):
    return re.sub(r"\{\w+\}", str(uuid4()), path).rstrip("/") + ("/" if slash else "")


@pytest.mark.parametrize(("method", "path", "name"), OPERATIONS)
async def test_path_answers_the_same_with_and_without_its_slash(gateway, method, path, name):
    found = []
    for slash in (True, False):
        answer = await gateway.client.request(
            method,
            address(path, slash),
            json=REQUESTS.get(name),
            headers={**gateway.bearer(), "x-vapi-secret": gateway.webhook_secret},
        )
        assert answer.headers["x-request-id"]
        assert not answer.is_redirect
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        found.append((answer.status_code, body.get("code")))
    assert found[0] == found[1]
    expected = {"create_token": 401, "refresh_token": 401, "logout": 204, "signup": 404, "change_own_password": 401}
    operations = {"healthz": 200, "readyz": 200, "metrics": 200}
    assert found[0][0] == {**expected, **operations}.get(name, 503)


@pytest.mark.parametrize("path", sorted(ALLOWED))
@pytest.mark.parametrize("slash", [True, False])
async def test_method_that_a_path_does_not_have_is_refused(gateway, path, slash):
    if path == "/api/auth/signup":
        return
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - ALLOWED[path]:
        answer = await gateway.client.request(method, address(path, slash))
        gateway.is_problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == ALLOWED[path], method


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/docs.js"])
async def test_documents_answer_with_and_without_a_slash(client, path):
    assert (await client.get(path)).content == (await client.get(path + "/")).content


@pytest.mark.parametrize("given", ["abc-123", "a.b:c_d", "x" * 100])
async def test_request_id_that_is_well_formed_is_kept(gateway, client, given):
    for path, status in (("/healthz", 200), ("/nothing", 404), ("/api/calls/", 401)):
        answer = await client.get(path, headers={"X-Request-Id": given})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, given)
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 101, "a\tb", "<script>"])
async def test_request_id_that_is_not_well_formed_is_replaced(client, given):
    answer = await client.get("/healthz", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 36


async def test_answer_does_not_name_the_server(client):
    assert "server" not in (await client.get("/healthz")).headers
