"""The process as an operator starts it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator

from boostedcalls.common.bus import NatsSettings, connect
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.messages.contacts import COUNT_CONTACTS, CREATE_CONTACT
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.devkit.net import http_status, reserved_port


@contextlib.asynccontextmanager
async def started(tmp_path, *arguments: str, **settings: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "boostedcalls.contacts",
        *arguments,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HEALTH_HOST": "127.0.0.1", **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_migrate_command_says_what_it_did(tmp_path, database):
    dsn = await database()
    for said in (b"contacts: 0001_contacts.sql, 0002_outbox.sql, 0010_row_security.sql\n", b"contacts: up to date\n"):
        async with started(tmp_path, "migrate", DATABASE_URL=dsn) as process:
            assert await process.communicate() == (said, b"")
            assert process.returncode == 0


async def test_process_serves_and_stops_in_order(tmp_path, database, nats_server):
    settings = {"DATABASE_URL": await database("contacts"), "NATS_URL": nats_server.url, "DEFAULT_REGION": "IN"}
    with reserved_port() as port:
        async with (
            started(tmp_path, **settings, HEALTH_PORT=str(port), DB_STATEMENT_CACHE="false") as process,
            contextlib.AsyncExitStack() as stack,
        ):
            while await http_status(port, "/readyz") != 200:
                assert process.returncode is None
                await asyncio.sleep(0.05)
            assert await http_status(port, "/metrics") == 200
            runtime = Runtime(RuntimeSettings(_env_file=None))
            bus = await connect(stack, runtime, NatsSettings(nats_url=nats_server.url, _env_file=None), "test")
            stack.callback(runtime.stop)
            who = caller(new_id())
            made = await bus.request(CREATE_CONTACT.subject, b'{"name":"a","phone":"9876543210"}', who)
            assert CREATE_CONTACT.response.model_validate_json(made).phone == "+919876543210"
            assert await bus.request(COUNT_CONTACTS.subject, b"", who) == b'{"count":1}'
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
            assert process.returncode == 0
            assert b"9876543210" not in errors


async def test_wrong_settings_end_the_process_with_one_line_that_names_them(tmp_path):
    async with started(tmp_path, DEFAULT_REGION="XX") as process:
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert errors.count(b"\n") == 1
        assert b"DEFAULT_REGION" in errors
