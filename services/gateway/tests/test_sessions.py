"""Logging in, refreshing, logging out. What happens at a second use of a refresh token: test_refresh_reuse.py."""

import asyncio
from datetime import timedelta

import jwt
import pytest

from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError
from boostedcalls.gateway.sessions import open_session, rotate
from boostedcalls.gateway.users import change_password, find_user


async def log_in(gateway, user):
    answer = await gateway.client.post("/api/token/", json={"username": user.email, "password": gateway.password})
    assert answer.status_code == 200
    return answer


async def refresh(gateway, token):
    return await gateway.client.post("/api/token/refresh/", json={"refresh": token})


async def test_login_answers_an_access_token_for_the_user_and_a_refresh_token(gateway):
    user = await gateway.add_user()
    answer = await log_in(gateway, user)
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert tokens.keys() == {"access", "refresh"}
    claims = jwt.decode(tokens["access"], gateway.jwt_secret, algorithms=["HS256"], audience="boostedcalls")
    assert claims["sub"] == str(user.id)
    assert claims.keys() == {"iss", "aud", "typ", "sub", "sid", "jti", "iat", "exp"}
    assert claims["exp"] - claims["iat"] == 15 * 60
    used = await gateway.client.get(
        "/api/calls/pending-count/", headers={"Authorization": f"Bearer {tokens['access']}"}
    )
    gateway.is_problem(used, 503, "unavailable")


async def test_username_is_taken_in_any_case(gateway):
    user = await gateway.add_user()
    login = {"username": f" {user.email.upper()}", "password": gateway.password}
    assert (await gateway.client.post("/api/token/", json=login)).status_code == 200


@pytest.mark.parametrize("username", ["nobody@example.com", "no address", "@", "ü" * 254])
async def test_unknown_user_and_wrong_password_get_the_same_answer(gateway, username):
    user = await gateway.add_user()
    wrong = await gateway.client.post("/api/token/", json={"username": user.email, "password": "wrong password"})
    unknown = await gateway.client.post("/api/token/", json={"username": username, "password": gateway.password})
    first, second = (gateway.is_problem(answer, 401, "credentials_invalid") for answer in (wrong, unknown))
    assert first.pop("request_id") != second.pop("request_id")
    assert first == second
    assert wrong.headers["www-authenticate"] == unknown.headers["www-authenticate"] == "Bearer"


async def test_refresh_rotates_the_token(gateway):
    first = (await log_in(gateway, await gateway.add_user())).json()["refresh"]
    answer = await refresh(gateway, first)
    assert answer.status_code == 200
    assert answer.json().keys() == {"access", "refresh"}
    assert answer.json()["refresh"] != first
    assert (await refresh(gateway, answer.json()["refresh"])).status_code == 200


async def test_expired_refresh_token_is_refused(gateway):
    user = await gateway.add_user()
    session = await open_session(gateway.deps.pool, user, timedelta(seconds=-1))
    gateway.is_problem(await refresh(gateway, session.refresh), 401, "token_invalid")


async def test_expired_sessions_go_at_the_next_login(gateway):
    user = await gateway.add_user()
    await open_session(gateway.deps.pool, user, timedelta(seconds=-1))
    await log_in(gateway, user)
    async with transaction(gateway.deps.pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM auth.sessions WHERE user_id = $1", user.id) == 1


async def test_expired_tokens_of_a_session_go_at_its_next_refresh(gateway):
    user = await gateway.add_user()
    pool = gateway.deps.pool
    first = await open_session(pool, user, timedelta(days=1))
    async with transaction(pool) as connection:
        await connection.execute(
            "INSERT INTO auth.refresh_tokens (hash, session_id, expires_at, used_at)"
            " SELECT '\\x00', id, now() - interval '1 day', now() FROM auth.sessions WHERE user_id = $1",
            user.id,
        )
    await rotate(pool, first.refresh, timedelta(days=1))
    async with transaction(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE hash = '\\x00'") == 0


async def test_neither_tokens_nor_passwords_are_stored_in_clear(gateway):
    user = await gateway.add_user()
    token = (await log_in(gateway, user)).json()["refresh"]
    async with transaction(gateway.deps.pool) as connection:
        for table in ("users", "sessions", "refresh_tokens"):
            rows = str(await connection.fetch(f"SELECT * FROM auth.{table}"))  # noqa: S608
            assert token not in rows
            assert gateway.password not in rows


async def test_logout_ends_the_session(gateway):
    first = (await log_in(gateway, await gateway.add_user())).json()["refresh"]
    successor = (await refresh(gateway, first)).json()["refresh"]
    answer = await gateway.client.post("/api/auth/logout", json={"refresh": successor})
    assert (answer.status_code, answer.content) == (204, b"")
    gateway.is_problem(await refresh(gateway, successor), 401, "token_invalid")


@pytest.mark.parametrize("token", ["unknown", "é"])
async def test_logout_of_no_session_is_no_fault(gateway, token):
    assert (await gateway.client.post("/api/auth/logout", json={"refresh": token})).status_code == 204


async def test_access_token_is_no_refresh_token(gateway):
    tokens = (await log_in(gateway, await gateway.add_user())).json()
    gateway.is_problem(await refresh(gateway, tokens["access"]), 401, "token_invalid")


async def test_login_that_began_before_the_password_was_changed_opens_no_session(gateway):
    user = await gateway.add_user()
    assert await change_password(gateway.deps.pool, user, "another hash") == []
    with pytest.raises(ServiceError, match="credentials_invalid"):
        await open_session(gateway.deps.pool, user, timedelta(days=1))
    assert await change_password(gateway.deps.pool, user, "a third hash") is None


async def test_login_waits_for_a_change_of_the_password_that_is_under_way_and_opens_no_session(gateway):
    pool = gateway.deps.pool
    user = await gateway.add_user()
    async with transaction(pool) as connection:
        await connection.execute("UPDATE auth.users SET password_version = 1 WHERE id = $1", user.id)
        opening = asyncio.create_task(open_session(pool, user, timedelta(days=1)))
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        while not opening.done() and not await connection.fetchval(waits):
            await asyncio.wait([opening], timeout=0.01)
    with pytest.raises(ServiceError, match="credentials_invalid"):
        await opening


async def test_logins_beside_a_change_of_the_password_leave_no_session_behind(gateway):
    pool = gateway.deps.pool
    user = await gateway.add_user()
    logins = [open_session(pool, user, timedelta(days=1)) for _ in range(20)]
    results = await asyncio.gather(*logins[:10], change_password(pool, user, "x"), *logins[10:], return_exceptions=True)
    ended = results.pop(10)
    assert {session.id for session in results if not isinstance(session, ServiceError)} == set(ended)
    async with transaction(pool) as connection:
        left = "SELECT count(*) FROM auth.sessions WHERE user_id = $1 AND revoked_at IS NULL"
        assert await connection.fetchval(left, user.id) == 0


async def test_hash_of_other_parameters_is_replaced_at_login(gateway):
    from argon2 import PasswordHasher

    user = await gateway.add_user()
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(gateway.password)
    async with transaction(gateway.deps.pool) as connection:
        await connection.execute("UPDATE auth.users SET password_hash = $2 WHERE id = $1", user.id, weak)
    await log_in(gateway, user)
    found = await find_user(gateway.deps.pool, user.email)
    assert "$m=9216,t=4,p=1$" in found.password_hash
    await log_in(gateway, user)


LOGIN = {"username": "user@example.com", "password": "some password"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/token/", {"username": "user@example.com"}, "password"),
        ("/api/token/", {"password": "some password"}, "username"),
        ("/api/token/", {**LOGIN, "username": 1}, "username"),
        ("/api/token/", {**LOGIN, "username": "a\x00b"}, "username"),
        ("/api/token/", {**LOGIN, "username": "a" * 255}, "username"),
        ("/api/token/", {**LOGIN, "password": None}, "password"),
        ("/api/token/", {**LOGIN, "password": "a\x00bcdefgh"}, "password"),
        ("/api/token/", {**LOGIN, "password": ""}, "password"),
        ("/api/token/", {**LOGIN, "password": "ü" * 513}, "password"),
        ("/api/token/", {**LOGIN, "admin": True}, "admin"),
        ("/api/token/refresh/", {}, "refresh"),
        ("/api/token/refresh/", {"refresh": ["x"]}, "refresh"),
        ("/api/token/refresh/", {"refresh": "a\x00b"}, "refresh"),
        ("/api/token/refresh/", {"refresh": "x" * 501}, "refresh"),
        ("/api/auth/logout", {"refresh": ""}, "refresh"),
        ("/api/auth/password", {"new_password": "a password"}, "current_password"),
        ("/api/auth/password", {"current_password": "x", "new_password": "1234567"}, "new_password"),
        ("/api/auth/password", {"current_password": "x", "new_password": "ü" * 513}, "new_password"),
        ("/api/auth/password", {"current_password": "x", "new_password": "a\x00bcdefgh"}, "new_password"),
    ],
)
async def test_login_of_the_wrong_shape_names_the_member(gateway, client, path, body, field):
    found = gateway.is_problem(await client.post(path, json=body, headers=gateway.bearer()), 422, "validation_failed")
    assert [error["field"] for error in found["errors"]] == [field]
    assert "some password" not in str(found)
