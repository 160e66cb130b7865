"""Webhooks that come in while others are being stored travel together: one request, one sync of the disk for many.

A webhook that finds nothing under way goes at once; nobody waits for company.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from dataclasses import dataclass
from time import monotonic

from boostedcalls.common.bus import Bus
from boostedcalls.common.context import Caller, caller
from boostedcalls.common.errors import ServiceError, masked, problem
from boostedcalls.common.messages.webhooks import (
    INGEST_WEBHOOK,
    INGEST_WEBHOOKS,
    Webhook,
    pack,
    unpack_answers,
)

# Requests at once: with more of them each carries less, and all of them cost more.
_UNDER_WAY = 1
_MOST = 256
_MOST_BYTES = 512 * 1024


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

    async def ask(self, who: Caller, body: bytes, timeout: float) -> bytes:
        """The body to answer with, when the webhook is stored. Raises ServiceError, within `timeout` seconds."""
        answer: Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(Webhook(who, body), monotonic() + timeout, answer))
        if len(self._tasks) < _UNDER_WAY:
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _work(self) -> None:
        while batch := self._next():
            answers = await self._send(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                # Whoever gave up meanwhile wants no answer.
                if waiting.answer.done():
                    continue
                if isinstance(answer, ServiceError):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    def _next(self) -> list[_Waiting]:
        """What goes next, in the order of its coming: at most 256, and of 512 KiB together unless it is one."""
        found: list[_Waiting] = []
        size = 0
        while self._waiting and len(found) < _MOST:
            size += len(self._waiting[0].webhook.body)
            if found and size > _MOST_BYTES:
                break
            found.append(self._waiting.popleft())
        return found

    async def _send(self, batch: list[_Waiting]) -> list[bytes] | list[ServiceError] | list[bytes | ServiceError]:
        # The first has waited longest, perhaps for a request that hung.
        left = batch[0].until - monotonic()
        try:
            if left <= 0:
                raise problem("timeout")
            if len(batch) == 1:
                webhook = batch[0].webhook
                return [await self._bus.request(INGEST_WEBHOOK, webhook.body, webhook.who, left)]
            webhooks = [waiting.webhook for waiting in batch]
            answers = unpack_answers(await self._bus.request(INGEST_WEBHOOKS, pack(webhooks), caller(), left))
            if len(answers) != len(batch):
                raise ValueError("not as many answers as webhooks")
        except ServiceError as error:
            return [error] * len(batch)
        except Exception as error:
            # Whatever it is: somebody waits for each of these answers.
            return [masked(error)] * len(batch)
        return answers
