"""Bad input that the gateway judges alone: always a problem document that says what is wrong, never a 500."""

import asyncio

import pytest

from boostedcalls.gateway.rooms import MAX_STRANGERS_BODY

CONTACT = "/api/contacts/019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e24/"
CALL = "/api/calls/019c4a7d-7e0a-7b1e-9f5c-2d8a1c6e4b90/"
GOOD_CONTACT = {"name": "Jane Doe", "phone": "+1987654321"}
GOOD_CALL = {"contact_id": "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e24"}
GOOD_SCRIPT = {"name": "Support Script"}
# Nobody answers behind the gateway, so this is what becomes of a request it finds no fault with.
ACCEPTED = (503, "unavailable")


async def send(gateway, method, path, **options):
    return await gateway.client.request(
        method, path, headers={**gateway.bearer(), **options.pop("headers", {})}, **options
    )


def nested(depth):
    return b'{"name":"a","phone":"+12345","metadata":{"a":' + b"[" * depth + b"]" * depth + b"}}"


MALFORMED = {
    "nothing": b"",
    "blank": b"   ",
    "cut off": b'{"name": "Jane',
    "array": b"[]",
    "array of objects": b'[{"name": "Jane", "phone": "+12345"}]',
    "text": b'"name"',
    "number": b"1",
    "null": b"null",
    "two objects": b"{} {}",
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"metadata": {"a": -Infinity}}',
    "lone surrogate": b'{"name": "\\ud800"}',
    "lone surrogate in a name": b'{"\\udfff": 1}',
    "encoded surrogate": b'{"name": "\xed\xa0\x80"}',
    "no UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "depth of 300": nested(300),
    "depth of 100,000": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "number of 5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
    "single quotes": b"{'name': 'Jane'}",
    "comment": b'{"name": "a" /* b */}',
}


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/contacts/"), ("PATCH", CONTACT), ("POST", "/api/calls/")])
async def test_body_that_is_no_json_object_is_malformed(gateway, method, path, body):
    answer = await send(gateway, method, path, content=MALFORMED[body], headers={"Content-Type": "application/json"})
    gateway.is_problem(answer, 400, "malformed_body")


async def test_login_with_a_body_that_is_no_json_object_is_malformed(gateway, client):
    for body in MALFORMED.values():
        answer = await client.post("/api/token/", content=body, headers={"Content-Type": "application/json"})
        expected = (400, "malformed_body") if len(body) <= MAX_STRANGERS_BODY else (413, "payload_too_large")
        gateway.is_problem(answer, *expected)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", ACCEPTED),
        ("application/json; charset=utf-8", ACCEPTED),
        ("Application/JSON", ACCEPTED),
        ("application/merge-patch+json", ACCEPTED),
        (None, ACCEPTED),
        ("application/x-www-form-urlencoded", (400, "malformed_body")),
        ("multipart/form-data; boundary=x", (400, "malformed_body")),
        ("text/plain", (400, "malformed_body")),
        ("text/json", (400, "malformed_body")),
        ("nonsense", (400, "malformed_body")),
        ("", (400, "malformed_body")),
    ],
)
async def test_body_has_to_say_that_it_is_json(gateway, content_type, expected):
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await send(gateway, "POST", "/api/contacts/", content=b'{"name":"a","phone":"+123"}', headers=headers)
    gateway.is_problem(answer, *expected)


WRONG = [
    ("POST", "/api/contacts/", {"phone": "+12345"}, "name"),
    ("POST", "/api/contacts/", {"name": "a"}, "phone"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "name": ""}, "name"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "name": "a" * 201}, "name"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "name": "a\x00b"}, "name"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "name": 7}, "name"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "name": None}, "name"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "phone": 12345}, "phone"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "phone": "\x00123"}, "phone"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "email": "no address"}, "email"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "email": ""}, "email"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "metadata": []}, "metadata"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "metadata": {"a": "\x00"}}, "metadata"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "metadata": {"\x00": 1}}, "metadata"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "metadata": {"a": 2**64}}, "metadata"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "metadata": {"a": "x" * 17_000}}, "metadata"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "region": "usa"}, "region"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "id": "mine"}, "id"),
    ("POST", "/api/contacts/", {**GOOD_CONTACT, "user_id": "mine"}, "user_id"),
    ("PUT", CONTACT, {"name": "a"}, "phone"),
    ("PATCH", CONTACT, {"name": None}, "name"),
    ("PATCH", CONTACT, {"name": ""}, "name"),
    ("PATCH", CONTACT, {"unknown": 1}, "unknown"),
    ("POST", "/api/scripts/", {}, "name"),
    ("POST", "/api/scripts/", {**GOOD_SCRIPT, "description": "a" * 2001}, "description"),
    ("POST", "/api/scripts/", {**GOOD_SCRIPT, "custom_prompt": "a" * 20_001}, "custom_prompt"),
    ("POST", "/api/scripts/", {**GOOD_SCRIPT, "call_goals": "goal"}, "call_goals"),
    ("POST", "/api/scripts/", {**GOOD_SCRIPT, "call_goals": ["a"] * 51}, "call_goals"),
    ("POST", "/api/calls/", {}, "contact_id"),
    ("POST", "/api/calls/", {"contact_id": "me"}, "contact_id"),
    ("POST", "/api/calls/", {**GOOD_CALL, "script_id": "none"}, "script_id"),
    ("POST", "/api/calls/", {**GOOD_CALL, "assistant_id": "a" * 101}, "assistant_id"),
    ("POST", "/api/calls/", {**GOOD_CALL, "first_message": ["a"]}, "first_message"),
    ("POST", "/api/calls/", {**GOOD_CALL, "metadata": "a"}, "metadata"),
    ("POST", "/api/calls/", {**GOOD_CALL, "status": "completed"}, "status"),
    ("POST", "/api/calls/", {**GOOD_CALL, "contact": GOOD_CONTACT}, "contact"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), WRONG)
async def test_member_of_the_wrong_shape_is_named(gateway, method, path, body, field):
    found = gateway.is_problem(await send(gateway, method, path, json=body), 422, "validation_failed")
    assert [error["field"] for error in found["errors"]] == [field]
    assert all(error["message"] for error in found["errors"])


@pytest.mark.parametrize(
    ("goals", "field"),
    [
        ([1], "call_goals.0"),
        ([{}], "call_goals.0"),
        ([""], "call_goals.0"),
        (["a", {"name": "b", "x": 1}], "call_goals.1"),
    ],
)
async def test_goal_of_the_wrong_shape_is_named(gateway, goals, field):
    answer = await send(gateway, "POST", "/api/scripts/", json={**GOOD_SCRIPT, "call_goals": goals})
    found = gateway.is_problem(answer, 422, "validation_failed")
    assert all(error["field"].startswith(field) for error in found["errors"])


@pytest.mark.parametrize("body", [b'{"a":1e999}', b'{"a":[1e400]}', b'{"a":99999999999999999999}'])
async def test_number_that_json_readers_disagree_about_is_refused(gateway, body):
    content = b'{"name":"a","phone":"+12345","metadata":' + body + b"}"
    answer = await send(gateway, "POST", "/api/contacts/", content=content)
    gateway.is_problem(answer, 422, "validation_failed")


async def test_deep_metadata_within_the_limit_is_accepted(gateway):
    gateway.is_problem(await send(gateway, "POST", "/api/contacts/", content=nested(100)), *ACCEPTED)


async def test_body_wrong_in_many_places_gets_a_short_answer(gateway):
    body = {**GOOD_CONTACT, **{f"{'long' * 100}{number}": 1 for number in range(1000)}}
    found = gateway.is_problem(await send(gateway, "POST", "/api/contacts/", json=body), 422, "validation_failed")
    assert len(found["errors"]) == 50
    assert max(len(error["field"]) for error in found["errors"]) == 200


BAD_IDS = [
    "me",
    "0",
    "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e2",
    "%00",
    "%0a",
    "a%00b",
    "%ff",
    "%ed%a0%80",
    "..%2f",
    "'; --",
]


@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.parametrize(
    ("method", "template", "field", "body"),
    [
        ("GET", "/api/calls/{}/", "call_id", None),
        ("POST", "/api/calls/{}/cancel/", "call_id", None),
        ("POST", "/api/calls/{}/sync/", "call_id", None),
        ("GET", "/api/calls/{}/events/", "call_id", None),
        ("GET", "/api/contacts/{}/", "contact_id", None),
        ("PUT", "/api/contacts/{}/", "contact_id", GOOD_CONTACT),
        ("PATCH", "/api/contacts/{}/", "contact_id", {}),
        ("DELETE", "/api/contacts/{}/", "contact_id", None),
        ("GET", "/api/scripts/{}/", "script_id", None),
        ("PUT", "/api/scripts/{}/", "script_id", GOOD_SCRIPT),
        ("PATCH", "/api/scripts/{}/", "script_id", {}),
        ("DELETE", "/api/scripts/{}/", "script_id", None),
    ],
)
async def test_id_that_is_no_uuid_is_named(gateway, method, template, field, body, bad):
    answer = await send(gateway, method, template.format(bad), json=body)
    if "%2f" in bad:
        gateway.is_problem(answer, 404, "not_found")
    else:
        found = gateway.is_problem(answer, 422, "validation_failed")
        assert [error["field"] for error in found["errors"]] == [field]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/api/calls/", "page=0", "page"),
        ("/api/calls/", "page=-1", "page"),
        ("/api/calls/", "page=1000001", "page"),
        ("/api/calls/", "page=99999999999999999999999999", "page"),
        ("/api/calls/", "page=1.5", "page"),
        ("/api/calls/", "page=", "page"),
        ("/api/calls/", "page=one", "page"),
        ("/api/calls/", "limit=0", "limit"),
        ("/api/calls/", "limit=101", "limit"),
        ("/api/calls/", "limit=%00", "limit"),
        ("/api/calls/", "cursor=%00", "cursor"),
        ("/api/calls/", "cursor=a%20b", "cursor"),
        ("/api/calls/", "cursor=" + "a" * 201, "cursor"),
        ("/api/calls/", "status=done", "status.0"),
        ("/api/calls/", "status=busy&status=done", "status.1"),
        ("/api/calls/", "contact_id=me", "contact_id"),
        ("/api/calls/", "script_id=%ff", "script_id"),
        ("/api/calls/", "created_from=yesterday", "created_from"),
        ("/api/calls/", "created_from=2026-01-01T00:00:00", "created_from"),
        ("/api/calls/", "created_from=0001-01-01T00:00:00%2B14:00", "created_from"),
        ("/api/calls/", "created_to=9999-12-31T23:59:59-14:00", "created_to"),
        ("/api/contacts/", "limit=10001", "limit"),
        ("/api/contacts/", "limit=0", "limit"),
        ("/api/contacts/", "q=", "q"),
        ("/api/contacts/", "q=a%00b", "q"),
        ("/api/contacts/", "q=" + "a" * 201, "q"),
        ("/api/contacts/", "cursor=%C3%A9", "cursor"),
        ("/api/scripts/", "limit=-5", "limit"),
    ],
)
async def test_query_parameter_out_of_its_range_is_named(gateway, path, query, field):
    found = gateway.is_problem(await send(gateway, "GET", f"{path}?{query}"), 422, "validation_failed")
    assert [error["field"] for error in found["errors"]] == [field]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/calls/", "page=1&limit=100&unknown=1&utm_source=a"),
        ("/api/calls/", "status=busy&status=no-answer&created_from=2026-01-01T00:00:00Z"),
        ("/api/calls/", "created_from=2026-01-01T05:00:00%2B05:00"),
        ("/api/contacts/", "limit=10000&unknown=1"),
        ("/api/contacts/", "q=%F0%9F%98%80%20%25_'%22"),
        ("/api/contacts/", "q=%ff"),
        ("/api/scripts/", "q=a"),
    ],
)
async def test_query_that_is_in_order_or_unknown_passes(gateway, path, query):
    gateway.is_problem(await send(gateway, "GET", f"{path}?{query}"), *ACCEPTED)


PROTECTED = [
    ("GET", "/api/calls/"),
    ("POST", "/api/calls/"),
    ("GET", "/api/calls/pending-count/"),
    ("GET", "/api/calls/stats/"),
    ("GET", CALL),
    ("POST", f"{CALL}cancel/"),
    ("POST", f"{CALL}sync/"),
    ("GET", f"{CALL}events/"),
    ("GET", "/api/contacts/"),
    ("POST", "/api/contacts/"),
    ("GET", CONTACT),
    ("PUT", CONTACT),
    ("PATCH", CONTACT),
    ("DELETE", CONTACT),
    ("GET", "/api/scripts/"),
    ("POST", "/api/scripts/"),
    ("GET", CONTACT.replace("contacts", "scripts")),
    ("PUT", CONTACT.replace("contacts", "scripts")),
    ("PATCH", CONTACT.replace("contacts", "scripts")),
    ("DELETE", CONTACT.replace("contacts", "scripts")),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("body", [b"", b"{", b'{"name": 1}', b"[]"])
async def test_stranger_is_told_so_before_the_body_is_judged(gateway, client, method, path, body):
    answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    gateway.is_problem(answer, 401, "token_invalid")


async def test_stranger_is_told_so_before_ids_and_parameters_are_judged(gateway, client):
    for path in ("/api/calls/me/", "/api/calls/?page=0", "/api/contacts/me/", "/api/scripts/me/"):
        gateway.is_problem(await client.get(path), 401, "token_invalid")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/",
        "/api/nothing/",
        "/api/calls//",
        "//api/calls/",
        "/api/%00",
        "/api/calls/stats/%0a",
        "/healthz%0a",
        "/api/calls/a/b/c/",
        "/%ff",
    ],
)
async def test_address_that_does_not_exist_is_not_found(gateway, path):
    for method in ("GET", "POST", "DELETE"):
        gateway.is_problem(await send(gateway, method, path), 404, "not_found")


async def raw(gateway, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    writer.write(request)
    await writer.drain()
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "line",
    [b"GET /api/\xc3\xa9/ HTTP/1.1", b"GET /api/calls/?q=\xff HTTP/1.1", b"FOO /api/calls/ HTTP/1.1", b"nonsense"],
)
async def test_request_that_is_no_http_is_refused_and_the_next_one_served(gateway, client, line):
    answer = await raw(gateway, line + b"\r\nHost: a\r\n\r\n")
    assert answer.split()[1] in {b"400", b"401", b"404"}
    assert (await client.get("/healthz")).status_code == 200
