"""The Idempotency-Key of POST /api/calls/: judged here, passed on inside the request, and told of in the answer."""

import orjson
import pytest

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.errors import problem
from boostedcalls.common.messages.base import Replayed
from boostedcalls.common.messages.calls import CREATE_CALL
from boostedcalls.gateway.app import api_document

KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
CALL = {"contact_id": "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e24"}


async def post(gateway, *keys, **more):
    """A call asked for, with so many headers of that name."""
    headers = [*gateway.bearer().items(), *((KEY, key) for key in keys)]
    return await gateway.client.post("/api/calls/", json={**CALL, **more}, headers=headers)


@pytest.fixture
def answered(gateway, nats_server, peer):
    """`async with answered(answer) as asked`: a calls service that answers so, or raises it; what it was asked."""

    def start(answer):
        asked = []

        async def handle(_, data):
            asked.append(orjson.loads(data))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return asked, peer(nats_server.url, Endpoint(CREATE_CALL.subject, handle))

    return start


@pytest.mark.parametrize("key", ["8e03978e-40d5-43dd-bc93-6894a57f9324", '"quoted"', "a b", "!", "~" * 255])
async def test_key_is_passed_on_as_it_is_beside_what_the_body_says(gateway, answered, key):
    asked, service = answered(b'{"id":"x"}')
    async with service:
        answer = await post(gateway, key, call_goals=["a", {"name": "b", "successCriteria": "c"}], metadata={})
    assert (answer.status_code, answer.content) == (201, b'{"id":"x"}')
    assert REPLAYED not in answer.headers
    goals = ["a", {"name": "b", "successCriteria": "c"}]
    assert asked == [{**CALL, "call_goals": goals, "metadata": {}, "idempotency_key": key}]


async def test_without_a_key_the_request_is_the_body_and_nothing_else(gateway, answered):
    asked, service = answered(b"{}")
    async with service:
        answer = await post(gateway, script_id=None)
    assert answer.status_code == 201
    assert asked == [{**CALL, "script_id": None}]


@pytest.mark.parametrize("key", [b"", b"a" * 256, "ä".encode(), b"\xff", b"a\x80", b"a\tb"])
async def test_key_of_the_wrong_shape_is_refused(gateway, answered, key):
    asked, service = answered(b"{}")
    async with service:
        answer = await post(gateway, key)
    found = gateway.is_problem(answer, 422, "validation_failed")
    assert [error["field"] for error in found["errors"]] == [KEY]
    assert asked == []


async def test_two_keys_are_refused_even_when_they_are_the_same(gateway, answered):
    asked, service = answered(b"{}")
    async with service:
        answers = [await post(gateway, "a", "b"), await post(gateway, "a", "a")]
    for answer in answers:
        found = gateway.is_problem(answer, 422, "validation_failed")
        assert [error["field"] for error in found["errors"]] == [KEY]
    assert asked == []


async def test_faults_of_key_and_body_are_told_together(gateway):
    answer = await post(gateway, "a" * 256, contact_id="nope")
    found = gateway.is_problem(answer, 422, "validation_failed")
    assert {error["field"] for error in found["errors"]} == {KEY, "contact_id"}


async def test_key_in_the_body_is_an_unknown_member(gateway, answered):
    asked, service = answered(b"{}")
    async with service:
        answer = await post(gateway, "key", idempotency_key="key")
    found = gateway.is_problem(answer, 422, "validation_failed")
    assert [error["field"] for error in found["errors"]] == ["idempotency_key"]
    assert asked == []


async def test_replayed_success_is_told_by_a_header_and_its_bytes_are_untouched(gateway, answered):
    body = b'{ "id": "x" ,"odd":1.50}'
    _, service = answered(Replayed(body))
    async with service:
        answer = await post(gateway, "key")
    assert (answer.status_code, answer.content, answer.headers[REPLAYED]) == (201, body, "true")
    assert answer.headers["content-type"] == "application/json"


async def test_replayed_problem_is_told_by_a_header_and_carries_this_requests_id(gateway, answered):
    error = problem("provider_error", "no such number", instance="/api/calls/x/")
    error.replayed = True
    _, service = answered(error)
    async with service:
        answer = await post(gateway, "key")
    found = gateway.is_problem(answer, 502, "provider_error")
    assert (found["detail"], found["instance"]) == ("no such number", "/api/calls/x/")
    assert answer.headers[REPLAYED] == "true"


async def test_problem_that_is_no_replay_says_nothing_of_one(gateway, answered):
    _, service = answered(problem("idempotency_key_in_use", retry_after=1))
    async with service:
        answer = await post(gateway, "key")
    gateway.is_problem(answer, 409, "idempotency_key_in_use")
    assert answer.headers["retry-after"] == "1"
    assert REPLAYED not in answer.headers


@pytest.mark.parametrize("path", ["/api/contacts/", "/api/scripts/"])
async def test_key_on_another_address_is_a_header_like_any_other(gateway, path):
    answer = await gateway.client.get(path, headers={**gateway.bearer(), KEY: "x" * 300})
    gateway.is_problem(answer, 503, "unavailable")


def test_document_names_the_header_of_the_request_and_those_of_the_answers():
    operation = api_document()["paths"]["/api/calls/"]["post"]
    (parameter,) = operation["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == (KEY, "header", False)
    assert parameter["schema"]["anyOf"][0]["maxLength"] == 255
    told = {status for status, said in operation["responses"].items() if REPLAYED in said.get("headers", {})}
    assert told == {"201", "502"}
    assert "idempotency_key_in_use" in operation["responses"]["409"]["description"]
    assert "idempotency_key_reused" in operation["responses"]["422"]["description"]
