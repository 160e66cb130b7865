"""Who has no business here: without a good token nothing is served, and another user's object is like one that is not.

The operations are those of /openapi.json, so that a new one is tested without a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest

Json = dict[str, Any]


def requests(document: Json) -> Iterator[tuple[str, str, Json | None]]:
    """Method, path and example body of each operation for users."""
    for path, item in document["paths"].items():
        for method, spec in item.items():
            if {"bearer": []} in spec.get("security", []):
                body = spec["requestBody"]["content"]["application/json"]["example"] if "requestBody" in spec else None
                yield method.upper(), path, body


def but_for_its_id(answer: httpx2.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """An answer's status, headers and bytes, without what differs between any two answers."""
    request_id = answer.headers["x-request-id"]
    own = {"x-request-id", "date", "ratelimit"}
    headers = [(name, value) for name, value in answer.headers.items() if name not in own]
    return answer.status_code, answer.content.replace(request_id.encode(), b""), headers


def forged(secret: str, like: str, **changes: Any) -> str:
    """An access token `like` a real one, with these claims changed, or left out where they are None."""
    claims = jwt.decode(like, options={"verify_signature": False}) | {"jti": str(uuid4())} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    header = jwt.get_unverified_header(like)
    return jwt.encode(claims, secret, algorithm="HS256", headers=header, sort_headers=True)


BAD_CLAIMS = [
    {"exp": 1_700_000_000},
    {"exp": None},
    {"sub": None},
    {"sub": "somebody"},
    {"iat": 4_000_000_000},
    {"aud": "another"},
    {"iss": "another"},
    {"typ": "refresh"},
    {"jti": None},
    {"sid": None},
]


async def test_no_operation_serves_a_bad_token(running, owner, ids, document, is_problem):
    secret = running.env["JWT_SECRET"]
    login = await owner.http.post("/api/token/", json={"username": owner.email, "password": owner.password})
    real = login.json()["access"]
    good = forged(secret, real)
    unsigned = jwt.encode(jwt.decode(good, options={"verify_signature": False}), None, algorithm="none")
    values = ["", "Bearer", f"Basic {good}", f"Bearer {good[:-2]}", f"Bearer {good} {good}", good]
    values += [f"Bearer {unsigned}", f"Bearer {forged('another secret of 32 bytes or more', real)}"]
    values += [f"Bearer {forged(secret, real, **claims)}" for claims in BAD_CLAIMS]
    values += [f"Bearer {login.json()['refresh']}", "Bearer é", "Bearer " + "x" * 20_000, "Bearer a.b.c"]
    # The forgery is as good as a real one, but for what is changed in it.
    right = await owner.http.get("/api/contacts/", headers={"Authorization": f"Bearer {good}"})
    assert right.json() == await owner.found("/api/contacts/")
    for method, path, body in requests(document):
        for value in values:
            headers = {"Authorization": value.encode()}
            answer = await owner.http.request(method, path.format(**ids), json=body, headers=headers)
            is_problem(answer, 401, "token_invalid")
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_foreign_id_answers_like_an_unknown_one(stranger, ids, document, is_problem):
    tried = 0
    for method, path, body in requests(document):
        if (found := re.search(r"\{(\w+)_id\}", path)) is None:
            continue
        foreign = await stranger.http.request(method, path.format(**ids), json=body)
        unknown = await stranger.http.request(method, re.sub(r"\{\w+\}", str(uuid4()), path), json=body)
        is_problem(foreign, 404, f"{found[1]}_not_found")
        assert but_for_its_id(foreign) == but_for_its_id(unknown)
        tried += 1
    assert tried >= 12


@pytest.mark.parametrize("member", ["contact_id", "script_id"])
async def test_call_with_a_foreign_contact_or_script_answers_like_one_with_an_unknown(
    running, stranger, ids, is_problem, member
):
    dials = running.dial_log.read_text().count("\n")
    right = {"contact_id": (await stranger.contact())["id"]}
    foreign = await stranger.http.post("/api/calls/", json={**right, member: ids[member]})
    unknown = await stranger.http.post("/api/calls/", json={**right, member: str(uuid4())})
    is_problem(foreign, 404, f"{member.removesuffix('_id')}_not_found")
    assert but_for_its_id(foreign) == but_for_its_id(unknown)
    assert (await stranger.found("/api/calls/"))["total"] == 0
    assert running.dial_log.read_text().count("\n") == dials


async def test_nothing_of_another_user_is_listed_or_counted(owner, stranger, ids):
    for path in ("/api/contacts/", "/api/scripts/"):
        answer = await stranger.http.get(path)
        assert (answer.json(), answer.headers["x-total-count"]) == ([], "0")
    mine = (await owner.found("/api/calls/"))["data"][0]
    filters = [{}, {"contact_id": mine["contact_id"]}, {"script_id": mine["script_id"]}, {"status": "completed"}]
    for params in filters:
        assert (await owner.found("/api/calls/", **params))["total"] == 1
        assert (await stranger.found("/api/calls/", **params))["total"] == 0
    assert await stranger.found("/api/calls/pending-count/") == {"count": 0}
    stats = await stranger.found("/api/calls/stats/")
    assert [card["value"] for card in stats["cards"]] == ["$0.00", "0", "0", "0"]
    assert {point["y"] for point in stats["lineChart"]["points"]} == {0}


async def test_cursor_of_another_user_leads_to_nothing_of_theirs(owner, stranger):
    await owner.contact()
    link = (await owner.http.get("/api/contacts/", params={"limit": 1})).headers["link"]
    cursor = re.search(r"cursor=([\w-]+)", link)[1]
    assert len(await owner.found("/api/contacts/", cursor=cursor)) == 1
    assert await stranger.found("/api/contacts/", cursor=cursor) == []
