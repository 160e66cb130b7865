"""Looks at placed calls, by the schedule and by hand, against a provider that answers as each test tells it to."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from nats.js.api import DiscardPolicy

from boostedcalls.calls import dispatch, handlers, store, sync
from boostedcalls.common.bus import Delivery
from boostedcalls.common.bus.streams import JOBS, PROVIDER_EVENTS
from boostedcalls.common.context import caller
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.events import SyncJob
from boostedcalls.common.messages.calls import Call, CallId

from .conftest import Make, World
from .provider import Provider

ENDED = {"status": "ended", "endedReason": "customer-ended-call", "cost": 0.02, "startedAt": "2026-11-22T10:30:09Z"}


async def _placed(world: World, provider: Provider, user_id: UUID, **members: Any) -> store.Row:
    row = await world.insert(user_id)
    call = provider.place({"name": str(row["id"])}, **members)
    return await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id=call["id"]))


@asynccontextmanager
async def full(world: World, stream: str) -> AsyncGenerator[None]:
    """The stream takes nothing inside: an operator has set a limit that it is over."""
    config = (await world.bus.jetstream.stream_info(stream)).config
    await world.bus.jetstream.update_stream(replace(config, max_bytes=1, discard=DiscardPolicy.NEW))
    try:
        yield
    finally:
        await world.bus.jetstream.update_stream(config)


async def _shown(world: World, user_id: UUID, row: store.Row) -> Call:
    """The call as its user sees it."""
    answer = await handlers.get_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    return Call.model_validate_json(answer)


async def _due_in(world: World, row: store.Row) -> timedelta:
    return (await world.row(row["id"]))["due_at"] - datetime.now(UTC)


async def test_a_call_too_large_for_a_message_is_synced_all_the_same(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    world.consume()
    big = [{"role": "system", "content": "x" * world.bus.client.max_payload}]
    row = await _placed(
        world, provider, user_id, **ENDED, artifact={"transcript": "hi", "messagesOpenAIFormatted": big}
    )
    await sync.look(world.deps, world.bus, caller(), row["id"])
    await world.quiet()
    found = await world.row(row["id"])
    assert (found["status"], found["transcript"]) == ("completed", "hi")


async def test_a_call_whose_messages_alone_are_too_large_still_ends(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    world.consume()
    big = [{"role": "system", "message": "x" * world.bus.client.max_payload}]
    row = await _placed(world, provider, user_id, **ENDED, artifact={"transcript": "hi", "messages": big})
    await sync.look(world.deps, world.bus, caller(), row["id"])
    await world.quiet()
    found = await world.row(row["id"])
    assert (found["status"], found["transcript"]) == ("completed", "hi")


@pytest.mark.parametrize("odd", ['"a\\u0000b"', '"half \\ud83d"', "9" * 30])
async def test_a_call_is_read_whatever_the_provider_writes_into_it(
    make_world: Make, provider: Provider, user_id: UUID, odd: str
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _placed(world, provider, user_id)
    provider.raw["get"] = f'{{"id":"{row["provider_call_id"]}","status":"ringing","x":{odd}}}'.encode()
    assert (await _shown(world, user_id, row)).status == "ringing"


async def test_reading_a_call_that_nobody_looks_after_any_more_does_not_ask_the_provider(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url, sync_steps=(0.1,), sync_on_read=0)
    row = await _placed(world, provider, user_id, status="ended", endedReason="customer-busy")
    await handlers.sync_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    for _ in range(3):
        await sync.look(world.deps, world.bus, caller(), row["id"])
    assert (await world.row(row["id"]))["due_at"] is None
    before = provider.count("get")
    assert (await _shown(world, user_id, row)).status == "busy"
    assert provider.count("get") == before


async def test_a_look_at_a_live_call_whose_webhooks_came_is_no_correction(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    world.consume()
    row = await _placed(world, provider, user_id, status="in-progress", startedAt="2026-11-22T10:30:09Z")
    await world.report("status-update", row["provider_call_id"], {"status": "in-progress", "timestamp": 1})
    await world.quiet()
    before = sync.CORRECTED._value.get()
    await sync.look(world.deps, world.bus, caller(), row["id"])
    await world.quiet()
    assert (await world.row(row["id"]))["started_at"] is not None
    assert sync.CORRECTED._value.get() == before
    provider.calls[row["provider_call_id"]].update(ENDED)
    await sync.look(world.deps, world.bus, caller(), row["id"])
    await world.quiet()
    assert sync.CORRECTED._value.get() == before + 1


async def test_reading_an_active_call_answers_with_what_is_stored_while_its_snapshot_cannot_be_recorded(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _placed(world, provider, user_id, status="ringing")
    async with full(world, PROVIDER_EVENTS), asyncio.timeout(4.5):
        found = await _shown(world, user_id, row)
    assert found.status == "pending"


async def test_a_job_older_than_its_claim_asks_nobody(make_world: Make, provider: Provider, user_id: UUID) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _placed(world, provider, user_id)
    for age, asked in ((120, 0), (1, 1)):
        stored_at = datetime.now(UTC) - timedelta(seconds=age)
        job = SyncJob(call_ids=[row["id"]]).model_dump_json().encode()
        await sync.work(world.deps, world.bus, [Delivery("bc.job.sync", job, {}, 1, 1, stored_at)])
        assert provider.count("get") == asked


async def test_a_cancelled_call_that_cannot_be_hung_up_is_tried_again_soon_and_not_at_once(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    world.consume()
    provider.failing["control"] = 500
    row = await _placed(world, provider, user_id, status="in-progress")
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, hang_up_wanted=True))
    for _ in range(3):
        provider.calls[row["provider_call_id"]]["updatedAt"] = datetime.now(UTC).isoformat()
        await sync.look(world.deps, world.bus, caller(), row["id"])
        await world.quiet()
        due = (await world.row(row["id"]))["due_at"] - datetime.now(UTC)
        assert timedelta(seconds=2) < due < timedelta(seconds=20)
    assert provider.count("control") == 3


@pytest.mark.parametrize("status", ["in-progress", "ended"])
async def test_looks_that_the_provider_does_not_answer_are_tried_again_after_the_second_step_and_do_not_count(
    make_world: Make, provider: Provider, user_id: UUID, status: str
) -> None:
    world = await make_world(vapi_base_url=provider.url, sync_steps=(60, 300, 900, 3600))
    row = await _placed(world, provider, user_id, status=status)
    if status == "ended":
        await handlers.sync_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    provider.failing["get"] = 503
    for _ in range(20):
        await sync.look(world.deps, world.bus, caller(), row["id"])
    assert timedelta(seconds=290) < await _due_in(world, row) < timedelta(seconds=310)
    assert (await world.row(row["id"]))["checks"] == 0


async def test_an_ended_call_that_the_provider_never_answers_for_is_left_alone_when_no_call_can_be_so_old(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url, call_max_age=0.001)
    row = await _placed(world, provider, user_id, status="ended")
    await handlers.sync_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    provider.failing["get"] = 503
    for _ in range(2 * len(world.deps.settings.sync_steps)):
        assert (await world.row(row["id"]))["due_at"] is not None
        await sync.look(world.deps, world.bus, caller(), row["id"])
    assert (await world.row(row["id"]))["due_at"] is None


async def test_a_look_whose_snapshot_cannot_be_recorded_is_soon_repeated(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    """Also when its job is too old by then: the schedule's next step may be an hour away."""
    world = await make_world(vapi_base_url=provider.url, sync_steps=(60, 3600))
    row = await _placed(world, provider, user_id, status="in-progress")
    async with full(world, PROVIDER_EVENTS):
        with pytest.raises(Unavailable):
            await sync.look(world.deps, world.bus, caller(), row["id"])
    assert await _due_in(world, row) < timedelta(seconds=61)


async def test_calls_for_which_no_job_could_be_published_stay_due(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _placed(world, provider, user_id)
    await world.admin.execute("UPDATE calls.calls SET due_at = now() WHERE id = $1", row["id"])
    async with full(world, JOBS):
        with pytest.raises(Unavailable):
            await sync._tick(world.deps, world.bus)
    assert await _due_in(world, row) < timedelta(0)
