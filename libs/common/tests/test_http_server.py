"""The HTTP server by its raw bytes: what is broken, endless or slow never costs an answer that is somebody else's, a
5xx, a hang, or memory."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.http_exchange import SECURITY_HEADERS, Limits
from boostedcalls.common.http_protocol import LATE
from boostedcalls.common.http_server import bind, serve_http
from boostedcalls.common.runtime import Runtime, RuntimeSettings

SHORT = Limits(head=0.3, body=0.3, answer=0.3, idle=0.6, linger=0.3)
PATIENCE = 30
LIBRARIES = (b"uvicorn", b"httptools", b"llhttp", b"starlette", b"python", b"traceback", b".py", b"error:")


class Server:
    """Answers each request with what it was; notes those of which it saw the end."""

    def __init__(self):
        self.seen = []
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.port = 0

    async def __call__(self, scope, receive, send):
        path, body = scope["path"], b""
        if path != "/deaf":
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                more = message["more_body"]
                if more and LATE in scope:
                    await answer(send, 408, b"late", (b"connection", b"close"))
                    return
        if path == "/wait":
            self.waiting.set()
            await self.gate.wait()
        self.seen.append((scope["method"], path, body))
        await answer(
            send, 200, b"x" * 20_000_000 if path == "/large" else orjson.dumps([scope["method"], path, len(body)])
        )

    def connect(self):
        return asyncio.open_connection("127.0.0.1", self.port)


async def answer(send, status, body, *more):
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(limits):
    async with AsyncExitStack() as stack:
        runtime = Runtime(RuntimeSettings(_env_file=None))
        server = Server()
        sock = bind("127.0.0.1", 0)
        server.port = sock.getsockname()[1]
        await serve_http(stack, runtime, server, sock, limits)
        stack.callback(runtime.stop)
        stack.callback(server.gate.set)
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient():
    async with serving(Limits()) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def short():
    async with serving(SHORT) as server:
        yield server


@pytest.fixture
def server(patient):
    patient.seen.clear()
    return patient


async def to_end(reader):
    """Everything until the server closes. A reset after an answer is an end too."""
    found = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while data := await reader.read(65536):
                found += data
        except ConnectionResetError:
            pass
    return found


async def exchange(server, data):
    """All that is answered to these bytes, after which the client has nothing more to say."""
    reader, writer = await server.connect()
    writer.write(data)
    try:
        return await to_end(reader)
    finally:
        writer.close()


def statuses(data):
    """The status of each answer; the bodies are cut out by their length."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        found.append(int(lines[0].split(b" ")[1]))
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        data = rest[int(headers[b"content-length"]) :]
    return found


HOST = b"Host: a\r\n"
CLOSE = b"Connection: close\r\n"
BROKEN = {
    "CL and TE": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two CLs that differ": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two CLs alike": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of CLs": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n\r\nhello",
    "TE that is not chunked": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "TE that only begins like it": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
    "chunked and then identity": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two TEs": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon of CL": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length : 5\r\n\r\nhello",
    "space before the colon of TE": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c: d\r\n\r\n",
    "folded TE": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "header that begins with a space": b"GET / HTTP/1.1\r\n X-A: b\r\n" + HOST + b"\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nX-A: b\n" + HOST + b"\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nX-A: b\rX-C: d\r\n" + HOST + b"\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nX-A: b\0c\r\n" + HOST + b"\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nX-\0A: b\r\n" + HOST + b"\r\n",
    "header without a name": b"GET / HTTP/1.1\r\n: b\r\n" + HOST + b"\r\n",
    "header without a colon": b"GET / HTTP/1.1\r\nX-A\r\n" + HOST + b"\r\n",
    "negative CL": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "signed CL": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello",
    "CL in hex": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x5\r\n\r\nhello",
    "CL with an underscore": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "CL beyond 64 bits": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "CL of a hundred digits": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\nhello",
    "empty CL": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n\r\nhello",
    "CL with a space in it": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5 6\r\n\r\nhello",
    "chunk size that is none": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n0\r\n\r\n",
    "negative chunk size": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
    "chunk size in 0x": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
    "chunk longer than it says": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "chunk without its size": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n\r\na\r\n0\r\n\r\n",
    "bare LF in a chunk": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
    "trailer": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Vapi-Secret: b\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 by name": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "method that is none": b"FETCH / HTTP/1.1\r\n" + HOST + b"\r\n",
    "method in small letters": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "address without a path": b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n",
    "target that is none": b"GET a HTTP/1.1\r\n" + HOST + b"\r\n",
    "target of other bytes": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "something after the version": b"GET / HTTP/1.1 x\r\n" + HOST + b"\r\n",
    "upgrade with a body": b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
    "greeting of TLS": bytes.fromhex("16030100c8010000c40303") + b"a" * 60,
    "greeting of SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "greeting of SMTP": b"EHLO example.com\r\n",
    "line of memcached": b"get key\r\n",
    "proxy protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "garbage": bytes(range(128, 256)) * 10,
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_request_is_one_400_that_names_nobody_and_the_end(server, attacks, name):
    # Whatever follows must not be taken for a request of its own, for an outer server may have seen it in a body.
    follows = b"GET /smuggled HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    for data in (BROKEN[name], BROKEN[name] + follows):
        found = await exchange(server, data)
        assert statuses(found) == [400], found
        assert all(b"%b: %b\r\n" % header in found for header in SECURITY_HEADERS)
        assert b"connection: close\r\n" in found
        assert not [word for word in LIBRARIES if word in found.lower()]
        body = orjson.loads(found.partition(b"\r\n\r\n")[2])
        assert (body["code"], body["status"]) == ("bad_request", 400)
    assert [path for _, path, _ in server.seen if path == "/smuggled"] == []
    attacks("HTTP: broken or ambiguous bytes", 2)


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_request_in_any_pieces_is_the_same(server, attacks, name):
    data = BROKEN[name]
    cuts = sorted({1, len(data) // 3, len(data) // 2, len(data) - 1})
    for cut in cuts:
        reader, writer = await server.connect()
        writer.write(data[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(data[cut:])
        assert statuses(await to_end(reader)) == [400]
        writer.close()
    attacks("HTTP: broken or ambiguous bytes", len(cuts))


UNUSUAL = {
    "absolute form": (b"GET http://b/x HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [("GET", "/x", b"")]),
    "two spaces in the request line": (b"GET  /x HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [("GET", "/x", b"")]),
    "empty lines before": (b"\r\n\r\nGET /x HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n", [("GET", "/x", b"")]),
    "HTTP/1.0": (b"GET /x HTTP/1.0\r\n\r\n", [("GET", "/x", b"")]),
    "no Host": (b"GET /x HTTP/1.1\r\n" + CLOSE + b"\r\n", [("GET", "/x", b"")]),
    "body of a GET": (b"GET /x HTTP/1.1\r\nContent-Length: 2\r\n" + CLOSE + b"\r\nab", [("GET", "/x", b"ab")]),
    "chunk extension": (
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n2;a=b\r\nab\r\n0\r\n\r\n",
        [("POST", "/x", b"ab")],
    ),
    "leading zeros of a chunk size": (
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n002\r\nab\r\n000\r\n\r\n",
        [("POST", "/x", b"ab")],
    ),
    "what follows the last request": (
        b"GET /x HTTP/1.1\r\n" + CLOSE + b"\r\nGET /y HTTP/1.1\r\n\r\n",
        [("GET", "/x", b"")],
    ),
    "upgrade to a websocket": (
        b"GET /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /y HTTP/1.1\r\n\r\n",
        [("GET", "/x", b"")],
    ),
    "upgrade to HTTP/2": (
        b"GET /x HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n",
        [("GET", "/x", b"")],
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
async def test_unusual_request_is_answered_once_and_nothing_after_it_counts(server, attacks, name):
    data, seen = UNUSUAL[name]
    assert statuses(await exchange(server, data)) == [200]
    assert server.seen == seen
    attacks("HTTP: unusual requests")


async def test_requests_in_a_row_are_answered_in_their_order_and_rubbish_after_them_by_nothing(server, attacks):
    """uvicorn answered the rubbish first, so that a 400 stood where the first answer belonged."""
    server.gate.clear()
    server.waiting.clear()
    reader, writer = await server.connect()
    writer.write(b"GET /wait HTTP/1.1\r\n\r\nPOST /second HTTP/1.1\r\nContent-Length: 1\r\n\r\na\0\0garbage\r\n\r\n")
    await server.waiting.wait()
    server.gate.set()
    found = await to_end(reader)
    writer.close()
    assert statuses(found) == [200, 200]
    assert [path for _, path, _ in server.seen] == ["/wait", "/second"]
    assert found.count(b"connection: close") == 1
    attacks("HTTP: pipelining", 1)


async def test_requests_in_a_row_beyond_the_cap_are_not_kept(server, attacks):
    """Each would be kept in memory, a hundred times as large as it came."""
    server.gate.clear()
    server.waiting.clear()
    reader, writer = await server.connect()
    writer.write(b"GET /wait HTTP/1.1\r\n\r\n" + b"GET /next HTTP/1.1\r\n\r\n" * 10_000)
    await server.waiting.wait()
    server.gate.set()
    assert statuses(await to_end(reader)) == [200] * (1 + Limits().waiting)
    writer.close()
    assert len(server.seen) == 1 + Limits().waiting
    attacks("HTTP: pipelining")


async def test_broken_body_behind_a_request_at_hand_costs_only_itself(server, attacks):
    server.gate.clear()
    server.waiting.clear()
    reader, writer = await server.connect()
    writer.write(b"GET /wait HTTP/1.1\r\n\r\nPOST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    await server.waiting.wait()
    server.gate.set()
    assert statuses(await to_end(reader)) == [200]
    writer.close()
    assert [path for _, path, _ in server.seen] == ["/wait"]
    attacks("HTTP: pipelining", 1)


async def test_body_that_breaks_after_its_request_was_answered_gets_no_second_answer(server, attacks):
    reader, writer = await server.connect()
    writer.write(b"POST /deaf HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"xyz\r\n")
    assert statuses(head + await to_end(reader)) == [200]
    writer.close()
    attacks("HTTP: pipelining", 1)


@pytest.mark.parametrize(
    ("name", "data"),
    {
        "long request line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        "long header": b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
        "long name": b"GET / HTTP/1.1\r\n" + b"a" * 70_000 + b": b\r\n\r\n",
        "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: b\r\n" % number for number in range(200)) + b"\r\n",
        "many long headers": b"GET / HTTP/1.1\r\n" + (b"X-A: " + b"a" * 1000 + b"\r\n") * 100 + b"\r\n",
        "header without an end": b"GET / HTTP/1.1\r\nX-A: " + b"a" * 300_000,
        "request line without an end": b"GET /" + b"a" * 300_000,
        "headers without an end": b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 30_000,
        "large head of a large request": b"POST / HTTP/1.1\r\nX-A: %b\r\nContent-Length: 100000\r\n\r\n"
        % (b"a" * 70_000)
        + b"b" * 100_000,
    }.items(),
)
async def test_head_that_is_too_large_is_one_431_and_the_end(server, attacks, name, data):
    found = await exchange(server, data)
    assert statuses(found) == [431], name
    assert orjson.loads(found.partition(b"\r\n\r\n")[2])["code"] == "headers_too_large"
    assert server.seen == []
    attacks("HTTP: oversize heads")


async def test_head_that_is_large_but_not_too_large_is_answered(server):
    head = b"GET / HTTP/1.1\r\nConnection: close\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 490) for n in range(126))
    assert 62_000 < len(head) < 65_536
    assert statuses(await exchange(server, head + b"\r\n")) == [200]
    body = b"b" * 300_000
    data = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert statuses(await exchange(server, data)) == [200]
    assert server.seen[-1][2] == body


@pytest.mark.parametrize("junk", [b"1;" + b"a" * 70_000 + b"\r\na\r\n", b"0\r\nX-A: " + b"a" * 300_000])
async def test_what_a_chunked_body_has_besides_its_content_is_bounded(server, attacks, junk):
    data = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await server.connect()
    writer.write(data)
    await asyncio.sleep(0.05)
    writer.write(junk)
    assert statuses(await to_end(reader)) == [400]
    writer.close()
    attacks("HTTP: oversize chunk lines")


async def test_body_in_chunks_of_one_byte_is_read(server):
    body = b"x" * 20_000
    data = b"POST /x HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = await exchange(server, data + b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n")
    assert statuses(found) == [200]
    assert server.seen == [("POST", "/x", body)]


# Slow ones. Each is let go; that it lasts no longer than it may is what the server's short limits are for.


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nX-A: b", b"\r\n"])
async def test_client_that_does_not_finish_its_head_is_let_go(short, attacks, begun):
    reader, writer = await short.connect()
    writer.write(begun)
    assert await to_end(reader) == b""
    writer.close()
    attacks("HTTP: slow heads")


@pytest.mark.parametrize("piece", [b"a", b"X-A: b\r\n", b"\r\n"])
async def test_client_that_trickles_its_head_is_let_go(short, attacks, piece):
    for before in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await short.connect()
        start = b"" if piece == b"\r\n" else b"GET / HTTP/1.1\r\n"
        writer.write(before + start)
        answered = await trickle(reader, writer, piece)
        assert statuses(answered) == ([200] if before else [])
    attacks("HTTP: slow heads", 2)


async def trickle(reader, writer, piece):
    """Write it again and again until the server closes; what the server said."""
    reading = asyncio.create_task(to_end(reader))
    async with asyncio.timeout(PATIENCE):
        while not reading.done():
            writer.write(piece)
            await asyncio.wait([reading], timeout=0.05)
    writer.close()
    return await reading


@pytest.mark.parametrize(
    ("head", "piece"),
    [(b"Content-Length: 100000\r\n\r\n", b"a"), (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n")],
)
async def test_body_that_trickles_is_told_so_and_let_go(short, attacks, head, piece):
    for path, status in ((b"/x", 408), (b"/deaf", 200)):
        reader, writer = await short.connect()
        writer.write(b"POST %b HTTP/1.1\r\n" % path + head)
        assert statuses(await trickle(reader, writer, piece)) == [status]
    attacks("HTTP: slow bodies", 2)


async def test_answer_reaches_a_client_whose_body_is_still_on_its_way(short, attacks):
    """Closed with bytes unread, a connection is reset, and the answer lost with it."""
    for _ in range(5):
        reader, writer = await short.connect()
        writer.write(b"POST /x HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n")
        found = await trickle(reader, writer, b"a" * 1000)
        assert statuses(found) == [408]
        assert b"connection: close" in found
    attacks("HTTP: slow bodies", 5)


async def test_body_that_does_not_come_is_told_so_and_let_go(short, attacks):
    for path, status in ((b"/x", 408), (b"/deaf", 200)):
        for expect in (b"", b"Expect: 100-continue\r\n"):
            reader, writer = await short.connect()
            writer.write(b"POST %b HTTP/1.1\r\nContent-Length: 5\r\n%b\r\nab" % (path, expect))
            found = (await to_end(reader)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert statuses(found) == [status]
            writer.close()
    attacks("HTTP: slow bodies", 4)


async def test_connection_without_a_request_is_closed_in_the_end(short):
    reader, writer = await short.connect()
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"]")
    assert await to_end(reader) == b""
    writer.close()


async def test_request_that_waits_long_for_its_answer_gets_it_and_so_does_the_one_behind_it(short):
    """No deadline of the client's runs while it is we who are slow."""
    short.gate.clear()
    short.waiting.clear()
    reader, writer = await short.connect()
    writer.write(b"GET /wait HTTP/1.1\r\n\r\nPOST /x HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\na")
    await short.waiting.wait()
    await asyncio.sleep(1.5)
    writer.write(b"b")
    short.gate.set()
    assert statuses(await to_end(reader)) == [200, 200]
    writer.close()


@pytest.mark.parametrize("closing", [b"", CLOSE])
async def test_client_that_does_not_read_is_let_go(short, attacks, closing):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", short.port))
        await loop.sock_sendall(sock, b"GET /large HTTP/1.1\r\n" + closing + b"\r\n" + b"GET /large HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            # The server resets the connection: that shows without a byte being read.
            while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    attacks("HTTP: slow readers")


async def test_connections_beyond_the_cap_are_refused_and_later_ones_served(attacks):
    async with serving(Limits(connections=3)) as server:
        held = [await server.connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"]")
        for _ in range(20):
            assert await exchange(server, b"GET / HTTP/1.1\r\n\r\n") == b""
        held[0][1].close()
        await held[0][1].wait_closed()
        async with asyncio.timeout(PATIENCE):
            while not (found := await exchange(server, b"GET / HTTP/1.1\r\n" + CLOSE + b"\r\n")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert statuses(found) == [200]
        for _, writer in held:
            writer.close()
    attacks("HTTP: more connections than there is room for", 20)


async def test_server_ends_while_slow_clients_are_connected(attacks):
    async with serving(Limits()) as server:
        clients = [await server.connect() for _ in range(4)]
        clients[1][1].write(b"GET / HT")
        clients[2][1].write(b"\0\0\0\0 garbage\r\n\r\n")
        clients[3][1].write(b"GET / HTTP/1.1\r\n\r\n")
        await clients[3][0].readuntil(b"]")
    for reader, writer in clients:
        await to_end(reader)
        writer.close()
