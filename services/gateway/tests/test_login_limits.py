"""How often a password may be tried: at two gateways of one database, each client with an address of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from boostedcalls.gateway.throttle import MEMORY, Kind

PAIR, ACCOUNT, ADDRESS = 5, 10, 20
WRONG = "wrong password"
_numbers = count(1)


def new_address() -> str:
    """One that no test had before."""
    number = next(_numbers)
    return f"198.18.{number // 256}.{number % 256}"


def nobody() -> str:
    return f"nobody-{uuid4()}@example.com"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def doors(running: Callable[..., Any], dsn: str, nats_server: Any) -> Any:
    """Two gateways behind a proxy, which is this machine."""
    more = {"trusted_proxies": "127.0.0.1", "signup_enabled": True, "signups_per_address_per_hour": 3}
    async with running(dsn, nats_server.url, **more) as one, running(dsn, nats_server.url, **more) as other:
        yield one, other


@pytest.fixture
def door(doors: Any) -> Any:
    return doors[0]


async def log_in(gateway: Any, email: str, address: str, password: str = WRONG) -> Any:
    login = {"username": email, "password": password}
    return await gateway.client.post("/api/token/", json=login, headers={"X-Forwarded-For": address})


async def wrong(gateway: Any, email: str, address: str, times: int = 1) -> list[int]:
    return [(await log_in(gateway, email, address)).status_code for _ in range(times)]


async def let_pass(gateway: Any, seconds: float) -> None:
    """As if it were later by so many seconds, for all tries."""
    await gateway.deps.pool.execute(
        "UPDATE auth.tries SET blocked_until = blocked_until - make_interval(secs => $1),"
        " forget_at = forget_at - make_interval(secs => $1)",
        float(seconds),
    )


async def rows(gateway: Any, kind: Kind) -> int:
    return await gateway.deps.pool.fetchval("SELECT count(*) FROM auth.tries WHERE kind = $1", kind)


def refused(gateway: Any, answer: Any, seconds: int) -> dict[str, Any]:
    """A 429 that says how long to wait: these seconds, or one less where the test was slow."""
    found = gateway.is_problem(answer, 429, "too_many_tries")
    assert seconds - 1 <= int(answer.headers["retry-after"]) <= seconds
    return found


async def test_after_five_wrong_tries_the_sixth_waits_and_each_wait_is_twice_as_long(doors, attacks):
    email, address = nobody(), new_address()
    assert await wrong(doors[0], email, address, 3) + await wrong(doors[1], email, address, 2) == [401] * PAIR
    for failures in range(12):
        wait = min(2**failures, 900)
        answer = await log_in(doors[failures % 2], email, address)
        refused(doors[0], answer, wait)
        await let_pass(doors[0], int(answer.headers["retry-after"]))
        # Where one account alone is tried from one address, its own wait is the longest.
        assert await wrong(doors[0], email, address) == [401], failures
    attacks("Login: one account from one address", PAIR + 24)


async def test_the_right_password_is_refused_too_while_it_waits_and_works_after_the_seconds_told(door, attacks):
    user, address = await door.add_user(), new_address()
    await wrong(door, user.email, address, PAIR)
    answer = await log_in(door, user.email, address, door.password)
    refused(door, answer, 1)
    await let_pass(door, int(answer.headers["retry-after"]))
    assert (await log_in(door, user.email, address, door.password)).status_code == 200
    # Known there now, she has more of them.
    assert await wrong(door, user.email, address, 4 * PAIR + 1) == [401] * 4 * PAIR + [429]
    attacks("Login: one account from one address", 5 * PAIR + 1)


async def test_hammering_neither_prolongs_the_wait_nor_is_counted_nor_looked_at(door, attacks):
    user, address = await door.add_user(), new_address()
    await wrong(door, user.email, address, PAIR)
    # Far from its end, so that it stays the same while this test runs.
    await door.deps.pool.execute("UPDATE auth.tries SET blocked_until = now() + interval '600 s' WHERE kind = 1")
    before = await door.deps.pool.fetch("SELECT * FROM auth.tries ORDER BY key")
    slots = door.deps.passwords._slots
    while not slots.locked():
        await slots.acquire()
    # No password can be hashed now: what is answered was answered without.
    answers = await asyncio.gather(*(log_in(door, user.email, address, door.password) for _ in range(50)))
    slots.release()
    assert {answer.status_code for answer in answers} == {429}
    assert all(590 <= int(answer.headers["retry-after"]) <= 600 for answer in answers)
    assert await door.deps.pool.fetch("SELECT * FROM auth.tries ORDER BY key") == before
    attacks("Login: hammering while it waits", 50)


@pytest.mark.parametrize("exists", [True, False])
async def test_an_account_waits_a_minute_at_most_however_many_addresses_try_it(doors, exists, attacks):
    """Each address has one try of its own: who comes from a new one must not wait for what others did."""
    email = (await doors[0].add_user()).email if exists else nobody()
    addresses = [new_address() for _ in range(ACCOUNT)]
    for place, address in enumerate(addresses):
        assert await wrong(doors[place % 2], email, address) == [401]
    for failures in range(9):
        wait = min(2**failures, 60)
        refused(doors[0], await log_in(doors[failures % 2], email, addresses[failures]), wait)
        await let_pass(doors[0], wait)
        assert await wrong(doors[0], email, addresses[failures]) == [401]
    assert await wrong(doors[0], email, new_address()) == [401]
    attacks("Login: one account from many addresses", ACCOUNT + 19)


async def test_somebody_at_a_new_address_gets_in_while_others_try_her_account(doors, attacks):
    user = await doors[0].add_user()
    for place in range(ACCOUNT + 6):
        await wrong(doors[place % 2], user.email, new_address())
    assert (await log_in(doors[1], user.email, new_address(), doors[1].password)).status_code == 200
    attacks("Login: locking a person out", ACCOUNT + 6)


async def test_an_address_waits_a_quarter_of_an_hour_at_most_however_many_accounts_it_tries(doors, attacks):
    address = new_address()
    for place in range(ADDRESS):
        assert await wrong(doors[place % 2], nobody(), address) == [401]
    for failures in range(11):
        wait = min(2**failures, 900)
        refused(doors[0], await log_in(doors[failures % 2], nobody(), address), wait)
        await let_pass(doors[0], wait)
        assert await wrong(doors[0], nobody(), address) == [401]
    attacks("Login: many accounts from one address", ADDRESS + 22)


async def test_addresses_of_one_ipv6_network_are_one(door, attacks):
    network = f"2001:db8:{next(_numbers):x}:1"
    for host in range(ADDRESS):
        assert await wrong(door, nobody(), f"{network}::{host:x}") == [401]
    refused(door, await log_in(door, nobody(), f"{network}:ffff::1"), 1)
    attacks("Login: many accounts from one IPv6 network", ADDRESS + 1)


async def test_a_forged_address_in_front_changes_nothing(door, attacks):
    email, address = nobody(), new_address()
    forged = [f"{new_address()}, {address}" for _ in range(PAIR)]
    assert [(await log_in(door, email, each)).status_code for each in forged] == [401] * PAIR
    refused(door, await log_in(door, email, f"unknown, {address}"), 1)
    attacks("Limits: forged X-Forwarded-For", PAIR + 1)


async def test_without_trusted_proxies_everybody_is_the_one_who_connects(running, database, nats_server, attacks):
    async with running(await database("gateway"), nats_server.url) as plain:
        email = nobody()
        assert [await wrong(plain, email, new_address()) for _ in range(PAIR)] == [[401]] * PAIR
        refused(plain, await log_in(plain, email, new_address()), 1)
    attacks("Limits: forged X-Forwarded-For", PAIR + 1)


@pytest.mark.parametrize("spelling", [str.upper, str.title, "  {} ".format])
async def test_an_account_is_one_however_it_is_spelled(door, spelling, attacks):
    email, address = nobody(), new_address()
    await wrong(door, email, address, PAIR)
    refused(door, await log_in(door, spelling(email), address), 1)
    attacks("Login: another spelling of the account")


async def test_a_known_and_an_unknown_account_cannot_be_told_apart(door, attacks):
    user, unknown = await door.add_user(), nobody()
    seen = {}
    for email in (user.email, unknown):
        address, answers = new_address(), []
        for _ in range(PAIR + 1):
            answer = await log_in(door, email, address)
            own = ("date", "x-request-id", "retry-after")
            headers = {name: value for name, value in answer.headers.items() if name not in own}
            body = {name: value for name, value in answer.json().items() if name != "request_id"}
            answers.append((answer.status_code, headers, body, "retry-after" in answer.headers))
        seen[email] = answers
    assert seen[user.email] == seen[unknown]
    assert [status for status, *_ in seen[unknown]] == [401] * PAIR + [429]
    attacks("Login: does the account exist", 2 * (PAIR + 1))


async def test_nobody_is_locked_out_by_others(doors, attacks):
    user, home = await doors[0].add_user(), new_address()
    assert (await log_in(doors[0], user.email, home, doors[0].password)).status_code == 200
    # From everywhere, until everything but the person's own pair waits for long.
    for place in range(ACCOUNT):
        await wrong(doors[place % 2], user.email, new_address())
    for _ in range(ADDRESS):
        await wrong(doors[0], nobody(), home)
    await doors[0].deps.pool.execute(
        "UPDATE auth.tries SET blocked_until = now() + interval '900 s' WHERE kind = ANY($1::smallint[])",
        [Kind.ACCOUNT, Kind.ADDRESS, Kind.ALL],
    )
    try:
        refused(doors[1], await log_in(doors[1], nobody(), home), 900)
        for door in doors:
            assert (await log_in(door, user.email, home, door.password)).status_code == 200
        # Her own typing errors count for her, and for nobody else.
        assert await wrong(doors[0], user.email, home, 4 * PAIR + 1) == [401] * 4 * PAIR + [429]
        await let_pass(doors[0], 1)
        assert (await log_in(doors[0], user.email, home, doors[0].password)).status_code == 200
    finally:
        await doors[0].deps.pool.execute("UPDATE auth.tries SET blocked_until = 'epoch'")
    attacks("Login: locking a person out", ACCOUNT + ADDRESS + 2)


async def test_an_address_is_known_for_ninety_days(door):
    user, home = await door.add_user(), new_address()
    assert (await log_in(door, user.email, home, door.password)).status_code == 200
    key = door.deps.throttle._key(Kind.KNOWN, user.email, home)
    left = await door.deps.pool.fetchval("SELECT forget_at - now() FROM auth.tries WHERE key = $1", key)
    assert 89 <= left.days <= 90
    for _ in range(ACCOUNT):
        await wrong(door, user.email, new_address())
    assert (await log_in(door, user.email, home, door.password)).status_code == 200
    await door.deps.pool.execute("UPDATE auth.tries SET forget_at = now() WHERE key = $1", key)
    assert await wrong(door, user.email, home) == [401]
    assert (await log_in(door, user.email, home, door.password)).status_code == 429


async def test_wrong_tries_are_forgotten_after_two_hours(door):
    email, address = nobody(), new_address()
    await wrong(door, email, address, PAIR - 1)
    await let_pass(door, MEMORY - 60)
    assert await wrong(door, email, address, 2) == [401, 429]
    await let_pass(door, MEMORY)
    assert await wrong(door, email, address, PAIR + 1) == [401] * PAIR + [429]


async def test_logging_in_rightly_is_not_counted_and_leaves_nothing_behind(running, database, nats_server):
    async with running(await database("gateway"), nats_server.url, trusted_proxies="127.0.0.1") as gateway:
        address = new_address()
        for _ in range(ADDRESS + 5):
            user = await gateway.add_user()
            assert (await log_in(gateway, user.email, address, gateway.password)).status_code == 200
        left = "SELECT count(*) FROM auth.tries WHERE kind <> $1 AND (count > 0 OR forget_at > now() + interval '61 s')"
        assert await gateway.deps.pool.fetchval(left, Kind.KNOWN) == 0
        assert await wrong(gateway, nobody(), address, 2) == [401, 401]


async def test_a_right_login_in_between_gives_no_more_tries_at_other_accounts(door, attacks):
    address = new_address()
    own = [(await door.add_user()).email for _ in range(3)]
    statuses = []
    for place in range(ADDRESS):
        if place % 6 == 5:
            assert (await log_in(door, own[place // 6], address, door.password)).status_code == 200
        statuses += await wrong(door, nobody(), address)
    assert statuses == [401] * ADDRESS
    refused(door, await log_in(door, nobody(), address), 1)
    attacks("Login: right logins between wrong ones", ADDRESS + 1)


@pytest.mark.parametrize("exists", [True, False])
async def test_of_a_hundred_tries_at_once_over_two_gateways_five_get_through(doors, exists, attacks):
    email = (await doors[0].add_user()).email if exists else nobody()
    address = new_address()
    answers = await asyncio.gather(*(log_in(doors[place % 2], email, address) for place in range(100)))
    statuses = Counter(answer.status_code for answer in answers)
    # One more for each second that the tries took.
    assert PAIR <= statuses[401] <= PAIR + 3
    assert statuses[401] + statuses[429] == 100
    attacks("Login: a hundred tries at once", 100)


async def test_of_a_hundred_accounts_at_once_from_one_address_twenty_get_through(doors, attacks):
    address = new_address()
    answers = await asyncio.gather(*(log_in(doors[place % 2], nobody(), address) for place in range(100)))
    statuses = Counter(answer.status_code for answer in answers)
    assert ADDRESS <= statuses[401] <= ADDRESS + 3
    assert statuses[401] + statuses[429] == 100
    attacks("Login: a hundred tries at once", 100)


async def test_right_and_wrong_logins_all_at_once_are_all_answered(doors):
    """Rows are locked in one order: nothing waits in a circle."""
    users = [await doors[0].add_user() for _ in range(3)]
    addresses = [new_address() for _ in range(3)]
    right = doors[0].password
    answers = await asyncio.gather(
        *(
            log_in(
                doors[place % 2],
                users[place % 3].email,
                addresses[place // 3 % 3],
                right if place % 4 else WRONG,
            )
            for place in range(120)
        )
    )
    assert {answer.status_code for answer in answers} <= {200, 401, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 9


async def test_a_new_gateway_knows_what_the_old_ones_counted(running, doors, dsn, nats_server):
    email, address = nobody(), new_address()
    await wrong(doors[0], email, address, PAIR)
    async with running(dsn, nats_server.url, trusted_proxies="127.0.0.1") as newcomer:
        refused(newcomer, await log_in(newcomer, email, address), 1)
        await let_pass(newcomer, 1)
        assert await wrong(newcomer, email, address) == [401]
        refused(doors[0], await log_in(doors[0], email, address), 2)


async def test_beyond_so_many_in_all_strangers_wait_for_the_minutes_end(running, database, nats_server, attacks):
    dsn = await database("gateway")
    more = {"trusted_proxies": "127.0.0.1", "login_tries_per_minute": 7}
    async with running(dsn, nats_server.url, **more) as one, running(dsn, nats_server.url, **more) as other:
        user, home = await one.add_user(), new_address()
        assert (await log_in(one, user.email, home, one.password)).status_code == 200
        for place in range(7):
            assert await wrong((one, other)[place % 2], nobody(), new_address()) == [401]
        answer = await log_in(other, nobody(), new_address())
        other.is_problem(answer, 429, "too_many_tries")
        assert 30 <= int(answer.headers["retry-after"]) <= 60
        assert (await log_in(one, user.email, home, one.password)).status_code == 200
        await let_pass(one, int(answer.headers["retry-after"]))
        assert await wrong(one, nobody(), new_address()) == [401]
        assert await one.deps.pool.fetchval("SELECT count FROM auth.tries WHERE kind = $1", Kind.ALL) == 1
    attacks("Login: many accounts from many addresses", 9)


async def test_the_table_stays_small_while_made_up_names_come(running, database, nats_server, attacks):
    async with running(await database("gateway"), nats_server.url, trusted_proxies="127.0.0.1") as gateway:
        pool = gateway.deps.pool
        await pool.execute(
            "INSERT INTO auth.tries (key, kind, forget_at)"
            " SELECT sha256(n::text::bytea), 1, now() - interval '1 s' FROM generate_series(1, 500) AS n"
        )
        for place in range(1, 41):
            assert await wrong(gateway, nobody(), new_address()) == [401]
            # Three of its own (and the one for all), and up to twenty old ones gone.
            old = await pool.fetchval("SELECT count(*) FROM auth.tries WHERE forget_at < now()")
            assert old == max(0, 500 - 20 * place)
        assert await pool.fetchval("SELECT count(*) FROM auth.tries") == 3 * 40 + 1
    attacks("Limits: made-up names to fill the table", 40)


async def test_nobodys_name_or_address_stands_in_the_table(door):
    user, address = await door.add_user(), new_address()
    await log_in(door, user.email, address)
    await log_in(door, user.email, address, door.password)
    stored = [dict(row) for row in await door.deps.pool.fetch("SELECT * FROM auth.tries")]
    text = str(stored)
    assert user.email not in text
    assert address not in text
    assert {len(row["key"]) for row in stored} == {16}


async def test_limits_of_zero_are_off(running, database, nats_server):
    off = ("login_tries_per_pair", "login_tries_per_account", "login_tries_per_address", "login_tries_per_minute")
    async with running(await database("gateway"), nats_server.url, **dict.fromkeys(off, 0)) as gateway:
        user = await gateway.add_user()
        assert await wrong(gateway, user.email, new_address(), 30) == [401] * 30
        assert (await log_in(gateway, user.email, new_address(), gateway.password)).status_code == 200


async def test_an_address_makes_so_many_accounts_in_an_hour(doors, attacks):
    address, taken = new_address(), (await doors[0].add_user()).email

    async def sign_up(place, email):
        body = {"email": email, "password": "a password"}
        headers = {"X-Forwarded-For": address}
        return await doors[place % 2].client.post("/api/auth/signup", json=body, headers=headers)

    # Asking whether an address is taken costs one too.
    statuses = [(await sign_up(n, email)).status_code for n, email in enumerate([nobody(), taken, nobody()])]
    assert statuses == [201, 409, 201]
    answer = await sign_up(0, nobody())
    doors[0].is_problem(answer, 429, "too_many_tries")
    assert 3590 <= int(answer.headers["retry-after"]) <= 3600
    # Logging in is another matter.
    assert await wrong(doors[0], nobody(), address) == [401]
    await let_pass(doors[0], int(answer.headers["retry-after"]))
    answers = await asyncio.gather(*(sign_up(n, nobody()) for n in range(20)))
    assert Counter(answer.status_code for answer in answers) == Counter({201: 3, 429: 17})
    attacks("Limits: many accounts from one address", 24)


async def test_tries_are_answered_unavailable_while_the_database_is_away(running, nats_server):
    async with running("postgresql://postgres@127.0.0.1:9/postgres", nats_server.url) as gateway:
        gateway.is_problem(await log_in(gateway, nobody(), new_address()), 503, "unavailable")
