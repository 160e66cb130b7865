"""Cancelling, against a provider that answers as each test tells it to."""

import asyncio
from uuid import UUID

import pytest

from boostedcalls.calls import dispatch, handlers, store
from boostedcalls.common.context import caller
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.calls import Call, CallId

from .conftest import Make
from .provider import Provider


async def test_a_call_cancelled_by_several_at_once_is_cancelled_for_each_of_them(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    call = provider.place({"name": str(row["id"])}, status="in-progress")
    change = store.Change(row, provider_call_id=call["id"], control_url=call["monitor"]["controlUrl"])
    await dispatch.change(world.deps, caller(), row["id"], change)
    who, what = caller(user_id), CallId(call_id=row["id"])
    answers = await asyncio.gather(*(handlers.cancel_call(world.service, who, what) for _ in range(4)))
    assert {Call.model_validate_json(answer).status for answer in answers} == {"cancelled"}


async def test_a_cancel_without_a_way_to_hang_up_is_the_providers_refusal_and_no_timeout(
    make_world: Make, provider: Provider, user_id: UUID
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    row = await world.insert(user_id)
    call = provider.place({"name": str(row["id"])}, status="in-progress")
    del call["monitor"]
    provider.calls[call["id"]] = call
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id=call["id"]))
    with pytest.raises(ServiceError) as caught:
        await handlers.cancel_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    assert caught.value.code == "provider_error"
