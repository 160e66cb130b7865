"""A call's life: it rings, talks and ends by its scenario's clock, and queues a webhook for each thing that happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from boostedcalls.common.logs import get_logger, mask_phone
from boostedcalls.simulator import render
from boostedcalls.simulator.calls import Call, Calls, Status, Utterance, now
from boostedcalls.simulator.files import AppendLog
from boostedcalls.simulator.requests import Server
from boostedcalls.simulator.scenarios import Scenario, scenario_for
from boostedcalls.simulator.settings import SimulatorSettings
from boostedcalls.simulator.talk import Json, script
from boostedcalls.simulator.webhooks import Queue, arrange, deliver

log = get_logger(__name__)

# Seconds at speed 1.0; together a call of about two.
_RINGS_AFTER = 0.3
_RINGS_FOR = 0.5
_TALKS_FOR = 0.9
_ANALYSED_AFTER = 0.3
_MAX_DURATION = 600.0

# Real seconds: how long a webhook waits for the one before it, so that they arrive in order where the scenario says
# so, and a receiver that hangs does not hold up the rest.
_ORDER_WAIT = 1.0
_GRACE = 1.0


@dataclass(slots=True)
class Live:
    """A call that is being played."""

    call: Call
    scenario: Scenario
    server: Server | None
    wanted: tuple[str, ...]
    unsent: list[Json] = field(default_factory=list[Json])
    queue: Queue = field(default_factory=asyncio.Queue[Json | None])
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody told it to end, for `reason`."""
    reason: str = ""
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    """Every webhook has been tried once, and the call is over."""

    def hang_up(self, reason: str) -> None:
        if not self.told.is_set():
            self.reason = reason
            self.told.set()


@dataclass(slots=True)
class Stage:
    """Everything a playing call needs: settings, the calls, the way out, the file of its tries, and the tasks to end
    at the end."""

    settings: SimulatorSettings
    calls: Calls
    session: aiohttp.ClientSession
    tries: AppendLog
    live: dict[str, Live] = field(default_factory=dict[str, Live])
    players: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    couriers: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    stopping: bool = False


def prepare(stage: Stage, call: Call) -> Live:
    """Make a call controllable; it does nothing until `start`."""
    wishes = call.behaviour
    # One type has a narrower twin; only final transcripts are sent here, so that both mean the same.
    wanted = tuple(kind.removesuffix('[transcriptType="final"]') for kind in wishes.wanted)
    live = Live(call, scenario_for(call.number), wishes.server, wanted)
    stage.live[call.id] = live
    return live


def start(stage: Stage, live: Live) -> None:
    if stage.stopping:
        return
    _spawn(stage.players, _play(stage, live))
    if live.server:
        _spawn(stage.couriers, _carry(stage, live, live.server))
    else:
        live.sent.set()


def resume(stage: Stage) -> None:
    """Bring to their end the calls that an earlier run was torn away from."""
    for call in stage.calls.unfinished():
        live = prepare(stage, call)
        live.hang_up("worker-shutdown")
        start(stage, live)


async def stop(stage: Stage) -> None:
    """No call goes on; webhooks on their way get a moment. A call cut short here is taken up by the next `resume`."""
    stage.stopping = True
    await _cancel(stage.players)
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            while stage.couriers:
                await asyncio.wait(stage.couriers)
    await _cancel(stage.couriers)


def _spawn(tasks: set[asyncio.Task[None]], coro: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(coro)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _play(stage: Stage, live: Live) -> None:
    call = live.call
    try:
        if call.status != "ended":
            reason = live.reason or await _live_through(stage, live)
            call.ended_at, call.ended_reason = now(), reason
            _enter(live, "ended")
            await note(stage, live)
        # From here on its control address answers 404.
        stage.live.pop(call.id, None)
        await asyncio.sleep(_ANALYSED_AFTER * stage.settings.simulator_speed)
        call.analysed, call.updated_at = True, now()
        _tell(live, "end-of-call-report", lambda: render.end_of_call_report(call))
        await note(stage, live)
        log.info("call_over", provider_call_id=call.id, to=mask_phone(call.number), ended_reason=call.ended_reason)
    except OSError as error:
        log.error("call_lost", provider_call_id=call.id, exc_info=error)
    finally:
        stage.live.pop(call.id, None)
        live.queue.put_nowait(None)


async def _live_through(stage: Stage, live: Live) -> str:
    """Up to the hang-up. Returns the endedReason."""
    call, scenario = live.call, live.scenario
    _enter(live, "queued")
    if await _told_within(stage, live, _RINGS_AFTER):
        return live.reason
    _enter(live, "ringing")
    if await _told_within(stage, live, _RINGS_FOR):
        return live.reason
    if not scenario.answered:
        return scenario.ended_reason
    call.started_at = now()
    _enter(live, "in-progress")
    lines = script(call, scenario.script)
    for role, text in lines:
        say(live, role, text)
        if await _told_within(stage, live, _TALKS_FOR / len(lines)):
            return live.reason
    if scenario.until_told:
        limit = call.behaviour.max_duration_seconds or _MAX_DURATION
        return live.reason if await _told_within(stage, live, limit) else "exceeded-max-duration"
    return scenario.ended_reason


def say(live: Live, role: Literal["bot", "user"], text: str) -> None:
    """Add an utterance, and report it to whoever subscribed to such messages."""
    call = live.call
    call.spoken.append(Utterance(role=role, text=text, at=now()))
    _tell(live, "speech-update", lambda: render.speech_update(call, "started"))
    _tell(live, "transcript", lambda: render.final_transcript(call))
    _tell(live, "speech-update", lambda: render.speech_update(call, "stopped"))
    _tell(live, "conversation-update", lambda: render.conversation_update(call))


def _enter(live: Live, status: Status) -> None:
    live.call.status, live.call.updated_at = status, now()
    _tell(live, "status-update", lambda: render.status_update(live.call))


def _tell(live: Live, kind: str, message: Callable[[], Json]) -> None:
    if live.server and kind in live.wanted:
        live.unsent.append(message())


async def note(stage: Stage, live: Live) -> None:
    """Keep the call's state for a restart, and only then let out the webhooks that tell of it."""
    await stage.calls.save(live.call)
    while live.unsent:
        live.queue.put_nowait(live.unsent.pop(0))


async def _told_within(stage: Stage, live: Live, seconds: float) -> bool:
    """Let time pass. True when the call was told to end."""
    await note(stage, live)
    try:
        async with asyncio.timeout(seconds * stage.settings.simulator_speed):
            await live.told.wait()
    except TimeoutError:
        return False
    return True


async def _carry(stage: Stage, live: Live, server: Server) -> None:
    """Send what is queued, each after the first try of the one before."""
    async for message in arrange(live.queue, live.scenario.delivery):
        tried = asyncio.Event()
        sending = deliver(stage.session, stage.tries, server, message, stage.settings.simulator_speed, tried)
        _spawn(stage.couriers, sending)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ORDER_WAIT):
                await tried.wait()
    live.sent.set()
