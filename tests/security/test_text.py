"""Naughty strings through every text field, parameter, header, webhook and log: kept as they are, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2
import orjson

from tests.conftest import Json, is_over
from tests.watch import streams

from .conftest import FUZZ_SECONDS, messages, naughty_strings, settled

STRINGS = naughty_strings()
# The last ones are our own.
HARDEST = 17
IN_HEADERS = [
    text
    for text in STRINGS
    if re.fullmatch(
        rb"[\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?", text.encode("utf-8", "replace")
    )
]
# What a body takes as text, all of it at once; each alone where that is refused.
CONTACT = ("name", "metadata")
SCRIPT = ("name", "description", "custom_prompt", "first_message", "call_goals")
CALL = ("assistant_id", "phone_number_id", "custom_prompt", "first_message", "call_goals", "metadata")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


def part(step: int) -> Sequence[str]:
    """Every `step`th string and the hardest ones; all of them in the long form."""
    return STRINGS if FUZZ_SECONDS else [*STRINGS[:-HARDEST:step], *STRINGS[-HARDEST:]]


def turn[T](number: int, places: Sequence[T]) -> Sequence[T]:
    """The places that the string with this number goes to: by turns; all of them in the long form."""
    return places if FUZZ_SECONDS else places[number % min(8, len(places)) :: 8]


def wire(body: Any) -> bytes:
    """JSON as a browser writes it: half an emoji as an escape."""
    try:
        return orjson.dumps(body)
    except TypeError:
        import json

        return json.dumps(body).encode()


def value(member: str, text: str) -> Any:
    if member == "metadata":
        return {text: text, "list": [text, {"deep": text}]}
    if member == "call_goals":
        return [text, {"name": text, "description": text, "successCriteria": text}]
    return text


def refused(answer: httpx2.Response) -> bool:
    """Whether it is a clear refusal of the request's shape."""
    return answer.status_code in {400, 422} and answer.json()["code"] in {"malformed_body", "validation_failed"}


def fits(member: str, text: str) -> bool:
    """Whether api.md takes the text there, by our own reading of it."""
    no_nul = "\x00" not in text and not re.search("[\ud800-\udfff]", text)
    filled = {"call_goals": 1, "assistant_id": 1, "phone_number_id": 1, "name": 1}.get(member, 0)
    longest = {"name": 200, "assistant_id": 100, "phone_number_id": 100, "call_goals": 200}.get(member, 2000)
    blank = member in {"name", "call_goals"} and not text.strip()
    return no_nul and filled <= len(text) <= longest and not blank


async def kept(user: Any, path: str, right: Json, members: Sequence[str], text: str) -> list[Json]:
    """Make objects with the text in all members, or, where that is refused, in each by itself. What was made."""
    made = []
    for chosen in ([*members], *([member] for member in members)):
        body = {**right, **{member: value(member, text) for member in chosen}}
        answer = await user.http.post(path, content=wire(body))
        expected = all(fits(member, text) for member in chosen)
        assert answer.status_code == 201 if expected else refused(answer), f"{chosen} {text!r}: {answer.text}"
        if answer.status_code == 201:
            made.append(answer.json())
            found = await user.found(f"{path}{made[-1]['id']}/")
            for member in chosen:
                got = {**found[member], **{}} if member == "metadata" else found[member]
                want = value(member, text)
                if member == "metadata":
                    got = {name: got[name] for name in want}
                assert got == want, (member, text)
            if len(chosen) > 1:
                break
    return made


async def test_text_in_a_body_is_kept_as_it_is_or_refused(user, attacks):
    contacts, scripts, tried = [], [], 0
    for number, text in enumerate(STRINGS):
        contacts += await kept(user, "/api/contacts/", {"name": "x", "phone": "+12025550100"}, CONTACT, text)
        scripts += await kept(user, "/api/scripts/", {"name": "x"}, SCRIPT, text)
        # Where hardly any text is taken.
        others = turn(number, ("email", "phone", "region"))
        tried += len(CONTACT) + len(SCRIPT) + len(others)
        for member in others:
            body = {"name": "x", "phone": "+12025550100", member: text}
            answer = await user.http.post("/api/contacts/", content=wire(body))
            assert answer.status_code in {201, 400, 422}, f"{member} {text!r}: {answer.text}"
            if answer.status_code == 201:
                contacts.append(answer.json())
    attacks("Text: naughty string in a body", tried)
    assert await user.found("/api/contacts/") == contacts
    assert await user.found("/api/scripts/") == scripts
    # And what was kept is found by itself.
    for contact in contacts[:: 1 if FUZZ_SECONDS else 7]:
        if 0 < len(contact["name"]) <= 200:
            assert contact in await user.found("/api/contacts/", q=contact["name"]), contact["name"]


async def test_text_in_a_call_reaches_the_call_and_its_end(user, attacks):
    contact = await user.contact()
    calls, tried = [], 0
    for text in part(8):
        right = {"contact_id": contact["id"]}
        calls += await kept(user, "/api/calls/", right, CALL, text)
        tried += len(CALL)
    attacks("Text: naughty string in a call", tried)
    assert (await user.found("/api/calls/"))["total"] == len(calls)
    for call in calls[:: max(1, len(calls) // 20)]:
        over = await user.wait_for(call, is_over)
        assert (over["status"], over["custom_prompt"]) == ("completed", call["custom_prompt"])


async def test_text_instead_of_who_one_is_lets_nobody_in(user, attacks):
    texts = part(10)
    for text in texts:
        login = await user.http.post("/api/token/", content=wire({"username": text, "password": text}))
        assert login.status_code in {400, 401, 422, 429}, f"{text!r}: {login.text}"
        for path in ("/api/token/refresh/", "/api/auth/logout"):
            answer = await user.http.post(path, content=wire({"refresh": text}))
            assert answer.status_code in {204, 400, 401, 422, 429}, f"{text!r}: {answer.text}"
        account = await user.http.post("/api/auth/signup", content=wire({"email": text, "password": "correct-horse"}))
        assert account.status_code in {201, 400, 422, 429}, f"{text!r}: {account.text}"
        # A password is what was typed, to the last character.
        email = f"{uuid4().hex}@example.com"
        account = await user.http.post(
            "/api/auth/signup", content=wire({"email": email, "password": f"{text}-12345678"})
        )
        assert account.status_code in {201, 400, 422, 429}, f"{text!r}: {account.text}"
        if account.status_code == 201:
            for password, statuses in ((f"{text}-12345678", {200, 429}), (f"{text}-12345679", {401, 429})):
                login = await user.http.post("/api/token/", content=wire({"username": email, "password": password}))
                assert login.status_code in statuses, f"{text!r}: {login.text}"
    attacks("Text: naughty string as a login", len(texts) * 6)


def queries(document: Json) -> Iterator[tuple[str, str]]:
    for path, item in document["paths"].items():
        for parameter in item.get("get", {}).get("parameters", ()):
            if parameter["in"] == "query":
                yield path, parameter["name"]


async def test_text_in_an_address_finds_nothing_or_is_refused(user, document, attacks):
    await user.contact(), await user.made("/api/scripts/", name="mine")
    before, tried = await user.everything(), 0
    places = list(queries(document))
    paths = [
        (
            method.upper(),
            path,
            spec.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example"),
        )
        for path, item in document["paths"].items()
        for method, spec in item.items()
        if "{" in path
    ]
    for number, text in enumerate(STRINGS):
        text = text.encode("utf-8", "replace").decode()
        for path, name in turn(number, places):
            answer = await user.http.get(path, params={name: text})
            assert answer.status_code in {200, 422}, f"{path} {name}={text!r}: {answer.text}"
            tried += 1
        for method, path, body in turn(number, paths):
            answer = await user.http.request(method, re.sub(r"\{\w+\}", quote(text, safe=""), path), json=body)
            # Clients take a lone dot for the list itself before they ask.
            listed = text == "." and answer.status_code == 200
            assert listed or 400 <= answer.status_code < 500, f"{method} {path} {text!r}: {answer.text}"
            tried += 1
    attacks("Text: naughty string in an address", tried)
    assert await user.everything() == before


async def test_text_in_a_header_is_ignored_or_refused(user, attacks):
    before, tried = await user.everything(), 0
    for number, text in enumerate(IN_HEADERS):
        raw = text.encode("utf-8", "replace")
        ignored = {"X-Request-Id": raw, "traceparent": raw, "Last-Event-ID": raw, "Accept": raw, "Cookie": raw}
        answer = await user.http.get("/api/contacts/", headers=ignored)
        assert answer.status_code == 200
        assert (answer.headers["x-request-id"] == text) is bool(REQUEST_ID.fullmatch(text))
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])
        body = {"contact_id": str(uuid4())}
        others = (
            ("GET", "/api/contacts/", None, {"Authorization": raw}, {401}),
            ("GET", "/api/contacts/", None, {"Authorization": b"Bearer " + raw}, {401}),
            ("POST", "/api/contacts/", b"{}", {"Content-Type": raw}, {400, 422}),
            ("POST", "/api/calls/", wire(body), {"Idempotency-Key": raw}, {404, 422}),
        )
        for method, path, content, headers, statuses in turn(number, others):
            answer = await user.http.request(method, path, content=content, headers=headers)
            assert answer.status_code in statuses, f"{headers}: {answer.text}"
            assert answer.status_code != 401 or answer.json()["code"] == "token_invalid"
        tried += len(ignored) + len(turn(number, others))
    attacks("Text: naughty string in a header", tried)
    assert await user.everything() == before


def carried(text: str) -> str:
    """What becomes of a provider's text: Postgres cannot carry NUL, and JSON no half of an emoji."""
    return re.sub("[\ud800-\udfff]", "?", text).replace("\x00", "")


async def test_text_in_a_webhook_is_in_the_call_as_it_came(running, user, post_webhook, attacks):
    texts, calls = part(6), []
    for number, text in enumerate(texts):
        call = await user.place_call("05")
        summary, reason = texts[number - 1], texts[number - 2]
        report = {
            "type": "end-of-call-report",
            "endedReason": reason,
            "analysis": {"summary": summary, "successEvaluation": text},
            "artifact": {"transcript": text, "messages": [{"role": "bot", "message": text}], "recordingUrl": text},
            "call": {"id": call["vapi_call_id"], "customer": {"name": text, "number": text}, "name": text},
        }
        assert (await post_webhook(wire({"message": report}))).status_code == 200
        calls.append((call, text, summary, reason))
    await settled(running)
    for call, text, summary, reason in calls:
        over = await user.found(f"/api/calls/{call['id']}/")
        found = (over["transcript"] or "", over["summary"] or "", over["ended_reason"] or "")
        assert found == (carried(text), carried(summary), carried(reason)[:200])
        assert is_over(over) or not carried(reason)
    attacks("Text: naughty string in a report", 8 * len(calls))


async def test_text_as_a_webhooks_type_or_call_is_kept(running, post_webhook, attacks):
    async with streams(running) as jetstream:
        before = [(await jetstream.stream_info(name)).state.messages for name in ("PROVIDER_EVENTS", "DLQ")]
        bodies = {wire({"message": {"type": text, "call": {"id": text, "name": text}}}) for text in STRINGS}
        for body in bodies:
            answer = await post_webhook(body)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        await settled(running)
        after = [(await jetstream.stream_info(name)).state.messages for name in ("PROVIDER_EVENTS", "DLQ")]
        kinds = {orjson.loads(each.data or b"{}").get("kind") async for each in messages(jetstream, "PROVIDER_EVENTS")}
    assert sum(after) - sum(before) == len(bodies)
    assert {carried(text) for text in STRINGS} - {""} <= kinds
    attacks("Text: naughty string as a webhook's type and call", len(bodies))
