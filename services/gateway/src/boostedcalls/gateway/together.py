"""Webhooks that come in while others are being stored travel together: one request, one sync of the disk for many.

A webhook that finds nothing under way goes at once; only behind eight or more is waited for company, 5 ms.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from dataclasses import dataclass
from time import monotonic

from boostedcalls.common.bus import Bus
from boostedcalls.common.bus.connection import HEADER_ROOM
from boostedcalls.common.context import Caller, caller
from boostedcalls.common.errors import ServiceError, masked, problem
from boostedcalls.common.messages.webhooks import (
    INGEST_WEBHOOK,
    INGEST_WEBHOOKS,
    Webhook,
    pack,
    unpack_answers,
)

# Requests at once: with more of them each carries less, and all of them cost more. One that hangs does not hold up the
# others: after a moment the next ones are sent beside it.
_MOST_UNDER_WAY = 4
_HANGS = 0.3
# Where many come at once, a moment's wait makes the next request larger and each webhook cheaper.
_MANY = 8
_GATHERING = 0.005
_MOST = 256
_MOST_BYTES = 512 * 1024
# What the ids of so many webhooks take besides their bodies.
_HEADS = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Waiting:
    webhook: Webhook
    until: float
    answer: Future[bytes]


class Together:
    """Asks the webhooks service for one webhook or for many; nobody is told which."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the number of tasks, which are still there for a moment after their last look at what waits.
        self._working = 0
        self._sent_at = 0.0

    async def ask(self, who: Caller, body: bytes, timeout: float) -> bytes:
        """The body to answer with, when the webhook is stored. Raises ServiceError, within `timeout` seconds."""
        now = monotonic()
        answer: Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(Webhook(who, body), now + timeout, answer))
        if not self._working or (self._working < _MOST_UNDER_WAY and now - self._sent_at > _HANGS):
            self._working += 1
            self._sent_at = now
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise problem("timeout") from None
        finally:
            # It holds an error, which holds this frame, which holds the body.
            del answer

    async def _work(self) -> None:
        try:
            while batch := self._next():
                self._sent_at = monotonic()
                answers = await self._send(batch)
                for waiting, answer in zip(batch, answers, strict=True):
                    # Whoever gave up meanwhile wants no answer.
                    if waiting.answer.done():
                        continue
                    if isinstance(answer, ServiceError):
                        waiting.answer.set_exception(answer)
                    else:
                        waiting.answer.set_result(answer)
                if len(batch) >= _MANY:
                    await asyncio.sleep(_GATHERING)
        finally:
            self._working -= 1

    def _next(self) -> list[_Waiting]:
        """What goes next, in the order of its coming: at most 256, and of 512 KiB together unless it is one."""
        found: list[_Waiting] = []
        size = 0
        most = min(_MOST_BYTES, self._bus.client.max_payload - HEADER_ROOM - _HEADS)
        while self._waiting and len(found) < _MOST:
            if self._waiting[0].answer.done():
                self._waiting.popleft()
                continue
            size += len(self._waiting[0].webhook.body)
            if found and size > most:
                break
            found.append(self._waiting.popleft())
        return found

    async def _send(self, batch: list[_Waiting]) -> list[bytes] | list[ServiceError] | list[bytes | ServiceError]:
        # Each gives up by itself when its own time is over; the last one's is over last.
        left = batch[-1].until - monotonic()
        try:
            if len(batch) == 1:
                webhook = batch[0].webhook
                return [await self._bus.request(INGEST_WEBHOOK, webhook.body, webhook.who, max(left, 0.01))]
            webhooks = [waiting.webhook for waiting in batch]
            packed = pack(webhooks)
            answers = unpack_answers(await self._bus.request(INGEST_WEBHOOKS, packed, caller(), max(left, 0.01)))
            if len(answers) != len(batch):
                raise ValueError("not as many answers as webhooks")
        except ServiceError as error:
            return [error] * len(batch)
        except Exception as error:
            # Whatever it is: somebody waits for each of these answers.
            return [masked(error)] * len(batch)
        return answers
