"""Runs the calls service; `migrate`, `sync-stale`, `audit` and `dead-letters` are its commands. Composition root."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from boostedcalls.calls import audit, books, consumer, create, dead_letters, handlers, sync
from boostedcalls.calls.arguments import as_uuid, read_arguments
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.handlers import Service
from boostedcalls.calls.settings import CallsNats, CallsSettings, ProviderSettings
from boostedcalls.calls.vapi import open_vapi
from boostedcalls.common.bus import connect, consume, endpoint, serve, wait_for_streams
from boostedcalls.common.bus.settings import ADMIN, AdminSettings
from boostedcalls.common.bus.streams import CALL_EVENTS, CALLS_JOBS, CALLS_PROVIDER, DLQ, JOBS, PROVIDER_EVENTS
from boostedcalls.common.db import DatabaseSettings, open_pool, reachable
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.health import serve_health
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages import calls as messages
from boostedcalls.common.migrate import run_command
from boostedcalls.common.outbox import Relay
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import load

log = get_logger(__name__)


async def open_service(stack: AsyncExitStack, runtime: Runtime) -> Service:
    """Connect everything that the service works with; it closes with the stack."""
    provider, settings = load(ProviderSettings), load(CallsSettings)
    database, nats = load(DatabaseSettings), load(CallsNats)
    pool = await open_pool(stack, database, "calls")
    bus = await connect(stack, runtime, nats, "calls")
    await wait_for_streams(bus, PROVIDER_EVENTS, CALL_EVENTS, JOBS, DLQ)
    vapi = await open_vapi(stack, provider)
    return Service(Deps(pool, vapi, Relay(bus, pool, "calls"), settings, provider), bus)


async def start(stack: AsyncExitStack, runtime: Runtime) -> None:
    service = await open_service(stack, runtime)
    deps, bus = service.deps, service.bus
    provider = deps.provider
    if provider.vapi_webhook_url and not (provider.vapi_webhook_secret or provider.vapi_webhook_credential_id):
        # The provider is told nothing of it: the server of its saved assistant is the one that counts.
        log.warning("webhook_without_proof", missing=["VAPI_WEBHOOK_SECRET", "VAPI_WEBHOOK_CREDENTIAL_ID"])

    async def database() -> bool:
        return await reachable(deps.pool)

    tasks = [
        runtime.spawn(deps.relay.run(), "outbox"),
        runtime.spawn(
            consume(bus, CALLS_PROVIDER, lambda batch: consumer.apply_batch(deps, batch), database), "events"
        ),
        runtime.spawn(consume(bus, CALLS_JOBS, lambda batch: sync.work(deps, bus, batch), database), "jobs"),
        runtime.spawn(sync.publish_jobs(deps, bus), "publisher"),
        runtime.spawn(audit.run(deps, bus), "audit"),
    ]
    stack.push_async_callback(_finish, runtime, service, tasks)
    await serve(
        stack,
        bus,
        "calls",
        "0.1.0",
        [
            endpoint(messages.CREATE_CALL, create.create_call, service),
            endpoint(messages.LIST_CALLS, handlers.list_calls, service),
            endpoint(messages.GET_CALL, handlers.get_call, service),
            endpoint(messages.CANCEL_CALL, handlers.cancel_call, service),
            endpoint(messages.SYNC_CALL, handlers.sync_call, service),
            endpoint(messages.CALL_TIMELINE, handlers.call_timeline, service),
            endpoint(messages.PENDING_COUNT, handlers.pending_count, service),
            endpoint(messages.CALL_STATS, handlers.call_stats, service),
        ],
    )
    await serve_health(stack, runtime, {"nats": bus.connected, "database": database})


async def _finish(runtime: Runtime, service: Service, tasks: list[asyncio.Task[None]]) -> None:
    """No request comes in any more: end the dispatches, let the loops come round, then cut short what is left."""
    await service.finish(runtime.left(8.5))
    await asyncio.wait(tasks, timeout=runtime.left(9))
    await runtime.cancel(*tasks)


async def sync_stale(stack: AsyncExitStack, runtime: Runtime) -> int:
    service = await open_service(stack, runtime)
    count = await sync.publish_all(service.deps, service.bus)
    sys.stdout.write(f"{count} calls will be synced\n")
    return 0


async def check_books(stack: AsyncExitStack, runtime: Runtime) -> int:
    pool = await open_pool(stack, load(DatabaseSettings), "calls")
    bus = await connect(stack, runtime, load(AdminSettings), ADMIN)
    found = await books.report(pool, bus)
    sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
    return 1 if found.unaccounted else 0


async def work_letters(stack: AsyncExitStack, runtime: Runtime, given: argparse.Namespace) -> int:
    bus = await connect(stack, runtime, load(AdminSettings), ADMIN)
    names: set[str] = {given.call} if given.call else set()
    if call_id := as_uuid(given.call):
        # Ours perhaps: letters name the call as the provider does.
        names |= await dead_letters.names_of(await open_pool(stack, load(DatabaseSettings), "calls"), call_id)
    filters = dead_letters.Filters(given.since, given.until, given.sequence, given.origin)
    if given.action == "list":
        return await dead_letters.print_letters(bus, filters, names, as_json=given.json)
    return await dead_letters.replay(bus, filters, names, rate=given.rate, dry_run=given.dry_run, again=given.again)


def _run(name: str, command: Callable[[AsyncExitStack, Runtime], Awaitable[int]]) -> None:
    """Run a command and leave with the exit code that it returns."""

    async def main(stack: AsyncExitStack, runtime: Runtime) -> None:
        try:
            runtime.failed = await command(stack, runtime) != 0
            sys.stdout.flush()
        except Unavailable as error:
            sys.stderr.write(f"{name}: {error}\n")
            runtime.failed = True
        except BrokenPipeError:
            # Nobody reads on: the end of the process would try to write what is left.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            runtime.failed = True
        runtime.stop()

    run(main, name, quiet=True)


def main() -> None:
    given = read_arguments()
    match given.command:
        case "migrate":
            run_command("calls", "boostedcalls.calls")
        case "sync-stale":
            _run("calls-sync", sync_stale)
        case "audit":
            _run("calls-audit", check_books)
        case "dead-letters":
            _run("calls-dead-letters", lambda stack, runtime: work_letters(stack, runtime, given))
        case _:
            run(start, "calls")


if __name__ == "__main__":
    main()
