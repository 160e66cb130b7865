"""Placing a call against a provider that answers as each test tells it to."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from boostedcalls.calls import dispatch, matching, reports, store, sync
from boostedcalls.common.context import caller
from boostedcalls.common.db import transaction

from .conftest import Make, World
from .provider import Provider


async def test_a_call_that_waited_for_the_database_before_its_claim_is_placed_all_the_same(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    held = [await world.deps.pool.acquire() for _ in range(10)]
    dialling = asyncio.create_task(dispatch.dispatch(world.deps, caller(user_id), row["id"]))
    await asyncio.sleep(2.5)
    for connection in held:
        await world.deps.pool.release(connection)
    await dialling
    assert provider.count("create") == 1
    assert (await world.row(row["id"]))["provider_call_id"] in provider.calls


async def test_a_claim_that_took_too_long_dials_nobody_and_is_given_back(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    async with transaction(world.admin) as connection:
        await store.lock(connection, [row["id"]])
        dialling = asyncio.create_task(dispatch.dispatch(world.deps, caller(user_id), row["id"]))
        await asyncio.sleep(2.5)
    await dialling
    assert provider.count("create") == 0
    assert (await world.row(row["id"]))["dispatch_started_at"] is None
    await dispatch.dispatch(world.deps, caller(user_id), row["id"])
    assert provider.count("create") == 1


async def test_a_call_found_under_a_second_provider_id_keeps_the_facts_of_the_first(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id="first"))
    other = {"id": "second", "status": "ended", "endedReason": "customer-busy", "cost": 1}
    learned = store.Change(
        row, [reports.snapshot(other, datetime.now(UTC))], provider_call_id="second", control_url="https://x.vapi.ai/2"
    )
    await dispatch.change(world.deps, caller(), row["id"], learned)
    found = await world.row(row["id"])
    assert (found["provider_call_id"], found["status"], found["control_url"]) == ("first", "pending", None)


async def test_a_call_listed_twice_by_overlapping_windows_is_one_call(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    claimed = await _claimed(world, row)
    call = provider.place({"name": str(row["id"])})
    provider.calls["again"] = call
    before = matching.CONFLICTS._value.get()
    assert await dispatch.reconcile(world.deps, caller(), claimed) is True
    assert matching.CONFLICTS._value.get() == before
    assert (await world.row(row["id"]))["provider_call_id"] == call["id"]


async def test_a_call_whose_listing_never_succeeds_ends_after_the_longest_time_a_call_may_take(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url, call_max_age=60)
    provider.failing = {"create": 500, "list": 401}
    long_ago = datetime.now(UTC) - timedelta(seconds=50)
    row = await world.insert(user_id, created_at=long_ago)
    await dispatch.dispatch(world.deps, caller(), row["id"])
    await sync.look(world.deps, world.bus, caller(), row["id"])
    assert (await world.row(row["id"]))["status"] == "pending"
    await world.admin.execute("UPDATE calls.calls SET created_at = created_at - interval '1 minute'")
    await sync.look(world.deps, world.bus, caller(), row["id"])
    found = await world.row(row["id"])
    assert (found["status"], found["error_code"]) == ("failed", "timed_out")
    assert provider.count("create") == 1


async def _claimed(world: World, row: store.Row) -> store.Row:
    async with transaction(world.admin) as connection:
        claimed = await store.claim(connection, row["id"], world.deps.settings)
    assert claimed is not None
    return claimed


@pytest.mark.parametrize("odd", ['"a\\u0000b"', '"half \\ud83d"', "9" * 30])
async def test_a_call_is_found_whatever_the_provider_writes_into_it(
    make_world: Make, provider: Provider, user_id: UUID, odd: str
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _claimed(world, await world.insert(user_id))
    head = f'"id":"odd","name":"{row["id"]}","status":"in-progress"'
    provider.raw["list"] = f'[{{{head},"artifact":{{"messages":[{odd}]}}}}]'.encode()
    assert await dispatch.reconcile(world.deps, caller(), row) is True
    found = await world.row(row["id"])
    assert (found["provider_call_id"], found["status"], len(found["messages"])) == ("odd", "in-progress", 1)


async def test_what_a_listing_shows_of_a_call_is_kept_without_its_secrets(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await _claimed(world, await world.insert(user_id))
    provider.place({"name": str(row["id"])}, artifact={"messages": [{"authorization": "Bearer x"}]})
    await dispatch.reconcile(world.deps, caller(), row)
    found = await world.row(row["id"])
    assert found["messages"] == [{"authorization": "[REDACTED]"}]
    assert found["control_url"].startswith(provider.url)


async def test_a_refusal_whose_message_holds_a_nul_character_is_recorded(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    provider.failing, provider.message = {"create": 400}, "bad \x00 number"
    row = await world.insert(user_id)
    await dispatch.dispatch(world.deps, caller(), row["id"])
    found = await world.row(row["id"])
    assert (found["status"], found["error_code"], found["error_message"]) == ("failed", "rejected", "bad  number")
