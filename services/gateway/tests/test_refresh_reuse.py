"""A second use of a refresh token: answered the same for ten seconds and until its successor is used; after that, and
for every older token, it ends the session. Whatever the number of clients, gateways and crashes.
"""

import asyncio

import pytest
import pytest_asyncio

from boostedcalls.common.db import transaction

PATH = "/api/calls/pending-count/"
CROWD = 100


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def second(running, dsn, nats_server):
    """Another replica."""
    async with running(dsn, nats_server.url) as found:
        yield found


async def log_in(gateway, user):
    answer = await gateway.client.post("/api/token/", json={"username": user.email, "password": gateway.password})
    assert answer.status_code == 200
    return answer.json()


async def refresh(gateway, token):
    return await gateway.client.post("/api/token/refresh/", json={"refresh": token})


async def crowd(gateways, token):
    """A hundred uses at the same time, over all gateways; the answers."""
    return await asyncio.gather(*(refresh(gateways[number % len(gateways)], token) for number in range(CROWD)))


async def query(gateway, statement, *arguments):
    async with transaction(gateway.deps.pool) as connection:
        return await connection.fetch(statement, *arguments)


async def age(gateway, user, seconds=11):
    """Let every use of a token of the user lie so long back."""
    statement = (
        "UPDATE auth.refresh_tokens SET used_at = used_at - make_interval(secs => $2) FROM auth.sessions"
        " WHERE sessions.id = session_id AND user_id = $1 AND used_at IS NOT NULL"
    )
    await query(gateway, statement, user.id, seconds)


async def test_hundred_concurrent_uses_get_the_one_successor(gateway, second, attacks):
    user = await gateway.add_user()
    first = (await log_in(gateway, user))["refresh"]
    answers = await crowd([gateway, second], first)
    assert {answer.status_code for answer in answers} == {200}
    (successor,) = {answer.json()["refresh"] for answer in answers}
    statement = (
        "SELECT used_at FROM auth.refresh_tokens JOIN auth.sessions ON sessions.id = session_id WHERE user_id = $1"
    )
    rows = await query(gateway, statement, user.id)
    assert sorted(row["used_at"] is None for row in rows) == [False, True]
    assert (await refresh(second, successor)).status_code == 200
    attacks("Refresh: concurrent uses of one token", CROWD)


async def test_hundred_concurrent_uses_after_the_grace_end_the_session_once(gateway, second, attacks, capfd):
    user = await gateway.add_user()
    first = (await log_in(gateway, user))["refresh"]
    successor = (await refresh(gateway, first)).json()["refresh"]
    await age(gateway, user)
    capfd.readouterr()
    answers = await crowd([gateway, second], first)
    assert {answer.status_code for answer in answers} == {401}
    assert "".join(capfd.readouterr()).count("refresh_token_reused") == 1
    for token in (first, successor):
        gateway.is_problem(await refresh(gateway, token), 401, "token_invalid")
    attacks("Refresh: re-use after the grace", CROWD + 2)


async def test_crowd_of_both_tokens_of_a_family_leaves_one_living_chain_or_none(gateway, second, attacks):
    """Old and new token at the same time, over two gateways: never two successors, never a fault."""
    user = await gateway.add_user()
    first = (await log_in(gateway, user))["refresh"]
    successor = (await refresh(gateway, first)).json()["refresh"]
    both = await asyncio.gather(crowd([gateway, second], first), crowd([second, gateway], successor))
    answers = [answer for answers in both for answer in answers]
    assert {answer.status_code for answer in answers} <= {200, 401}
    # Whoever used the successor first ended the grace of the token before it, and its next use the session.
    assert len({answer.json()["refresh"] for answer in both[1] if answer.status_code == 200}) <= 1
    rows = await query(gateway, "SELECT revoked_at FROM auth.sessions WHERE user_id = $1", user.id)
    revoked = rows[0]["revoked_at"] is not None
    assert revoked == any(answer.status_code == 401 for answer in answers)
    attacks("Refresh: old and new token at once", 2 * CROWD)


async def test_lost_answer_does_not_lock_the_client_out(gateway, second):
    first = (await log_in(gateway, await gateway.add_user()))["refresh"]
    lost = (await refresh(gateway, first)).json()["refresh"]
    repeated = await refresh(second, first)
    assert repeated.json()["refresh"] == lost
    assert (await refresh(second, lost)).status_code == 200


async def test_repeat_within_the_grace_is_refused_once_the_successor_was_used(gateway, attacks):
    first = (await log_in(gateway, await gateway.add_user()))["refresh"]
    second_token = (await refresh(gateway, first)).json()["refresh"]
    third = (await refresh(gateway, second_token)).json()["refresh"]
    gateway.is_problem(await refresh(gateway, first), 401, "token_invalid")
    gateway.is_problem(await refresh(gateway, third), 401, "token_invalid")
    attacks("Refresh: token before the last", 1)


@pytest.mark.parametrize("thief_first", [True, False])
async def test_stolen_token_that_both_use_ends_the_session_for_both_and_no_other(gateway, second, thief_first, attacks):
    user = await gateway.add_user()
    stolen, other = [(await log_in(gateway, user))["refresh"] for _ in range(2)]
    # The one who comes first goes on for a while; the other comes later, with what both had.
    early, late = (gateway, second) if thief_first else (second, gateway)
    chain = [stolen]
    for _ in range(3):
        chain.append((await refresh(early, chain[-1])).json()["refresh"])
        await age(gateway, user)
    gateway.is_problem(await refresh(late, stolen), 401, "token_invalid")
    for token in chain:
        gateway.is_problem(await refresh(early, token), 401, "token_invalid")
    assert (await refresh(gateway, other)).status_code == 200
    attacks("Refresh: stolen token", len(chain) + 1)


async def test_re_use_ends_the_access_tokens_of_the_session_and_no_other(gateway, attacks):
    user = await gateway.add_user()
    tokens, other = await log_in(gateway, user), await log_in(gateway, user)
    fresh = (await refresh(gateway, tokens["refresh"])).json()
    await age(gateway, user)
    assert (await refresh(gateway, tokens["refresh"])).status_code == 401
    for each, code in ((tokens, "token_invalid"), (fresh, "token_invalid"), (other, "unavailable")):
        answer = await gateway.client.get(PATH, headers={"Authorization": f"Bearer {each['access']}"})
        gateway.is_problem(answer, 401 if code == "token_invalid" else 503, code)
    attacks("Refresh: access token after re-use", 2)


async def test_session_of_an_older_version_goes_on_and_its_used_token_ends_it(gateway, second):
    """Its tokens were drawn at random: the successor of the used one is not to be had again."""
    user = await gateway.add_user()
    used, unused = f"used-{user.id}", f"unused-{user.id}"
    session = "INSERT INTO auth.sessions (id, user_id, expires_at) VALUES ($1, $1, now() + interval '1 day')"
    token = (
        "INSERT INTO auth.refresh_tokens (hash, session_id, expires_at, used_at)"
        " VALUES (sha256(convert_to($2, 'UTF8')), $1, now() + interval '1 day', $3::timestamptz)"
    )
    await query(gateway, session, user.id)
    (now,) = await query(gateway, "SELECT now() AS now")
    await query(gateway, token, user.id, used, now["now"])
    await query(gateway, token, user.id, unused, None)
    successor = (await refresh(gateway, unused)).json()["refresh"]
    assert (await refresh(second, unused)).json()["refresh"] == successor
    gateway.is_problem(await refresh(gateway, used), 401, "token_invalid")
    gateway.is_problem(await refresh(gateway, successor), 401, "token_invalid")


async def test_unknown_tokens_change_nothing(gateway, attacks):
    tokens = ["x", "é", "A" * 43, "0" * 500, "' OR 1=1 --", "../../x", "null", "\u202e", "%00", "💥"]
    for token in tokens:
        gateway.is_problem(await refresh(gateway, token), 401, "token_invalid")
    attacks("Refresh: forged token", len(tokens))
