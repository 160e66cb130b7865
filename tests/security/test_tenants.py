"""Two tenants: with everything that is B's, in every place that takes an id, A gets what anybody gets for nothing.

The operations and the places for ids in them come from /openapi.json. A new operation must say here what it is.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
import pytest_asyncio

from tests.conftest import Json, User, is_over

from .conftest import shown

# Operations for users that take nobody's id: asked as they are, with all of B's words as their filters.
WITHOUT_IDS = {
    "list_calls",
    "list_contacts",
    "list_scripts",
    "create_contact",
    "create_script",
    "count_pending_calls",
    "get_call_stats",
    "change_own_password",
}
# Operations for everybody: they know no tenant; what they answer is searched for anything of B's.
FOR_EVERYBODY = {
    "create_token",
    "refresh_token",
    "signup",
    "logout",
    "receive_webhook",
    "healthz",
    "readyz",
    "metrics",
}
CANARY = f"canary-{uuid4().hex}"


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    spec: Json
    document: Json = field(repr=False)

    @property
    def name(self) -> str:
        return self.spec["operationId"]

    @property
    def body(self) -> Json | None:
        return (
            self.spec["requestBody"]["content"]["application/json"]["example"] if "requestBody" in self.spec else None
        )

    def places(self) -> Iterator[tuple[str, str]]:
        """Where it takes an id: ("path" | "query" | "body", name)."""
        for parameter in self.spec.get("parameters", ()):
            if "uuid" in str(parameter["schema"]):
                yield parameter["in"], parameter["name"]
        if self.body is not None:
            schema = self.spec["requestBody"]["content"]["application/json"]["schema"]
            members = self.document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            for name, member in members.get("properties", {}).items():
                if "uuid" in str(member):
                    yield "body", name


@dataclass
class Victim:
    """B, all that is B's by name, and every word by which an answer would give B away."""

    user: User
    ids: dict[str, str]
    words: list[str]
    cursors: dict[str, str]
    key: str

    async def dump(self) -> Json:
        found: Json = await self.user.everything()
        for call in found["/api/calls/"]["data"]:
            for path in (f"/api/calls/{call['id']}/", f"/api/calls/{call['id']}/events/"):
                found[path] = await self.user.found(path)
        found["stats"] = await self.user.found("/api/calls/stats/")
        return found


def cursor_in(answer: httpx2.Response) -> str:
    return re.search(r"cursor=([\w-]+)", answer.headers["link"])[1]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(running, sign_up) -> Victim:
    user = await sign_up(running.url)
    script = await user.made(
        "/api/scripts/", name=f"S {CANARY}", custom_prompt=f"P {CANARY}", call_goals=[f"G {CANARY}"]
    )
    await user.made("/api/scripts/", name=f"T {CANARY}")
    key = f"key-{CANARY}"
    ids = {"script": script["id"], "user": user.id}
    words = [CANARY, user.email, user.id]
    for suffix, name in (("00", "completed"), ("03", "voicemail"), ("01", "busy"), ("05", "active")):
        contact = await user.contact(suffix, name=f"{name} {CANARY}", email=f"{name}@{CANARY}.example.com")
        body = {"contact_id": contact["id"], "script_id": script["id"], "metadata": {"secret": CANARY}}
        headers = {"Idempotency-Key": key} if name == "completed" else {}
        placed = (await user.http.post("/api/calls/", json=body, headers=headers)).json()
        call = await user.wait_for(
            placed,
            lambda call, name=name: (
                call["status"] == "in-progress" if name == "active" else is_over(call) and call["cost"] is not None
            ),
        )
        timeline = await user.found(f"/api/calls/{call['id']}/events/")
        ids |= {
            f"contact of {name}": contact["id"],
            f"call {name}": call["id"],
            f"provider's {name}": call["vapi_call_id"],
        }
        ids[f"event of {name}"] = timeline[0]["id"]
        words += [contact["phone"], contact["email"], *(entry["id"] for entry in timeline)]
    gone = await user.contact("04", name=f"gone {CANARY}")
    assert (await user.http.delete(f"/api/contacts/{gone['id']}/")).status_code == 200
    ids["deleted contact"] = gone["id"]
    words += ids.values()
    cursors = {
        "calls": (await user.found("/api/calls/", limit=1))["next_cursor"],
        "contacts": cursor_in(await user.http.get("/api/contacts/", params={"limit": 1})),
        "scripts": cursor_in(await user.http.get("/api/scripts/", params={"limit": 1})),
    }
    return Victim(user, ids, words, cursors, key)


@dataclass
class Stranger:
    """A, who remembers every answer."""

    user: User
    contact: Json
    script: Json
    answers: list[httpx2.Response] = field(default_factory=list)

    async def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = await self.user.http.request(method, path, **options)
        self.answers.append(answer)
        return answer


@pytest_asyncio.fixture(loop_scope="session")
async def attacker(running, sign_up, victim) -> AsyncGenerator[Stranger]:
    """A, with one contact and one script. Afterwards B has what B had, and no answer to A held a word of it."""
    user = await sign_up(running.url)
    contact = await user.contact("02", name="mine")
    attacker = Stranger(user, contact, await user.made("/api/scripts/", name="mine"))
    before = await victim.dump()
    yield attacker
    assert await victim.dump() == before
    assert attacker.answers
    for answer in attacker.answers:
        text = f"{answer.headers}{answer.text}"
        assert [word for word in victim.words if word in text] == [], answer.request


def operations(document: Json) -> list[Operation]:
    return [
        Operation(method.upper(), path, spec, document)
        for path, item in document["paths"].items()
        for method, spec in item.items()
    ]


def for_users(document: Json) -> list[Operation]:
    return [each for each in operations(document) if {"bearer": []} in each.spec.get("security", [])]


def request(operation: Operation, attacker: Stranger, place: str, name: str, value: str) -> dict[str, Any]:
    """A right request of A's, but for the one id."""
    mine = {"contact_id": attacker.contact["id"], "script_id": attacker.script["id"]}
    path = operation.path.replace(f"{{{name}}}", value) if place == "path" else operation.path
    body = operation.body and {key: mine.get(key, given) for key, given in operation.body.items()}
    if place == "body":
        body = {**(body or {}), name: value}
    return {
        "method": operation.method,
        "path": path,
        "json": body,
        "params": {name: value} if place == "query" else None,
    }


def test_every_operation_says_what_it_is(document):
    users = {each.name: list(each.places()) for each in for_users(document)}
    with_ids = {name for name, places in users.items() if any(place != "query" for place, _ in places)}
    assert users.keys() == with_ids | WITHOUT_IDS
    assert {each.name for each in operations(document)} == users.keys() | FOR_EVERYBODY
    assert len(with_ids) >= 13


async def test_every_id_of_another_tenant_answers_like_an_unknown_one(document, victim, attacker, attacks):
    tried = 0
    for operation in for_users(document):
        for place, name in operation.places():
            unknown = shown(await attacker.ask(**request(operation, attacker, place, name, str(uuid4()))))
            assert unknown[0] == (200 if place == "query" else 404), (operation.name, unknown)
            for kind, value in victim.ids.items():
                foreign = shown(await attacker.ask(**request(operation, attacker, place, name, value)))
                assert foreign == unknown, f"{operation.name}: {name} is B's {kind}"
                tried += 1
    assert (await attacker.user.found("/api/calls/"))["total"] == 0
    attacks("Tenant: foreign id", tried)


async def test_no_filter_or_cursor_finds_anything_of_another_tenant(document, victim, attacker, attacks):
    tried = 0
    for operation in for_users(document):
        if operation.method != "GET" or operation.name not in WITHOUT_IDS:
            continue
        plain = shown(await attacker.ask("GET", operation.path))
        for parameter in operation.spec.get("parameters", ()):
            name, values = parameter["name"], victim.words
            if name == "cursor":
                values = list(victim.cursors.values())
            elif name == "status":
                values = ["completed", "voicemail", "busy", "in-progress", "ringing", "failed"]
            elif name.startswith("created"):
                values = ["2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"]
            for value in values:
                answer = await attacker.ask("GET", operation.path, params={name: value})
                assert answer.status_code in {200, 422}
                if name == "q":
                    nothing = await attacker.ask("GET", operation.path, params={name: uuid4().hex})
                    assert shown(answer) == shown(nothing), value
                tried += 1
        assert shown(await attacker.ask("GET", operation.path)) == plain
    attacks("Tenant: foreign words in filters, foreign cursors", tried)


async def test_another_tenants_idempotency_key_is_like_a_new_one(document, victim, attacker, attacks):
    body = {"contact_id": attacker.contact["id"], "script_id": attacker.script["id"]}
    keyed = await attacker.ask("POST", "/api/calls/", json=body, headers={"Idempotency-Key": victim.key})
    assert (keyed.status_code, "idempotency-replayed" in keyed.headers) == (201, False), keyed.text
    again = await attacker.ask("POST", "/api/calls/", json=body, headers={"Idempotency-Key": victim.key})
    assert (again.content, again.headers["idempotency-replayed"]) == (keyed.content, "true")
    # With B's own body it is A's key all the same, and another request than the one before.
    foreign = {"contact_id": victim.ids["contact of completed"], "script_id": victim.ids["script"]}
    other = await attacker.ask("POST", "/api/calls/", json=foreign, headers={"Idempotency-Key": victim.key})
    assert other.json()["code"] == "idempotency_key_reused"
    unused = await attacker.ask("POST", "/api/calls/", json=foreign, headers={"Idempotency-Key": uuid4().hex})
    assert unused.json()["code"] in {"contact_not_found", "script_not_found"}
    attacks("Tenant: foreign Idempotency-Key", 4)


async def test_what_everybody_may_ask_says_nothing_of_anybody(document, victim, attacker, attacks):
    tried = 0
    for operation in operations(document):
        if operation.name in FOR_EVERYBODY:
            answer = await attacker.ask(
                operation.method, operation.path, json=operation.body, headers={"Authorization": ""}
            )
            assert answer.status_code < 500
            tried += 1
    attacks("Tenant: operations for everybody", tried)
