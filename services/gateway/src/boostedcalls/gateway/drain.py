"""Bringing webhooks to the webhooks service: at once where it answers, out of the spool where it did not.

Owns the breaker, which says whether it is worth a webhook's time to ask, and the drainer, which asks until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge

from boostedcalls.common.bus import Bus
from boostedcalls.common.context import Caller, bind, caller
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import rfc3339
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.common.runtime import Runtime
from boostedcalls.gateway.segment import Record
from boostedcalls.gateway.spool import Spool
from boostedcalls.gateway.spool_folder import Taken
from boostedcalls.gateway.together import Together

log = get_logger(__name__)

# The provider is to be answered within 3.5 s, the spool's share included.
_TIMEOUT = 3.0
AWAY = ("unavailable", "timeout")
# While what is behind us hangs, only so many webhooks wait for it to the end of their time; a quarter of a second's
# pause at a few thousand a second is no reason for the spool. The rest of those that may be in flight (edge.py) is for
# those that go there.
_MOST_WAITING = 768
_AT_ONCE = 8
# What counts against a record: an error, or no answer, while others were taken. A service that is overloaded leaves
# many unanswered, so that weighs less.
_ERROR = 5
_SILENCE = 1
_TOO_MUCH = 50
# After so many rounds in which nothing of a segment went, another one is tried; so many are in hand at most.
_STUCK = 4
_IN_HAND = 4
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 2.0
# How often a folder is looked at that others may have left something in.
_ROUND = 1.0

OPEN = Gauge("boostedcalls_breaker_open", "1 while webhooks go to the spool without asking the webhooks service")
DRAINED = Counter("boostedcalls_spool_drained_total", "Webhooks brought from the spool to the webhooks service")


def to_record(who: Caller, body: bytes) -> Record:
    """A webhook as the spool keeps it: with all that is passed on besides its body."""
    headers = {
        "request_id": who.request_id,
        "traceparent": who.traceparent,
        "received_at": rfc3339(who.received_at or datetime.now(UTC)),
    }
    return Record.of(body, headers)


def sender_of(record: Record) -> Caller:
    headers = record.headers
    return caller(None, headers.get("request_id"), headers.get("traceparent"), headers.get("received_at"))


class Breaker:
    """Asks the webhooks service, and remembers whether it was there: open after a question that nobody answered in
    time, closed after any answer. An answer that is an error says something about one webhook, not about the next."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._together = Together(bus)
        self._asking = 0
        self.is_open = False
        self.taken = 0

    def why_not_ask(self) -> str:
        """Empty where it is worth a webhook's time."""
        if self.is_open:
            return "breaker_open"
        return "busy" if self._asking >= _MOST_WAITING else ""

    async def ask(self, who: Caller, body: bytes, *, alone: bool = False) -> bytes:
        """The body to answer with, when the webhook is stored. `alone`: not in one request with others. Raises
        ServiceError."""
        self._asking += 1
        try:
            if alone:
                answer = await self._bus.request(INGEST_WEBHOOK, body, who, timeout=_TIMEOUT)
            else:
                answer = await self._together.ask(who, body, _TIMEOUT)
        except ServiceError as error:
            # Too large a body was not even sent.
            if error.code != "payload_too_large":
                self._learn(error.code not in AWAY, error.code)
            raise
        finally:
            self._asking -= 1
        self.taken += 1
        self._learn(True)
        return answer

    def _learn(self, answered: bool, reason: str = "") -> None:
        is_open = not answered
        if is_open and not self.is_open:
            log.warning("breaker_open", reason=reason)
        elif self.is_open and not is_open:
            log.info("breaker_closed")
        self.is_open = is_open
        OPEN.set(is_open)


@dataclass(slots=True)
class _Trouble:
    """What counts against a record that is not gone yet, and how many others had been taken at its last try."""

    weight: int
    others: int


@dataclass(slots=True)
class _Job:
    """A segment in hand, and what of it is not gone yet."""

    taken: Taken
    left: deque[Record]


class Drainer:
    """Empties the spool, oldest segment first; the first record of what is left is also the breaker's probe.

    A record that the service refuses, or leaves unanswered while it takes others, goes to the end of the line and is
    put aside in the end: it must not hold up the rest. While nothing at all is taken, nothing is put aside.
    """

    def __init__(self, runtime: Runtime, spool: Spool, breaker: Breaker) -> None:
        self._runtime = runtime
        self._spool = spool
        self._breaker = breaker
        self._stuck: deque[_Job] = deque()
        self._trouble: dict[str, _Trouble] = {}

    async def run(self) -> None:
        """Until the process is told to stop; what is at hand then is finished, the rest stays."""
        goes_on = True
        while not self._runtime.stopping.is_set():
            self._spool.appended.clear()
            if job := await self._next(goes_on):
                goes_on = await self._drain(job)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND):
                    await self._spool.appended.wait()
        for job in self._stuck:
            await self._spool.release(job.taken)

    async def _next(self, goes_on: bool) -> _Job | None:
        """The oldest; another one where the last did not go on, as long as only a few are in hand."""
        if self._stuck and (goes_on or len(self._stuck) >= _IN_HAND):
            return self._stuck.popleft()
        taken = await self._spool.take()
        if taken is not None:
            return _Job(taken, deque(taken.contents.records))
        return self._stuck.popleft() if self._stuck else None

    async def _drain(self, job: _Job) -> bool:
        """Whether all of it is gone."""
        left = job.left
        pause, still = _FIRST_PAUSE, 0
        while left and still < _STUCK and not self._runtime.stopping.is_set():
            number = 1 if self._breaker.is_open else _AT_ONCE
            batch = [left.popleft() for _ in range(min(number, len(left)))]
            outcomes = await asyncio.gather(*(self._deliver(job.taken, record) for record in batch))
            found = list(zip(batch, outcomes, strict=True))
            left.extendleft(record for record, outcome in reversed(found) if outcome == "away")
            # Their turn comes again after the others': they must not hold them up.
            left.extend(record for record, outcome in found if outcome == "refused")
            if "gone" in outcomes:
                pause, still = _FIRST_PAUSE, 0
            elif left:
                still += 1
                await self._wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        if left:
            left.rotate(-1)
            self._stuck.append(job)
        else:
            await self._finish(job.taken)
        return not left

    async def _deliver(self, taken: Taken, record: Record) -> str:
        """`gone` (stored or put aside), `refused` (it counts against the record), `away`."""
        who = sender_of(record)
        bind(who)
        try:
            # Alone, so that what it is answered, or not answered, says something about this one.
            await self._breaker.ask(who, record.body, alone=True)
        except ServiceError as error:
            return await self._not_taken(taken, record, error)
        self._trouble.pop(record.id, None)
        DRAINED.inc()
        return "gone"

    async def _not_taken(self, taken: Taken, record: Record, error: ServiceError) -> str:
        now_taken = self._breaker.taken
        trouble = self._trouble.setdefault(record.id, _Trouble(0, now_taken))
        others_taken, trouble.others = now_taken > trouble.others, now_taken
        answered = error.code not in AWAY
        if others_taken:
            trouble.weight += _ERROR if answered else _SILENCE
        elif not answered:
            return "away"
        log.warning("webhook_not_taken", code=error.code, error_id=error.error_id, message_id=record.id)
        if trouble.weight < _TOO_MUCH:
            return "refused"
        try:
            await self._spool.reject(taken, record)
        except OSError as failure:
            log.error("webhook_not_put_aside", why=failure.strerror)
            return "refused"
        self._trouble.pop(record.id, None)
        return "gone"

    async def _finish(self, taken: Taken) -> None:
        """Kept in hand until that is done: left as it is, it would be drained again and again."""
        told = False
        while True:
            try:
                await self._spool.finish(taken)
            except OSError as error:
                if not told:
                    log.error("segment_not_finished", file=taken.name, why=error.strerror)
                told = True
            else:
                log.info("segment_drained", file=taken.name, records=len(taken.contents.records))
                return
            if self._runtime.stopping.is_set():
                await self._spool.release(taken)
                return
            await self._wait(_LONGEST_PAUSE)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._runtime.stopping.wait()


def start_drainer(stack: AsyncExitStack, runtime: Runtime, spool: Spool, breaker: Breaker) -> None:
    """Drain until the stack closes, with which the process ends."""
    task = runtime.spawn(Drainer(runtime, spool, breaker).run(), "drainer")

    async def stop() -> None:
        runtime.stop()
        spool.appended.set()
        await asyncio.wait([task])

    stack.push_async_callback(stop)
