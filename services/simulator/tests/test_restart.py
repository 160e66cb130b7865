"""What survives: the dial log, the calls, and that a call cut short is reported as ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boostedcalls.simulator.files import AppendLog, read_records

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from conftest import Launch, Receiver, Simulator

NUMBER = "+12025550100"
ENDLESS = "+12025550105"


async def test_ended_calls_and_dials_survive_a_restart(
    launch: Launch, stack: AsyncExitStack, receiver: Receiver
) -> None:
    sim = await launch()
    created = await sim.create(NUMBER)
    before = await sim.ended(created["id"])
    # It leaves once the call's end is on disk.
    await receiver.until("end-of-call-report")
    await stack.aclose()
    again = await launch()
    _, after = await again.ask("GET", f"/call/{created['id']}")
    for shown in (before, after):
        shown["artifact"] = {name: value for name, value in shown["artifact"].items() if "presigned" not in name}
    assert after == before
    await again.create(NUMBER)
    assert len(again.dials()) == 2


async def test_a_call_cut_short_is_reported_after_the_restart(
    launch: Launch, stack: AsyncExitStack, receiver: Receiver
) -> None:
    sim = await launch()
    created = await sim.create(ENDLESS)
    await receiver.until("in-progress")
    await stack.aclose()
    assert "ended" not in receiver.seen()
    again = await launch()
    assert (await receiver.until("end-of-call-report"))[-2:] == ["ended", "end-of-call-report"]
    assert receiver.one("ended")["endedReason"] == "worker-shutdown"
    ended = await again.ended(created["id"])
    assert (ended["status"], ended["endedReason"]) == ("ended", "worker-shutdown")
    assert ended["cost"] > 0
    assert len(again.dials()) == 1


async def test_a_deleted_call_stays_deleted_after_a_restart(launch: Launch, stack: AsyncExitStack) -> None:
    sim = await launch()
    created = await sim.create("+12025550101")
    await sim.ended(created["id"])
    await sim.ask("DELETE", f"/call/{created['id']}")
    await stack.aclose()
    again = await launch()
    assert await again.ask("GET", "/call") == (200, [])
    assert len(again.dials()) == 1


async def test_stopping_with_a_late_answer_and_a_hopeless_webhook_open_does_not_hang(
    launch: Launch, stack: AsyncExitStack, receiver: Receiver
) -> None:
    sim = await launch(simulator_speed=1.0)
    plan = {"type": "fixed", "maxRetries": 10, "baseDelaySeconds": 10}
    receiver.answers = [500] * 100
    order = sim.order("+12025550123", server={"url": receiver.url, "backoffPlan": plan})
    asked = asyncio.create_task(sim.ask("POST", "/call", order))
    await receiver.until("queued")
    await stack.aclose()
    assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], Exception)
    assert len(sim.dials()) == 1


async def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":')
    log = AppendLog(path, sync=True)
    await log.append({"n": 2})
    log.close()
    assert read_records(path) == [{"n": 1}, {"n": 2}]


@asynccontextmanager
async def process(data: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """The real process, and its base URL as it logs it."""
    env = os.environ | {
        "SIMULATOR_PORT": "0",
        "SIMULATOR_HOST": "127.0.0.1",
        "SIMULATOR_DATA": str(data),
        "SIMULATOR_SPEED": "0.05",
        "SIMULATOR_API_KEY": "test-key",
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "boostedcalls.simulator", env=env, stderr=asyncio.subprocess.PIPE
    )
    assert running.stderr
    try:
        url = ""
        while not url:
            line = await running.stderr.readline()
            assert line, "it did not start"
            url = json.loads(line).get("url", "")
        yield running, url
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_kill_9_loses_no_dial_and_no_call(tmp_path: Path, sim: Simulator, receiver: Receiver) -> None:
    data = tmp_path / "killed"
    async with process(data) as (running, url):
        sim.url = url
        calls = [await sim.create(ENDLESS) for _ in range(3)]
        running.kill()
        await running.wait()
    dialled: list[dict[str, Any]] = read_records(data / "dials.jsonl")
    assert [dial["id"] for dial in dialled] == [call["id"] for call in calls]
    async with process(data) as (running, url):
        sim.url = url
        for call in calls:
            assert (await sim.ended(call["id"]))["endedReason"] == "worker-shutdown"
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0
    assert read_records(data / "dials.jsonl") == dialled
    assert receiver.seen().count("ended") == 3


async def test_a_bad_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "boostedcalls.simulator",
        env=os.environ | {"SIMULATOR_DATA": str(tmp_path), "SIMULATOR_SPEED": "-1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await running.communicate()
    assert running.returncode == 2
    assert said.count(b"\n") == 1
    assert b"SIMULATOR_SPEED" in said
