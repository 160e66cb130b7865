"""How often a user may place calls, and call the same number: asked over NATS, at two replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from boostedcalls.common.context import new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError

from .asker import Asker, MakeAsker, shown

Attacks = Callable[..., None]
# Nobody is called in these; what is placed stays active.
OFF = {"max_active_calls_per_user": 1000}


async def ask(asker: Asker, **more: Any) -> str | UUID:
    """Ask for a call: its id, or the code of the refusal."""
    try:
        return UUID(shown(await asker.ask(key=None, **more))["id"])
    except ServiceError as error:
        return error.code


async def let_pass(asker: Asker, seconds: float) -> None:
    await asker.world.admin.execute(
        "UPDATE calls.calls SET created_at = created_at - $1::interval", timedelta(seconds=seconds)
    )


async def test_in_a_minute_so_many_calls_and_no_more(make_asker: MakeAsker, attacks: Attacks) -> None:
    asker = await make_asker(create_calls_per_minute=3, **OFF)
    for _ in range(3):
        assert isinstance(await ask(asker), UUID)
        await let_pass(asker, 10)
    refused = await asker.refused(key=None)
    assert (refused.status, refused.code) == (429, "call_rate_exceeded")
    # The first of them is thirty seconds old.
    assert refused.retry_after in {29, 30}
    await let_pass(asker, refused.retry_after - 2)
    assert await ask(asker) == "call_rate_exceeded"
    await let_pass(asker, 2)
    assert isinstance(await ask(asker), UUID)
    assert await ask(asker) == "call_rate_exceeded"
    attacks("Limits: calls of one user", 7)


async def test_of_many_calls_at_once_over_two_replicas_no_more_are_placed(
    make_asker: MakeAsker, attacks: Attacks
) -> None:
    asker = await make_asker(create_calls_per_minute=5, **OFF)
    found = await asyncio.gather(*(ask(asker) for _ in range(30)))
    assert sum(isinstance(each, UUID) for each in found) == 5
    assert {each for each in found if isinstance(each, str)} == {"call_rate_exceeded"}
    assert (await asker.calls(), asker.provider.count("create")) == (5, 5)
    attacks("Limits: calls of one user at once", 30)


async def test_a_user_places_calls_whatever_others_do(make_asker: MakeAsker) -> None:
    asker = await make_asker(create_calls_per_minute=1, number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    assert await ask(asker) == "call_rate_exceeded"
    for _ in range(3):
        assert isinstance(await ask(asker, user_id=new_id()), UUID)


async def test_the_same_number_is_not_called_again_within_the_cool_down(
    make_asker: MakeAsker, attacks: Attacks
) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    await let_pass(asker, 20)
    refused = await asker.refused(key=None)
    assert (refused.status, refused.code) == (429, "number_cooldown")
    assert refused.retry_after in {39, 40}
    assert '"allow_repeat": true' in (refused.detail or "")
    assert "555" not in (refused.detail or "")
    await let_pass(asker, refused.retry_after - 2)
    assert await ask(asker) == "number_cooldown"
    await let_pass(asker, 2)
    assert isinstance(await ask(asker), UUID)
    assert asker.provider.count("create") == 2
    attacks("Limits: one number again and again", 4)


async def test_a_number_is_the_same_whatever_contact_has_it(make_asker: MakeAsker, attacks: Attacks) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    asker.contact_id = new_id()
    asker.add_contact()
    assert await ask(asker) == "number_cooldown"
    asker.contact_id = new_id()
    asker.add_contact("+12025550101")
    assert isinstance(await ask(asker), UUID)
    attacks("Limits: one number again and again", 3)


async def test_of_many_calls_to_one_number_at_once_one_is_placed(make_asker: MakeAsker, attacks: Attacks) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    found = await asyncio.gather(*(ask(asker) for _ in range(20)))
    assert sum(isinstance(each, UUID) for each in found) == 1
    assert {each for each in found if isinstance(each, str)} == {"number_cooldown"}
    attacks("Limits: one number many times at once", 20)


async def test_who_asks_for_it_calls_again_at_once(make_asker: MakeAsker) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    assert await ask(asker, allow_repeat=False) == "number_cooldown"
    assert isinstance(await ask(asker, allow_repeat=True), UUID)
    assert await ask(asker) == "number_cooldown"


@pytest.mark.parametrize("value", ["true", 1, None, "yes", [True]])
async def test_only_a_boolean_asks_for_it(make_asker: MakeAsker, value: Any) -> None:
    asker = await make_asker(number_cooldown=60)
    refused = await asker.refused(key=None, allow_repeat=value)
    assert (refused.code, refused.errors[0]["field"]) == ("validation_failed", "allow_repeat")


async def test_asking_for_it_does_not_get_around_the_rate(make_asker: MakeAsker) -> None:
    asker = await make_asker(create_calls_per_minute=1, number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    assert await ask(asker, allow_repeat=True) == "call_rate_exceeded"


async def test_a_call_that_the_provider_refused_rang_nobody_and_does_not_count(make_asker: MakeAsker) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    asker.provider.failing["create"] = 400
    assert await ask(asker) == "provider_error"
    assert await ask(asker) == "provider_error"
    del asker.provider.failing["create"]
    assert isinstance(await ask(asker), UUID)
    # The refused ones lie behind it now, and hide it from nobody.
    asker.provider.failing["create"] = 400
    assert await ask(asker, allow_repeat=True) == "provider_error"
    assert await ask(asker) == "number_cooldown"


@pytest.mark.parametrize(
    ("is_now", "counts"),
    [
        ("status = 'cancelled', provider_call_id = NULL, dispatch_closed = true", False),
        ("status = 'failed', error_code = 'not_placed', provider_call_id = NULL, dispatch_closed = true", False),
        # Found at the provider after it had been given up.
        ("status = 'failed', error_code = 'not_placed', dispatch_closed = true", True),
        # Nobody knows yet whether it was placed.
        ("status = 'pending', provider_call_id = NULL", True),
        ("status = 'cancelled', provider_call_id = NULL", True),
        ("status = 'no-answer'", True),
        ("status = 'completed'", True),
    ],
)
async def test_a_call_counts_unless_it_certainly_rang_nobody(make_asker: MakeAsker, is_now: str, counts: bool) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    assert isinstance(await ask(asker), UUID)
    await asker.world.admin.execute(f"UPDATE calls.calls SET {is_now}")  # noqa: S608 - our own words
    assert (await ask(asker) == "number_cooldown") is counts


async def test_repeats_with_a_key_are_answered_whatever_the_limits_say(make_asker: MakeAsker) -> None:
    asker = await make_asker(create_calls_per_minute=1, number_cooldown=60, max_active_calls_per_user=1)
    first = await asker.ask()
    for _ in range(3):
        assert bytes(await asker.ask()) == first
    assert (await asker.refused(key="new")).code == "call_rate_exceeded"


async def test_a_refusal_uses_up_no_key(make_asker: MakeAsker) -> None:
    asker = await make_asker(number_cooldown=60, **OFF)
    await asker.ask(key="one")
    assert (await asker.refused(key="two")).code == "number_cooldown"
    assert await asker.keys() == 1
    # With the same key, but in other words.
    assert UUID(shown(await asker.ask(key="two", allow_repeat=True))["id"])


async def test_without_limits_it_is_the_cap_that_a_client_meets(make_asker: MakeAsker) -> None:
    asker = await make_asker(max_active_calls_per_user=4)
    found = [await ask(asker) for _ in range(5)]
    assert [isinstance(each, UUID) for each in found] == [True] * 4 + [False]
    assert found[-1] == "max_active_calls"


async def test_both_questions_read_an_index_and_few_rows(make_asker: MakeAsker) -> None:
    asker = await make_asker()
    world = asker.world
    for _ in range(3):
        await world.insert(asker.user_id)
    copies = (
        "INSERT INTO calls.calls (id, user_id, created_at, updated_at, contact_id, contact_name, contact_phone,"
        " assistant_id, phone_number_id) SELECT gen_random_uuid(), user_id, created_at - n * interval '1 ms',"
        " updated_at, contact_id, contact_name, contact_phone, assistant_id, phone_number_id"
        " FROM calls.calls, generate_series(1, 3000) AS n"
    )
    await world.admin.execute(copies)
    await world.admin.execute("ANALYZE calls.calls")
    from boostedcalls.calls import limits

    async def rows_read(connection: asyncpg.Connection[Any], sql: str, *arguments: Any) -> int:
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE) {sql}", *arguments))
        assert "Seq Scan" not in plan, plan
        return plan.count("Index")

    async with transaction(world.deps.pool, asker.user_id) as connection:
        row = await connection.fetchrow("SELECT user_id, contact_phone, created_at FROM calls.calls LIMIT 1")
        since = row["created_at"] - timedelta(minutes=1)
        assert await rows_read(connection, limits._OLDEST, row["user_id"], since, 59)
        assert await rows_read(connection, limits._LAST, row["user_id"], row["contact_phone"], since)
