"""The product's own description lists its endpoints: each is asked as it says, and must answer as it says.

`data/seed.txt` is that list, word for word, and it is parsed here: an endpoint that is not served, or that this module
could not ask, fails.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from conftest import User

SEED = (Path(__file__).parent / "data" / "seed.txt").read_text()
HEADING = re.compile(r"^(GET|POST|PUT|PATCH|DELETE) (/\S+)(.*)$", re.MULTILINE)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
WEBHOOK = "/api/calls/webhook/"
OPEN = {"/api/token/", "/api/token/refresh/", WEBHOOK}
# What stands in the list as it is, and not as an example. A status is one where the request decides it.
FIXED = {"page", "limit", "title", "badge", "x", "message", "success", "ok"}
DECIDED = {"cancelled", "completed"}
# For the webhook the list shows neither body nor answer: api.md does.
REPORT = {"message": {"type": "status-update", "status": "ringing", "call": {"id": "no-call-of-ours"}}}


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    query: str
    payload: Any
    status: int
    shown: Any


def _json_after(label: str, text: str) -> Any:
    found = re.search(rf"^ +{label}:\n((?: {{4,}}.*\n?)+)", text, re.MULTILINE)
    return json.loads(found[1].replace("{...}", "{}")) if found else None


def _endpoint(found: re.Match[str], text: str) -> Endpoint:
    status = re.search(r"Response \((\d+)\)", text)
    query = re.search(r"Query params: (.+)", text)
    return Endpoint(
        found[1],
        found[2],
        query[1].replace(", ", "&") if query else "",
        _json_after("Payload", text) or (REPORT if found[2] == WEBHOOK else None),
        int(status[1]) if status else 200,
        _json_after(r"Response \(\d+\)", text) or {"ok": True},
    )


def _endpoints() -> list[Endpoint]:
    headings = list(HEADING.finditer(SEED))
    ends = [*(heading.start() for heading in headings[1:]), SEED.index("Testing with curl")]
    return [_endpoint(heading, SEED[heading.end() : end]) for heading, end in zip(headings, ends, strict=True)]


ENDPOINTS = _endpoints()
CURL_LINES = re.findall(r"```bash\n(curl .+?)\n```", SEED, re.DOTALL)


def differences(shown: Any, found: Any, given: dict[str, Any], at: str = "") -> list[str]:
    """Where an answer is not what is shown: a member that lacks, another JSON type, another value where the payload
    or the list decides it. Of a list of examples one must look like the example."""
    name = at.rpartition(".")[2]
    if isinstance(shown, dict):
        if not isinstance(found, dict):
            return [f"{at}: no object but {found!r}"]
        lacking = [f"{at}.{key} lacks" for key in shown if key not in found]
        inner = [differences(value, found[key], given, f"{at}.{key}") for key, value in shown.items() if key in found]
        return lacking + [line for lines in inner for line in lines]
    if isinstance(shown, list):
        if not isinstance(found, list) or not found:
            return [f"{at}: no list with something in it but {found!r}"]
        best = [min((differences(item, other, given, at) for other in found), key=len) for item in shown]
        return [line for lines in best for line in lines]
    if given.get(name) == shown or name in FIXED or (name == "status" and shown in DECIDED):
        return [] if found == shown else [f"{at}: {found!r} is not {shown!r}"]
    fits = {str: isinstance(found, str), int: type(found) is int, float: type(found) in (int, float)}[type(shown)]
    if fits and isinstance(shown, str):
        fits = not shown.startswith("uuid") or UUID(found).version == 7
        fits = fits and (not TIME.fullmatch(shown) or TIME.fullmatch(found) is not None)
    return [] if fits else [f"{at}: {found!r} is not like {shown!r}"]


async def _ids(user: User, endpoint: Endpoint) -> dict[str, str]:
    """Real ids for what the path and the payload name; new ones, where the request would use them up."""
    contact = await user.contact("00", email="john@example.com", metadata={"key": "value"})
    members = {"description": "d", "custom_prompt": "c", "first_message": "f", "call_goals": ["g"]}
    script = await user.made("/api/scripts/", name="Sales Pitch", **members)
    ids = {"<contact_id>": contact["id"], "<script_id>": script["id"]}
    ids |= {"uuid-here": contact["id"], "uuid-or-null": script["id"]}
    if endpoint.path.endswith("/cancel/"):
        ids["<call_id>"] = (await user.place_call("05"))["id"]
    else:
        ids["<call_id>"] = (await user.found("/api/calls/", status="completed"))["data"][-1]["id"]
    return ids


async def _payload(user: User, endpoint: Endpoint, ids: dict[str, str]) -> Any:
    payload = endpoint.payload
    if payload is None or endpoint.path == WEBHOOK:
        return payload
    if "username" in payload:
        return payload | {"username": user.email, "password": user.password}
    if "refresh" in payload:
        login = await user.http.post("/api/token/", json={"username": user.email, "password": user.password})
        return payload | {"refresh": login.json()["refresh"]}
    return {name: ids.get(value, value) if isinstance(value, str) else value for name, value in payload.items()}


def test_the_whole_list_was_read():
    starts = [line.strip() for line in SEED.splitlines() if re.match(r"\s*(GET|POST|PUT|PATCH|DELETE) ", line)]
    assert len(ENDPOINTS) == len(starts) == len({(each.method, each.path) for each in ENDPOINTS}) == 22
    assert sum(each.payload is not None for each in ENDPOINTS) == SEED.count("Payload:") + 1
    assert len(CURL_LINES) == SEED.count("\ncurl ") == 3


@pytest.mark.parametrize("slash", ["/", ""], ids=["slash", "no slash"])
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
async def test_endpoint_answers_as_the_list_shows(running, owner, endpoint, slash):
    ids = await _ids(owner, endpoint)
    path = re.sub(r"<\w+>", lambda found: ids[found[0]], endpoint.path).rstrip("/") + slash
    payload = await _payload(owner, endpoint, ids)
    headers = {}
    if endpoint.path in OPEN:
        headers = {"Authorization": "", "x-vapi-secret": running.env["VAPI_WEBHOOK_SECRET"]}
    url = f"{path}?{endpoint.query}" if endpoint.query else path
    answer = await owner.http.request(endpoint.method, url, json=payload, headers=headers)
    assert answer.status_code == endpoint.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    given = endpoint.payload if isinstance(endpoint.payload, dict) else {}
    given = {name: value for name, value in given.items() if isinstance(value, str) and value == payload[name]}
    assert differences(endpoint.shown, answer.json(), given) == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
async def test_endpoint_wants_a_token_unless_the_list_says_otherwise(owner, endpoint):
    path = re.sub(r"<\w+>", "01900000-0000-7000-8000-000000000000", endpoint.path)
    answer = await owner.http.request(endpoint.method, path, json=endpoint.payload, headers={"Authorization": ""})
    code = answer.json().get("code")
    assert (code == "token_invalid") is (endpoint.path not in OPEN - {"/api/token/refresh/"}), answer.text


async def test_small_answers_hold_what_the_list_shows_and_nothing_else(owner):
    assert (await owner.found("/api/calls/pending-count/")).keys() == {"count"}
    stats = await owner.found("/api/calls/stats/")
    assert [card["title"] for card in stats["cards"]] == [
        "Total Spent on Calls",
        "Calls made",
        "Failed calls",
        "Contacts",
    ]
    assert stats.keys() == {"cards", "lineChart"}
    assert all(card.keys() == {"title", "value"} for card in stats["cards"])
    assert re.fullmatch(r"\$\d{1,3}(,\d{3})*\.\d\d", stats["cards"][0]["value"])
    assert all(card["value"].isdecimal() for card in stats["cards"][1:])
    chart = stats["lineChart"]
    assert chart.keys() == {"title", "subtitle", "badge", "points"}
    assert re.fullmatch(r"[+-]\d+% vs previous 14 days|No prior data", chart["subtitle"])
    assert [point["x"] for point in chart["points"]] == list(range(14))
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    first = days.index(chart["points"][0]["label"])
    assert [point["label"] for point in chart["points"]] == [days[(first + x) % 7] for x in range(14)]
    assert sum(point["y"] for point in chart["points"]) >= 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize(("line", "status"), list(zip(CURL_LINES, [200, 200, 201], strict=True)))
async def test_curl_line_works_as_it_stands(running, owner, tmp_path, line, status):
    line = line.replace("http://localhost:8000", running.url)
    line = line.replace("<access_token>", owner.http.headers["Authorization"].removeprefix("Bearer "))
    line = line.replace("user@example.com", owner.email).replace(
        '"password":"password"', f'"password":"{owner.password}"'
    )
    (tmp_path / ".curlrc").write_text('silent\nwrite-out = "\\n%{http_code}"\n')
    env = {**running.env, "HOME": str(tmp_path), "CURL_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec("sh", "-c", line, env=env, stdout=asyncio.subprocess.PIPE)
    body, _, code = (await process.communicate())[0].decode().rpartition("\n")
    assert (process.returncode, int(code)) == (0, status), body
    assert json.loads(body)
