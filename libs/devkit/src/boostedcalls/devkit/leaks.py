"""Searches what leaves a system for what must not: the logs of its processes and servers, their metrics, and the events
for other services. The `stack` fixture does it with every stack of the tests, whose secrets and people's data serve as
canaries.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
import nats
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig

from boostedcalls.devkit.stack import Stack

_SECRET = re.compile(r"SECRET|PASSWORD|API_KEY|TOKEN|KEYS?$")
_SHORTEST = 12
# Whatever the values: how tokens and hashes look, the simulator's numbers and what is said in its calls.
_SHAPES = {
    "a token": re.compile(rb"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    "a password's hash": re.compile(rb"\$argon2id\$|pbkdf2_sha256\$\d"),
    "a telephone number": re.compile(rb"(?:\+|%2[Bb]|\\u002[Bb])1202555\d{4}"),
    "what was said": re.compile(rb"That sounds good to me|have noted that down for you|have reached my voicemail"),
    "an address that ends calls": re.compile(rb"/control/[\w-]{8,}|controlUrl\W+https?:"),
}
_EVENTS = ("CALL_EVENTS", "JOBS")
_MOST_EVENTS = 5_000


def secrets_of(env: Mapping[str, str]) -> dict[str, str]:
    """The secret values among a system's variables, by name; passwords inside addresses too."""
    found = {name: value for name, value in env.items() if _SECRET.search(name) and len(value) >= _SHORTEST}
    for name, value in env.items():
        with contextlib.suppress(ValueError):
            if (password := urlsplit(value.split(",")[0]).password) and len(unquote(password)) >= _SHORTEST:
                found[f"the password in {name}"] = unquote(password)
    return found


def search(outputs: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> list[str]:
    """What was found where, with the line, shortened; empty when all is well."""
    shapes = _SHAPES | {name: re.compile(re.escape(value.encode())) for name, value in secrets.items()}
    found: list[str] = []
    for where, data in outputs:
        for what, shape in shapes.items():
            if match := shape.search(data):
                start = data.rfind(b"\n", 0, match.start()) + 1
                line = data[max(start, match.start() - 300) : match.end() + 100].split(b"\n")[0]
                found.append(f"{what} in {where}: {line.decode(errors='replace')}")
    return found


def logs(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.log*"))]


async def live(stack: Stack) -> list[tuple[str, bytes]]:
    """Metrics and events of a running system; of what does not answer just now, nothing."""
    found: list[tuple[str, bytes]] = []
    async with httpx2.AsyncClient(timeout=2, trust_env=False) as http:
        for server in stack.services():
            with contextlib.suppress(httpx2.HTTPError):
                answer = await http.get(f"{server.url}/metrics")
                found.append((f"metrics of {server.child.name}", answer.content))
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(5):
            found += [event async for event in _events(stack)]
    return found


async def _events(stack: Stack) -> AsyncGenerator[tuple[str, bytes]]:
    client = await nats.connect(stack.nats_url.split(","), connect_timeout=1, max_reconnect_attempts=0)
    try:
        jetstream = client.jetstream()
        for stream in _EVENTS:
            config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=10)
            reader = await jetstream.pull_subscribe(">", stream=stream, config=config)
            left = min((await reader.consumer_info()).num_pending or 0, _MOST_EVENTS)
            while left > 0:
                for message in await reader.fetch(min(left, 256), timeout=2):
                    left -= 1
                    headers = "".join(f"{name}: {value}\n" for name, value in (message.headers or {}).items())
                    yield f"{stream} {message.subject}", headers.encode() + message.data
    finally:
        await client.close()
