"""Repeats with an Idempotency-Key, asked over NATS as the gateway asks; the provider does what each test wants."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import structlog

from boostedcalls.calls import idempotency, sync
from boostedcalls.calls.idempotency import REPLAYS
from boostedcalls.common.context import new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import Replayed

from .asker import Asker, MakeAsker, shown


@pytest_asyncio.fixture
async def asker(make_asker: MakeAsker) -> Asker:
    return await make_asker()


async def test_a_repeat_gets_the_first_answer_byte_for_byte_and_dials_nobody(asker: Asker) -> None:
    first = await asker.ask()
    call_id = UUID(shown(first)["id"])
    await asker.world.admin.execute("UPDATE calls.calls SET status = 'completed', transcript = 'AI: Hello.'")
    counted = REPLAYS._value.get()
    with structlog.testing.capture_logs() as logs:
        repeats = [await asker.ask() for _ in range(3)]
    assert not isinstance(first, Replayed)
    assert all(isinstance(repeat, Replayed) for repeat in repeats)
    assert {bytes(repeat) for repeat in repeats} == {first}
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)
    assert REPLAYS._value.get() == counted + 3
    assert [line["call_id"] for line in logs if line["event"] == "call_replayed"] == [str(call_id)] * 3


async def test_without_a_key_each_request_is_a_call(asker: Asker) -> None:
    first, second = await asker.ask(key=None), await asker.ask(key=None)
    assert first != second
    assert not isinstance(second, Replayed)
    assert (await asker.calls(), await asker.keys(), asker.provider.count("create")) == (2, 0, 2)


async def test_the_same_key_of_another_user_is_another_call(asker: Asker) -> None:
    first, second = await asker.ask(), await asker.ask(user_id=new_id())
    assert shown(first)["id"] != shown(second)["id"]
    assert not isinstance(second, Replayed)
    assert (await asker.calls(), await asker.keys()) == (2, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"contact_id": str(new_id())},
        {"first_message": "Hello"},
        {"metadata": {"b": [1, {"d": 1, "c": 2}], "a": 2}},
        {"call_goals": [{"name": "Qualify", "successCriteria": "no"}]},
        {"script_id": str(new_id())},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_key_with_another_body_is_refused(asker: Asker, other: dict[str, Any]) -> None:
    body = {
        "metadata": {"a": 1, "b": [1, {"c": 2, "d": 1}]},
        "call_goals": [{"name": "Qualify", "successCriteria": "yes"}],
    }
    await asker.ask(**body)
    error = await asker.refused(**{**body, **other})
    assert (error.status, error.code, error.replayed) == (422, "idempotency_key_reused", False)
    assert [fault["field"] for fault in error.errors] == ["Idempotency-Key"]
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_the_same_body_in_another_spelling_is_the_same_body(asker: Asker) -> None:
    first = await asker.ask(metadata={"a": 1, "b": [1, {"c": 2, "d": 1}]}, call_goals=["x", {"name": "Qualify"}])
    again = await asker.ask(
        contact_id=str(asker.contact_id).upper(),
        script_id=None,
        first_message=None,
        metadata={"b": [1, {"d": 1, "c": 2}], "a": 1},
        call_goals=["x", {"description": None, "name": "Qualify", "successCriteria": None}],
    )
    assert again == first
    assert isinstance(again, Replayed)


async def test_of_many_repeats_at_once_one_makes_the_call_and_all_get_its_answer(asker: Asker) -> None:
    async def until_answered() -> bytes:
        while True:
            try:
                return await asker.ask()
            except ServiceError as error:
                if (error.status, error.code, error.retry_after) != (409, "idempotency_key_in_use", 1):
                    raise
            await asyncio.sleep(0.05)

    answers = await asyncio.gather(*(until_answered() for _ in range(30)))
    assert {bytes(answer) for answer in answers} == {answers[0]}
    assert sum(not isinstance(answer, Replayed) for answer in answers) == 1
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_while_the_first_is_under_way_a_repeat_is_told_to_come_again(asker: Asker) -> None:
    asker.provider.going.clear()
    first = asyncio.create_task(asker.ask())
    await asker.dialled()
    error = await asker.refused()
    assert (error.status, error.code, error.retry_after) == (409, "idempotency_key_in_use", 1)
    assert (await asker.refused(first_message="other")).code == "idempotency_key_reused"
    asker.provider.going.set()
    assert await first == await asker.ask()
    assert asker.provider.count("create") == 1


async def test_two_that_both_found_the_key_new_are_told_apart_under_the_lock(asker: Asker) -> None:
    asker.both = asyncio.Barrier(2)
    answers = await asyncio.gather(asker.ask(), asker.ask(first_message="Another"), return_exceptions=True)
    (refusal,) = (answer for answer in answers if isinstance(answer, ServiceError))
    assert refusal.code == "idempotency_key_reused"
    assert asker.contacts_asked == 2
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_a_refused_call_is_refused_again_in_the_same_words_under_the_repeats_own_request_id(
    asker: Asker,
) -> None:
    asker.provider.failing, asker.provider.message = {"create": 400}, "customer.number must be E.164"
    first, repeat = await asker.refused(), await asker.refused()
    assert (first.status, first.code, first.replayed) == (502, "provider_error", False)
    assert "customer.number" in str(first.detail)
    assert repeat.replayed
    assert repeat.to_dict("x") == first.to_dict("x")
    call_id = await asker.world.admin.fetchval("SELECT id FROM calls.calls")
    assert repeat.instance == f"/api/calls/{call_id}/"
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_a_repeat_is_answered_though_the_contact_is_gone_and_nobody_is_asked_for_it(asker: Asker) -> None:
    first = await asker.ask()
    asker.contacts.clear()
    assert await asker.ask() == first
    assert asker.contacts_asked == 1
    assert (await asker.refused(key="new")).code == "contact_not_found"


async def test_an_error_before_there_is_a_call_uses_up_no_key(make_asker: MakeAsker) -> None:
    asker = await make_asker(max_active_calls_per_user=1)
    asker.contacts.clear()
    assert (await asker.refused()).code == "contact_not_found"
    asker.add_contact()
    active = await asker.world.insert(asker.user_id)
    assert (await asker.refused()).code == "max_active_calls"
    assert (await asker.refused(script_id=str(new_id()))).code == "unavailable"
    assert await asker.keys() == 0
    await asker.world.admin.execute("UPDATE calls.totals SET calls = 0")
    made = await asker.ask(first_message="Now it can be made")
    assert not isinstance(made, Replayed)
    assert shown(made)["id"] != str(active["id"])


async def test_a_repeat_counts_for_no_cap(make_asker: MakeAsker) -> None:
    asker = await make_asker(max_active_calls_per_user=1)
    first = await asker.ask()
    assert (await asker.refused(key="new")).code == "max_active_calls"
    assert await asker.ask() == first


async def test_a_key_of_yesterday_is_a_new_key(asker: Asker) -> None:
    first = await asker.ask()
    await asker.let_time_pass("created_at", "23 hours 59 minutes")
    assert await asker.ask() == first
    await asker.let_time_pass("created_at", "1 minute")
    second = await asker.ask(first_message="Another")
    assert not isinstance(second, Replayed)
    assert (await asker.calls(), await asker.keys(), asker.provider.count("create")) == (2, 1, 2)
    assert await asker.ask(first_message="Another") == second
    assert (await asker.refused()).code == "idempotency_key_reused"


async def test_a_request_cut_off_before_its_answer_was_stored_is_answered_from_its_call(asker: Asker) -> None:
    asker.provider.going.clear()
    assert (await asker.refused(within=1)).code == "timeout"
    await asker.dialled()
    assert (await asker.refused()).code == "idempotency_key_in_use"
    await asker.let_time_pass("running_until", "1 minute")
    second = await asker.ask()
    asker.provider.going.set()
    assert isinstance(second, Replayed)
    assert (shown(second)["status"], shown(second)["vapi_call_id"]) == ("pending", None)
    await asker.world.service.finish(5)
    await asker.worlds[1].service.finish(5)
    assert await asker.world.admin.fetchval("SELECT provider_call_id FROM calls.calls") is not None
    assert await asker.ask() == second
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_a_refusal_that_nobody_was_told_is_told_to_the_repeat(asker: Asker) -> None:
    asker.provider.failing = {"create": 400}
    asker.provider.going.clear()
    assert (await asker.refused(within=1)).code == "timeout"
    asker.provider.going.set()
    for world in asker.worlds:
        await world.service.finish(5)
    await asker.let_time_pass("running_until", "1 minute")
    repeats = [await asker.refused() for _ in range(2)]
    assert [(error.code, error.replayed) for error in repeats] == [("provider_error", True)] * 2
    assert repeats[0].instance == repeats[1].instance
    assert repeats[0].instance


async def test_a_first_that_is_slower_than_its_repeat_gives_the_repeats_answer(asker: Asker) -> None:
    asker.provider.going.clear()
    first = asyncio.create_task(asker.ask())
    await asker.dialled()
    await asker.let_time_pass("running_until", "1 minute")
    repeats = await asyncio.gather(*(asker.ask() for _ in range(5)))
    asker.provider.going.set()
    assert {bytes(answer) for answer in (*repeats, await first)} == {repeats[0]}
    assert isinstance(await first, Replayed)


async def test_an_answer_that_cannot_be_stored_is_not_given_and_the_key_is_in_use_for_a_while(asker: Asker) -> None:
    await asker.world.admin.execute(
        "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'gone' USING ERRCODE = 'admin_shutdown'; END $$;"
        "CREATE TRIGGER away BEFORE UPDATE ON calls.idempotency_keys FOR EACH ROW EXECUTE FUNCTION away()"
    )
    assert (await asker.refused()).code == "unavailable"
    await asker.world.admin.execute("DROP FUNCTION away CASCADE")
    assert (await asker.refused()).code == "idempotency_key_in_use"
    await asker.let_time_pass("running_until", "1 minute")
    answers = [await asker.ask() for _ in range(2)]
    assert answers[0] == answers[1]
    assert shown(answers[0])["vapi_call_id"] in asker.provider.calls
    assert (await asker.calls(), asker.provider.count("create")) == (1, 1)


async def test_a_key_that_stands_for_a_call_is_not_given_another(asker: Asker) -> None:
    """The table itself sees to it, whatever was looked up before."""
    await asker.ask()
    row = await asker.world.insert(asker.user_id)
    key = idempotency.Key(asker.user_id, "key", b"")
    async with transaction(asker.world.deps.pool, asker.user_id) as connection:
        with pytest.raises(ServiceError) as caught:
            await idempotency.take(connection, key, row["id"], 1)
        found = await idempotency.find(connection, key)
    assert caught.value.code == "idempotency_key_in_use"
    assert found is not None
    assert found.call_id != row["id"]


async def test_the_key_of_a_call_that_was_deleted_is_free(asker: Asker) -> None:
    await asker.ask()
    await asker.world.admin.execute("DELETE FROM calls.calls")
    assert await asker.keys() == 0


async def test_the_schedule_clears_keys_of_yesterday_away_and_no_others(make_asker: MakeAsker) -> None:
    asker = await make_asker(sync_poll=0.05)
    await asker.ask(key="old")
    await asker.let_time_pass("created_at", "24 hours")
    kept = await asker.ask(key="new")
    asker.world.runtime.spawn(sync.publish_jobs(asker.world.deps, asker.world.bus), "publisher")
    async with asyncio.timeout(20):
        while True:
            if await asker.keys() == 1:
                break
            await asyncio.sleep(0.05)
    assert await asker.ask(key="new") == kept
    assert await asker.calls() == 2


@pytest.mark.parametrize("key", ["", " a", "a ", "a" * 256, "ä", "a\x00", "a\n", "a\x7f", 7])
async def test_a_key_of_the_wrong_shape_is_refused(asker: Asker, key: Any) -> None:
    error = await asker.refused(key=None, idempotency_key=key)
    assert (error.code, [fault["field"] for fault in error.errors]) == ("validation_failed", ["idempotency_key"])
    assert await asker.calls() == 0


@pytest.mark.parametrize("key", ["!", "a b", '"quoted"', "a" * 255])
async def test_a_key_of_printable_characters_is_taken(asker: Asker, key: str) -> None:
    assert await asker.ask(key=key) == await asker.ask(key=key)
