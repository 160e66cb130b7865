"""Signing up: where the operator allows it, and as if it did not exist elsewhere."""

import asyncio
from uuid import uuid4

import pytest_asyncio


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_gateway(running, dsn, nats_server):
    async with running(dsn, nats_server.url, signup_enabled=True) as found:
        yield found


def account(**changes):
    return {"email": f"user-{uuid4()}@example.com", "password": "a password", **changes}


async def test_signup_is_absent_unless_it_is_allowed(gateway, client):
    gateway.is_problem(await client.post("/api/auth/signup", json=account()), 404, "not_found")
    gateway.is_problem(await client.post("/api/auth/signup/", content=b"{"), 404, "not_found")
    gateway.is_problem(await client.get("/api/auth/signup"), 404, "not_found")


async def test_account_can_log_in_at_once(gateway, open_gateway):
    wanted = account()
    answer = await open_gateway.client.post("/api/auth/signup", json=wanted)
    assert answer.status_code == 201
    assert answer.json().keys() == {"id", "email"}
    assert answer.json()["email"] == wanted["email"]
    login = {"username": wanted["email"], "password": wanted["password"]}
    assert (await open_gateway.client.post("/api/token/", json=login)).status_code == 200


async def test_address_is_kept_in_lower_case_and_taken_in_any(gateway, open_gateway):
    wanted = account(email=f"User-{uuid4()}@Example.COM")
    answer = await open_gateway.client.post("/api/auth/signup", json=wanted)
    assert answer.json()["email"] == wanted["email"].lower()
    again = await open_gateway.client.post("/api/auth/signup", json=account(email=wanted["email"].upper()))
    gateway.is_problem(again, 409, "email_taken")


async def test_of_parallel_signups_one_gets_the_address(gateway, open_gateway):
    wanted = account()
    answers = await asyncio.gather(*(open_gateway.client.post("/api/auth/signup", json=wanted) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_account_of_the_wrong_shape_names_the_member(gateway, open_gateway):
    for field, value in [
        ("email", "no address"),
        ("email", "a\x00@example.com"),
        ("email", f"{'a' * 250}@example.com"),
        ("password", "1234567"),
        ("password", "ü" * 513),
        ("password", 12345678),
        ("password", "a\x00bcdefgh"),
        ("is_admin", True),
    ]:
        answer = await open_gateway.client.post("/api/auth/signup", json=account(**{field: value}))
        found = gateway.is_problem(answer, 422, "validation_failed")
        assert [error["field"] for error in found["errors"]] == [field], value
