"""What one case does inside its process: each path up to the traced piece of work, and what a fresh process does later.

A case is a dictionary: `id`, `path`, `args`, and where wanted `strike` (action, point, after), `mutation` and `env`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uvloop

from boostedcalls.calls import consumer, dispatch, store, sync
from boostedcalls.calls.__main__ import open_service
from boostedcalls.calls.create import create_call
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.handlers import Service
from boostedcalls.calls.payload import create_call_body
from boostedcalls.common.bus import Bus
from boostedcalls.common.bus.consume import _settle
from boostedcalls.common.bus.pull import Puller
from boostedcalls.common.bus.streams import PROVIDER_EVENTS, Consumer
from boostedcalls.common.context import caller
from boostedcalls.common.db import SERVICE, transaction
from boostedcalls.common.logs import setup_logs
from boostedcalls.common.messages.calls import PlaceCall
from boostedcalls.common.outbox import Relay
from boostedcalls.common.runtime import Runtime, RuntimeSettings
from boostedcalls.common.settings import load
from chaos import mutations
from chaos.steps import Strike, Trace, run_traced

type Args = dict[str, Any]
type Work = Coroutine[Any, Any, Any]

_DRAINED_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class World:
    """What a case works with. `note` tells the harness something that must outlive the process."""

    service: Service
    trace: Trace
    note: Callable[[Any], Any]

    @property
    def deps(self) -> Deps:
        return self.service.deps

    @property
    def bus(self) -> Bus:
        return self.service.bus


def run(spec: dict[str, Any], note: Callable[[Any], Any]) -> None:
    """Run the case in this process; a kill ends it here."""
    setup_logs(f"case {spec['id']}", os.environ.get("LOG_LEVEL", "WARNING"))
    if spec.get("mutation"):
        mutations.apply(spec["mutation"])
    uvloop.run(_run(spec, note))


async def _run(spec: dict[str, Any], note: Callable[[Any], Any]) -> None:
    strike = Strike(*spec["strike"]) if spec.get("strike") else None
    trace = Trace(strike, lambda _, waits: note({"waits": waits}))
    async with AsyncExitStack() as stack:
        service = await open_service(stack, Runtime(load(RuntimeSettings)))
        work = await PATHS[spec["path"]](World(service, trace, note), spec["args"])
        outcome = await (work if spec["path"].startswith("drain-") else run_traced(work, trace))
        # What the process does besides goes on, as it would.
        while service.dispatches:
            await asyncio.wait(service.dispatches)
        # Whatever waits to be sent goes before this question; nats-py's `flush` would overtake it.
        if not await service.bus.connected():
            raise TimeoutError("what was to be sent did not leave")
        note({"struck": trace.struck, "outcome": repr(outcome)[:300]})
        # Nothing is closed in order: the process is not needed any more, and in the campaign it never is.
        os._exit(0)


async def _create(world: World, args: Args) -> Work:
    """The whole of a `POST /api/calls/`, with the dispatch that it leaves behind; or a repeat of one that was never
    answered."""
    request = PlaceCall(contact_id=UUID(args["contact"]), idempotency_key=args["key"])
    if args["again"]:
        await create_call(world.service, caller(UUID(args["user"])), request)
        unanswered = (
            "UPDATE calls.idempotency_keys SET status = NULL, answer = NULL, running_until = now() WHERE key = $1"
        )
        async with transaction(world.deps.pool, SERVICE) as connection:
            await connection.execute(unanswered, args["key"])
    return create_call(world.service, caller(UUID(args["user"])), request)


async def _sweep(world: World, args: Args) -> Work:
    """The schedule's look at a call: nothing has been done for it yet, or it was posted and nobody knows, or it was
    placed and nobody hears of it."""
    deps, call_id = world.deps, UUID(args["call"])
    if args["stage"] != "dispatch":
        async with transaction(deps.pool, SERVICE) as connection:
            row = await store.claim(connection, call_id, deps.settings)
        assert row is not None
        placed = await deps.vapi.create_call(create_call_body(row, deps.provider))
        if args["stage"] == "follow":
            await dispatch._record(deps, caller(), row, placed)  # type: ignore[arg-type]
            await asyncio.sleep(args["wait"])
    return sync.look(deps, world.bus, caller(), call_id)


async def _batch(world: World, args: Args) -> Work:
    """One round of `consume`: fetch what there is, apply it, settle it."""
    wanted = Consumer(PROVIDER_EVENTS, args["durable"], batch=128)
    puller = Puller(world.bus, wanted)
    await puller.open()
    return _round(world, puller, wanted)


async def _round(world: World, puller: Puller, wanted: Consumer) -> int:
    messages = await puller.fetch(wanted.batch, 2.0)
    if messages:
        await _settle(world.bus, wanted, messages, lambda batch: consumer.apply_batch(world.deps, batch))
    return len(messages)


async def _drain_batches(world: World, args: Args) -> Work:
    """What a fresh process does for consumers that others left behind; in the end unknown calls become known."""
    slots = asyncio.Semaphore(16)

    async def one(durable: str) -> None:
        async with slots, asyncio.timeout(_DRAINED_WITHIN):
            wanted = Consumer(PROVIDER_EVENTS, durable, batch=128)
            puller = Puller(world.bus, wanted)
            await puller.open()
            while True:
                info = await world.bus.jetstream.consumer_info(PROVIDER_EVENTS, durable)
                if not info.num_pending and not info.num_ack_pending:
                    break
                await _round(world, puller, wanted)
            await puller.close()

    async def adopt(call_id: str, provider_call_id: str) -> None:
        async with slots:
            change = store.Change({}, provider_call_id=provider_call_id)
            await dispatch.change(world.deps, caller(), UUID(call_id), change)

    async def work() -> None:
        await asyncio.gather(*(one(durable) for durable in args["durables"]))
        await asyncio.gather(*(adopt(*pair) for pair in args["adoptions"]))

    return work()


async def _relay(world: World, args: Args) -> Work:
    """One round of the outbox relay, on an outbox of its own."""
    return Relay(world.bus, world.deps.pool, args["schema"]).relay_once()


async def _drain_relays(world: World, args: Args) -> Work:
    async def work() -> None:
        for schema in args["schemas"]:
            relay = Relay(world.bus, world.deps.pool, schema)
            while await relay.relay_once():
                pass

    return work()


async def _append(world: World, args: Args) -> Work:
    from chaos import cases_spool

    return cases_spool.append(world, args)


async def _drain(world: World, args: Args) -> Work:
    from chaos import cases_spool

    return cases_spool.drain(world, args["folder"])


async def _drain_spools(world: World, args: Args) -> Work:
    from chaos import cases_spool

    async def work() -> None:
        for folder in args["folders"]:
            await cases_spool.drain(world, folder)

    return work()


PATHS: dict[str, Callable[[World, Args], Awaitable[Work]]] = {
    "create": _create,
    "sweep": _sweep,
    "batch": _batch,
    "drain-batches": _drain_batches,
    "relay": _relay,
    "drain-relays": _drain_relays,
    "append": _append,
    "drain": _drain,
    "drain-spools": _drain_spools,
}
