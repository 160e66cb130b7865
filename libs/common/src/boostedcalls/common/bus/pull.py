"""Pulling messages from a durable consumer, a batch at a time.

nats-py's own `fetch` waits its whole timeout for a full batch, and for each message of it in turn, under a timer. Here
a batch is what there is when it is asked for (`no_wait`, whose end the server marks); only for the first message of an
idle stream is waited. Nothing is asked for ahead: what lies here unhandled while the database is away would be
delivered again, and count as tried.
"""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from boostedcalls.common.bus.connection import Bus
from boostedcalls.common.bus.streams import Consumer

_STATUS, _DESCRIPTION = "Status", "Description"
# No messages, and: the time of the request is over.
_NOTHING = ("404", "408")
_HEARTBEAT = "100"
# For what there is: the server answers at once.
_ANSWER_SECONDS = 1.0
_NANOSECONDS = 1_000_000_000


class Puller:
    """One reader of a durable consumer. Used by one task."""

    def __init__(self, bus: Bus, consumer: Consumer) -> None:
        self._client = bus.client
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.durable}"
        self._inbox = bus.client.new_inbox()
        self._subscription: Subscription | None = None
        self._messages: list[Msg] = []
        self._request = 0
        self._ended = False
        self._failure: str | None = None
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Raises what NATS raises when it is away."""
        # Statuses come on the inbox itself, under the number of their request; messages keep their own subject.
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def close(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(Exception):
                await self._subscription.unsubscribe()

    async def fetch(self, most: int, wait: float) -> list[Msg]:
        """Up to `most` messages: those that there are, else the first that comes within `wait` seconds and what is
        with it, else none. Raises nats.errors.Error when the server refuses, or nobody serves the consumer."""
        found = await self._ask(most, {"no_wait": True}, _ANSWER_SECONDS)
        if not found:
            found = await self._ask(1, {"expires": int(wait * _NANOSECONDS)}, wait + _ANSWER_SECONDS)
            if found and most > 1:
                with contextlib.suppress(NatsError, OSError):
                    found += await self._ask(most - 1, {"no_wait": True}, _ANSWER_SECONDS)
        return found

    async def _ask(self, most: int, options: dict[str, Any], wait: float) -> list[Msg]:
        self._request += 1
        self._ended, self._failure = False, None
        # What an earlier request still brought, after a reconnect say, is taken first.
        wanted = most - len(self._messages)
        if wanted > 0:
            request = orjson.dumps({"batch": wanted, **options})
            await self._client.publish(self._next, request, reply=f"{self._inbox}.{self._request}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    while not self._ended and len(self._messages) < most:
                        self._news.clear()
                        await self._news.wait()
        found, self._messages = self._messages[:most], self._messages[most:]
        if self._failure and not found:
            raise NatsError(self._failure)
        return found

    async def _take(self, message: Msg) -> None:
        if not message.subject.startswith(self._inbox):
            self._messages.append(message)
        elif message.subject.endswith(f".{self._request}"):
            headers = message.headers or {}
            status = headers.get(_STATUS, "")
            if status == _HEARTBEAT:
                return
            if status not in _NOTHING:
                self._failure = f"{status} {headers.get(_DESCRIPTION, '')}".strip()
            self._ended = True
        self._news.set()
