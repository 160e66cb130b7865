"""A session that has ended takes its access tokens along, on every gateway, without a query for each request."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest_asyncio

from boostedcalls.common.db import transaction
from boostedcalls.gateway import revocations
from boostedcalls.gateway.auth import issue_access
from boostedcalls.gateway.revocations import Revocations
from boostedcalls.gateway.sessions import open_session

PATH = "/api/calls/pending-count/"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def second(running, dsn, nats_server):
    """Another replica."""
    async with running(dsn, nats_server.url) as found:
        yield found


async def log_in(gateway, user):
    answer = await gateway.client.post("/api/token/", json={"username": user.email, "password": gateway.password})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def use(gateway, access):
    """Whether the token lets somebody in."""
    answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {access}"})
    if answer.status_code == 503:
        return True
    gateway.is_problem(answer, 401, "token_invalid")
    return False


async def pause():
    await asyncio.sleep(0.05)


async def until(condition):
    while not await condition():
        await pause()


async def until_refused(gateway, access):
    async def refused():
        return not await use(gateway, access)

    await until(refused)


async def test_logout_ends_the_access_tokens_of_its_session_here_at_once_and_elsewhere_soon(gateway, second, attacks):
    user = await gateway.add_user()
    mine, other = await log_in(gateway, user), await log_in(gateway, user)
    fresh = (await gateway.client.post("/api/token/refresh/", json={"refresh": mine["refresh"]})).json()
    assert await use(second, mine["access"])
    assert (await gateway.client.post("/api/auth/logout", json={"refresh": fresh["refresh"]})).status_code == 204
    for tokens in (mine, fresh):
        assert not await use(gateway, tokens["access"])
        await until_refused(second, tokens["access"])
    assert await use(gateway, other["access"])
    assert await use(second, other["access"])
    attacks("JWT: session that has ended", 4)


async def change(gateway, access, current, new):
    body = {"current_password": current, "new_password": new}
    return await gateway.client.post("/api/auth/password", json=body, headers={"Authorization": f"Bearer {access}"})


async def test_change_of_the_password_ends_every_session_of_the_user_and_of_nobody_else(gateway, second, attacks):
    user, stranger = await gateway.add_user(), await gateway.add_user()
    mine, other, foreign = await log_in(gateway, user), await log_in(second, user), await log_in(gateway, stranger)
    answer = await change(gateway, mine["access"], gateway.password, "another password")
    assert (answer.status_code, answer.content) == (204, b"")
    for tokens in (mine, other):
        assert not await use(gateway, tokens["access"])
        await until_refused(second, tokens["access"])
        refreshed = await second.client.post("/api/token/refresh/", json={"refresh": tokens["refresh"]})
        gateway.is_problem(refreshed, 401, "token_invalid")
    assert await use(second, foreign["access"])
    old = {"username": user.email, "password": gateway.password}
    gateway.is_problem(await gateway.client.post("/api/token/", json=old), 401, "credentials_invalid")
    login = await gateway.client.post("/api/token/", json={**old, "password": "another password"})
    assert await use(gateway, login.json()["access"])
    attacks("JWT: session that has ended", 4)


async def test_password_is_not_changed_without_the_present_one(gateway):
    user = await gateway.add_user()
    tokens = await log_in(gateway, user)
    answer = await change(gateway, tokens["access"], "wrong password", "another password")
    gateway.is_problem(answer, 401, "credentials_invalid")
    gateway.is_problem(await change(gateway, "x.y.z", gateway.password, "another password"), 401, "token_invalid")
    assert await use(gateway, tokens["access"])
    await log_in(gateway, user)


async def test_of_two_changes_at_once_one_wins(gateway):
    user = await gateway.add_user()
    access = (await log_in(gateway, user))["access"]
    wanted = ["first new password", "second new password"]
    answers = await asyncio.gather(*(change(gateway, access, gateway.password, new) for new in wanted))
    assert sorted(answer.status_code for answer in answers) == [204, 401]


async def test_token_of_a_user_who_is_gone_changes_no_password(gateway):
    access = issue_access(gateway.deps.keys.ring, uuid4(), uuid4(), timedelta(minutes=1))
    answer = await change(gateway, access, gateway.password, "another password")
    gateway.is_problem(answer, 401, "credentials_invalid")


async def test_gateway_that_starts_knows_what_has_ended_before_it_serves(gateway, running, dsn, nats_server):
    tokens = await log_in(gateway, await gateway.add_user())
    await gateway.client.post("/api/auth/logout", json={"refresh": tokens["refresh"]})
    async with running(dsn, nats_server.url) as late:
        assert not await use(late, tokens["access"])


async def test_session_whose_row_was_deleted_stays_ended(gateway):
    user = await gateway.add_user()
    tokens = await log_in(gateway, user)
    await gateway.client.post("/api/auth/logout", json={"refresh": tokens["refresh"]})
    async with transaction(gateway.deps.pool) as connection:
        await connection.execute("DELETE FROM auth.sessions WHERE user_id = $1", user.id)
    await gateway.deps.revocations.refresh(gateway.deps.pool)
    assert not await use(gateway, tokens["access"])


async def test_last_known_list_counts_while_the_database_is_away(gateway, postgres_server, monkeypatch):
    user = await gateway.add_user()
    ended, open_ = await log_in(gateway, user), await log_in(gateway, user)
    await gateway.client.post("/api/auth/logout", json={"refresh": ended["refresh"]})
    monkeypatch.setattr(revocations, "EVERY", 0.05)
    await postgres_server.stop()
    try:
        while gateway.deps.revocations._trouble._since is None:
            await pause()
        assert not await use(gateway, ended["access"])
        assert await use(gateway, open_["access"])
    finally:
        await postgres_server.start()
    # It follows again.
    async with transaction(gateway.deps.pool) as connection:
        await connection.execute("UPDATE auth.sessions SET revoked_at = now() WHERE user_id = $1", user.id)
    await until_refused(gateway, open_["access"])


async def test_session_that_ended_in_a_transaction_of_long_ago_is_not_missed(gateway):
    pool = gateway.deps.pool
    session = await open_session(pool, await gateway.add_user(), timedelta(days=1))
    known = Revocations()
    await known.refresh(pool)
    async with transaction(pool) as connection:
        statement = "UPDATE auth.sessions SET revoked_at = now() - interval '50 s' WHERE id = $1"
        await connection.execute(statement, session.id)
    await known.refresh(pool)
    assert str(session.id) in known


async def test_sessions_are_forgotten_when_no_token_of_theirs_can_be_good(gateway, monkeypatch):
    known = Revocations()
    first, later = uuid4(), uuid4()
    known.add([first])
    began = revocations.monotonic()
    monkeypatch.setattr(revocations, "monotonic", lambda: began + 3600)
    # Seen again and again, it is not remembered for longer.
    known.add([first, later])
    known._forget(began + 3600)
    assert len(known) == 2
    known._forget(began + 3700)
    assert (str(first) in known, str(later) in known) == (False, True)
    old = await open_session(gateway.deps.pool, await gateway.add_user(), timedelta(days=1))
    async with transaction(gateway.deps.pool) as connection:
        statement = "UPDATE auth.sessions SET revoked_at = now() - interval '2 h' WHERE id = $1"
        await connection.execute(statement, old.id)
    fresh = Revocations()
    await fresh.refresh(gateway.deps.pool)
    assert str(old.id) not in fresh
