"""Two of every service at once: nothing is dialled, counted or told twice."""

import asyncio
import json
from collections import Counter

import asyncpg
import nats
import pytest

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import SignUp, User, is_over

TWICE = {"gateway": 2, "contacts": 2, "calls": 2, "webhooks": 2}
NUMBERS = ["00", "01", "03", "10", "11", "12", "13", "20", "22"]


async def _both(sign_up: SignUp, system: Stack) -> list[User]:
    """One user, who comes in through either gateway in turn."""
    first = await sign_up(system.urls[0])
    second = await sign_up(system.urls[1])
    second.http.headers["Authorization"] = first.http.headers["Authorization"]
    return [first, second]


async def test_two_replicas_of_everything_dial_and_count_each_call_once(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast, replicas=TWICE) as system:
        doors = await _both(sign_up, system)
        placed = await asyncio.gather(*(doors[n % 2].place_call(NUMBERS[n % len(NUMBERS)]) for n in range(36)))
        calls = await asyncio.gather(
            *(
                doors[n % 2].wait_for(call, lambda found: is_over(found) and found["cost"] is not None)
                for n, call in enumerate(placed)
            )
        )

        dialled = Counter(json.loads(line)["name"] for line in system.dial_log.read_text().splitlines())
        assert dialled == Counter({call["id"]: 1 for call in calls})
        assert Counter(call["status"] for call in calls) == Counter(completed=28, busy=4, voicemail=4)

        shown = await doors[1].found("/api/calls/stats/")
        spent = sum(round(call["cost"] * 1_000_000) for call in calls) / 1_000_000
        assert [card["value"] for card in shown["cards"]] == [f"${spent:,.2f}", "36", "0", "36"]
        assert shown["lineChart"]["points"][-1]["y"] == 28
        assert (await doors[0].found("/api/calls/pending-count/"))["count"] == 0
        await _each_event_told_once(system, {call["id"] for call in calls})
        await _rollups_equal_a_recount(system)


async def _each_event_told_once(system: Stack, call_ids: set[str]) -> None:
    """Every version of every call stands in the stream once, without a gap."""
    database = await asyncpg.connect(system.database_url)
    async with asyncio.timeout(30):
        while await database.fetchval("SELECT count(*) FROM calls.outbox"):
            await asyncio.sleep(0.1)
    versions = {str(row["id"]): row["version"] for row in await database.fetch("SELECT id, version FROM calls.calls")}
    await database.close()
    connection = await nats.connect(system.nats_url)
    events = await connection.jetstream().pull_subscribe("bc.evt.call.>", stream="CALL_EVENTS")
    told: Counter[tuple[str, int]] = Counter()
    while True:
        try:
            messages = await events.fetch(100, timeout=1)
        except TimeoutError:
            break
        told.update((event["call_id"], event["version"]) for event in (json.loads(m.data) for m in messages))
    await connection.close()
    assert told == Counter({(call, n): 1 for call in call_ids for n in range(1, versions[call] + 1)})


async def _rollups_equal_a_recount(system: Stack) -> None:
    database = await asyncpg.connect(system.database_url)
    difference = await database.fetch(
        "(SELECT user_id, status, calls, spent FROM calls.totals WHERE calls <> 0)"
        " EXCEPT (SELECT user_id, status, count(*), coalesce(sum(cost), 0) FROM calls.calls GROUP BY 1, 2)"
    )
    rows = await database.fetchval("SELECT count(*) FROM calls.totals WHERE calls <> 0")
    await database.close()
    assert rows > 0
    assert difference == []


async def test_the_cap_on_active_calls_holds_when_many_are_asked_for_at_once(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env={**fast, "MAX_ACTIVE_CALLS_PER_USER": "5"}, replicas=TWICE) as system:
        doors = await _both(sign_up, system)
        contact = await doors[0].contact("05")
        answers = await asyncio.gather(
            *(doors[n % 2].http.post("/api/calls/", json={"contact_id": contact["id"]}) for n in range(30))
        )
        assert Counter(answer.status_code for answer in answers) == Counter({201: 5, 429: 25})
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.json()["code"], refused.headers["Retry-After"]) == ("max_active_calls", "30")
        assert (await doors[0].found("/api/calls/pending-count/"))["count"] == 5
        live = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
        assert (await doors[1].http.post(f"/api/calls/{live}/cancel/")).status_code == 200
        again = await doors[1].http.post("/api/calls/", json={"contact_id": contact["id"]})
        assert again.status_code == 201
        assert len(system.dial_log.read_text().splitlines()) == 6


@pytest.mark.parametrize("name", ["contacts", "calls", "webhooks"])
async def test_a_replica_stopped_in_order_loses_no_request(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp, name: str
) -> None:
    async with stack(env=fast, replicas={name: 2}) as system:
        user = await sign_up(system.url)
        stopped = asyncio.create_task(system.stop(name, 1))
        answers: list[int] = []
        while not stopped.done():
            answers.append((await user.request_call("01"))[0].status_code)
        await stopped
        answers.append((await user.request_call("01"))[0].status_code)
        assert set(answers) == {201}
