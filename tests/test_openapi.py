"""What /openapi.json says is true: each operation is asked for a success and for errors, and every answer is held
against the document: status, type, headers, and a body with all that is promised and nothing else.

The requests are made from the document, its examples as bodies, so that a new operation is tested without a line here.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx2
from jsonschema import Draft202012Validator, FormatChecker

if TYPE_CHECKING:
    from conftest import User

MEDIA_TYPES = {"2": "application/json", "4": "application/problem+json", "5": "application/problem+json"}
OVERSIZE = b'{"name":"' + b"x" * (4 * 1024 * 1024) + b'"}'
checker = FormatChecker(formats=())


@checker.checks("uuid", raises=ValueError)
def _is_uuid(value: Any) -> bool:
    return not isinstance(value, str) or str(UUID(value)) == value


@checker.checks("date-time", raises=ValueError)
def _is_utc_time(value: Any) -> bool:
    """RFC 3339 as api.md narrows it."""
    return not isinstance(value, str) or (value.endswith("Z") and datetime.fromisoformat(value) is not None)


@checker.checks("email")
def _is_address(value: Any) -> bool:
    return not isinstance(value, str) or re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value) is not None


def _closed(schema: Any) -> Any:
    """The schema with every object that lists its members holding no others."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


@dataclass
class Operation:
    method: str
    path: str
    spec: dict[str, Any]
    document: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.spec["operationId"]

    @property
    def example(self) -> Any:
        return (
            self.spec["requestBody"]["content"]["application/json"]["example"] if "requestBody" in self.spec else None
        )

    @property
    def for_users(self) -> bool:
        return {"bearer": []} in self.spec.get("security", [])

    def known_headers(self) -> set[str]:
        """The headers that the document promises of any answer."""
        answers = (
            said
            for item in self.document["paths"].values()
            for spec in item.values()
            for said in spec["responses"].values()
        )
        return {name for said in answers for name in said.get("headers", {})}

    def wrong(self, schema: dict[str, Any], value: Any) -> list[str]:
        whole = _closed({**schema, "components": self.document["components"]})
        faults = Draft202012Validator(whole, format_checker=checker).iter_errors(value)
        return [f"{fault.json_path}: {fault.message[:200]}" for fault in faults]

    def untrue(self, answer: httpx2.Response) -> list[str]:
        """What the document does not say of the answer."""
        said = self.spec["responses"].get(str(answer.status_code))
        if said is None:
            return [f"{answer.status_code} is not documented: {answer.text[:300]}"]
        found = [] if re.fullmatch(r"[\w.-]{1,128}", answer.headers.get("x-request-id", "")) else ["no X-Request-Id"]
        told = said.get("headers", {})
        found += [f"{name} is not documented" for name in self.known_headers() - told.keys() if name in answer.headers]
        for name, header in told.items():
            if header.get("required") and name not in answer.headers:
                found.append(f"header {name} lacks")
            if (value := answer.headers.get(name)) is not None and header["schema"]["type"] == "integer":
                found += [] if value.isdecimal() else [f"{name}: {value} is no integer"]
            if value is not None and value not in header["schema"].get("enum", [value]):
                found.append(f"{name}: {value} is not documented")
        if "content" not in said:
            return found + ([f"a body of {len(answer.content)} bytes"] if answer.content else [])
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        if media_type not in said["content"]:
            return [*found, f"{media_type} is not documented for {answer.status_code}"]
        if not media_type.endswith("json"):
            return found
        return found + self.wrong(said["content"][media_type]["schema"], answer.json())


def operations(document: dict[str, Any]) -> list[Operation]:
    found = [
        Operation(method.upper(), path, spec, document)
        for path, item in document["paths"].items()
        for method, spec in item.items()
    ]
    assert len({operation.name for operation in found}) == len(found) >= 28
    return found


def all_true(untrue: dict[Any, list[str]]) -> None:
    lines = [f"{name}: {line}" for name, lines in untrue.items() for line in lines]
    assert not lines, "\n".join(lines)


async def right_request(user: User, secret: str, operation: Operation) -> dict[str, Any]:
    """A request that must succeed: the document's example, with ids, login and secret that exist."""
    contact, script = await user.contact(), await user.made("/api/scripts/", name="Support Script")
    ids = {"contact_id": contact["id"], "script_id": script["id"]}
    if operation.name == "cancel_call":
        ids["call_id"] = (await user.place_call("05"))["id"]
    elif "{call_id}" in operation.path:
        ids["call_id"] = (await user.found("/api/calls/", status="completed"))["data"][0]["id"]
    body = operation.example
    headers = {"x-vapi-secret": secret}
    headers |= {} if operation.for_users else {"Authorization": ""}
    if body is not None and "current_password" in body:
        # Of somebody else: it ends their sessions.
        account = {"email": f"{uuid4().hex}@example.com", "password": user.password}
        await user.made("/api/auth/signup", **account)
        login = {"username": account["email"], "password": user.password}
        tokens = (await user.http.post("/api/token/", json=login)).json()
        headers["Authorization"] = f"Bearer {tokens['access']}"
        body |= {"current_password": user.password}
    elif body is not None and operation.for_users:
        body = {name: ids.get(name, value) for name, value in body.items()}
    elif body is not None and {"username", "email"} & body.keys():
        body = {"username": user.email, "email": f"{uuid4().hex}@example.com", "password": user.password}
        body = {name: body[name] for name in operation.example}
    elif body is not None and "refresh" in body:
        login = await user.http.post("/api/token/", json={"username": user.email, "password": user.password})
        body = {"refresh": login.json()["refresh"]}
    return {"method": operation.method, "url": operation.path.format(**ids), "json": body, "headers": headers}


def wrong_requests(operation: Operation, right: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Requests that must be refused, from the right one, by what is wrong with them."""
    found: dict[str, dict[str, Any]] = {}
    stranger = {**right, "headers": {"Authorization": "Bearer x", "x-vapi-secret": "wrong"}}
    if operation.spec.get("security"):
        found["who asks"] = stranger
    if "{" in operation.path:
        for name, value in (("unknown id", uuid4()), ("no id", "not-a-uuid")):
            found[name] = {**right, "url": re.sub(r"\{\w+\}", str(value), operation.path)}
    if operation.example is not None:
        bodies = {"too large": OVERSIZE + b" "}
        if "webhook" not in operation.name:
            bodies |= {"not JSON": b"{", "wrong shape": b'{"unknown": 1}'}
        headers = {**right["headers"], "Content-Type": "application/json"}
        for name, body in bodies.items():
            found[name] = {**right, "json": None, "content": body, "headers": headers}
    for parameter in operation.spec.get("parameters", []):
        if parameter["in"] == "query":
            found[f"parameter {parameter['name']}"] = {**right, "params": {parameter["name"]: "\x00"}}
        if parameter["in"] == "header":
            headers = {**right["headers"], parameter["name"]: "x" * 256}
            found[f"header {parameter['name']}"] = {**right, "headers": headers}
    return found


async def test_every_success_is_as_documented(running, owner, document):
    untrue = {}
    for operation in operations(document):
        request = await right_request(owner, running.env["VAPI_WEBHOOK_SECRET"], operation)
        answer = await owner.http.request(**request)
        refused = [] if answer.is_success else [f"refused: {answer.text} to {request}"]
        untrue[operation.name] = refused + operation.untrue(answer)
    all_true(untrue)


async def test_every_error_is_as_documented(running, owner, document):
    untrue = {}
    for operation in operations(document):
        right = await right_request(owner, running.env["VAPI_WEBHOOK_SECRET"], operation)
        wrong = wrong_requests(operation, right)
        refusals = [status for status in operation.spec["responses"] if status.startswith("4")]
        assert bool(wrong) == bool(refusals), f"{operation.name} documents {refusals}"
        for name, request in wrong.items():
            answer = await owner.http.request(**request)
            taken = [] if 400 <= answer.status_code < 500 else [f"{answer.status_code} {answer.text[:300]}"]
            untrue[operation.name, name] = taken + operation.untrue(answer)
    all_true(untrue)


async def test_errors_that_a_call_itself_brings_are_as_documented(owner, document, is_problem):
    known = {operation.name: operation for operation in operations(document)}
    over = (await owner.found("/api/calls/", status="completed"))["data"][0]
    answer = await owner.http.post(f"/api/calls/{over['id']}/cancel/")
    is_problem(answer, 400, "call_not_cancellable")
    assert known["cancel_call"].untrue(answer) == []
    answer, _ = await owner.request_call("25")
    is_problem(answer, 502, "provider_error")
    assert known["create_call"].untrue(answer) == []


async def test_answers_to_a_repeated_request_for_a_call_are_as_documented(owner, document, is_problem):
    (create,) = (operation for operation in operations(document) if operation.name == "create_call")
    contacts = {number: (await owner.contact(number))["id"] for number in ("00", "23", "25")}

    async def post(number, **body):
        headers = {"Idempotency-Key": f"key {number}"}
        return await owner.http.post("/api/calls/", json={"contact_id": contacts[number], **body}, headers=headers)

    await asyncio.gather(post("00"), post("25"))
    replays = [await post("00"), await post("25")]
    assert [(answer.status_code, answer.headers["idempotency-replayed"]) for answer in replays] == [
        (201, "true"),
        (502, "true"),
    ]
    is_problem(replays[1], 502, "provider_error")
    other = await post("00", first_message="Another")
    is_problem(other, 422, "idempotency_key_reused")
    # The simulator answers this one only after the wait for it is over.
    answers = await asyncio.gather(*(post("23") for _ in range(5)))
    early = next(answer for answer in answers if answer.status_code == 409)
    is_problem(early, 409, "idempotency_key_in_use")
    assert early.headers["retry-after"] == "1"
    all_true({number: create.untrue(answer) for number, answer in enumerate((*replays, other, *answers))})


async def test_every_answer_is_as_documented_while_parts_are_away(stack, fast, sign_up, owner, document):
    untrue = {}
    async with stack(parts=("nats", "postgres", "gateway"), env=fast) as alone:
        secret, somebody = alone.env["VAPI_WEBHOOK_SECRET"], await sign_up(alone.url)
        for away in ("services", "nats", "postgres"):
            if away != "services":
                await alone.stop(away)
            for operation in operations(document):
                request = await right_request(owner, secret, operation)
                if operation.name == "change_own_password":
                    # Refused, or it would end the session that the others need.
                    request["json"]["current_password"] = "a wrong one"
                    del request["headers"]["Authorization"]
                answer = await somebody.http.request(**request)
                # The gateway itself answers some, from its database.
                own = not operation.for_users or operation.name == "change_own_password"
                silent = not own or away == "postgres"
                expected = 503 if silent and operation.name not in {"healthz", "metrics"} else answer.status_code
                if operation.name == "receive_webhook":
                    # The gateway keeps it until there is somebody to take it.
                    expected = 200
                served = [] if answer.status_code == expected else [f"{answer.status_code}: {answer.text[:300]}"]
                untrue[operation.name, away] = served + operation.untrue(answer)
    all_true(untrue)


def test_every_example_of_an_answer_is_as_documented(document):
    untrue = {}
    for operation in operations(document):
        for status, said in operation.spec["responses"].items():
            for media_type, content in said.get("content", {}).items():
                assert media_type == MEDIA_TYPES[status[0]] or operation.name in {"metrics", "readyz"}
                if "example" in content:
                    untrue[operation.name, status] = operation.wrong(content["schema"], content["example"])
    assert len(untrue) > 20
    all_true(untrue)


def test_every_format_that_the_document_names_is_checked_here(document):
    assert set(re.findall(r"'format': '([\w-]+)'", str(document))) == set(checker.checkers)
