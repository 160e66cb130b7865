import asyncio

import orjson
import pytest

from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import Goal, Nothing
from boostedcalls.common.messages.contacts import (
    COUNT_CONTACTS,
    CREATE_CONTACT,
    CREATE_SCRIPT,
    DELETE_SCRIPT,
    GET_SCRIPT,
    LIST_SCRIPTS,
    REPLACE_SCRIPT,
    UPDATE_SCRIPT,
)

PITCH = {
    "name": "Sales Pitch",
    "description": "Standard sales call",
    "custom_prompt": "You are a sales rep...",
    "first_message": "Hi, this is...",
    "call_goals": ["Qualify lead", {"name": "Demo", "description": "A date", "successCriteria": "A date is agreed"}],
}


async def refused(awaitable) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value


async def test_created_script_is_answered_whole_and_found_again(user):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    assert (made.name, made.description, made.custom_prompt, made.first_message) == tuple(PITCH.values())[:4]
    goal = Goal(name="Demo", description="A date", success_criteria="A date is agreed")
    assert made.call_goals == ["Qualify lead", goal]
    assert await user.ask(GET_SCRIPT, script_id=made.id) == made


async def test_goals_are_answered_with_the_names_they_were_sent_with(user):
    answer = orjson.loads(await user.send(CREATE_SCRIPT, orjson.dumps(PITCH)))
    assert answer["call_goals"] == PITCH["call_goals"]


async def test_replace_sets_what_is_left_out_to_null(user):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    put = await user.ask(REPLACE_SCRIPT, script_id=made.id, script={"name": "Updated", "description": "New"})
    assert (put.name, put.description, put.custom_prompt, put.first_message, put.call_goals) == (
        "Updated",
        "New",
        None,
        None,
        None,
    )
    assert put.updated_at > made.updated_at


@pytest.mark.parametrize(
    "changes", [{"description": "New description"}, {"call_goals": None}, {"call_goals": []}, {"custom_prompt": ""}]
)
async def test_patch_changes_what_is_there_and_nothing_else(user, changes):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    patched = await user.ask(UPDATE_SCRIPT, script_id=made.id, changes=changes)
    assert patched == made.model_copy(update={**changes, "updated_at": patched.updated_at})
    assert patched.updated_at > made.updated_at
    assert await user.ask(GET_SCRIPT, script_id=made.id) == patched


@pytest.mark.parametrize("changes", [{}, {"call_goals": PITCH["call_goals"]}])
async def test_patch_that_changes_nothing_keeps_updated_at(user, changes):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    assert await user.ask(UPDATE_SCRIPT, script_id=made.id, changes=changes) == made


async def test_patches_at_once_do_not_lose_each_others_members(user):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    changes = {"description": "d", "custom_prompt": "c", "first_message": "f", "call_goals": ["g"]}
    await asyncio.gather(
        *(user.ask(UPDATE_SCRIPT, script_id=made.id, changes={name: value}) for name, value in changes.items())
    )
    found = (await user.ask(GET_SCRIPT, script_id=made.id)).model_dump()
    assert {name: found[name] for name in changes} == changes


async def test_deleted_script_is_gone_and_a_second_delete_does_not_find_it(user):
    made = await user.ask(CREATE_SCRIPT, **PITCH)
    assert await user.ask(DELETE_SCRIPT, script_id=made.id) == Nothing()
    for rpc in (GET_SCRIPT, DELETE_SCRIPT):
        error = await refused(user.ask(rpc, script_id=made.id))
        assert (error.status, error.code) == (404, "script_not_found")
    assert (await user.ask(LIST_SCRIPTS)).total == 0


async def test_foreign_script_answers_like_an_unknown_one(new_user):
    owner, stranger = new_user(), new_user()
    made = await owner.ask(CREATE_SCRIPT, **PITCH)
    for rpc, more in [
        (GET_SCRIPT, {}),
        (DELETE_SCRIPT, {}),
        (UPDATE_SCRIPT, {"changes": {"name": "x"}}),
        (REPLACE_SCRIPT, {"script": PITCH}),
    ]:
        error = await refused(stranger.ask(rpc, script_id=made.id, **more))
        assert (error.status, error.code) == (404, "script_not_found")
    assert await owner.ask(GET_SCRIPT, script_id=made.id) == made


async def test_list_is_oldest_first_and_paged_by_cursor(user):
    made = [await user.ask(CREATE_SCRIPT, name=f"s{number}") for number in range(3)]
    first = await user.ask(LIST_SCRIPTS, limit=2)
    second = await user.ask(LIST_SCRIPTS, limit=2, cursor=first.next_cursor)
    assert (first.total, second.total, second.next_cursor) == (3, 3, None)
    assert first.data + second.data == made
    assert (first.count, second.count) == (2, 1)


async def test_more_scripts_than_one_read_takes_are_listed_whole(replicas, user):
    await replicas.fetchval(
        "INSERT INTO contacts.scripts (id, user_id, name)"
        " SELECT gen_random_uuid(), $1, 'n' FROM generate_series(1, 120)",
        user.id,
    )
    page = await user.ask(LIST_SCRIPTS)
    assert len({item.id for item in page.data}) == 120
    assert page.next_cursor is None


async def test_scripts_and_contacts_are_counted_apart(user):
    await user.ask(CREATE_SCRIPT, **PITCH)
    await user.ask(CREATE_CONTACT, name="a", phone="+1987654321")
    await user.ask(CREATE_CONTACT, name="b", phone="+1987654321")
    assert ((await user.ask(LIST_SCRIPTS)).total, (await user.ask(COUNT_CONTACTS)).count) == (1, 2)
