import asyncio

import orjson
import pytest

from boostedcalls.common.context import caller
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.messages.contacts import (
    COUNT_CONTACTS,
    CREATE_CONTACT,
    DELETE_CONTACT,
    GET_CONTACT,
    LIST_CONTACTS,
    REPLACE_CONTACT,
    UPDATE_CONTACT,
    Contact,
)

JANE = {"name": "Jane Doe", "phone": "+1987654321", "email": "jane@example.com", "metadata": {"key": "value"}}


async def refused(awaitable) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value


async def test_created_contact_is_answered_whole_and_found_again(user):
    made = await user.ask(CREATE_CONTACT, **JANE)
    assert (made.name, made.phone, made.email, made.metadata) == tuple(JANE.values())
    assert made.created_at == made.updated_at
    assert await user.ask(GET_CONTACT, contact_id=made.id) == made


async def test_contact_with_only_the_required_members_has_nulls_elsewhere(user):
    made = await user.ask(CREATE_CONTACT, name="Jane", phone="+1987654321")
    assert (made.email, made.metadata) == (None, None)


async def test_phone_is_stored_as_e164_by_region_then_by_default_region(user):
    assert (await user.ask(CREATE_CONTACT, name="a", phone="(202) 555-0123")).phone == "+12025550123"
    assert (await user.ask(CREATE_CONTACT, name="b", phone="9876543210", region="IN")).phone == "+919876543210"


async def test_unreadable_phone_is_refused_and_nothing_is_kept(user):
    error = await refused(user.ask(CREATE_CONTACT, name="a", phone="12345"))
    assert (error.status, error.code, error.errors[0]["field"]) == (422, "phone_invalid", "phone")
    assert (await user.ask(COUNT_CONTACTS)).count == 0


async def test_unknown_region_is_refused_even_where_it_is_not_needed(user):
    error = await refused(user.ask(CREATE_CONTACT, name="a", phone="+1987654321", region="ZZ"))
    assert (error.status, error.code, error.errors[0]["field"]) == (422, "validation_failed", "region")


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE contacts.contacts; --", "\u202eevil", "👩‍👩‍👧", "a" * 200, "\\", '"', "\x01\x1f", "%_", "İstanbul"],
)
async def test_naughty_names_come_back_as_they_went_in(user, text):
    made = await user.ask(CREATE_CONTACT, name=text, phone="+1987654321", metadata={text: [text, {"x": text}]})
    assert (made.name, made.metadata) == (text, {text: [text, {"x": text}]})
    assert await user.ask(GET_CONTACT, contact_id=made.id) == made


@pytest.mark.parametrize("number", [0, -1, 1.5, 1e308, 1e-300, 2**63, -(2**63), 12345678901234567890, True, None, 1e16])
async def test_numbers_in_metadata_keep_their_value(user, number):
    made = await user.ask(CREATE_CONTACT, name="a", phone="+1987654321", metadata={"n": number})
    assert (await user.ask(GET_CONTACT, contact_id=made.id)).metadata == {"n": number}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"name":"a"}',
        b'{"name":"","phone":"+1987654321"}',
        b'{"name":"a\\u0000","phone":"+1987654321"}',
        b'{"name":"\\ud800","phone":"+1987654321"}',
        b'{"name":"a","phone":"+1987654321","email":"no"}',
        b'{"name":"a","phone":"+1987654321","extra":1}',
        b'{"name":"a","phone":"+1987654321","metadata":[]}',
        b'{"name":"a","phone":"+1987654321","metadata":{"a":"\\u0000"}}',
        b'{"name":"a","phone":"+1987654321","metadata":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"name":"a","phone":"+1987654321","metadata":{"a":"' + b"x" * 17000 + b'"}}',
        b'{"name":"' + b"a" * 201 + b'","phone":"+1987654321"}',
        b"\xff\xfe",
    ],
)
async def test_body_of_the_wrong_shape_is_refused_and_nothing_is_kept(user, body):
    error = await refused(user.send(CREATE_CONTACT, body))
    assert (error.status, error.code) == (422, "validation_failed")
    assert (await user.ask(COUNT_CONTACTS)).count == 0


async def test_replace_sets_what_is_left_out_to_null(user):
    made = await user.ask(CREATE_CONTACT, **JANE)
    put = await user.ask(REPLACE_CONTACT, contact_id=made.id, contact={"name": "New", "phone": "2025550123"})
    assert (put.name, put.phone, put.email, put.metadata) == ("New", "+12025550123", None, None)
    assert put.created_at == made.created_at
    assert put.updated_at > made.updated_at
    assert await user.ask(GET_CONTACT, contact_id=made.id) == put


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"email": "new@example.com"}, {"email": "new@example.com"}),
        ({"email": None}, {"email": None}),
        ({"metadata": {"only": "this"}}, {"metadata": {"only": "this"}}),
        ({"metadata": None}, {"metadata": None}),
        ({"phone": "9876543210", "region": "IN"}, {"phone": "+919876543210"}),
        ({"name": "x", "phone": "+4930123456"}, {"name": "x", "phone": "+4930123456"}),
    ],
)
async def test_patch_changes_what_is_there_and_nothing_else(user, changes, expected):
    made = await user.ask(CREATE_CONTACT, **JANE)
    patched = await user.ask(UPDATE_CONTACT, contact_id=made.id, changes=changes)
    assert patched.updated_at > made.updated_at
    assert patched == made.model_copy(update={**expected, "updated_at": patched.updated_at})
    assert await user.ask(GET_CONTACT, contact_id=made.id) == patched


@pytest.mark.parametrize("changes", [{}, {"region": "IN"}, {"email": "jane@example.com"}, {"phone": "+1 987 654 321"}])
async def test_patch_that_changes_nothing_keeps_updated_at(user, changes):
    made = await user.ask(CREATE_CONTACT, **JANE)
    assert await user.ask(UPDATE_CONTACT, contact_id=made.id, changes=changes) == made


async def test_patch_with_an_unreadable_phone_changes_nothing(user):
    made = await user.ask(CREATE_CONTACT, **JANE)
    error = await refused(user.ask(UPDATE_CONTACT, contact_id=made.id, changes={"name": "x", "phone": "123"}))
    assert error.code == "phone_invalid"
    assert await user.ask(GET_CONTACT, contact_id=made.id) == made


async def test_patches_at_once_on_two_replicas_do_not_lose_each_others_members(user):
    made = await user.ask(CREATE_CONTACT, **JANE)
    changes = [{"name": "Changed"}, {"email": "changed@example.com"}, {"metadata": {"c": 1}}, {"phone": "+4930123456"}]
    await asyncio.gather(*(user.ask(UPDATE_CONTACT, contact_id=made.id, changes=change) for change in changes * 3))
    found = await user.ask(GET_CONTACT, contact_id=made.id)
    assert (found.name, found.email, found.metadata, found.phone) == (
        "Changed",
        "changed@example.com",
        {"c": 1},
        "+4930123456",
    )


async def test_deleted_contact_is_gone_and_a_second_delete_does_not_find_it(user):
    made = await user.ask(CREATE_CONTACT, **JANE)
    assert await user.ask(DELETE_CONTACT, contact_id=made.id) == Nothing()
    for rpc in (GET_CONTACT, DELETE_CONTACT):
        error = await refused(user.ask(rpc, contact_id=made.id))
        assert (error.status, error.code) == (404, "contact_not_found")


async def test_contact_deleted_by_many_at_once_is_counted_off_once(user):
    await user.ask(CREATE_CONTACT, **JANE)
    made = await user.ask(CREATE_CONTACT, **JANE)
    results = await asyncio.gather(
        *(user.ask(DELETE_CONTACT, contact_id=made.id) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(result, Nothing) for result in results) == 1
    assert (await user.ask(COUNT_CONTACTS)).count == 1


async def test_foreign_contact_answers_like_an_unknown_one(new_user):
    owner, stranger = new_user(), new_user()
    made = await owner.ask(CREATE_CONTACT, **JANE)
    for rpc, more in [
        (GET_CONTACT, {}),
        (DELETE_CONTACT, {}),
        (UPDATE_CONTACT, {"changes": {"name": "x"}}),
        (UPDATE_CONTACT, {"changes": {}}),
        (REPLACE_CONTACT, {"contact": JANE}),
    ]:
        foreign = await refused(stranger.ask(rpc, contact_id=made.id, **more))
        unknown = await refused(stranger.ask(rpc, contact_id=stranger.id, **more))
        assert (foreign.status, foreign.code, foreign.detail) == (404, "contact_not_found", unknown.detail)
    assert await owner.ask(GET_CONTACT, contact_id=made.id) == made
    assert (await stranger.ask(LIST_CONTACTS)).data == []


async def test_request_without_a_user_is_not_answered_with_data(replicas):
    error = await refused(replicas.bus.request(LIST_CONTACTS.subject, b"{}", caller()))
    assert error.status == 500


async def test_list_is_oldest_first_with_its_total(user):
    made = [await user.ask(CREATE_CONTACT, name=f"c{number}", phone="+1987654321") for number in range(3)]
    listed = await user.ask(LIST_CONTACTS)
    assert (listed.total, listed.next_cursor, listed.data) == (3, None, made)


async def test_cursor_pages_through_everything_once(user):
    made = [(await user.ask(CREATE_CONTACT, name=f"c{number}", phone="+1987654321")).id for number in range(5)]
    seen, cursor = [], None
    while True:
        page = await user.ask(LIST_CONTACTS, limit=2, **({"cursor": cursor} if cursor else {}))
        assert page.total == 5
        seen += [item.id for item in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made


async def test_page_that_ends_with_the_last_row_has_no_next_cursor(user):
    for number in range(2):
        await user.ask(CREATE_CONTACT, name=f"c{number}", phone="+1987654321")
    assert (await user.ask(LIST_CONTACTS, limit=2)).next_cursor is None


async def test_rows_of_the_same_instant_are_paged_without_gap_or_repeat(replicas, user):
    await replicas.fetchval(
        "INSERT INTO contacts.contacts (id, user_id, name, phone, created_at)"
        " SELECT gen_random_uuid(), $1, 'n', '+1987654321', '2026-01-01' FROM generate_series(1, 7)",
        user.id,
    )
    seen, cursor = [], None
    while cursor is not None or not seen:
        page = await user.ask(LIST_CONTACTS, limit=3, **({"cursor": cursor} if cursor else {}))
        seen += [item.id for item in page.data]
        cursor = page.next_cursor
    assert len(seen) == len(set(seen)) == 7


async def test_foreign_cursor_is_refused_with_the_field_named(user):
    error = await refused(user.ask(LIST_CONTACTS, cursor="nonsense"))
    assert (error.status, error.code, error.errors[0]["field"]) == (422, "validation_failed", "cursor")


async def test_page_of_large_contacts_ends_early_and_goes_on_by_cursor(replicas, user):
    await replicas.fetchval(
        "INSERT INTO contacts.contacts (id, user_id, name, phone, metadata) SELECT gen_random_uuid(), $1, 'n',"
        " '+1987654321', jsonb_build_object('x', repeat('x', 15000)) FROM generate_series(1, 700)",
        user.id,
    )
    seen: list[Contact] = []
    pages, cursor = 0, None
    while cursor is not None or not seen:
        page = await user.ask(LIST_CONTACTS, **({"cursor": cursor} if cursor else {}))
        assert page.count == len(page.data)
        seen += page.data
        cursor = page.next_cursor
        pages += 1
    assert len({item.id for item in seen}) == len(seen) == 700
    assert pages > 1


async def test_search_finds_substrings_of_name_phone_and_email_in_any_case(user):
    jane = await user.ask(CREATE_CONTACT, **JANE)
    odd = await user.ask(CREATE_CONTACT, name="100% Öl_Co\\", phone="+4930123456")
    found = {
        q: [item.id for item in (await user.ask(LIST_CONTACTS, q=q)).data]
        for q in ("JANE d", "87654", "@EXAMPLE", "100%", "öl_co", "o\\", "%", "_", "\\", "zzz", "e%e")
    }
    assert found == {
        "JANE d": [jane.id],
        "87654": [jane.id],
        "@EXAMPLE": [jane.id],
        "100%": [odd.id],
        "öl_co": [odd.id],
        "o\\": [odd.id],
        "%": [odd.id],
        "_": [odd.id],
        "\\": [odd.id],
        "zzz": [],
        "e%e": [],
    }


async def test_search_counts_its_matches_and_pages_through_them(user):
    for number in range(4):
        await user.ask(CREATE_CONTACT, name=f"{'match' if number % 2 else 'other'} {number}", phone="+1987654321")
    first = await user.ask(LIST_CONTACTS, q="match", limit=1)
    second = await user.ask(LIST_CONTACTS, q="match", limit=1, cursor=first.next_cursor)
    assert (first.total, second.total, second.next_cursor) == (2, 2, None)
    assert [first.data[0].name, second.data[0].name] == ["match 1", "match 3"]


@pytest.mark.parametrize("q", ["", "x" * 201, "a\x00"])
async def test_search_text_out_of_its_limits_is_refused(user, q):
    error = await refused(user.send(LIST_CONTACTS, orjson.dumps({"q": q})))
    assert (error.status, error.errors[0]["field"]) == (422, "q")


async def test_total_is_right_after_inserts_and_deletes_at_once_on_two_replicas(user):
    made = await asyncio.gather(*(user.ask(CREATE_CONTACT, name="a", phone="+1987654321") for _ in range(20)))
    await asyncio.gather(
        *(user.ask(DELETE_CONTACT, contact_id=contact.id) for contact in made[:7]),
        *(user.ask(CREATE_CONTACT, name="b", phone="+1987654321") for _ in range(5)),
    )
    assert (await user.ask(COUNT_CONTACTS)).count == 18
    page = await user.ask(LIST_CONTACTS)
    assert (page.total, len(page.data)) == (18, 18)
