"""Collecting the PubAcks of messages that were published in a row."""

# pyright: reportUnknownMemberType=false
# (nats-py passes options on as untyped **kwargs)
from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg


class Acks:
    """The PubAcks of messages in a row, on one subscription of the process. nats-py's own way, a future and a timer for
    each, costs the client three times as much."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._subscribed = False
        self._rows: dict[str, tuple[set[int], Future[None], int]] = {}
        self._count = 0

    @asynccontextmanager
    async def row(self, number: int) -> AsyncGenerator[tuple[str, set[int], Future[None]]]:
        """The inbox for a row of so many messages (its place is the last token), the places that are confirmed, and a
        future that is done once all are answered."""
        if not self._subscribed:
            await self._client.subscribe(f"{self._inbox}.*.*", cb=self._take)
            self._subscribed = True
        self._count += 1
        name, confirmed = str(self._count), set[int]()
        done: Future[None] = asyncio.get_running_loop().create_future()
        self._rows[name] = (confirmed, done, number)
        try:
            yield f"{self._inbox}.{name}", confirmed, done
        finally:
            del self._rows[name]

    async def _take(self, message: Msg) -> None:
        _, name, place = message.subject.rsplit(".", 2)
        if (row := self._rows.get(name)) is None:
            return
        confirmed, done, number = row
        # What is no PubAck (an error, nobody there) ends the row: the rest is better tried one by one.
        if message.headers or b'"error"' in message.data or b'"seq"' not in message.data:
            number = 0
        else:
            confirmed.add(int(place))
        if len(confirmed) >= number and not done.done():
            done.set_result(None)
