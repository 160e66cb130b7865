"""What is wrong about a request besides its body: parameters, paths, methods, headers, secrets, HTTP itself."""

from __future__ import annotations

import asyncio
import re

import orjson
import pytest

from boostedcalls.common.messages.base import MAX_WEBHOOK_BODY

CURSORS = ["", "nope", "!", "x" * 201, "=" * 32, "\x00"]
QUERIES = {
    "/api/calls/": {
        "page": ["0", "-1", "1.5", "one", "", "1000001", "9" * 400],
        "limit": ["0", "-1", "101", "1e1", "", " "],
        "cursor": CURSORS,
        "status": ["nope", "", "COMPLETED", "\x00"],
        "contact_id": ["nope", "", "\x00"],
        "script_id": ["nope", "", "null"],
        "created_from": [
            "yesterday",
            "",
            "2026-02-30T00:00:00Z",
            "2026-01-01T00:00:00",
            "0001-01-01T00:00:00+14:00",
            "0",
            "1.5",
            "1790000000",
        ],
        "created_to": ["now", "", "9999-12-31T23:59:59-14:00", "2026-01-01T25:00:00Z", "\x00", "0.5", "2026-01-01"],
    },
    "/api/contacts/": {"limit": ["0", "10001", "x", ""], "cursor": CURSORS, "q": ["", "\x00", "x" * 201]},
    "/api/scripts/": {"limit": ["0", "10001", "x", ""], "cursor": CURSORS},
}
NOWHERE = ["/", "/api", "/api/nope/", "/api/calls//", "/api//calls/", "/API/calls/", "/api/contacts/x/y/", "/docs/x.py"]
NOWHERE += ["/%00", "/%ff", "/api/%2e%2e/%2e%2e/etc/passwd", "/docs/%2e%2e/app.py", "/api/contacts/..%2f/"]
BAD_IDS = ["nope", "0", "%00", "%ff", "%0a", "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e2", "'; --", "x" * 5000]
HEADERS = [
    ("X-Request-Id", b"x" * 5000),
    ("X-Request-Id", b"two words"),
    ("X-Request-Id", "é\U0001f600".encode()),
    ("X-Request-Id", b""),
    ("traceparent", b"nonsense"),
    ("traceparent", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"),
    ("Accept", b"application/xml"),
    ("Accept-Encoding", b"\xff"),
    ("X-Forwarded-For", b"<script>"),
    ("Cookie", b"a=" + b"x" * 10_000),
]
LOGIN = b"POST /api/token/ HTTP/1.1\r\nHost: x\r\n"
NO_HTTP = [
    b"GET /api/calls/ HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    b"GET /api/calls/ HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /api/calls/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"NONSENSE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
    LOGIN + b"Content-Length: -1\r\n\r\n{}",
    LOGIN + b"Content-Length: ten\r\n\r\n{}",
    LOGIN + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    LOGIN + b"Transfer-Encoding: chunked\r\n\r\nnope\r\n",
    LOGIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]


async def test_query_parameter_out_of_its_range_is_refused(owner, ids, document, is_problem):
    for path, item in document["paths"].items():
        parameters = item.get("get", {}).get("parameters", [])
        assert {each["name"] for each in parameters if each["in"] == "query"} == QUERIES.get(path, {}).keys()
    accepted = []
    for path, parameters in QUERIES.items():
        for name, values in parameters.items():
            for value in values:
                answer = await owner.http.get(path, params={name: value})
                if answer.status_code == 422:
                    assert is_problem(answer, 422, "validation_failed")["errors"][0]["field"].startswith(name)
                else:
                    accepted.append((path, name, value[:50], answer.status_code))
    assert accepted == []


async def test_page_beyond_the_end_is_empty(owner):
    for page in (2, 1_000_000):
        found = await owner.found("/api/calls/", page=page, limit=100)
        assert found == {"total": 1, "page": page, "limit": 100, "total_pages": 1, "next_cursor": None, "data": []}


async def test_method_that_a_path_does_not_have_is_not_allowed(owner, ids, document, is_problem):
    for path, item in document["paths"].items():
        allowed = {method.upper() for method in item}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
            answer = await owner.http.request(method, path.format(**ids))
            is_problem(answer, 405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) == allowed, f"{method} {path}"


@pytest.mark.parametrize("path", NOWHERE)
async def test_path_that_leads_nowhere_is_not_found(owner, is_problem, path):
    is_problem(await owner.http.get(path), 404, "not_found")


async def test_id_that_is_no_uuid_is_refused(owner, ids, document, is_problem):
    for path, item in document["paths"].items():
        if (name := re.search(r"\{(\w+)\}", path)) is None:
            continue
        for method, spec in item.items():
            body = spec.get("requestBody") and spec["requestBody"]["content"]["application/json"]["example"]
            for bad in BAD_IDS:
                answer = await owner.http.request(method, path.replace(name[0], bad), json=body)
                found = is_problem(answer, 422, "validation_failed")
                assert [error["field"] for error in found["errors"]] == [name[1]]


async def test_webhook_without_the_right_secret_is_refused(running, owner, ids, is_problem):
    right = running.env["VAPI_WEBHOOK_SECRET"].encode()
    ended = orjson.dumps({"message": {"type": "status-update", "status": "ended", "call": {"id": ids["call_id"]}}})
    for given in (None, b"", b"wrong", right[:-1], right + b"x", right + b"\xff", right.upper(), b"x" * 10_000):
        headers = {} if given is None else {"x-vapi-secret": given}
        for body in (ended, b"{", b" " * (MAX_WEBHOOK_BODY)):
            answer = await owner.http.post("/api/calls/webhook/", content=body, headers=headers)
            is_problem(answer, 401, "webhook_auth_failed")
    large = b" " * (MAX_WEBHOOK_BODY + 1)
    answer = await owner.http.post("/api/calls/webhook/", content=large, headers={"x-vapi-secret": right})
    is_problem(answer, 413, "payload_too_large")


@pytest.mark.parametrize(("name", "value"), HEADERS)
async def test_header_that_makes_no_sense_does_no_harm(owner, ids, name, value):
    answer = await owner.http.get("/api/calls/", headers={name: value})
    assert (answer.status_code, answer.json()["total"]) == (200, 1)
    assert re.fullmatch(r"[\w.-]{1,128}", answer.headers["x-request-id"])


@pytest.mark.parametrize("raw", NO_HTTP)
async def test_what_is_no_http_is_a_bad_request(running, raw):
    host, _, port = running.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    answer = await reader.read(65536)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
