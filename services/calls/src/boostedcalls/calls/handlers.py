"""What the calls service answers: plain functions of (dependencies, caller, request). Creating a call: create.py."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from boostedcalls.calls import dispatch, queries, reports, schedule, store, sync
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.schedule import Stage
from boostedcalls.calls.state import TERMINAL, Fact, Source
from boostedcalls.calls.stats import Figures, read_figures, stats
from boostedcalls.calls.vapi import ProviderError
from boostedcalls.common.bus import Bus
from boostedcalls.common.context import Caller
from boostedcalls.common.db import connection as reading
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError, Unavailable, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.messages.calls import (
    CallId,
    CallStatus,
    ListCalls,
    Timeline,
)
from boostedcalls.common.messages.contacts import COUNT_CONTACTS, Count

log = get_logger(__name__)

# Seconds: another service's answer, and the provider's while somebody reads a call.
PEER = 3.0
_ON_READ = 2.0
_ON_READ_IN_ALL = 3.0


@dataclass(frozen=True, slots=True)
class Service:
    """The dependencies of the handlers: those of the dispatch, the bus, and the dispatches under way."""

    deps: Deps
    bus: Bus
    dispatches: set[asyncio.Task[store.Row | None]] = field(default_factory=set[asyncio.Task[store.Row | None]])

    def dispatch(self, who: Caller, row: store.Row) -> asyncio.Task[store.Row | None]:
        """Place the call in a task of its own, which outlives the request that asked for it."""
        task = asyncio.create_task(self._dispatch(who, row), name=f"dispatch {row['id']}")
        self.dispatches.add(task)
        task.add_done_callback(self.dispatches.discard)
        return task

    async def _dispatch(self, who: Caller, row: store.Row) -> store.Row | None:
        try:
            return await dispatch.dispatch(self.deps, who, row["id"])
        except Exception as error:
            # The row says how far it got; the sweep goes on from there.
            log.error("dispatch_failed", call_id=str(row["id"]), exc_info=error)
            return None

    async def finish(self, timeout: float) -> None:
        """At stop: let dispatches end, and leave the rest to the sweep of another process."""
        if self.dispatches:
            _, late = await asyncio.wait(self.dispatches, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def list_calls(service: Service, who: Caller, request: ListCalls) -> bytes:
    async with reading(service.deps.pool, who.user) as connection:
        return await queries.list_calls(connection, who.user, request)


async def get_call(service: Service, who: Caller, request: CallId) -> bytes:
    """The call; of an active one the provider is asked first, at most every few seconds, and not waited for long."""
    deps = service.deps
    async with reading(deps.pool, who.user) as connection:
        row = await queries.get_call(connection, who.user, request.call_id)
    # Without a due time nothing more is expected of it.
    if schedule.stage(row) is Stage.FOLLOW and row["due_at"] and await _claim_look(deps, who, row):
        try:
            async with asyncio.timeout(_ON_READ_IN_ALL):
                row = await _sync(service, who, row, _ON_READ)
        except (ProviderError, ServiceError, Unavailable, TimeoutError) as error:
            log.warning("sync_on_read_failed", call_id=str(row["id"]), reason=str(error) or "timeout")
    return queries.call_json(row)


async def _claim_look(deps: Deps, who: Caller, row: store.Row) -> bool:
    """Whether the provider was not asked about the call just now, and is to be asked by us."""
    async with transaction(deps.pool, who.user) as connection:
        claimed = await connection.fetchval(
            "UPDATE calls.calls SET synced_at = now() WHERE id = $1"
            " AND (synced_at IS NULL OR synced_at < now() - make_interval(secs => $2)) RETURNING true",
            row["id"],
            deps.settings.sync_on_read,
        )
    return claimed is not None


async def _sync(service: Service, who: Caller, row: store.Row, timeout: float) -> store.Row:
    """Ask the provider and join its answer at once; the same report, recorded in the stream, changes nothing later.
    Raises ProviderError, and what publishing raises."""
    call = await service.deps.vapi.get_call(row["provider_call_id"], timeout)
    event = await sync.record_snapshot(service.bus, who, call)
    learned = store.Change(row, reports.facts_of(event), control_url=dispatch.control_url(call))
    return await dispatch.change(service.deps, who, row["id"], learned)


def _provider_problem(error: ProviderError) -> ServiceError:
    if error.status is None:
        return problem("provider_timeout", retry_after=5)
    return problem("provider_error", str(error))


async def sync_call(service: Service, who: Caller, request: CallId) -> bytes:
    deps = service.deps
    async with reading(deps.pool, who.user) as connection:
        row = await queries.get_call(connection, who.user, request.call_id)
    try:
        match schedule.stage(row):
            case Stage.FOLLOW | Stage.SETTLED if row["provider_call_id"]:
                row = await _sync(service, who, row, 5.0)
            # Also a call that was given up: should it be there after all, that is the truth.
            case Stage.RECONCILE | Stage.SETTLED if row["dispatch_started_at"] and row["error_code"] != "rejected":
                if await dispatch.reconcile(deps, who, row) is None:
                    raise ProviderError("the provider did not answer")
                async with reading(deps.pool, who.user) as connection:
                    row = await queries.get_call(connection, who.user, request.call_id)
            case _:
                pass
    except ProviderError as error:
        raise _provider_problem(error) from error
    return queries.call_json(row)


async def cancel_call(service: Service, who: Caller, request: CallId) -> bytes:
    """Cancel: here and now for a call that is not placed, by hanging up for one that is live.

    A call whose placing is unclear is cancelled too, and hung up as soon as it turns up at the provider.
    """
    deps = service.deps
    async with transaction(deps.pool, who.user) as connection:
        row = await queries.get_call(connection, who.user, request.call_id)
        if row["status"] not in TERMINAL and row["provider_call_id"] is None:
            (row,) = await store.lock(connection, [row["id"]])
            if row["status"] not in TERMINAL and row["provider_call_id"] is None:
                row = await _cancelled(deps, who, connection, row)
    if row["hang_up_wanted"]:
        deps.relay.wake()
        return queries.call_json(row)
    if row["status"] in TERMINAL:
        raise problem("call_not_cancellable", f"The call is {row['status']}")
    return queries.call_json(await _hang_up_and_cancel(service, who, row))


async def _cancelled(deps: Deps, who: Caller, connection: Any, row: store.Row) -> store.Row:
    fact = Fact(Source.CANCEL, datetime.now(UTC), CallStatus.CANCELLED)
    change = store.Change(row, [fact], hang_up_wanted=True, dispatch_closed=row["dispatch_started_at"] is None)
    (changed,) = await store.write(connection, [change], deps.settings, who.traceparent)
    return changed


async def _hang_up_and_cancel(service: Service, who: Caller, row: store.Row) -> store.Row:
    deps = service.deps
    try:
        if not row["control_url"]:
            row = await _sync(service, who, row, 5.0)
        if row["status"] not in TERMINAL:
            await deps.vapi.end_call(row["control_url"] or "")
    except ProviderError as refusal:
        # It may have ended in this very moment: then that is the answer, and not the refusal.
        try:
            row = await _sync(service, who, row, 5.0)
        except ProviderError as error:
            raise _provider_problem(error) from error
        if row["status"] not in TERMINAL:
            raise _provider_problem(refusal) from refusal
    if row["hang_up_wanted"] or row["status"] == CallStatus.CANCELLED:
        # Another cancel was quicker.
        return row
    if row["status"] in TERMINAL:
        raise problem("call_not_cancellable", f"The call is {row['status']}")
    async with transaction(deps.pool, who.user) as connection:
        (row,) = await store.lock(connection, [row["id"]])
        row = await _cancelled(deps, who, connection, row)
    deps.relay.wake()
    return row


async def call_timeline(service: Service, who: Caller, request: CallId) -> Timeline:
    async with reading(service.deps.pool, who.user) as connection:
        return await queries.timeline(connection, who.user, request.call_id)


async def pending_count(service: Service, who: Caller, _: Nothing) -> Count:
    async with reading(service.deps.pool, who.user) as connection:
        return Count(count=await store.active_calls(connection, who.user))


async def call_stats(service: Service, who: Caller, _: Nothing) -> bytes:
    today = datetime.now(UTC).date()

    async def figures() -> Figures:
        async with reading(service.deps.pool, who.user) as connection:
            return await read_figures(connection, who.user, today)

    found, counted = await asyncio.gather(figures(), service.bus.request(COUNT_CONTACTS.subject, b"{}", who, PEER))
    return stats(found, Count.model_validate_json(counted).count, today)
