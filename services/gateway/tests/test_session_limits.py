"""What somebody with a right password can fill: so many live sessions, so many refreshes in a minute, so many used
tokens that are kept."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
import pytest_asyncio

from boostedcalls.common.db import transaction
from boostedcalls.gateway.sessions import KEPT, MAX_ROTATIONS, MAX_SESSIONS, Reused, open_session, rotate

DAY = timedelta(days=1)
PATH = "/api/calls/pending-count/"
TOKENS = (
    "SELECT hash, used_at, refresh_tokens.expires_at FROM auth.refresh_tokens"
    " JOIN auth.sessions ON sessions.id = session_id WHERE user_id = $1 ORDER BY hash"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def second(running, dsn, nats_server):
    """Another replica."""
    async with running(dsn, nats_server.url) as found:
        yield found


async def query(gateway, statement, *arguments):
    async with transaction(gateway.deps.pool) as connection:
        return await connection.fetch(statement, *arguments)


async def log_in(gateway, user):
    answer = await gateway.client.post("/api/token/", json={"username": user.email, "password": gateway.password})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refresh(gateway, token):
    return await gateway.client.post("/api/token/refresh/", json={"refresh": token})


async def use(gateway, access):
    """Whether the token lets somebody in."""
    answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {access}"})
    return answer.status_code == 503


async def age(gateway, user, seconds):
    """Let every use of a token of the user lie so long back."""
    statement = (
        "UPDATE auth.refresh_tokens SET used_at = used_at - make_interval(secs => $2) FROM auth.sessions"
        " WHERE sessions.id = session_id AND user_id = $1 AND used_at IS NOT NULL"
    )
    await query(gateway, statement, user.id, seconds)


async def chain(gateway, token, count):
    """Refresh so many times; all tokens, the given one and the last one too."""
    tokens = [token]
    for _ in range(count):
        tokens.append((await rotate(gateway.deps.pool, tokens[-1], DAY)).refresh)
    return tokens


async def live(gateway, user):
    statement = "SELECT id FROM auth.sessions WHERE user_id = $1 AND revoked_at IS NULL"
    return {row["id"] for row in await query(gateway, statement, user.id)}


async def test_sixty_first_refresh_within_a_minute_is_refused_and_changes_nothing(gateway, second, attacks):
    user = await gateway.add_user()
    other = (await log_in(gateway, user))["refresh"]
    tokens = await chain(gateway, (await log_in(gateway, user))["refresh"], MAX_ROTATIONS - 1)
    tokens.append((await refresh(gateway, tokens[-1])).json()["refresh"])
    before = await query(gateway, TOKENS, user.id)
    for each in (gateway, second, gateway):
        refused = await refresh(each, tokens[-1])
        gateway.is_problem(refused, 429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert await query(gateway, TOKENS, user.id) == before
    # A repeat makes nothing, and another session is not meant.
    assert (await refresh(second, tokens[-2])).json()["refresh"] == tokens[-1]
    assert (await refresh(gateway, other)).status_code == 200
    # The first of the sixty is a minute old: there is room for one.
    statement = (
        "UPDATE auth.refresh_tokens SET used_at = used_at - interval '1 minute'"
        " WHERE hash = sha256(convert_to($1, 'UTF8'))"
    )
    await query(gateway, statement, tokens[0])
    last = await refresh(gateway, tokens[-1])
    assert last.status_code == 200
    gateway.is_problem(await refresh(gateway, last.json()["refresh"]), 429, "rate_limited")
    attacks("Refresh: without end", 4)


async def test_of_a_crowd_that_refreshes_beside_the_limit_sixty_in_all_get_through(gateway, second, attacks):
    user = await gateway.add_user()
    tokens = await chain(gateway, (await log_in(gateway, user))["refresh"], MAX_ROTATIONS - 1)
    answers = await asyncio.gather(*(refresh((gateway, second)[n % 2], tokens[-1]) for n in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    (successor,) = {answer.json()["refresh"] for answer in answers}
    answers = await asyncio.gather(*(refresh((gateway, second)[n % 2], successor) for n in range(20)))
    assert Counter(answer.status_code for answer in answers) == {429: 20}
    used = [row for row in await query(gateway, TOKENS, user.id) if row["used_at"] is not None]
    assert len(used) == MAX_ROTATIONS
    assert len(await live(gateway, user)) == 1
    attacks("Refresh: without end", 20)


async def test_re_use_ends_a_session_that_was_refreshed_too_often_too(gateway):
    user = await gateway.add_user()
    tokens = await chain(gateway, (await log_in(gateway, user))["refresh"], MAX_ROTATIONS)
    gateway.is_problem(await refresh(gateway, tokens[-1]), 429, "rate_limited")
    gateway.is_problem(await refresh(gateway, tokens[0]), 401, "token_invalid")
    gateway.is_problem(await refresh(gateway, tokens[-1]), 401, "token_invalid")


async def test_expired_token_of_a_session_that_was_refreshed_too_often_is_refused_as_such(gateway):
    user = await gateway.add_user()
    tokens = await chain(gateway, (await log_in(gateway, user))["refresh"], MAX_ROTATIONS)
    statement = (
        "UPDATE auth.refresh_tokens SET expires_at = now() - interval '1 s' WHERE hash = sha256(convert_to($1, 'UTF8'))"
    )
    await query(gateway, statement, tokens[-1])
    gateway.is_problem(await refresh(gateway, tokens[-1]), 401, "token_invalid")


FILL = """
    INSERT INTO auth.refresh_tokens (hash, session_id, expires_at, used_at)
    SELECT sha256(n::text::bytea), sessions.id, now() + interval '30 days',
        now() - interval '1 hour' - n * interval '1 ms'
    FROM auth.sessions, generate_series(1, $2::integer) AS n WHERE user_id = $1
"""


async def test_newest_used_tokens_are_kept_and_only_a_second_use_of_those_ends_the_session(gateway):
    user = await gateway.add_user()
    tokens = await chain(gateway, (await log_in(gateway, user))["refresh"], 3)
    await age(gateway, user, 7200)
    await gateway.deps.pool.execute(FILL, user.id, KEPT - 2)
    # With this one two more were used than are kept.
    successor = (await refresh(gateway, tokens[-1])).json()["refresh"]
    rows = await query(gateway, TOKENS, user.id)
    assert Counter(row["used_at"] is not None for row in rows) == {True: KEPT, False: 1}
    for forgotten in tokens[:2]:
        gateway.is_problem(await refresh(gateway, forgotten), 401, "token_invalid")
    assert len(await live(gateway, user)) == 1
    with pytest.raises(Reused):
        await rotate(gateway.deps.pool, tokens[2], DAY)
    gateway.is_problem(await refresh(gateway, successor), 401, "token_invalid")


async def test_hundred_and_first_session_ends_the_one_not_refreshed_for_longest_and_its_access_tokens(
    gateway, second, attacks
):
    user, stranger = await gateway.add_user(), await gateway.add_user()
    refreshed, oldest, foreign = [await log_in(gateway, each) for each in (user, user, stranger)]
    refreshed = (await refresh(gateway, refreshed["refresh"])).json()
    pool = gateway.deps.pool
    opened = [await open_session(pool, user, timedelta(days=30)) for _ in range(MAX_SESSIONS - 2)]
    assert [session.ended for session in opened] == [()] * len(opened)
    assert await use(gateway, oldest["access"])
    newest = await log_in(gateway, user)
    assert len(await live(gateway, user)) == MAX_SESSIONS
    assert not await use(gateway, oldest["access"])
    await second.deps.revocations.refresh(second.deps.pool)
    assert not await use(second, oldest["access"])
    gateway.is_problem(await refresh(gateway, oldest["refresh"]), 401, "token_invalid")
    for tokens in (refreshed, newest, foreign):
        assert await use(second, tokens["access"])
        assert (await refresh(gateway, tokens["refresh"])).status_code == 200
    attacks("Login: sessions without end", 1)


async def test_many_logins_at_once_leave_a_hundred_sessions_and_name_those_that_ended(gateway, second, attacks):
    user = await gateway.add_user()
    pools = [gateway.deps.pool, second.deps.pool]
    opened = await asyncio.gather(*(open_session(pools[n % 2], user, DAY) for n in range(MAX_SESSIONS + 30)))
    left = await live(gateway, user)
    ended = [each for session in opened for each in session.ended]
    assert (len(left), len(ended), len(set(ended))) == (MAX_SESSIONS, 30, 30)
    assert left | set(ended) == {session.id for session in opened}
    attacks("Login: sessions without end", 30)


async def test_logins_beside_refreshes_and_logouts_of_the_oldest_do_not_wait_for_each_other_for_ever(gateway):
    user = await gateway.add_user()
    opened = [await open_session(gateway.deps.pool, user, DAY) for _ in range(MAX_SESSIONS)]
    logins = [open_session(gateway.deps.pool, user, DAY) for _ in range(20)]
    refreshes = [refresh(gateway, session.refresh) for session in opened[:20]]
    logouts = [gateway.client.post("/api/auth/logout", json={"refresh": session.refresh}) for session in opened[10:30]]
    both = [each for three in zip(logins, refreshes, logouts, strict=True) for each in three]
    answers = await asyncio.gather(*both)
    assert {answer.status_code for answer in answers[1::3]} <= {200, 401}
    assert {answer.status_code for answer in answers[2::3]} == {204}
    assert len(await live(gateway, user)) <= MAX_SESSIONS


async def test_session_that_ended_goes_at_a_login_when_no_access_token_of_it_can_be_good(gateway):
    user = await gateway.add_user()
    pool = gateway.deps.pool
    recent, old = await open_session(pool, user, DAY), await open_session(pool, user, DAY)
    statement = "UPDATE auth.sessions SET revoked_at = now() - make_interval(secs => $2) WHERE id = $1"
    await query(gateway, statement, recent.id, 3600)
    await query(gateway, statement, old.id, 3 * 3600)
    fresh = await open_session(pool, user, DAY)
    rows = await query(gateway, "SELECT id FROM auth.sessions WHERE user_id = $1", user.id)
    assert {row["id"] for row in rows} == {recent.id, fresh.id}
