"""Bodies that nobody should send, to every operation that takes one: the answer that api.md states, and nothing made.

They are generated from the request schemas of /openapi.json, so that a new member is tested without a line here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import orjson
import pytest

from boostedcalls.common.messages.base import MAX_BODY, MAX_METADATA_BYTES
from boostedcalls.gateway.rooms import MAX_STRANGERS_BODY

Json = dict[str, Any]

# A right body for each operation that takes one; `{contact_id}` and the like become real ids.
WRITES: dict[str, Json] = {
    "create_token": {"username": "nobody@example.com", "password": "12345678"},
    "refresh_token": {"refresh": "x"},
    "signup": {"email": "nobody@example.com", "password": "12345678"},
    "logout": {"refresh": "x"},
    "change_own_password": {"current_password": "12345678", "new_password": "12345678"},
    "create_call": {"contact_id": "{contact_id}"},
    "create_contact": {"name": "Jane", "phone": "+12025550100"},
    "replace_contact": {"name": "Jane", "phone": "+12025550100"},
    "update_contact": {"name": "Jane"},
    "create_script": {"name": "Pitch"},
    "replace_script": {"name": "Pitch"},
    "update_script": {"name": "Pitch"},
}
NOT_JSON = {
    "nothing": b"",
    "blank": b" ",
    "cut off": b'{"name": "Jane',
    "null": b"null",
    "array": b'[{"name": "Jane"}]',
    "text": b'"name"',
    "number": b"1",
    "garbage behind": b"{} x",
    "two objects": b"{}{}",
    "comma behind": b'{"name": "Jane",}',
    "NaN": b'{"name": NaN}',
    "infinity": b'{"metadata": {"a": -Infinity}}',
    "lone surrogate": b'{"name": "\\ud800"}',
    "no UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "Jane"}'.encode("utf-16"),
    "bare NUL": b'{"name": "a\x00b"}',
    "form": b"name=Jane&phone=%2B12025550100",
    "5,000 levels of arrays": b'{"metadata": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
    "2,500 levels of objects": b'{"a":' * 2_500 + b"1" + b"}" * 2_500,
}
SAMPLES = {"null": None, "boolean": True, "integer": 7, "number": 1.5, "string": "x", "array": [], "object": {}}
BAD_TEXT = {
    "uuid": ["nope", "", f"{uuid4()}0", "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e2g"],
    "email": ["", "nope", "a@", "@example.com", "a b@example.com", "a@example.com\n", "a@b@example.com"],
    "^[A-Z]{2}$": ["", "usa", "us", "U1", "ZZ", "US\n"],
}
BAD_METADATA = [
    {"a": "x" * MAX_METADATA_BYTES},
    {"a": "\x00"},
    {"a\x00": 1},
    {"a": [{"b": "\x00"}]},
    {"a": 10**30},
]


def wrong_values(schema: Json, refs: Json) -> Iterator[Any]:
    """Values that a member must not have: the wrong type, too long, too short, NUL, not of the form."""
    branches = [
        refs[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in schema.get("anyOf", [schema])
    ]
    types = {branch["type"] for branch in branches}
    yield from (value for name, value in SAMPLES.items() if name not in types)
    for branch in branches:
        if branch["type"] == "string":
            form = branch.get("format") or branch.get("pattern")
            yield from ([] if form is None else BAD_TEXT[form])
            yield "a\x00b" + "c" * 10
            yield "x" * (branch.get("maxLength", 100) + 1)
            yield "x" * (branch.get("minLength", 0 if form is None else 1) - 1) or None
        elif branch["type"] == "array":
            yield ["x"] * (branch["maxItems"] + 1)
            yield from ([item] for item in wrong_values(branch["items"], refs))
        elif "properties" in branch:
            yield from wrong_objects(branch, refs, {"name": "x"})
        else:
            yield from BAD_METADATA


def wrong_objects(schema: Json, refs: Json, right: Json) -> Iterator[Json]:
    """The right object with one thing wrong."""
    nullable = {name for name, member in schema["properties"].items() if {"type": "null"} in member.get("anyOf", [])}
    for name, member in schema["properties"].items():
        for value in wrong_values(member, refs):
            if value is not None or name not in nullable:
                yield {**right, name: value}
    for name in schema.get("required", []):
        yield {member: value for member, value in right.items() if member != name}
    yield {**right, "unknown": 1}
    yield {**right, "Name": "x"}
    yield {**right, "__proto__": {"name": "x"}}


def find(document: Json, operation: str) -> tuple[str, str, Json]:
    """Method, path and description of an operation."""
    for path, item in document["paths"].items():
        for method, spec in item.items():
            if spec["operationId"] == operation:
                return method.upper(), path, spec
    raise KeyError(operation)


def filled(value: Json, ids: Json) -> Json:
    return {name: item.format(**ids) if item == "{contact_id}" else item for name, item in value.items()}


def test_every_operation_with_a_body_is_tested(document):
    found = {
        spec["operationId"] for path in document["paths"].values() for spec in path.values() if "requestBody" in spec
    }
    assert found == WRITES.keys() | {"receive_webhook"}


@pytest.mark.parametrize("operation", WRITES)
async def test_body_that_is_no_json_object_is_malformed(owner, ids, document, is_problem, operation):
    method, path, _ = find(document, operation)
    for name, body in NOT_JSON.items():
        for media_type in ("application/json", "application/json; charset=utf-8"):
            headers = {"Content-Type": media_type}
            answer = await owner.http.request(method, path.format(**ids), content=body, headers=headers)
            assert answer.status_code == 400, f"{name}: {answer.text}"
            is_problem(answer, 400, "malformed_body")
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ";", "a"):
        body = json.dumps(filled(WRITES[operation], ids)).encode()
        headers = {"Content-Type": media_type}
        is_problem(
            await owner.http.request(method, path.format(**ids), content=body, headers=headers), 400, "malformed_body"
        )


@pytest.mark.parametrize("operation", WRITES)
async def test_member_of_the_wrong_shape_is_refused(owner, ids, document, is_problem, operation):
    method, path, spec = find(document, operation)
    refs = document["components"]["schemas"]
    schema = refs[spec["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert schema["additionalProperties"] is False
    accepted = []
    for body in wrong_objects(schema, refs, filled(WRITES[operation], ids)):
        answer = await owner.http.request(method, path.format(**ids), json=body)
        if answer.status_code != 422:
            accepted.append((answer.status_code, str(body)[:200]))
        else:
            is_problem(answer, 422, answer.json()["code"])
    assert accepted == []


@pytest.mark.parametrize("operation", WRITES)
async def test_numbers_that_json_readers_disagree_about_are_refused(owner, ids, document, operation):
    method, path, _ = find(document, operation)
    right = json.dumps(filled(WRITES[operation], ids))
    for number in ("1e999", "-1e400", "9" * 400, "9" * 5000):
        body = f'{right[:-1]}, "metadata": {{"a": {number}}}}}'
        answer = await owner.http.request(method, path.format(**ids), content=body)
        assert answer.status_code in {400, 422}, f"{number[:20]}: {answer.text}"


@pytest.mark.parametrize("operation", WRITES)
async def test_body_over_the_limit_is_too_large(owner, ids, document, is_problem, operation):
    method, path, _ = find(document, operation)
    limit = MAX_STRANGERS_BODY if operation in ("create_token", "refresh_token", "signup", "logout") else MAX_BODY

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(limit // 8192 + 1):
            yield b" " * 8192

    for body in (b" " * (limit + 1), b" " * (8 * MAX_BODY), chunks()):
        is_problem(await owner.http.request(method, path.format(**ids), content=body), 413, "payload_too_large")
    is_problem(await owner.http.request(method, path.format(**ids), content=b" " * limit), 400, "malformed_body")


async def test_members_at_their_limits_are_kept_whole(user):
    pad = MAX_METADATA_BYTES - len(orjson.dumps({"a": ""}))
    metadata = {"a": "x" * pad}
    email = "a" * 64 + "@" + ".".join(["b" * 63, "c" * 63, "d" * 57, "com"])
    contact = {"name": "ü" * 200, "email": email, "metadata": metadata}
    phone = "+1 (202) 555-0100".ljust(40, "-")
    made = await user.made("/api/contacts/", **contact, phone=phone)
    assert made == await user.found(f"/api/contacts/{made['id']}/")
    assert made | contact | {"phone": "+12025550100"} == made
    goal = {"name": "ü" * 200, "description": "ü" * 2000, "successCriteria": "ü" * 2000}
    texts = {"custom_prompt": "ü" * 20_000, "first_message": "ü" * 2000, "call_goals": ["ü" * 2000] * 49 + [goal]}
    script = {**texts, "name": "ü" * 200, "description": "ü" * 2000}
    kept = await user.made("/api/scripts/", **script)
    assert kept | script == kept == await user.found(f"/api/scripts/{kept['id']}/")
    call = {**texts, "assistant_id": "x" * 100, "phone_number_id": "x" * 100, "metadata": metadata}
    placed = await user.made("/api/calls/", contact_id=made["id"], script_id=kept["id"], **call)
    over = await user.wait_for(placed, lambda call: call["cost"] is not None)
    assert over | call | {"metadata": {**over["metadata"], **metadata}} == over
    assert (over["status"], over["contact"]["email"]) == ("completed", email)


async def test_last_of_two_members_of_the_same_name_counts(user):
    body = b'{"name": "first", "phone": "+12025550100", "name": "last"}'
    answer = await user.http.post("/api/contacts/", content=body)
    assert (answer.status_code, answer.json()["name"]) == (201, "last")
    assert await user.found("/api/contacts/") == [answer.json()]
