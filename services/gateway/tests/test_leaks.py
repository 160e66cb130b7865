"""Broken requests to every route, over a raw socket: no answer names a library, a file, or an exception of ours."""

import asyncio
import gzip
import re
from uuid import uuid4

import orjson
import pytest

from boostedcalls.gateway.app import api_document
from boostedcalls.gateway.examples import REQUESTS

NAMES = re.compile(
    rb"(?i:uvicorn|starlette|fastapi|pydantic|httptools|llhttp|orjson|jiter|asyncpg|uvloop|argon2|pyjwt|prometheus|nats-py"
    rb"|python|traceback|site-packages|postgres|boostedcalls\.|/usr/|/home/|/app/|\.py\b|line \d+, in)"
    rb"|File \"|\b[A-Z][A-Za-z]+(?:Error|Exception)\b|<[a-z_.]+ object|\b0x[0-9a-f]{6,}"
)
ROUTES = [
    (method.upper(), path, operation["operationId"])
    for path, methods in api_document()["paths"].items()
    for method, operation in methods.items()
]
# Their contents are for operators, and documented.
OPEN = {"/metrics", "/openapi.json", "/docs", "/readyz"}
WRONG = [None, True, 0, -1, 1e308, 2**64 - 1, "", "a\0b", "\u202e", "x" * 70_000, [], [[]], {}, {"a": {"b": None}}]
BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"\\ud800": 1}',
    b'{"__class__": 1, "__proto__": {}}',
    b"[" * 10_000,
    b'{"a":' * 500,
    b'{"username": {"$ne": null}, "password": {"$gt": ""}}',
    gzip.compress(b'{"name": "a"}'),
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
]
TYPES = [
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "a/b; charset=x",
    "application/json; charset=utf-7",
]
QUERIES = [
    "limit=a",
    "limit=-1&offset=-1",
    "limit=1e9",
    "cursor=%00",
    "cursor=%ff%fe",
    "status=x&status=y",
    "q=" + "a" * 5000,
]
QUERIES += [
    "created_after=now",
    "created_after=99999-01-01",
    "ordering=%27%3B--",
    "=&&=",
    "%",
    "a[b]=c",
    "search=%ED%A0%80",
]
IDS = [
    "0",
    "a" * 5000,
    "..",
    "%2e%2e",
    "%00",
    "%ff",
    "%25%30",
    "{}",
    "-1",
    "00000000-0000-0000-0000-00000000000g",
    ";a=b",
    "%0d%0aX-A:%20b",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY", "CONNECT", "BREW"]
HEADERS = [
    b"Authorization: Bearer x",
    b"Authorization: Bearer a.b.c",
    b"Authorization: Bearer \xff",
    b"Authorization: Basic YTpi",
    b"Authorization: " + b"a" * 10_000,
    b"Content-Encoding: gzip",
    b"Content-Type: \xff",
    b"Accept: text/html",
    b"Range: bytes=0-1",
    b"If-Match: *",
    b"Expect: nothing",
    b"X-Request-Id: \xff",
    b"traceparent: rubbish",
    b"Idempotency-Key: " + b"a" * 300,
    b"Idempotency-Key: \xe2\x80\xae",
    b"X-HTTP-Method-Override: DELETE",
    b"X-Forwarded-For: rubbish",
    b"Origin: null",
    b"Cookie: a=b",
    b"Host: a\r\nHost: b",
    b"Content-Length: 0\r\nContent-Length: 1",
    b"Transfer-Encoding: rubbish",
]


async def ask(port, method, path, headers=(), body=b""):
    """The whole answer, as its bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"Connection: close", *headers]
    # A GET without a body needs no length.
    if body or method in {"POST", "PUT", "PATCH"}:
        lines.append(b"Content-Length: %d" % len(body))
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    async with asyncio.timeout(60):
        try:
            found = await reader.read()
        finally:
            writer.close()
    return found


def assert_says_nothing(found, what):
    head, _, body = found.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    # Nobody is there behind the gateway: what gets past its own judgement is answered 503.
    assert status < 500 or status == 503, what
    assert not NAMES.search(head), (what, NAMES.search(head))
    assert not NAMES.search(body), (what, NAMES.search(body))
    assert b"\r\nserver:" not in head.lower()
    if status >= 400 and body:
        assert orjson.loads(body)["status"] == status, what
    assert b"content-security-policy" in head


def address(path, value=None):
    return re.sub(r"\{\w+\}", value or str(uuid4()), path)


JSON = b"Content-Type: application/json"


def requests(gateway, method, path, name):
    """Headers, method, path and body of everything that is tried on one route."""
    known = [f"{key}: {value}".encode() for key, value in gateway.bearer().items()]
    known.append(f"x-vapi-secret: {gateway.webhook_secret}".encode())
    example = REQUESTS.get(name)
    right = orjson.dumps(example) if example else b""
    for other in METHODS:
        yield known, other, address(path), b""
    for header in HEADERS:
        yield [header, JSON], method, address(path), right
        if not header.startswith(b"Authorization"):
            yield [*known, header], method, address(path), right
    for query in QUERIES:
        yield known, method, f"{address(path)}?{query}", right
    for value in IDS if "{" in path else ():
        yield [*known, JSON], method, address(path, value), right
    if method in {"POST", "PUT", "PATCH"}:
        yield from bodies(known, method, path, example or {})
    else:
        yield [*known, JSON], method, address(path), b'{"a": 1}'


def bodies(known, method, path, example):
    for body in BODIES:
        yield [*known, JSON], method, address(path), body
    for kind in TYPES:
        yield [*known, f"Content-Type: {kind}".encode()], method, address(path), b"a=b"
    for member in example:
        for value in WRONG:
            yield [*known, JSON], method, address(path), orjson.dumps({**example, member: value})


@pytest.mark.parametrize(("method", "path", "name"), [route for route in ROUTES if route[1] not in OPEN])
async def test_no_answer_of_a_route_says_what_it_is_made_of(gateway, method, path, name, attacks):
    port = int(gateway.url.rpartition(":")[2])
    tried = 0
    for headers, how, where, body in requests(gateway, method, path, name):
        assert_says_nothing(await ask(port, how, where, headers, body), (how, where[:80], headers, body[:80]))
        tried += 1
    attacks("Leak: broken requests to every route", tried)


async def test_no_answer_beside_the_routes_does_either(gateway, attacks):
    port = int(gateway.url.rpartition(":")[2])
    paths = [
        "/",
        "//",
        "/api",
        "/admin",
        "/.env",
        "/.git/config",
        "/docs/../etc/passwd",
        "/docs/..%2f..%2fetc",
        "/docs/a.py",
    ]
    paths += ["/static/", "/api/calls/webhook/x", "/" + "a" * 8000, "/%", "/%00", "/redoc", "/server-status", "*", "a"]
    for path in paths:
        for method in METHODS:
            assert_says_nothing(await ask(port, method, path), (method, path[:80]))
    for path in sorted(OPEN):
        for method in set(METHODS) - {"GET", "HEAD"}:
            assert_says_nothing(await ask(port, method, path), (method, path))
    attacks("Leak: broken requests beside the routes", len(METHODS) * len(paths) + len(OPEN) * (len(METHODS) - 2))
