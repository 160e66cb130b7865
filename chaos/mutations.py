"""Takes one mechanism out of the process that it is called in, to see that the campaign notices.

Only for cases' processes (`chaos.zygote`): the product has no switch for any of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from boostedcalls.calls import dispatch, idempotency, store
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.state import CallState, Fact
from boostedcalls.calls.vapi import CreateOutcome, Json, NotSent, Unclear, Vapi
from boostedcalls.common import outbox
from boostedcalls.common.bus import Bus, Delivery, consume, event_message
from boostedcalls.common.bus.consume import dead_letter
from boostedcalls.common.bus.streams import Consumer
from boostedcalls.common.context import Caller, new_id
from boostedcalls.common.db import SERVICE, connection, transaction

_CONSUME: dict[str, Any] = consume.__globals__


def _claim_after_send() -> None:
    """The claim is committed only when the provider has answered."""
    record = dispatch._record

    async def claim(deps: Deps, who: Caller, call_id: UUID) -> store.Row | None:
        async with connection(deps.pool, SERVICE) as reading:
            row = await reading.fetchrow("SELECT * FROM calls.calls WHERE id = $1", call_id)
        return None if row is None else dict(row) | {"dispatch_started_at": datetime.now(UTC)}

    async def claim_and_record(deps: Deps, who: Caller, row: store.Row, outcome: Any) -> store.Row | None:
        async with transaction(deps.pool, SERVICE) as writing:
            await store.claim(writing, row["id"], deps.settings)
        return await record(deps, who, row, outcome)

    dispatch._claim = claim
    dispatch._record = claim_and_record


def _retry_unclear() -> None:
    """What may have been sent is sent again, once."""
    create = Vapi.create_call
    repeated: set[Any] = set()

    async def create_call(self: Vapi, body: Json) -> CreateOutcome:
        outcome = await create(self, body)
        if isinstance(outcome, Unclear) and body["name"] not in repeated:
            repeated.add(body["name"])
            return NotSent(outcome.reason)
        return outcome

    Vapi.create_call = create_call


def _publish_after_commit() -> None:
    """Events are published once the change is committed, and are written nowhere before."""
    unpublished: list[tuple[UUID, outbox.Pending]] = []
    tasks: set[asyncio.Task[Any]] = set()

    async def enqueue(_: Any, schema: str, events: Sequence[outbox.Pending]) -> None:
        unpublished.extend((new_id(), event) for event in events)

    def wake(self: outbox.Relay) -> None:
        bus: Bus = self._bus
        events, unpublished[:] = unpublished[:], []
        for event_id, event in events:
            publishing = bus.send(
                event.kind.stream,
                event_message(
                    event.kind,
                    event.subject,
                    event.data.model_dump_json().encode(),
                    event_id=str(event_id),
                    source="/calls",
                    at=datetime.now(UTC),
                    traceparent=event.traceparent,
                ),
            )
            tasks.add(asyncio.create_task(publishing))

    outbox.enqueue = enqueue
    outbox.Relay.wake = wake


def _term_before_letter() -> None:
    """A poison message is given up first, and stored as a dead letter afterwards."""
    settle_failure = _CONSUME["_settle_failure"]

    async def settle(bus: Bus, consumer: Consumer, message: Any, delivery: Delivery, error: Exception) -> None:
        if type(error).__name__ != "Poison":
            await settle_failure(bus, consumer, message, delivery, error)
            return
        await message.term()
        await bus.connected()
        await dead_letter(bus, consumer.stream, delivery, str(error))

    _CONSUME["_settle_failure"] = settle


def _last_write_wins() -> None:
    """A fact that comes later overwrites, whatever it says."""

    def fold(state: CallState, facts: Iterable[Fact]) -> CallState:
        for fact in facts:
            changes: dict[str, Any] = dict(fact.values)
            if fact.status is not None:
                changes["status"] = fact.status
            if fact.reason is not None:
                changes["ended_reason"] = fact.reason
            state = replace(state, **changes, final=state.final or fact.final)
        return state

    store.fold = fold


def _no_key() -> None:
    """An Idempotency-Key is not remembered."""

    async def take(*_: Any) -> None:
        """Nothing is written."""

    idempotency.take = take


def _no_sync() -> None:
    """The spool answers before its file is on the disk."""
    from boostedcalls.gateway.spool_folder import SpoolFolder

    keep = SpoolFolder._store

    def store_unsynced(self: SpoolFolder, data: bytes) -> None:
        sync, self._sync = self._sync, lambda _: None
        try:
            keep(self, data)
        finally:
            self._sync = sync

    SpoolFolder._store = store_unsynced


MUTATIONS: dict[str, Callable[[], None]] = {
    "claim after send": _claim_after_send,
    "retry unclear": _retry_unclear,
    "publish after commit": _publish_after_commit,
    "term before letter": _term_before_letter,
    "last write wins": _last_write_wins,
    "no key": _no_key,
    "no sync": _no_sync,
}


def apply(name: str) -> None:
    """Take the mechanism out, in this process. Raises KeyError for an unknown one."""
    MUTATIONS[name]()
