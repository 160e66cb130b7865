"""While a user has a hash from elsewhere, every check that fails does the same work: no time tells who was moved
here."""

import asyncio
from uuid import uuid4

import pytest
from argon2 import PasswordHasher

from boostedcalls.common.db import transaction
from boostedcalls.gateway import legacy, legacy_cost
from boostedcalls.gateway.users import insert_user

PASSWORD = "correct horse"
MORE = "pbkdf2_sha256$20000$abcdefgh$bgSbMY9YCwjgw4A4xA1caVX0c71htkylLaHx/+R8azk="
LESS = "pbkdf2_sha256$1000$abcdefgh$I71PXP7vUXOhScbc1aQtYSCaKnLg+hScMD3pSHLjGCA="
TOO_MANY = MORE.replace("$20000$", "$5000001$")


@pytest.fixture
async def alone(gateway):
    """No users but the test's own."""
    async with transaction(gateway.deps.pool) as connection:
        await connection.execute("DELETE FROM auth.users")


@pytest.fixture
def work(monkeypatch):
    """What was worked: the iterations of pbkdf2, and 1 for each argon2."""
    done = {"pbkdf2": 0, "argon2": 0}
    derive, verify = legacy.hashlib.pbkdf2_hmac, PasswordHasher.verify

    def deriving(name, password, salt, iterations):
        done["pbkdf2"] += iterations
        return derive(name, password, salt, iterations)

    def verifying(self, hashed, password):
        done["argon2"] += 1
        return verify(self, hashed, password)

    monkeypatch.setattr(legacy.hashlib, "pbkdf2_hmac", deriving)
    monkeypatch.setattr(PasswordHasher, "verify", verifying)
    return done


async def moved(gateway, stored):
    return (await insert_user(gateway.deps.pool, f"user-{uuid4()}@example.com", stored)).email


async def look(gateway):
    await gateway.deps.passwords._legacy_cost.refresh(gateway.deps.pool)


async def log_in(gateway, email, password):
    return await gateway.client.post("/api/token/", json={"username": email, "password": password})


async def pause():
    await asyncio.sleep(0.05)


async def wrong(gateway, work, email):
    """The work of a wrong password."""
    work.update(pbkdf2=0, argon2=0)
    gateway.is_problem(await log_in(gateway, email, "wrong password"), 401, "credentials_invalid")
    return dict(work)


async def test_wrong_password_is_the_same_work_for_everybody_while_there_are_legacy_hashes(
    gateway, alone, work, attacks
):
    today = (await gateway.add_user()).email
    less, more = await moved(gateway, LESS), await moved(gateway, MORE)
    broken, too_many = await moved(gateway, MORE[:-1]), await moved(gateway, TOO_MANY)
    await look(gateway)
    for email in ("nobody@example.com", today, less, more, broken, too_many):
        assert await wrong(gateway, work, email) == {"pbkdf2": 20000, "argon2": 1}, email
    attacks("Login: who was moved here, by time", 6)


async def test_right_password_is_no_more_work_than_its_own_hash(gateway, alone, work):
    user = await gateway.add_user()
    await moved(gateway, MORE)
    await look(gateway)
    assert (await log_in(gateway, user.email, gateway.password)).status_code == 200
    assert work == {"pbkdf2": 0, "argon2": 1}


async def test_wrong_password_costs_one_argon2_again_once_the_last_legacy_hash_is_gone(gateway, alone, work):
    email = await moved(gateway, MORE)
    await look(gateway)
    assert (await log_in(gateway, email, PASSWORD)).status_code == 200
    await look(gateway)
    for each in (email, "nobody@example.com"):
        assert await wrong(gateway, work, each) == {"pbkdf2": 0, "argon2": 1}


async def test_gateway_that_starts_knows_the_cost_before_it_serves_and_follows_it(
    gateway, running, dsn, nats_server, alone, work, monkeypatch
):
    await moved(gateway, LESS)
    monkeypatch.setattr(legacy_cost, "EVERY", 0.05)
    async with running(dsn, nats_server.url) as late:
        assert await wrong(late, work, "nobody@example.com") == {"pbkdf2": 1000, "argon2": 1}
        await moved(gateway, MORE)
        while late.deps.passwords._legacy_cost.iterations != 20000:
            await pause()
        assert await wrong(late, work, "nobody@example.com") == {"pbkdf2": 20000, "argon2": 1}


async def test_logins_ask_nothing_of_the_database_about_other_users(gateway, alone, work):
    await look(gateway)
    await moved(gateway, MORE)
    for _ in range(3):
        assert await wrong(gateway, work, f"{uuid4()}@example.com") == {"pbkdf2": 0, "argon2": 1}


async def test_greatest_cost_is_read_off_the_end_of_an_index(gateway):
    async with transaction(gateway.deps.pool) as connection:
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {legacy_cost.GREATEST}"))
    assert "Limit" in plan
    assert "Backward using users_legacy" in plan
