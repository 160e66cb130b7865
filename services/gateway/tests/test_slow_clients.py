"""Bodies that come too slowly, at every kind of address: 408, a problem document, and the end of the connection."""

import asyncio
import contextlib
from contextlib import AsyncExitStack

import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.http_exchange import Limits
from boostedcalls.common.http_server import bind, serve_http
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.gateway.app import build_app

PATIENCE = 30


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def port(gateway):
    """The same gateway on another port, with little patience."""
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(_env_file=None))
        sock = bind("127.0.0.1", 0)
        await serve_http(stack, runtime, build_app(gateway.deps), sock, Limits(head=0.3, body=0.3, answer=1))
        stack.callback(runtime.stop)
        yield sock.getsockname()[1]


async def to_end(reader):
    """Everything until the server closes. A reset after an answer is an end too."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(65536):
            found += data
    return found


async def trickle(port, head, piece):
    """Send the head, then a piece again and again until the server closes; what it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    reading = asyncio.create_task(to_end(reader))
    async with asyncio.timeout(PATIENCE):
        while not reading.done():
            writer.write(piece)
            await asyncio.wait([reading], timeout=0.05)
    writer.close()
    return await reading


@pytest.mark.parametrize(
    ("framing", "piece"),
    [("Content-Length: 9999", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n"), ("Content-Length: 9", b"")],
)
@pytest.mark.parametrize("path", ["/api/token/", "/api/contacts/", "/api/calls/", "/api/calls/webhook/"])
async def test_body_that_comes_too_slowly_is_a_408_and_the_end(gateway, port, path, framing, piece, attacks):
    secret = f"x-vapi-secret: {gateway.webhook_secret}\r\nAuthorization: {gateway.bearer()['Authorization']}"
    head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n{secret}\r\n{framing}\r\n\r\n"
    answer, _, body = (await trickle(port, head.encode(), piece)).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    assert b"content-type: application/problem+json" in answer
    assert orjson.loads(body)["code"] == "request_timeout"
    attacks("HTTP: slow bodies")


async def test_strangers_are_answered_without_their_body_and_let_go(port, attacks):
    for path in ("/api/contacts/", "/api/calls/webhook/", "/nothing", "/healthz"):
        head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        answer = await trickle(port, head.encode(), b" ")
        assert answer[9:12] in {b"401", b"404", b"405"}
        assert answer.count(b"HTTP/1.1") == 1
    attacks("HTTP: slow bodies", 4)


async def test_late_body_is_counted_as_what_it_was(gateway, port):
    head = b"POST /api/token/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
    assert b" 408 " in await trickle(port, head, b"")
    metrics = (await gateway.client.get("/metrics")).text
    assert 'route="/api/token/",status="408"' in metrics
