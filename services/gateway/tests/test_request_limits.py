"""How many requests a user may make in a minute: over two gateways of one database, and one that is on its own."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest_asyncio

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.context import Caller
from boostedcalls.common.messages.calls import PENDING_COUNT
from boostedcalls.common.messages.contacts import CREATE_CONTACT
from boostedcalls.gateway.quota import Quota

LIMIT = 40
PATH = "/api/calls/pending-count/"
GONE = "postgresql://postgres@127.0.0.1:9/postgres"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def doors(running: Callable[..., Any], dsn: str, nats_server: Any) -> Any:
    more = {"requests_per_user_per_minute": LIMIT, "signup_enabled": True}
    async with running(dsn, nats_server.url, **more) as one, running(dsn, nats_server.url, **more) as other:
        yield one, other


def enter(doors: Any) -> UUID:
    """Let another user come in."""
    user_id = uuid4()
    for door in doors:
        door.user_id = user_id
    return user_id


async def ask(door: Any, times: int = 1) -> list[Any]:
    return [await door.client.get(PATH, headers=door.bearer()) for _ in range(times)]


def told(answer: Any) -> tuple[int, int]:
    """What is left, and for how many seconds, as the answer says it."""
    assert answer.headers.get_list("ratelimit-policy") == ['"requests";q=40;w=60']
    (value,) = answer.headers.get_list("ratelimit")
    found = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', value)
    assert found, value
    return int(found[1]), int(found[2])


async def let_pass(door: Any, seconds: float) -> None:
    """As if it were later by so many seconds, in the database and in the gateways."""
    await door.deps.pool.execute(
        "UPDATE auth.request_windows SET started_at = started_at - make_interval(secs => $1)", float(seconds)
    )
    for share in door.deps.quota._shares.values():
        share.until -= seconds


async def test_each_answer_says_what_is_left_and_the_last_one_how_long_to_wait(doors, attacks):
    enter(doors)
    answers = await ask(doors[0], LIMIT)
    # Nobody is there to answer: what a user gets past the limit is a 503.
    assert {answer.status_code for answer in answers} == {503}
    assert [told(answer)[0] for answer in answers] == list(range(LIMIT - 1, -1, -1))
    assert all(1 <= told(answer)[1] <= 60 for answer in answers)
    for refused in await ask(doors[0], 3):
        doors[0].is_problem(refused, 429, "rate_limited")
        left, seconds = told(refused)
        assert left == 0
        assert refused.headers["retry-after"] == str(seconds)
    attacks("Limits: requests of one user", LIMIT + 3)


async def test_after_the_seconds_told_it_goes_on(doors):
    enter(doors)
    refused = (await ask(doors[0], LIMIT + 1))[-1]
    await let_pass(doors[0], int(refused.headers["retry-after"]) - 1.5)
    assert (await ask(doors[0]))[0].status_code == 429
    await let_pass(doors[0], 1.5)
    answers = await ask(doors[0], LIMIT + 1)
    assert Counter(answer.status_code for answer in answers) == Counter({503: LIMIT, 429: 1})


async def test_two_gateways_together_let_no_more_through_and_hardly_fewer(doors, attacks):
    for _ in range(5):
        enter(doors)
        answers = await asyncio.gather(*(ask(door) for door in doors for _ in range(LIMIT)))
        statuses = Counter(answer.status_code for (answer,) in answers)
        assert statuses == Counter({503: LIMIT, 429: LIMIT})
        attacks("Limits: requests of one user over two gateways", 2 * LIMIT)


async def test_what_another_gateway_holds_is_all_that_a_user_may_miss(doors):
    enter(doors)
    assert told((await ask(doors[0]))[0])[0] == LIMIT - 1
    answers = await ask(doors[1], LIMIT)
    # The first gateway took an eighth, and gave out one of it.
    assert Counter(answer.status_code for answer in answers) == Counter({503: LIMIT - LIMIT // 8, 429: LIMIT // 8})
    assert [answer.status_code for answer in await ask(doors[0], LIMIT // 8)] == [503] * (LIMIT // 8 - 1) + [429]


async def test_requests_at_the_same_time_ask_the_database_once_for_all(doors):
    user_id = enter(doors)
    quota = doors[0].deps.quota
    asked = 0
    fetch = quota._fetch

    async def counted(*arguments: Any) -> None:
        nonlocal asked
        asked += 1
        await fetch(*arguments)

    quota._fetch = counted
    try:
        found = await asyncio.gather(*(quota.ask(user_id) for _ in range(LIMIT // 8)))
    finally:
        del quota._fetch
    assert asked == 1
    assert [wait for _, wait in found] == [0] * (LIMIT // 8)


async def test_a_user_costs_no_other(doors):
    enter(doors)
    await ask(doors[0], LIMIT + 1)
    enter(doors)
    assert told((await ask(doors[0]))[0])[0] == LIMIT - 1


async def test_a_gateway_that_was_started_anew_goes_on_counting(running, doors, dsn, nats_server):
    user_id = enter(doors)
    await ask(doors[0], LIMIT)
    async with running(dsn, nats_server.url, requests_per_user_per_minute=LIMIT) as newcomer:
        newcomer.user_id = user_id
        assert (await ask(newcomer))[0].status_code == 429


async def test_every_answer_to_a_user_says_it_whatever_it_is(doors, peer, nats_server):
    door = doors[0]
    enter(doors)
    headers = door.bearer()

    async def count(_: Caller, __: bytes) -> bytes:
        return b'{"count":0}'

    async def echo(_: Caller, data: bytes) -> bytes:
        return orjson.dumps({"id": str(uuid4()), **orjson.loads(data)})

    async with peer(nats_server.url, Endpoint(PENDING_COUNT.subject, count), Endpoint(CREATE_CONTACT.subject, echo)):
        contact = {"name": "Ada", "phone": "+12025550100"}
        answers = [
            await door.client.get(PATH, headers=headers),
            await door.client.post("/api/contacts/", json=contact, headers=headers),
            await door.client.post("/api/contacts/", json={}, headers=headers),
            await door.client.post("/api/contacts/", content=b"{", headers=headers),
            await door.client.get("/api/calls/no-id/", headers=headers),
            await door.client.get("/api/scripts/", headers=headers),
        ]
    assert [answer.status_code for answer in answers] == [200, 201, 422, 400, 422, 503]
    assert [told(answer)[0] for answer in answers] == list(range(LIMIT - 1, LIMIT - 7, -1))


async def test_who_is_not_a_user_is_neither_told_nor_counted(doors, attacks):
    enter(doors)
    door = doors[0]
    users = await door.deps.pool.fetchval("SELECT count(*) FROM auth.request_windows")
    for _ in range(LIMIT + 10):
        answer = await door.client.get(PATH, headers={"Authorization": "Bearer x"})
        assert answer.status_code == 401
        assert not {"ratelimit", "ratelimit-policy"} & answer.headers.keys()
    assert await door.deps.pool.fetchval("SELECT count(*) FROM auth.request_windows") == users
    attacks("Limits: requests without a token", LIMIT + 10)


async def test_health_and_webhooks_are_not_limited(doors):
    door = doors[0]
    enter(doors)
    await ask(door, LIMIT + 1)
    for _ in range(LIMIT + 10):
        assert (await door.client.get("/healthz", headers=door.bearer())).status_code == 200
        secret = {**door.bearer(), "x-vapi-secret": door.webhook_secret}
        answer = await door.client.post("/api/calls/webhook/", json={"message": {}}, headers=secret)
        # No service and no spool: it got past all that could refuse it.
        assert answer.status_code == 503
        assert "ratelimit" not in answer.headers


async def test_a_limit_of_zero_is_none(running, dsn, nats_server):
    async with running(dsn, nats_server.url, requests_per_user_per_minute=0) as free:
        (answer,) = await ask(free)
        assert answer.status_code == 503
        assert not {"ratelimit", "ratelimit-policy"} & answer.headers.keys()


async def test_without_the_database_a_gateway_counts_by_itself(running, nats_server, attacks):
    async with running(GONE, nats_server.url, requests_per_user_per_minute=LIMIT) as alone:
        answers = await ask(alone, LIMIT + 5)
        assert [told(answer)[0] for answer in answers[:LIMIT]] == list(range(LIMIT - 1, -1, -1))
        assert [answer.json()["code"] for answer in answers[LIMIT - 1 :]] == ["unavailable"] + ["rate_limited"] * 5
    attacks("Limits: requests while the database is away", LIMIT + 5)


async def test_what_was_given_out_before_the_database_went_counts_while_it_is_away(doors):
    user_id = enter(doors)
    quota, pool = doors[0].deps.quota, doors[0].deps.quota._pool
    await ask(doors[0], 10)
    share = quota._shares[user_id]
    share.left = 0
    quota._away_until = monotonic() + 60
    try:
        answers = await ask(doors[0], LIMIT)
    finally:
        quota._away_until = 0.0
    assert quota._pool is pool
    assert Counter(answer.status_code for answer in answers) == Counter({503: LIMIT - 10, 429: 10})


async def test_a_large_limit_is_taken_in_parts_that_shrink(doors):
    """Few questions while there is much, one each at the very end."""
    quota, user_id, parts = Quota(doors[0].deps.pool, 1200), uuid4(), []
    for _ in range(1200):
        if quota.take(user_id) is None:
            headers, wait = await quota.ask(user_id)
            assert (headers[0][1], wait) == (b'"requests";q=1200;w=60', 0)
            parts.append(quota._shares[user_id].left + 1)
    assert (await quota.ask(user_id))[1] > 0
    assert sum(parts) == 1200
    assert parts == sorted(parts, reverse=True)
    assert (parts[0], parts[-1]) == (50, 1)
    assert len(parts) < 60


async def test_users_who_are_gone_are_forgotten(doors):
    quota = Quota(doors[0].deps.pool, LIMIT)
    for _ in range(20):
        await quota.ask(uuid4())
    assert len(quota._shares) == 20
    for share in quota._shares.values():
        share.until = 0.0
    quota._sweep_at = 0.0
    await quota.ask(uuid4())
    assert len(quota._shares) == 1


async def test_a_database_that_was_not_migrated_stops_nobody(running, database, nats_server):
    async with running(await database(), nats_server.url, requests_per_user_per_minute=LIMIT) as alone:
        answers = await ask(alone, LIMIT + 1)
        assert Counter(answer.json()["code"] for answer in answers) == Counter(unavailable=LIMIT, rate_limited=1)


async def test_a_database_that_does_not_answer_holds_requests_up_for_a_moment_only(running, dsn, nats_server):
    async with running(dsn, nats_server.url, requests_per_user_per_minute=LIMIT, db_pool_size=1) as door:
        async with door.deps.pool.acquire():
            # The only connection: who wants one waits.
            answers = await asyncio.wait_for(ask(door, LIMIT + 1), 30)
        assert [told(answer)[0] for answer in answers] == [*range(LIMIT - 1, -1, -1), 0]
        assert Counter(answer.json()["code"] for answer in answers) == Counter(unavailable=LIMIT, rate_limited=1)
        # Back again, it is asked for the next user.
        door.deps.quota._away_until = 0.0
        door.user_id = uuid4()
        await ask(door)
        used = "SELECT used FROM auth.request_windows WHERE user_id = $1"
        assert await door.deps.pool.fetchval(used, door.user_id) == LIMIT // 8
