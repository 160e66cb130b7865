"""Bodies that are begun and never finished, from whoever has proved nothing: against a gateway in a process of its own.

No webhooks service runs, so that a webhook which is let in is in the spool when it is answered.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import sys
from pathlib import Path
from time import time

import httpx2
import orjson
import pytest
import pytest_asyncio

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.messages.calls import PENDING_COUNT
from boostedcalls.gateway.app import build_app
from boostedcalls.gateway.rooms import MAX_IN_FLIGHT, MAX_STRANGERS, MAX_UNPROVED_BYTES

PATH = "/api/calls/webhook/"
MIB = 1024 * 1024
KEY = base64.b64encode(b"a key of 32 bytes for signatures").decode()
CROWD = MAX_IN_FLIGHT + 6
# Test and gateway are two processes on two processors, which others may use too.
PATIENCE = 30


def signed(body, seconds=0):
    stamp = str(int(time()) + seconds)
    digest = hmac.digest(base64.b64decode(KEY), f"id.{stamp}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "id", "webhook-timestamp": stamp, "webhook-signature": signature}


class Door:
    """A gateway's process, from outside."""

    def __init__(self, pid, address, client, gateway):
        self.pid = pid
        self.host, _, self.port = address.rpartition(":")
        self.client = client
        self.gateway = gateway

    def memory(self, name):
        """Bytes of the process's memory: VmRSS now, VmHWM at most so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))

    async def webhook(self, headers=None):
        headers = headers or {"x-vapi-secret": self.gateway.webhook_secret}
        return await self.client.post(PATH, content=b"{}", headers=headers)

    async def serves(self):
        """Assert that a correct webhook and a user's request are answered."""
        answer = await self.webhook()
        assert (answer.status_code, answer.headers["x-stored"]) == (200, "spool")
        answer = await self.client.get("/api/calls/pending-count/", headers=self.gateway.bearer())
        assert (answer.status_code, answer.json()) == (200, {"count": 0})
        assert (await self.client.get("/healthz")).status_code == 200

    async def takes_again(self):
        """Wait until strangers are let in again: the server learns of the end of a flood by and by."""
        for ask in (lambda: self.webhook(signed(b"{}")), self.login):
            async with asyncio.timeout(PATIENCE):
                while (await ask()).status_code == 503:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.05)
        assert (await self.webhook(signed(b"{}"))).status_code == 200
        assert (await self.login()).status_code == 401
        await self.serves()

    async def login(self):
        return await self.client.post("/api/token/", json={"username": "nobody@example.com", "password": "wrong"})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def door(dsn, nats_server, gateway, tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "DATABASE_URL": dsn,
        "NATS_URL": nats_server.url,
        "JWT_SECRET": gateway.jwt_secret,
        "VAPI_WEBHOOK_SECRET": gateway.webhook_secret,
        "STANDARD_WEBHOOKS_SECRET": KEY,
        "LOGIN_TRIES_PER_PAIR": "0",
        "LOGIN_TRIES_PER_ACCOUNT": "0",
        "LOGIN_TRIES_PER_ADDRESS": "0",
        "SPOOL_DIR": str(folder / "spool"),
        "HOST": "127.0.0.1",
        "PORT": "0",
    }
    command = [sys.executable, "-m", "boostedcalls.gateway"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, stderr=pipe)
    try:
        found = {}
        while "ready" not in found:
            entry = json.loads(await process.stderr.readline())
            found[entry["event"]] = entry
        # Nobody must wait for the reader of its log.
        reading = asyncio.create_task(process.stderr.read())
        address = found["listening"]["address"]
        async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE) as client:
            yield Door(process.pid, address, client, gateway)
        process.terminate()
        await reading
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
def users(peer, nats_server):
    async def count(_, __):
        return b'{"count":0}'

    return peer(nats_server.url, Endpoint(PENDING_COUNT.subject, count))


class Flood:
    """Connections that stay as they are until the block ends. `refused` grows with each that is answered."""

    def __init__(self, door):
        self.door = door
        self.refused = []
        self._writers = []
        self._tasks = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def begin(self, count, path, length, part, headers=None):
        """Send so many requests, of whose bodies, `length` bytes each, only this part comes."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{lines}\r\n"
        for _ in range(count):
            reader, writer = await asyncio.open_connection(self.door.host, self.door.port)
            self._writers.append(writer)
            writer.write(head.encode() + part)
            self._tasks.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader):
        status = (await reader.readline()).split(b" ")[1]
        text = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(text.partition("content-length: ")[2].partition("\r")[0])
        body = orjson.loads(await reader.readexactly(size))
        self.refused.append((int(status), body["code"], "retry-after: " in text))

    async def until_refused(self, count):
        async with asyncio.timeout(PATIENCE):
            while len(self.refused) < count:  # noqa: ASYNC110 - several tasks make it true
                await asyncio.sleep(0.02)


FULL = (503, "unavailable", True)


async def test_large_bodies_with_made_up_signatures_fill_neither_the_memory_nor_the_door(door, users, attacks):
    # All but one byte of what a webhook may have: 240 MiB in all.
    count, part = 60, b"x" * (4 * MIB - 1)
    async with users:
        await door.serves()
        before = door.memory("VmRSS")
        async with Flood(door) as flood:
            await flood.begin(count, PATH, 4 * MIB, part, signed(b"another body"))
            await flood.until_refused(count - MAX_UNPROVED_BYTES // len(part))
            await door.serves()
            assert set(flood.refused) == {FULL}
            assert door.memory("VmHWM") - before < 50 * 1024**2
        await door.takes_again()
    attacks("HTTP: flood of unfinished bodies", count)


@pytest.mark.parametrize(
    ("path", "kind", "held", "answer"),
    [
        (PATH, "signature", MAX_STRANGERS, FULL),
        (PATH, "old signature", 0, (401, "webhook_auth_failed", False)),
        (PATH, "nothing", 0, (401, "webhook_auth_failed", False)),
        ("/api/token/", "nothing", MAX_STRANGERS, FULL),
        ("/api/contacts/", "nothing", 0, (401, "token_invalid", False)),
    ],
)
async def test_many_unfinished_bodies_of_strangers_keep_nobody_else_out(door, users, path, kind, held, answer, attacks):
    headers = {"signature": signed(b"another"), "old signature": signed(b"another", -1000), "nothing": {}}[kind]
    async with users:
        async with Flood(door) as flood:
            await flood.begin(CROWD, path, 1000, b"x" * 10, headers)
            await flood.until_refused(CROWD - held)
            await door.serves()
            assert len(flood.refused) == CROWD - held
            assert set(flood.refused) == {answer}
        await door.takes_again()
    attacks("HTTP: flood of unfinished bodies", CROWD)


@pytest.mark.parametrize("path", ["/openapi.json", "/api/calls/", "/nothing", PATH])
async def test_answers_that_strangers_do_not_take_keep_nobody_else_out(gateway, client, path, attacks):
    """What the server does when its peer reads nothing: it waits before it writes on."""
    app = build_app(gateway.deps)
    scope = {"type": "http", "method": "POST" if path == PATH else "GET", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1"}
    waiting = 0

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def never(_):
        nonlocal waiting
        waiting += 1
        await asyncio.Event().wait()

    crowd = [asyncio.create_task(app({**scope, "headers": []}, receive, never)) for _ in range(CROWD)]
    try:
        while waiting < CROWD:  # noqa: ASYNC110 - several tasks make it true
            await asyncio.sleep(0)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as other:
            # Nobody is there to answer: it got past all that could refuse it.
            for answer in (
                await other.get("/api/calls/", headers=gateway.bearer()),
                await other.post(PATH, content=b"{}", headers={"x-vapi-secret": gateway.webhook_secret}),
            ):
                assert answer.json()["code"] == "unavailable"
                assert answer.json()["detail"] != "Too many requests at once"
            assert (await other.get("/openapi.json")).status_code == 200
    finally:
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    attacks("HTTP: answers not taken", CROWD)


@pytest.mark.parametrize("path", ["/api/token/", "/api/token", "/api/token/refresh/", "/api/auth/logout"])
async def test_open_addresses_take_small_bodies_only(gateway, client, path, attacks):
    fitting = b'{"pad":"' + b"x" * (16 * 1024 - 10) + b'"}'

    async def in_two():
        yield fitting
        yield b" "

    for content in (fitting, fitting + b" ", in_two()):
        answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
        if content is fitting:
            gateway.is_problem(answer, 422, "validation_failed")
        else:
            gateway.is_problem(answer, 413, "payload_too_large")
    attacks("HTTP: large bodies at open addresses", 2)
