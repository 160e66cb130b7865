"""The calls service's process: `python -m boostedcalls.calls [migrate | sync-stale]`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from boostedcalls.calls import consumer, handlers, sync
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.handlers import Service
from boostedcalls.calls.settings import CallsSettings, ProviderSettings
from boostedcalls.calls.vapi import open_vapi
from boostedcalls.common.bus import Bus, NatsSettings, connect, consume, endpoint, ensure_streams, serve
from boostedcalls.common.bus.streams import CALL_EVENTS, CALLS_JOBS, CALLS_PROVIDER, DLQ, JOBS, PROVIDER_EVENTS
from boostedcalls.common.db import DatabaseSettings, open_pool, reachable
from boostedcalls.common.health import serve_health
from boostedcalls.common.messages import calls as messages
from boostedcalls.common.migrate import run_command
from boostedcalls.common.outbox import Relay
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import load


async def open_service(stack: AsyncExitStack, runtime: Runtime) -> Service:
    """Connect everything that the service works with; it closes with the stack."""
    provider, settings = load(ProviderSettings), load(CallsSettings)
    database, nats = load(DatabaseSettings), load(NatsSettings)
    pool = await open_pool(stack, database, "calls")
    bus = await connect(stack, runtime, nats, "calls")
    await ensure_streams(bus, PROVIDER_EVENTS, CALL_EVENTS, JOBS, DLQ)
    vapi = await open_vapi(stack, provider)
    return Service(Deps(pool, vapi, Relay(bus, pool, "calls"), settings, provider), bus)


async def start(stack: AsyncExitStack, runtime: Runtime) -> None:
    service = await open_service(stack, runtime)
    deps, bus = service.deps, service.bus

    async def database() -> bool:
        return await reachable(deps.pool)

    tasks = [
        runtime.spawn(deps.relay.run(), "outbox"),
        runtime.spawn(
            consume(bus, CALLS_PROVIDER, lambda batch: consumer.apply_batch(deps, batch), database), "events"
        ),
        runtime.spawn(consume(bus, CALLS_JOBS, lambda batch: sync.work(deps, bus, batch), database), "jobs"),
        runtime.spawn(sync.publish_jobs(deps, bus), "publisher"),
    ]
    stack.push_async_callback(_finish, runtime, service, tasks)
    await serve(
        stack,
        bus,
        "calls",
        "0.1.0",
        [
            endpoint(messages.CREATE_CALL, handlers.create_call, service),
            endpoint(messages.LIST_CALLS, handlers.list_calls, service),
            endpoint(messages.GET_CALL, handlers.get_call, service),
            endpoint(messages.CANCEL_CALL, handlers.cancel_call, service),
            endpoint(messages.SYNC_CALL, handlers.sync_call, service),
            endpoint(messages.CALL_TIMELINE, handlers.call_timeline, service),
            endpoint(messages.PENDING_COUNT, handlers.pending_count, service),
            endpoint(messages.CALL_STATS, handlers.call_stats, service),
        ],
    )
    settings = runtime.settings
    checks = {"nats": bus.connected, "database": database}
    await serve_health(stack, settings.health_host, settings.health_port, checks)


async def _finish(runtime: Runtime, service: Service, tasks: list[asyncio.Task[None]]) -> None:
    """No request comes in any more: end the dispatches, let the loops come round, then cut short what is left."""
    await service.finish(runtime.left(8.5))
    await asyncio.wait(tasks, timeout=runtime.left(9))
    await runtime.cancel(*tasks)


async def sync_stale(stack: AsyncExitStack, runtime: Runtime) -> None:
    service = await open_service(stack, runtime)
    bus: Bus = service.bus
    count = await sync.publish_all(service.deps, bus)
    sys.stdout.write(f"{count} calls will be synced\n")
    runtime.stop()


def main() -> None:
    match sys.argv[1:]:
        case []:
            run(start, "calls")
        case ["migrate"]:
            run_command("calls", "boostedcalls.calls")
        case ["sync-stale"]:
            run(sync_stale, "calls-sync")
        case _:
            sys.stderr.write("usage: python -m boostedcalls.calls [migrate | sync-stale]\n")
            sys.exit(2)


if __name__ == "__main__":
    main()
