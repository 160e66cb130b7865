"""nst/JSONTestSuite through every body: of the API, where only a JSON object of the right shape does anything, and of
the webhook door, where all that the provider sends is kept."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from boostedcalls.gateway.rooms import MAX_STRANGERS_BODY

from .conftest import json_suite, messages, settled, streams

CASES = json_suite()
WHOLE = {"y_": 95, "n_": 188, "i_": 35}
MESSAGE = b'{"message": {"type": "hang", "value": '
CONTACT = b'{"name": "Jane", "phone": "+12025550100", "metadata": {"value": '


def read(data: bytes) -> Any:
    """Decoded JSON in which numbers are those of JavaScript, so that 1E2 and 100 are the same."""
    return json.loads(data, parse_int=float)


def kind(name: str) -> str:
    return f"JSON: JSONTestSuite {name[:2]}"


def test_the_suite_is_whole():
    assert {prefix: sum(name.startswith(prefix) for name in CASES) for prefix in WHOLE} == WHOLE
    for name, body in CASES.items():
        if name.startswith("y_"):
            read(body)


async def test_body_of_the_suite_is_refused_by_every_operation_or_does_nothing(user, document, attacks):
    contact, script = await user.contact(), await user.made("/api/scripts/", name="mine")
    ids = {"contact_id": contact["id"], "script_id": script["id"]}
    before = await user.everything()
    for path, item in document["paths"].items():
        for method, spec in item.items():
            if "requestBody" not in spec or spec["operationId"] == "receive_webhook":
                continue
            for name, body in CASES.items():
                answer = await user.http.request(method, path.format(**ids), content=body)
                # An empty object changes nothing, which is a right PATCH.
                right = {400, 422} | ({200} if method == "patch" and b"{}" in body else set())
                right |= {413} if len(body) > MAX_STRANGERS_BODY else set()
                assert answer.status_code in right, f"{method} {path} {name}: {answer.text}"
                attacks(f"{kind(name)} as a body")
    assert await user.everything() == before


async def test_member_of_the_suite_is_kept_as_it_is_or_refused(user, attacks):
    kept = []
    for name, value in CASES.items():
        answer = await user.http.post("/api/contacts/", content=CONTACT + value + b"}}")
        attacks(f"{kind(name)} as a member")
        if answer.status_code == 201:
            assert not name.startswith("n_"), f"{name}: {answer.text}"
            found = await user.http.get(f"/api/contacts/{answer.json()['id']}/")
            assert read(found.content) == read(answer.content)
            assert read(found.content)["metadata"] == {"value": read(value)}, name
            kept.append(answer.json()["id"])
        else:
            assert answer.status_code in {400, 422}, f"{name}: {answer.text}"
            # Postgres cannot carry NUL; all else that is JSON is taken.
            assert not name.startswith("y_") or b"u0000" in value, f"{name}: {answer.text}"
    assert [contact["id"] for contact in await user.found("/api/contacts/")] == kept
    assert len(kept) > WHOLE["y_"] - 3


async def test_webhook_of_the_suite_is_kept_whatever_it_is(running, post_webhook, attacks):
    bodies = [(name, body) for name, value in CASES.items() for body in (value, MESSAGE + value + b"}}")]
    for name, body in bodies:
        answer = await post_webhook(body)
        assert (answer.status_code, answer.json()) == (200, {"ok": True}), f"{name}: {answer.text}"
        attacks(f"{kind(name)} as a webhook")
    await settled(running)
    async with streams(running) as jetstream:
        events = {
            each.headers["Nats-Msg-Id"]: each.data or b"" async for each in messages(jetstream, "PROVIDER_EVENTS")
        }
        letters = {each.subject.rpartition(".")[2]: each.data or b"" async for each in messages(jetstream, "DLQ")}
    for name, body in bodies:
        digest = sha256(body).hexdigest()
        if digest in events:
            assert body.startswith(MESSAGE), name
            if name.startswith("y_"):
                value = read(body.replace(b"\\u0000", b"") if b"\\\\u0000" not in body else body)["message"]["value"]
                assert read(events[digest])["message"]["value"] == value, name
        else:
            data = letters[digest[:32]]
            # What is no JSON is kept byte for byte; of the rest secrets and NUL are left out.
            assert not (name.startswith("y_") and body.startswith(MESSAGE)), name
            if name.startswith("y_"):
                assert read(data) == read(body.replace(b"\\u0000", b"") if b"\\\\u0000" not in body else body), name
            else:
                assert data == body or name in LENIENT, f"{name}: {data[:100]} for {body[:100]}"


# Not quite JSON, and read all the same: NaN and infinities, UTF-16 and a byte order mark, half a surrogate pair.
LENIENT = {name for name in CASES if name.startswith("i_")} | {
    "n_number_NaN",
    "n_number_infinity",
    "n_number_minus_infinity",
}
