"""The examples do what they say, against a running system."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from boostedcalls.devkit.stack import Stack

from .conftest import User

EXAMPLES = Path(__file__).parent.parent / "examples"


@asynccontextmanager
async def _subscriber(system: Stack, mode: str) -> AsyncGenerator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "subscribe.py"),
        mode,
        env={**os.environ, **{name: value for name, value in system.env.items() if name.startswith("NATS_")}},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def _read_until(lines: asyncio.StreamReader, *wanted: str) -> list[str]:
    """Lines up to the first that holds all the wanted words."""
    read: list[str] = []
    async with asyncio.timeout(30):
        while not read or not all(word in read[-1] for word in wanted):
            line = (await lines.readline()).decode()
            assert line, read
            read.append(line)
    return read


async def test_the_tour_walks_through_the_api_and_tidies_up(running: Stack, user: User) -> None:
    process = await asyncio.create_subprocess_exec(
        str(EXAMPLES / "tour.sh"),
        running.url,
        user.email,
        user.password,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    text = printed.decode()
    assert process.returncode == 0, text
    assert "\ncompleted\n" in text
    assert "Hi, shall we look around?" in text
    assert '{"message":"Contact deleted successfully."}' in text
    assert await user.found("/api/contacts/") == []
    assert await user.found("/api/scripts/") == []


async def test_the_core_subscriber_prints_events_as_they_happen(running: Stack, user: User) -> None:
    async with _subscriber(running, "core") as lines:
        heard = b""
        # It does not say when it has begun to listen.
        while not heard:
            await user.place_call("01")
            with contextlib.suppress(TimeoutError):
                heard = await asyncio.wait_for(lines.readline(), 2)
        call = await user.place_call("01")
        subject = f"bc.evt.call.status-changed.{user.id}.{call['id']} "
        await _read_until(lines, subject, '"status":"busy"')


async def test_the_durable_subscriber_goes_on_where_it_was_stopped(running: Stack, user: User) -> None:
    first = await user.wait_for(await user.place_call("01"))
    async with _subscriber(running, "durable") as lines:
        await _read_until(lines, first["id"], '"status":"busy"')
    # Nobody listens while this one is placed.
    second = await user.wait_for(await user.place_call("02"))
    async with _subscriber(running, "durable") as lines:
        read = await _read_until(lines, second["id"], '"status":"no-answer"')
    assert not [line for line in read if first["id"] in line and '"created' in line]
