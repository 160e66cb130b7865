"""What the attack suites share: a running system for each module, watched over the whole module.

When a module's suite is over its system must be as it was: no process restarted, none much larger, nothing answered
5xx, and every line of every log one JSON object.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import SERVICES, Stack
from boostedcalls.devkit.unlimited import UNLIMITED, UNTHROTTLED
from tests.watch import metric, streams

DATA = Path(__file__).parents[1] / "data"
# Attacks come faster than people work: what limits people is tested elsewhere.
SETTINGS = {
    **UNLIMITED,
    **UNTHROTTLED,
    "MAX_ACTIVE_CALLS_PER_USER": "100000",
    "AUDIT_EVERY": "1",
    "ACCESS_TOKEN_MINUTES": "60",
}
MAX_GROWTH = 50 * 1024 * 1024
# `make fuzz` sets all three; `make test` takes as many examples as fit into its time, always the same ones.
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS") or 0)
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0)
FUZZ_SEED = int(os.environ.get("FUZZ_SEED") or 5)
if FUZZ_SECONDS:
    # The call that "talks until it is told to end" is ended by the provider's limit of 600 s, times this. It is looked
    # at before and after.
    SETTINGS["SIMULATOR_SPEED"] = str(max(FUZZ_SECONDS / 300, 0.2))
# Also those beyond ASCII, by which a terminal is told things, and the line ends of Unicode.
_RAW_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")

Send = Callable[[bytes], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Thousands of requests take their time where many tests run at once."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(2 * FUZZ_SECONDS + 600))


def pytest_report_header() -> str:
    return f"attack suites: FUZZ_SECONDS={FUZZ_SECONDS} FUZZ_SEED={FUZZ_SEED}"


def json_suite() -> dict[str, bytes]:
    """The cases of nst/JSONTestSuite by name: `y_` is JSON, `n_` is none, `i_` is up to the reader."""
    lines = (DATA / "json-test-suite.txt").read_text(encoding="ascii").splitlines()
    found = {
        name: text.encode().decode("unicode_escape").encode("latin-1")
        for name, _, text in (line.partition(" ") for line in lines)
    }
    found["n_structure_100000_opening_arrays"] = b"[" * 100_000
    found["n_structure_open_array_object"] = b'[{"":' * 50_000 + b"\n"
    found["i_structure_500_nested_arrays"] = b"[" * 500 + b"]" * 500
    return found


def naughty_strings() -> list[str]:
    """minimaxir/big-list-of-naughty-strings, and what it lacks: control characters, every kind of line end, half an
    emoji, and text that would start a line of a log or a header anew."""
    more = ["".join(map(chr, range(1, 32))), "a\r\nX-Injected: 1", 'a\n{"event": "forged"}', "a\x85b\u2028c\u2029d"]
    more += [
        "\x7f\x80\x9b[31m",
        "\x1b[2J\x1b]0;title\x07",
        "\ufeff\ufffe\uffff",
        "\U0010ffff",
        "e\u0301" * 50,
        "%00%0a",
    ]
    more += ["${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "=1+1", "@SUM(1)", "\ud800", "\udfff", "a\x00b"]
    return [*json.loads((DATA / "blns.json").read_text()), *more]


def shown(answer: httpx2.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer without what differs between any two: its id and its time."""
    own = answer.headers["x-request-id"]
    headers = [(name, value) for name, value in answer.headers.items() if name not in {"x-request-id", "date"}]
    # The rest of an allowance differs from one request to the next, too.
    headers = [(name, value) for name, value in headers if not name.startswith("ratelimit")]
    return answer.status_code, headers, answer.content.replace(own.encode(), b"<own id>")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def served(system: Stack) -> dict[tuple[str, str, str], int]:
    """How many requests the gateway answered, by method, route and status."""
    async with httpx2.AsyncClient(base_url=system.url, timeout=30) as http:
        text = (await http.get("/metrics")).text
    pattern = r'^boostedcalls_http_request_seconds_count\{method="([^"]*)",route="([^"]*)",status="(\d+)"\} (\S+)$'
    return {(line[1], line[2], line[3]): int(float(line[4])) for line in re.finditer(pattern, text, re.MULTILINE)}


def broken_lines(log: Path, start: int) -> list[bytes]:
    """Lines from `start` that are not one JSON object each, or hold a control character as it is."""
    found = []
    for line in log.read_bytes()[start:].split(b"\n"):
        if not line:
            continue
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole or _RAW_CONTROL.search(line):
            found.append(line[:300])
    return found


@pytest.fixture(scope="module")
def explained() -> set[tuple[str, str, str]]:
    """Method, route and status of 5xx answers that a module expects; it overrides this."""
    return set()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(
    stack: StackFactory, fast: dict[str, str], explained: set[tuple[str, str, str]]
) -> AsyncGenerator[Stack]:
    """The module's own system. After the module: nothing restarted, grown, failed, or written where it should not."""
    async with stack(env=fast | SETTINGS) as system:
        members = {name: system.member(name) for name in (*SERVICES, "nats")}
        pids = {name: member.server.child.pid for name, member in members.items()}
        before = {name: resident(pid) for name, pid in pids.items()}
        # The first lines are those of the migrations, which talk to people.
        logged = {name: system.log(name).stat().st_size for name in SERVICES}
        yield system
        assert {name: member.server.child.pid for name, member in members.items()} == pids
        after = {name: resident(pid) for name, pid in pids.items()}
        for name in members:
            print(f"memory of {name}: {before[name] / 2**20:.1f} -> {after[name] / 2**20:.1f} MiB")
        room = dict.fromkeys(members, MAX_GROWTH)
        if FUZZ_SECONDS:
            # NATS keeps what it stored lately in memory, until its collector finds that this has doubled; that levels
            # off beyond what the short form stores (docs/security.md).
            async with streams(system) as jetstream:
                room["nats"] += 2 * (await jetstream.account_info()).storage
        grown = {name: after[name] - before[name] for name in members}
        assert all(grown[name] < room[name] for name in members), (grown, room)
        failed = {key: count for key, count in (await served(system)).items() if key[2] >= "500"}
        assert failed.keys() <= explained, failed
        for name in SERVICES:
            assert broken_lines(system.log(name), logged[name]) == [], name


async def settled(system: Stack) -> None:
    """Wait until no provider event waits any more, and the books were compared once more: all are applied, none is
    missing, none was given up."""
    async with streams(system) as jetstream, asyncio.timeout(90):
        while True:
            consumer = await jetstream.consumer_info("PROVIDER_EVENTS", "calls")
            if not (consumer.num_pending or consumer.num_ack_pending):
                break
            await asyncio.sleep(0.1)
        given_up = await jetstream.stream_info("DLQ", subjects_filter="bc.dlq.PROVIDER_EVENTS.>")
        assert not given_up.state.subjects
        done = time.time()
        while await metric(system, "calls", "boostedcalls_audit_timestamp_seconds") < done:
            await asyncio.sleep(0.1)
    assert await metric(system, "calls", "boostedcalls_audit_pending") == 0
    assert await metric(system, "calls", "boostedcalls_provider_events_unaccounted_total") == 0


async def messages(jetstream: JetStreamContext, stream: str) -> AsyncGenerator[RawStreamMsg]:
    """All messages that a stream holds."""
    state = (await jetstream.stream_info(stream)).state
    for sequence in range(state.first_seq, state.last_seq + 1):
        yield await jetstream.get_msg(stream, sequence)


@pytest.fixture
def post_webhook(running: Stack, user: Any) -> Send:
    """`await post_webhook(body)` sends bytes as the provider would: its secret, and no token."""
    headers = {"x-vapi-secret": running.env["VAPI_WEBHOOK_SECRET"], "Content-Type": "application/json"}

    async def send(body: bytes) -> httpx2.Response:
        return await user.http.post("/api/calls/webhook/", content=body, headers={**headers, "Authorization": ""})

    return send


def rounds() -> Iterator[int]:
    """Seeds, of which each leads elsewhere: four in `make test`, more until a share of FUZZ_SECONDS is over in `make
    fuzz`."""
    end = time.monotonic() + FUZZ_SECONDS / 5
    for number in itertools.count():
        if number >= 4 and time.monotonic() > end:
            return
        yield FUZZ_SEED + number
