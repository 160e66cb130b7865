"""Counts the points at which a piece of work really suspends, and does something at one of them.

A point is a moment at which a task of the work gives the loop back to others: `n` is the moment at which it suspends,
before there is any result; "after" is the moment at which the result has arrived and the task is about to see it. Child
tasks (gather, create_task, shield) belong to the work; tasks that libraries started before it do not.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

ACTIONS = ("kill", "cancel", "error", "os-error")
_ASYNC_GENERATOR_STEPS = {"async_generator_asend", "async_generator_athrow", "anext_awaitable"}


class ChaosError(RuntimeError):
    """What no code expects."""


@dataclass(frozen=True, slots=True)
class Strike:
    """What to do, and at which point: kill -9 of the own process, a cancellation, or an error in place of a result."""

    action: str
    point: int
    after: bool = False

    def __str__(self) -> str:
        return f"{self.action} {'after' if self.after else 'at'} point {self.point}"


type Note = Callable[[int, tuple[str, ...]], None]
"""Told of each point as it is reached: its number, and our own lines that wait there, outermost first."""


class Trace:
    """One traced run. `points` is how many there were so far, `struck` whether the strike's point was reached."""

    def __init__(self, strike: Strike | None, note: Note) -> None:
        self.strike = strike
        self.points = 0
        self.struck = False
        self._note = note

    def suspended(self, waiting: tuple[str, ...]) -> int:
        self.points += 1
        self._note(self.points, waiting)
        return self.points

    def blocking(self, where: str, work: Callable[[], None]) -> None:
        """Do something that blocks a thread, as a point of its own: there is nothing to cancel there."""
        point = self.suspended((where,))
        for after in (False, True):
            if after:
                work()
            if self.strike and self.strike.action != "cancel" and self.hits(point, after=after):
                raise self.error()

    def hits(self, point: int, *, after: bool) -> bool:
        strike = self.strike
        if strike is None or self.struck or (strike.point, strike.after) != (point, after):
            return False
        self.struck = True
        if strike.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def error(self) -> Exception:
        assert self.strike is not None
        if self.strike.action == "os-error":
            return ConnectionResetError("chaos: the connection was reset")
        return ChaosError("chaos: something unforeseen")


_TRACE: ContextVar[Trace | None] = ContextVar("chaos_trace", default=None)


async def run_traced(work: Coroutine[Any, Any, Any], trace: Trace) -> Any:
    """Run the work in a task of its own; return what it returned or raised."""
    asyncio.get_running_loop().set_task_factory(_factory)
    token = _TRACE.set(trace)
    try:
        task = asyncio.create_task(work, name="work")
    finally:
        _TRACE.reset(token)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome


def _factory(
    loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None, **options: Any
) -> asyncio.Task[Any]:
    trace = context.get(_TRACE) if context is not None else _TRACE.get()
    if trace is None or not inspect.iscoroutine(coro):
        return asyncio.Task(coro, loop=loop, context=context, **options)
    traced = _traced(trace, coro, _running_lines(sys._getframe(1)))
    task = asyncio.Task(traced, loop=loop, context=context, **options)
    # One that is cancelled before its first step never comes to what it wraps.
    task.add_done_callback(lambda _: coro.close())
    return task


async def _traced(trace: Trace, coro: Coroutine[Any, Any, Any], origin: tuple[str, ...]) -> Any:
    return await _drive(trace, coro, origin)


@types.coroutine
def _drive(trace: Trace, coro: Coroutine[Any, Any, Any], origin: tuple[str, ...]) -> Generator[Any, Any, Any]:
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waited = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        point = trace.suspended(origin + _waiting_lines(coro))
        if trace.hits(point, after=False):
            if trace.strike and trace.strike.action != "cancel":
                # Whatever was begun goes on without us; its result is not seen any more.
                if hasattr(waited, "_asyncio_future_blocking"):
                    waited._asyncio_future_blocking = False
                error = trace.error()
                continue
            _cancel_current()
        try:
            value = yield waited
        except BaseException as thrown:
            error = thrown
        if trace.hits(point, after=True):
            value = None
            if trace.strike and trace.strike.action != "cancel":
                error = trace.error()
                continue
            # As when a task is cancelled in the moment between its result's arrival and its next step.
            _cancel_current()
            try:
                yield
            except BaseException as thrown:
                error = thrown


def _cancel_current() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _line(frame: FrameType) -> str | None:
    """`dispatch.py:158` for a frame of our own services or libraries, None for any other."""
    name = frame.f_code.co_filename
    if "/boostedcalls/" not in name or "/boostedcalls/devkit/" in name:
        return None
    return f"{name.rpartition('/boostedcalls/')[2]}:{frame.f_lineno}"


def _running_lines(frame: FrameType | None) -> tuple[str, ...]:
    """Our lines on the stack of what runs now, outermost first."""
    found: list[str] = []
    while frame is not None:
        if line := _line(frame):
            found.append(line)
        frame = frame.f_back
    return tuple(reversed(found))


def _waiting_lines(coro: Any) -> tuple[str, ...]:
    """Our lines in the chain of what a suspended coroutine waits for, outermost first."""
    found: list[str] = []
    holder: FrameType | None = None
    while coro is not None:
        if type(coro).__name__ in _ASYNC_GENERATOR_STEPS and holder is not None:
            # Such a step does not tell its generator; but the context manager that made it does.
            coro = getattr(holder.f_locals.get("self"), "gen", None)
            continue
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(coro, frame_name, None)
            if frame is not None:
                if line := _line(frame):
                    found.append(line)
                holder, coro = frame, getattr(coro, next_name)
                break
        else:
            coro = None
    return tuple(found)
