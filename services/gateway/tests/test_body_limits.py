"""How large a body may be: said beforehand or counted on the way, 1 MiB for people, 4 MiB for the provider."""

import pytest

MIB = 1024 * 1024
WEBHOOK = "/api/calls/webhook/"


def contact(size):
    body = b'{"name":"a","phone":"+12345","pad":"'
    return body + b"x" * (size - len(body) - 2) + b'"}'


async def in_chunks(body):
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("size", "status", "code"),
    [
        (MIB, 422, "validation_failed"),
        (MIB + 1, 413, "payload_too_large"),
        (6 * MIB, 413, "payload_too_large"),
    ],
)
async def test_body_of_a_person_may_have_a_mebibyte(gateway, client, size, status, code, chunked):
    body = contact(size)
    headers = {**gateway.bearer(), "Content-Type": "application/json"}
    answer = await client.post("/api/contacts/", content=in_chunks(body) if chunked else body, headers=headers)
    gateway.is_problem(answer, status, code)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize(
    ("size", "status", "code"),
    [
        (4 * MIB, 503, "unavailable"),
        (4 * MIB + 1, 413, "payload_too_large"),
        (9 * MIB, 413, "payload_too_large"),
    ],
)
async def test_body_of_the_provider_may_have_four(gateway, client, size, status, code, chunked, slash):
    body = b"x" * size
    answer = await client.post(
        WEBHOOK.rstrip("/") + slash,
        content=in_chunks(body) if chunked else body,
        headers={"x-vapi-secret": gateway.webhook_secret},
    )
    gateway.is_problem(answer, status, code)


async def test_large_body_without_a_token_is_not_read(gateway, client):
    answer = await client.post("/api/contacts/", content=in_chunks(contact(3 * MIB)))
    gateway.is_problem(answer, 401, "token_invalid")


async def test_connection_serves_on_after_a_body_that_was_too_large(gateway, client):
    for _ in range(3):
        answer = await client.post("/api/token/", content=in_chunks(contact(2 * MIB)))
        gateway.is_problem(answer, 413, "payload_too_large")
        assert (await client.get("/healthz")).status_code == 200
