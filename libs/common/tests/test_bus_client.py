"""What our client writes and reads is what nats-py's would."""

import asyncio
import contextlib

import pytest
import pytest_asyncio
from nats.aio.client import Client as NatsClient
from nats.errors import BadHeaderError, NoRespondersError
from nats.js.api import Header

from boostedcalls.common import subjects
from boostedcalls.common.bus.client import Client, written
from boostedcalls.common.context import new_id

ORDINARY = {f"ce-name-{place}": f"value {place}, with: a colon" for place in range(10)}
ODD = [
    {"one": "first\r\nsecond: forged"},
    {"one": "first\nsecond"},
    {"one": "a", "two": "b\r"},
    {" padded ": "  value\t"},
    {"": "nameless", "named": "x"},
    {"empty": ""},
    {"äpfel": "x"},
    {"umlaut": "äöü\u2028 \u00a0"},
    {"many": "x" * 5_000},
    {Header.EXPECTED_STREAM: "S"},
    {},
]


@pytest_asyncio.fixture(loop_scope="session")
async def pair(nats_server):
    clients = Client(), NatsClient()
    for client in clients:
        await client.connect(nats_server.url)
    yield clients
    for client in clients:
        await client.close()


async def received(sender: NatsClient, reader: NatsClient, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    got: asyncio.Future[tuple[dict[str, str], bytes]] = asyncio.get_running_loop().create_future()
    subject = f"odd.{new_id()}"

    async def take(message):
        got.set_result((message.headers, message.data))

    subscription = await reader.subscribe(subject, cb=take)
    # Not by `flush`, whose PING overtakes what waits to be sent.
    with contextlib.suppress(NoRespondersError):
        await reader.request(subjects.PING, b"")
    await sender.publish(subject, b"body\r\n", headers=headers)
    try:
        return await asyncio.wait_for(got, 5)
    finally:
        await subscription.unsubscribe()


@pytest.mark.parametrize("headers", [ORDINARY, *ODD])
async def test_headers_written_and_read_by_ours_are_those_of_nats_py(pair, headers):
    ours, theirs = pair
    try:
        wanted = await received(theirs, theirs, headers)
    except BadHeaderError:
        with pytest.raises(BadHeaderError):
            await received(ours, ours, headers)
        return
    assert await received(ours, theirs, headers) == wanted
    assert await received(theirs, ours, headers) == wanted


@pytest.mark.parametrize(
    "raw",
    [
        b"Name: value\r\nName:value\r\nOther:\tvalue \r\n\r\n",
        b"no colon\r\nin side: x\r\n: nameless\r\n  padded  : y\r\n",
        b"\xe4pfel: x\r\nvalue: \xff\xfe\r\nvalue-2: \xc3\xa4\x0b\r\n",
        "nbsp: \u00a0x\u00a0\r\nline: a\u2028b\x85c\r\n".encode(),
        b"lone: a\rb\nc\r\n",
        b"",
    ],
)
def test_header_block_is_read_as_nats_py_reads_it(raw):
    assert Client._parse_header_lines(raw) == NatsClient._parse_header_lines(raw)


def test_ordinary_headers_take_the_short_way_and_forged_ones_never_do():
    assert written(ORDINARY) is not None
    assert [written(headers) for headers in ODD[:2]] == [None, None]
