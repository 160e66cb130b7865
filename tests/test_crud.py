"""Contacts and call scripts through REST: what is kept and replaced, what stays behind in calls, how lists page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

CONTACT = {"name": "Jane Doe", "phone": "+1987654321", "email": "jane@example.com", "metadata": {"key": ["value"]}}
SCRIPT = {
    "name": "Support Script",
    "description": "Technical support call",
    "custom_prompt": "You are a support agent...",
    "first_message": "Hi, how can I help?",
    "call_goals": ["Resolve issue", {"name": "Rating", "description": "of 5", "successCriteria": "a number"}],
}
KINDS = {"contacts": (CONTACT, {"phone"}), "scripts": (SCRIPT, set())}
DELETED = {"contacts": {"message": "Contact deleted successfully."}, "scripts": {"success": True}}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
async def test_object_is_answered_whole_and_kept_as_it_was_answered(user, kind):
    right, _ = KINDS[kind]
    made = await user.made(f"/api/{kind}/", **right)
    assert made.keys() == right.keys() | {"id", "created_at", "updated_at"}
    assert made | right == made
    assert UUID(made["id"]).version == 7
    for name in ("created_at", "updated_at"):
        assert made[name].endswith("Z")
        assert abs(datetime.fromisoformat(made[name]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert await user.found(f"/api/{kind}/{made['id']}/") == made
    assert await user.found(f"/api/{kind}/") == [made]


@kinds
async def test_put_makes_null_what_it_leaves_out(user, kind):
    right, required = KINDS[kind]
    made = await user.made(f"/api/{kind}/", **right)
    body = {"name": "Another", **{name: right[name] for name in required}}
    answer = await user.http.put(f"/api/{kind}/{made['id']}/", json=body)
    emptied = dict.fromkeys(right.keys() - body.keys()) | body
    assert answer.status_code == 200
    assert answer.json() == made | emptied | {"updated_at": answer.json()["updated_at"]}
    assert answer.json()["updated_at"] > made["updated_at"]
    assert await user.found(f"/api/{kind}/{made['id']}/") == answer.json()


@kinds
async def test_put_without_what_is_required_changes_nothing(user, is_problem, kind):
    right, required = KINDS[kind]
    made = await user.made(f"/api/{kind}/", **right)
    for name in required | {"name"}:
        body = {member: value for member, value in right.items() if member != name}
        answer = await user.http.put(f"/api/{kind}/{made['id']}/", json=body)
        assert is_problem(answer, 422, "validation_failed")["errors"][0]["field"] == name
    assert await user.found(f"/api/{kind}/{made['id']}/") == made


@kinds
async def test_patch_changes_what_it_names_and_nothing_else(user, kind):
    right, required = KINDS[kind]
    last = await user.made(f"/api/{kind}/", **right)
    changes = [{"name": "Renamed"}, *({name: None} for name in right.keys() - required - {"name"}), right, {}]
    for change in changes:
        answer = await user.http.patch(f"/api/{kind}/{last['id']}/", json=change)
        assert answer.status_code == 200
        assert answer.json() == last | change | {"updated_at": answer.json()["updated_at"]}
        assert (answer.json()["updated_at"] > last["updated_at"]) is bool(change)
        last = answer.json()
    assert await user.found(f"/api/{kind}/{last['id']}/") == last


@kinds
async def test_deleted_object_is_gone(user, is_problem, kind):
    right, _ = KINDS[kind]
    made, kept = await user.made(f"/api/{kind}/", **right), await user.made(f"/api/{kind}/", **right)
    path = f"/api/{kind}/{made['id']}/"
    answer = await user.http.delete(path)
    assert (answer.status_code, answer.json()) == (200, DELETED[kind])
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = right if method in {"PUT", "PATCH"} else None
        is_problem(await user.http.request(method, path, json=body), 404, f"{kind.removesuffix('s')}_not_found")
    listed = await user.http.get(f"/api/{kind}/")
    assert (listed.json(), listed.headers["x-total-count"]) == ([kept], "1")


PHONES = [
    ({"phone": "+1234567890"}, "+1234567890"),
    ({"phone": "+1 (202) 555-0143"}, "+12025550143"),
    ({"phone": "+44 20.7946/0958"}, "+442079460958"),
    ({"phone": " +1202555 0143 "}, "+12025550143"),
    ({"phone": "+1234567"}, "+1234567"),
    ({"phone": "+123456789012345"}, "+123456789012345"),
    ({"phone": "(202) 555-0143"}, "+12025550143"),
    ({"phone": "1-202-555-0143"}, "+12025550143"),
    ({"phone": "020 7946 0958", "region": "GB"}, "+442079460958"),
    ({"phone": "098765 43210", "region": "IN"}, "+919876543210"),
    ({"phone": "+12025550143", "region": "GB"}, "+12025550143"),
]
NO_PHONES = [
    {"phone": "+123456"},
    {"phone": "+1234567890123456"},
    {"phone": "+1202CALLNOW"},
    {"phone": "++12025550143"},
    {"phone": "555"},
    {"phone": "no number"},
    {"phone": "020 7946 0958 1234 5678"},
    {"phone": "(202) 555-0143 ext. 5"},
]


@pytest.mark.parametrize(("given", "kept"), PHONES)
async def test_phone_number_is_kept_as_e164(user, given, kept):
    made = await user.made("/api/contacts/", name="Jane", **given)
    assert (made["phone"], "region" in made) == (kept, False)
    other = await user.contact()
    changed = await user.http.patch(f"/api/contacts/{other['id']}/", json=given)
    assert (changed.status_code, changed.json()["phone"]) == (200, kept)


async def test_phone_number_that_cannot_be_read_is_refused(owner, ids, is_problem):
    path = f"/api/contacts/{ids['contact_id']}/"
    for given in NO_PHONES:
        for method, url, body in (
            ("POST", "/api/contacts/", {"name": "Jane", **given}),
            ("PUT", path, {"name": "Jane", **given}),
            ("PATCH", path, given),
        ):
            found = is_problem(await owner.http.request(method, url, json=body), 422, "phone_invalid")
            assert [error["field"] for error in found["errors"]] == ["phone"]


SEARCHES = {
    "ann": {"Ann", "Hannah"},
    "ANN": {"Ann", "Hannah"},
    "@example.org": {"Hannah"},
    "5550102": {"Bob"},
    "+1202": {"Ann", "Hannah", "Bob", "100%"},
    "%": {"100%"},
    "_": set(),
    "\\": set(),
    "nobody": set(),
}


async def test_q_searches_name_phone_and_email(user):
    await user.contact("00", name="Ann", email="a@example.com")
    await user.contact("01", name="Hannah", email="h@example.org")
    await user.contact("02", name="Bob", metadata={"note": "ann"})
    await user.contact("03", name="100%")
    for q, expected in SEARCHES.items():
        answer = await user.http.get("/api/contacts/", params={"q": q})
        assert {contact["name"] for contact in answer.json()} == expected, q
        assert answer.headers["x-total-count"] == str(len(expected))


@kinds
async def test_list_pages_through_links_oldest_first(user, kind):
    right, _ = KINDS[kind]
    names = [f"No. {number}" for number in range(7)]
    made = [await user.made(f"/api/{kind}/", **{**right, "name": name}) for name in names]
    assert await user.found(f"/api/{kind}/") == made
    assert "link" not in (await user.http.get(f"/api/{kind}/")).headers
    url, pages = f"/api/{kind}/?limit=3" + ("&q=no." if kind == "contacts" else ""), []
    while url:
        answer = await user.http.get(url)
        assert answer.headers["x-total-count"] == "7"
        pages.append(answer.json())
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
        url = link and link[1]
        if not pages[1:]:
            # What comes later stands at the end and moves nothing.
            assert (await user.http.delete(f"/api/{kind}/{made[1]['id']}/")).is_success
            made.append(await user.made(f"/api/{kind}/", **{**right, "name": "No. 7"}))
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [item for page in pages for item in page] == made


async def test_call_keeps_its_copy_of_a_deleted_contact_and_script(user):
    contact = await user.contact("00", email="jane@example.com", metadata={"key": "value"})
    script = await user.made("/api/scripts/", **SCRIPT)
    placed = await user.made("/api/calls/", contact_id=contact["id"], script_id=script["id"])
    changed = await user.http.patch(f"/api/contacts/{contact['id']}/", json={"name": "Changed", "email": None})
    assert changed.is_success
    assert (await user.http.delete(f"/api/contacts/{contact['id']}/")).is_success
    assert (await user.http.delete(f"/api/scripts/{script['id']}/")).is_success
    over = await user.wait_for(placed, lambda call: call["cost"] is not None)
    assert over["contact"] == {name: contact[name] for name in ("id", "name", "phone", "email", "metadata")}
    members = ("id", "name", "custom_prompt", "first_message", "call_goals")
    assert over["script"] == {name: script[name] for name in members}
    item = await user.call_to(contact["id"])
    assert item["contact"] == {name: contact[name] for name in ("id", "name", "phone")}
    assert (item["contact_id"], item["contact_name"], item["contact_phone"]) == tuple(item["contact"].values())
    assert item["script_id"] == over["script_id"] == script["id"]


async def test_path_answers_the_same_with_and_without_its_slash(owner, ids, document):
    for path, item in document["paths"].items():
        if "get" in item and path.startswith("/api/"):
            url = path.format(**ids).rstrip("/")
            with_slash, without = await owner.http.get(url + "/"), await owner.http.get(url)
            assert with_slash.status_code == without.status_code == 200
            assert with_slash.content == without.content
