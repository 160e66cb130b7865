"""Stale calls: a scheduled publisher that claims calls which are due, and the worker that looks at each.

Any replica may publish and any may work: the claim is a row lock, the job a message in a work queue. What the provider
says is published as a provider event, so that it takes the way of every webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any, cast
from uuid import UUID

import asyncpg
import orjson
from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from boostedcalls.calls import dispatch, idempotency, matching, reports, schedule, store
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.schedule import Stage
from boostedcalls.calls.state import TERMINAL, Fact, Source, fold
from boostedcalls.calls.vapi import Json, ProviderError
from boostedcalls.common import subjects
from boostedcalls.common.bus import Bus, Delivery, event_message
from boostedcalls.common.context import Caller, caller, new_id
from boostedcalls.common.db import PASSING, SERVICE, transaction
from boostedcalls.common.db import connection as reading
from boostedcalls.common.errors import Poison, ServiceError, Unavailable
from boostedcalls.common.events import PROVIDER_MESSAGE, SYNC_DUE, ProviderEvent, SyncJob
from boostedcalls.common.logs import get_logger
from boostedcalls.common.messages.calls import CallStatus
from boostedcalls.common.redact import redact
from boostedcalls.common.trouble import Trouble

log = get_logger(__name__)

CORRECTED = Counter("boostedcalls_corrected_by_sync_total", "Calls whose status the schedule's looks had to correct")
STALE = Gauge("boostedcalls_unmatched_oldest_seconds", "Age of the oldest provider event whose call is not known")

# So few that a worker is done with a job before it is delivered again, however slow the provider is.
_JOB_CALLS = 20
# A claimed call whose job is lost is due again after this long.
_LEASE = 60
_CLAIM_AT_ONCE = 1000
_LOST_AFTER_CHECKS = 3
_TELL_EVERY = 60.0

# Of a call object and of its artifact: what reports.py and signing.py read.
_READ = frozenset(
    {"id", "status", "endedReason", "endedMessage", "createdAt", "updatedAt", "startedAt", "endedAt", "durationSeconds"}
    | {"cost", "costBreakdown", "analysis", "assistantOverrides", "summary", "recordingUrl", "stereoRecordingUrl"}
)
_READ_ARTIFACT = frozenset(
    {"transcript", "messages", "recording", "recordingUrl", "stereoRecordingUrl", "structuredOutputs"}
)

_CLAIM_DUE = """
    UPDATE calls.calls SET due_at = now() + make_interval(secs => $2)
    WHERE id IN (SELECT id FROM calls.calls WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, due_at
"""
_GIVE_BACK = "UPDATE calls.calls SET due_at = now() WHERE id = ANY($1::uuid[]) AND due_at = $2"
_CLAIM_ALL = """
    UPDATE calls.calls SET due_at = now() + make_interval(secs => $2)
    WHERE id IN (SELECT id FROM calls.calls WHERE due_at IS NOT NULL AND id > $3 ORDER BY id LIMIT $1
                 FOR UPDATE SKIP LOCKED)
    RETURNING id
"""
_LOOKED = """
    UPDATE calls.calls
    SET checks = checks + 1, synced_at = now(), due_at = $2, control_url = coalesce($3, control_url)
    WHERE id = $1 AND version = $4
"""


async def publish_jobs(deps: Deps, bus: Bus) -> None:
    """Run until the process stops: every `sync_poll` seconds, publish the calls that are due. A side task."""
    told = -_TELL_EVERY
    trouble = Trouble("sync_waits", "sync_goes_on")
    while not bus.runtime.stopping.is_set():
        try:
            await _tick(deps, bus)
            if monotonic() - told >= _TELL_EVERY:
                async with reading(deps.pool, SERVICE) as connection:
                    await matching.count_left(connection)
                told = monotonic()
            trouble.over()
        except (Unavailable, ServiceError, asyncpg.PostgresError, *PASSING) as error:
            trouble.seen(error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(bus.runtime.stopping.wait(), deps.settings.sync_poll)


async def _tick(deps: Deps, bus: Bus) -> None:
    who = caller()
    async with transaction(deps.pool, SERVICE) as connection:
        due = await connection.fetch(_CLAIM_DUE, _CLAIM_AT_ONCE, _LEASE)
    try:
        await _publish(bus, who, [row["id"] for row in due])
    except Unavailable:
        # Those that were published are looked at twice: better than all the others a minute late.
        async with transaction(deps.pool, SERVICE) as connection:
            await connection.execute(_GIVE_BACK, [row["id"] for row in due], due[0]["due_at"])
        raise
    async with transaction(deps.pool, SERVICE) as connection:
        if await matching.sweep(connection, deps.settings, who.traceparent):
            deps.relay.wake()
        oldest = await connection.fetchval("SELECT extract(epoch FROM now() - min(parked_at)) FROM calls.unmatched")
    STALE.set(float(oldest or 0))
    await idempotency.clean(deps.pool)


async def publish_all(deps: Deps, bus: Bus) -> int:
    """Publish a job for every call that is not settled, due or not; return how many. The `sync-stale` command."""
    who = caller()
    count = 0
    after = UUID(int=0)
    while True:
        async with transaction(deps.pool, SERVICE) as connection:
            rows = await connection.fetch(_CLAIM_ALL, _CLAIM_AT_ONCE, _LEASE, after)
        if not rows:
            return count
        ids = sorted(row["id"] for row in rows)
        await _publish(bus, who, ids)
        count += len(ids)
        after = ids[-1]


async def _publish(bus: Bus, who: Caller, ids: Sequence[UUID]) -> None:
    for start in range(0, len(ids), _JOB_CALLS):
        job = SyncJob(call_ids=list(ids[start : start + _JOB_CALLS]))
        await bus.send(
            SYNC_DUE.stream,
            event_message(
                SYNC_DUE,
                subjects.JOB_SYNC,
                job.model_dump_json().encode(),
                event_id=str(new_id()),
                source="/calls",
                at=datetime.now(UTC),
                traceparent=who.traceparent,
            ),
        )


async def work(deps: Deps, bus: Bus, deliveries: Sequence[Delivery]) -> None:
    """Look at every call of the jobs. Raises Poison for what is no job, Unavailable when the database is away."""
    looks: list[Any] = []
    for delivery in deliveries:
        # Its calls have been claimed anew by now: what piled up while the provider was slow is not asked for twice.
        if (datetime.now(UTC) - delivery.stored_at).total_seconds() >= _LEASE:
            continue
        try:
            job = SyncJob.model_validate_json(delivery.data)
        except ValidationError as error:
            raise Poison(f"not a sync job: {error.error_count()} faults") from error
        who = caller(traceparent=delivery.headers.get("traceparent"))
        looks += [look(deps, bus, who, call_id) for call_id in job.call_ids]
    # A look may dial: cancelling the others because one failed would make their outcome unclear.
    for result in await asyncio.gather(*looks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def look(deps: Deps, bus: Bus, who: Caller, call_id: UUID) -> None:
    """Do for one call what it waits for, and set when it is due next."""
    async with reading(deps.pool, SERVICE) as connection:
        record = await connection.fetchrow("SELECT * FROM calls.calls WHERE id = $1", call_id)
    if record is None:
        return
    row = dict(record)
    match schedule.stage(row):
        case Stage.DISPATCH:
            # One attempt: if nothing could be sent, the call is due again soon.
            await dispatch.dispatch(deps, who, call_id, attempts=1)
        case Stage.RECONCILE:
            if await dispatch.reconcile_step(deps, who, row):
                await _looked(deps, row, None)
            else:
                await _look_again(deps, row, deps.settings.reconcile_steps[0])
        case Stage.FOLLOW:
            await _follow(deps, bus, who, row)
        case Stage.SETTLED:
            await _looked(deps, row, None)


async def _looked(deps: Deps, row: store.Row, control_url: str | None) -> None:
    """Note the look, unless the call has changed meanwhile (then its due time is newer than ours)."""
    now = datetime.now(UTC)
    due = schedule.next_due({**row, "checks": row["checks"] + 1, "synced_at": now}, deps.settings, now)
    async with transaction(deps.pool, SERVICE) as connection:
        await connection.execute(_LOOKED, row["id"], due, control_url, row["version"])


async def _look_again(deps: Deps, row: store.Row, seconds: float) -> None:
    """Look once more in a while, as if this look had not been."""
    async with transaction(deps.pool, SERVICE) as connection:
        await connection.execute(
            "UPDATE calls.calls SET due_at = now() + make_interval(secs => $2) WHERE id = $1 AND version = $3",
            row["id"],
            seconds,
            row["version"],
        )


async def _follow(deps: Deps, bus: Bus, who: Caller, row: store.Row) -> None:
    try:
        call = await deps.vapi.get_call(row["provider_call_id"])
    except ProviderError as error:
        log.warning("sync_failed", call_id=str(row["id"]), status=error.status, reason=str(error))
        lost = error.status == 404
        if lost or schedule.unanswered_counts(row, deps.settings, datetime.now(UTC)):
            await _looked(deps, row, None)
        else:
            await _look_again(deps, row, schedule.unanswered_again(deps.settings))
        await _give_up(deps, who, row, lost=lost)
        return
    found = dispatch.control_url(call)
    # Before the snapshot changes the row.
    await _looked(deps, row, found)
    try:
        event = await record_snapshot(bus, who, call)
    except Unavailable:
        # The job comes again, but is dropped when it is too old by then.
        await _look_again(deps, row, deps.settings.sync_steps[0])
        raise
    # Nobody has heard of the call for a while: what changes its status now is what webhooks should have told.
    if fold(store.state_of(row), reports.facts_of(event)).status != row["status"]:
        CORRECTED.inc()
    ended = call.get("status") == "ended"
    if row["hang_up_wanted"] and not ended:
        await dispatch.hang_up(deps, {**row, "control_url": found or row["control_url"]})
    if not ended:
        await _give_up(deps, who, row, lost=False)


async def _give_up(deps: Deps, who: Caller, row: store.Row, *, lost: bool) -> None:
    """End a call of which the provider knows nothing, or that is older than any call can be."""
    if row["status"] in TERMINAL:
        return
    if lost and row["checks"] + 1 >= _LOST_AFTER_CHECKS:
        code, message = "lost", "The provider does not know the call any more."
    elif schedule.too_old(row, deps.settings, datetime.now(UTC)):
        code, message = "timed_out", "The provider did not report the call's end in time."
    else:
        return
    verdict = Fact(Source.OURS, datetime.now(UTC), CallStatus.FAILED, error_code=code, error_message=message)
    await dispatch.change(deps, who, row["id"], store.Change(row, [verdict]))


def _forms(call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The call object; only what is read of it; that without its messages."""
    yield call
    artifact = call.get("artifact")
    carried: dict[str, Any] = cast("dict[str, Any]", artifact) if isinstance(artifact, dict) else {}
    read = {name: value for name, value in call.items() if name in _READ}
    read["artifact"] = {name: value for name, value in carried.items() if name in _READ_ARTIFACT}
    yield read
    yield {**read, "artifact": {name: value for name, value in read["artifact"].items() if name != "messages"}}


async def record_snapshot(bus: Bus, who: Caller, call: Json) -> ProviderEvent:
    """Publish what the provider told us of a call, without its secrets, and as much of it as a message holds. Raises
    Unavailable, or ServiceError when nothing of it fits."""
    forms = list(_forms(redact(dict(call))))
    for form in forms[:-1]:
        try:
            return await _record(bus, who, form)
        except ServiceError as error:
            if error.code != "payload_too_large":
                raise
    return await _record(bus, who, forms[-1])


async def _record(bus: Bus, who: Caller, call: dict[str, Any]) -> ProviderEvent:
    event = ProviderEvent(
        source="sync",
        kind=reports.SNAPSHOT,
        provider_call_id=str(call["id"]),
        received_at=datetime.now(UTC),
        message={"call": call},
    )
    await bus.send(
        PROVIDER_MESSAGE.stream,
        event_message(
            PROVIDER_MESSAGE,
            subjects.provider_event(event.kind, event.provider_call_id),
            event.model_dump_json().encode(),
            event_id=str(new_id()),
            source="/calls",
            at=event.received_at,
            traceparent=who.traceparent,
            message_id=hashlib.sha256(orjson.dumps(event.message, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        ),
    )
    return event
