"""Who may ask, and what `POST /call` refuses: nothing that is refused is dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

if TYPE_CHECKING:
    from conftest import Launch, Simulator

NUMBER = "+12025550100"
INVALID_KEY = {
    "message": "Invalid Key. Hot tip, you may be using the private key instead of the public key, or vice versa.",
    "error": "Unauthorized",
    "statusCode": 401,
}


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic test-key", "test-key"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/call"), ("GET", "/call"), ("GET", "/call/x"), ("DELETE", "/call/x")]
)
async def test_a_missing_or_wrong_key_is_refused(sim: Simulator, header: str, method: str, path: str) -> None:
    answer = await sim.ask(method, path, sim.order(NUMBER), headers={"Authorization": header})
    assert answer == (401, INVALID_KEY)
    assert sim.dials() == []


async def test_any_bearer_will_do_when_no_key_is_set(launch: Launch) -> None:
    sim = await launch(simulator_api_key=SecretStr(""))
    assert (await sim.ask("GET", "/call", headers={"Authorization": "Bearer anything"}))[0] == 200
    assert (await sim.ask("GET", "/call", headers={"Authorization": "Bearer "}))[0] == 401


async def test_health_needs_no_key(sim: Simulator) -> None:
    assert await sim.ask("GET", "/healthz", headers={"Authorization": ""}) == (200, {"status": "ok"})


def without(order: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in order.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {}}, "property metadata should not exist"),
        ({"name": "n" * 41}, "name must be shorter than or equal to 40 characters"),
        ({"name": 7}, "name must be a string"),
        ({"customer": []}, "customer must be an object"),
        ({"customer": {"number": NUMBER, "phone": "1"}}, "customer.property phone should not exist"),
        ({"customer": {"number": "+1"}}, "customer.number must be longer than or equal to 3 characters"),
        (
            {"customer": {"number": "2025550100"}},
            "customer.number must be a valid phone number in the E.164 format. "
            "Hot tip, you may be missing the country code (Eg. US: +1).",
        ),
        (
            {"assistantOverrides": {"server": {"url": "http://example.com/hook"}}},
            "assistantOverrides.server.url must be a valid https:// or wss:// URL",
        ),
        (
            {"assistant": {"server": {"url": "ftp://127.0.0.1"}}},
            "assistant.server.url must be a valid https:// or wss:// URL",
        ),
        (
            {"assistantOverrides": {"server": {"url": "https://example.com", "headers": {"a": "b\r\nc: d"}}}},
            "assistantOverrides.server.headers must hold valid HTTP headers",
        ),
        (
            {"assistantOverrides": {"server": {"url": "https://example.com", "timeoutSeconds": 301}}},
            "assistantOverrides.server.timeoutSeconds must not be greater than 300.0",
        ),
        (
            {"assistantOverrides": {"maxDurationSeconds": 9}},
            "assistantOverrides.maxDurationSeconds must not be less than 10.0",
        ),
    ],
)
async def test_a_request_beyond_the_documented_limits_is_refused(
    sim: Simulator, change: dict[str, Any], message: str
) -> None:
    answer = await sim.ask("POST", "/call", sim.order(NUMBER) | change)
    assert answer == (400, {"message": [message], "error": "Bad Request", "statusCode": 400})
    assert sim.dials() == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("assistantId", "Couldn't Get Assistant."),
        ("phoneNumberId", "Couldn't Get Phone Number. Need Either `phoneNumberId` Or `phoneNumber`."),
        ("customer", "Couldn't Get Customer."),
    ],
)
async def test_a_request_without_a_needed_part_is_refused(sim: Simulator, missing: str, words: str) -> None:
    status, fault = await sim.ask("POST", "/call", without(sim.order(NUMBER), missing))
    assert status == 400
    assert fault["message"].startswith(words)
    assert sim.dials() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"name": "\\ud800"}'])
async def test_a_body_that_is_no_object_is_refused(sim: Simulator, body: bytes) -> None:
    async with sim.http.post(f"{sim.url}/call", data=body, headers={"Authorization": "Bearer test-key"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"] == "Bad Request"


@pytest.mark.parametrize(
    "change", [{"customers": [{"number": NUMBER}]}, {"schedulePlan": {"earliestAt": "2030-01-01"}}]
)
async def test_what_is_not_played_is_refused_in_words(sim: Simulator, change: dict[str, Any]) -> None:
    status, fault = await sim.ask("POST", "/call", sim.order(NUMBER) | change)
    assert status == 400
    assert "simulator" in fault["message"]
    assert sim.dials() == []


async def test_plain_http_is_taken_for_hosts_that_the_settings_name(sim: Simulator) -> None:
    await sim.create("+12025550110", server={"url": "http://gateway:8000/api/calls/webhook/"})


async def test_a_call_without_a_server_is_played_without_webhooks(sim: Simulator) -> None:
    created = await sim.create(NUMBER, server=None)
    assert (await sim.ended(created["id"]))["endedReason"] == "assistant-ended-call"


async def test_an_odd_number_is_dialled_when_the_check_is_off(sim: Simulator) -> None:
    order = sim.order(NUMBER) | {"customer": {"number": "12345", "numberE164CheckEnabled": False}}
    assert (await sim.ask("POST", "/call", order))[0] == 201


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("POST", "/call/1/stop"), ("PUT", "/call")])
async def test_an_unknown_route_is_a_404_in_the_providers_words(sim: Simulator, method: str, path: str) -> None:
    assert await sim.ask(method, path) == (
        404,
        {"message": f"Cannot {method} {path}", "error": "Not Found", "statusCode": 404},
    )
