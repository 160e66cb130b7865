"""The wrapper that strikes at suspension points: it counts every real one of the work, and nothing else."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chaos.steps import ChaosError, Strike, Trace, run_traced


@asynccontextmanager
async def slow_door(log: list[str]) -> Any:
    await asyncio.sleep(0)
    try:
        yield
    finally:
        log.append("closed")
        await asyncio.sleep(0)


async def child() -> int:
    await asyncio.sleep(0)
    return 1


async def work(log: list[str]) -> int:
    """Seven points: in, the gather and its two children, two from the shielded child, out."""
    async with slow_door(log):
        found = await asyncio.gather(child(), child())
        await done()
        found.append(await asyncio.shield(child()))
    log.append("done")
    return sum(found)


async def done() -> None:
    """Awaited, and never suspended."""


async def traced(strike: Strike | None) -> tuple[Trace, Any, list[str]]:
    log: list[str] = []
    trace = Trace(strike, lambda *_: None)
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    try:
        return trace, await run_traced(work(log), trace), log
    finally:
        loop.set_task_factory(before)


async def test_every_suspension_of_the_work_and_of_its_children_is_a_point() -> None:
    trace, outcome, log = await traced(None)
    assert (trace.points, outcome, log) == (7, 3, ["closed", "done"])


async def test_tasks_that_are_not_of_the_work_are_not_counted() -> None:
    async def other() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    trace, _, _ = await traced(None)
    task.cancel()
    assert trace.points == 7


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("action", ["cancel", "error", "os-error"])
async def test_each_point_can_be_struck_and_the_work_still_closes_its_door(action: str, after: bool) -> None:
    raised = {"cancel": asyncio.CancelledError, "error": ChaosError, "os-error": ConnectionResetError}[action]
    for point in range(1, 8):
        trace, outcome, log = await traced(Strike(action, point, after))
        assert trace.struck
        assert isinstance(outcome, raised), (point, outcome)
        # At the first point it is not open yet.
        assert log == ([] if point == 1 else ["closed"])


async def test_a_point_that_never_comes_changes_nothing() -> None:
    trace, outcome, _ = await traced(Strike("error", 8))
    assert (trace.struck, outcome) == (False, 3)
