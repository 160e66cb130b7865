"""The provider's client against sockets that misbehave: what was certainly not sent is told from what is unclear."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from boostedcalls.calls.settings import ProviderSettings
from boostedcalls.calls.vapi import Limited, NotSent, Placed, ProviderError, Refused, Unclear, Vapi, open_vapi

from .conftest import SECRET

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _http(status: str, body: str = "", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


@asynccontextmanager
async def _peer(answer: bytes | None, seen: list[bytes] | None = None) -> AsyncGenerator[Vapi]:
    """A client of a socket that reads a request and sends these bytes (None: closes without an answer)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with AsyncExitStack() as stack:
        yield await open_vapi(stack, _settings(f"http://127.0.0.1:{port}"))
    server.close()
    await server.wait_closed()


def _settings(base: str, **more: Any) -> ProviderSettings:
    return ProviderSettings(
        vapi_api_key="key", vapi_base_url=base, call_signing_secret=SECRET, dispatch_read_timeout=0.5, **more
    )


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (_http("201 Created", '{"id": "p"}'), Placed({"id": "p"})),
        (_http("400 Bad Request", '{"message": ["a", "b"], "statusCode": 400}'), Refused(400, "a; b")),
        (_http("401 Unauthorized", '{"message": "Invalid Key"}'), Refused(401, "Invalid Key")),
        (_http("404 Not Found", "<html>"), Refused(404, "HTTP 404")),
        (_http("429 Too Many Requests", "{}", "Retry-After: 3\r\n"), Limited(3.0)),
        (_http("500 Internal Server Error", "{}"), Unclear("HTTP 500")),
        (_http("408 Request Timeout"), Unclear("HTTP 408")),
        (_http("409 Conflict"), Unclear("HTTP 409")),
        (_http("302 Found", "", "Location: http://127.0.0.1:9/\r\n"), Unclear("HTTP 302")),
        (_http("201 Created", "not json"), Unclear("an answer that is no JSON")),
        (_http("201 Created", '{"results": []}'), Unclear("an answer without a call id")),
        (_http("201 Created", "[]"), Unclear("an answer without a call id")),
        (None, Unclear("RemoteProtocolError")),
        (b"\x00\x01\x02\r\n\r\n", Unclear("RemoteProtocolError")),
    ],
)
async def test_each_answer_to_a_dial_is_told_apart(answer: bytes | None, outcome: object) -> None:
    seen: list[bytes] = []
    async with _peer(answer, seen) as vapi:
        assert await vapi.create_call({"name": "x"}) == outcome
    assert len(seen) == 1


async def test_a_dial_without_an_answer_in_time_is_unclear_and_sent_once() -> None:
    connections = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        vapi = await open_vapi(stack, _settings(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert await vapi.create_call({}) == Unclear("ReadTimeout")
    server.close()
    assert connections == 1


async def test_a_refused_connection_is_certainly_not_sent() -> None:
    async with AsyncExitStack() as stack:
        vapi = await open_vapi(stack, _settings("http://127.0.0.1:9"))
        assert await vapi.create_call({}) == NotSent("ConnectError")


@pytest.mark.parametrize(
    ("answer", "status"),
    [(_http("404 Not Found", '{"message": "no"}'), 404), (_http("200 OK", "["), 200), (None, None)],
)
async def test_a_question_that_fails_says_with_what_status(answer: bytes | None, status: int | None) -> None:
    async with _peer(answer) as vapi:
        with pytest.raises(ProviderError) as caught:
            await vapi.get_call("p")
    assert caught.value.status == status


async def test_a_full_list_is_read_again_in_halves_until_nothing_is_cut_off() -> None:
    start = datetime(2026, 11, 22, tzinfo=UTC)
    created = [start + timedelta(seconds=second % 600, milliseconds=second) for second in range(2500)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from urllib.parse import parse_qs, urlsplit

        import orjson

        target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        query = parse_qs(urlsplit(target).query)
        since, until = (datetime.fromisoformat(query[name][0]) for name in ("createdAtGe", "createdAtLe"))
        found = [{"id": str(n)} for n, at in enumerate(created) if since <= at <= until][: int(query["limit"][0])]
        body = orjson.dumps(found)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        vapi = await open_vapi(stack, _settings(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        listed = await vapi.list_calls(start, start + timedelta(seconds=700))
    server.close()
    assert {call["id"] for call in listed} == {str(n) for n in range(2500)}


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://phone-call-websocket.aws-us-west-2-backend-production1.vapi.ai/x/control", True),
        ("https://vapi.ai/x/control", True),
        ("http://a.vapi.ai/x/control", False),
        ("https://vapi.ai.evil.test/x", False),
        ("https://evilvapi.ai/x", False),
        ("https://user@a.vapi.ai/x", False),
        ("https://a.vapi.ai:8443/x", False),
        ("https://a.vapi.ai:99999/x", False),
        ("http://127.0.0.1:4001/x/control", True),
        ("http://127.0.0.1:4002/x/control", False),
        ("http://169.254.169.254/latest", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
async def test_only_the_providers_own_addresses_may_be_posted_to(url: str, allowed: bool) -> None:
    async with AsyncExitStack() as stack:
        vapi = await open_vapi(stack, _settings("http://127.0.0.1:4001"))
        assert vapi.may_control(url) is allowed
        if not allowed:
            with pytest.raises(ProviderError):
                await vapi.end_call(url)


async def test_hanging_up_does_not_show_our_key_to_the_control_url() -> None:
    seen: list[bytes] = []
    async with _peer(_http("200 OK"), seen) as vapi:
        await vapi.end_call(f"{vapi._base}/x/control")
    assert b"authorization" not in seen[0].lower()
