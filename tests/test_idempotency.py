"""Repeats with an Idempotency-Key through the whole system: one call, one dial, one answer, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from uuid import uuid4

import httpx2
import pytest

from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import Stack

from .conftest import SignUp, User

TWICE = {"gateway": 2, "calls": 2}
# Answers well; dials, then 500; dials, then hangs up on us; answers late; refuses.
NUMBERS = ["00", "20", "22", "23", "25"]
AGAIN = {409, 500, 503, 504}


def _key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


def _dials(system: Stack) -> Counter[str]:
    """How often each of our call ids was dialled."""
    if not system.dial_log.exists():
        return Counter()
    return Counter(json.loads(line)["name"] for line in system.dial_log.read_text().splitlines())


def _said(answer: httpx2.Response) -> tuple[int, bytes]:
    """All of an answer that must be the same each time: a success to the byte, a problem but for its request's id."""
    if answer.is_success:
        return answer.status_code, answer.content
    return answer.status_code, json.dumps({**answer.json(), "request_id": None}).encode()


def _replayed(answer: httpx2.Response) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


async def _doors(system: Stack, sign_up: SignUp) -> list[User]:
    """One user, who comes in through either gateway."""
    first, second = [await sign_up(url) for url in system.urls]
    second.http.headers["Authorization"] = first.http.headers["Authorization"]
    return [first, second]


async def _until_answered(door: User, contact_id: str, key: dict[str, str]) -> httpx2.Response:
    """What a client does that wants its call: the same request again until it is answered."""
    async with asyncio.timeout(90):
        while True:
            answer = await door.http.post("/api/calls/", json={"contact_id": contact_id}, headers=key)
            if answer.status_code not in AGAIN:
                return answer
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)) * random.uniform(0.1, 0.3))


async def test_of_fifty_repeats_at_once_over_two_of_each_one_dials_and_all_get_its_answer(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast, replicas=TWICE) as system:
        doors = await _doors(system, sign_up)
        for number in NUMBERS:
            contact, key = await doors[0].contact(number), _key()
            body = {"contact_id": contact["id"]}
            answers = await asyncio.gather(
                *(doors[n % 2].http.post("/api/calls/", json=body, headers=key) for n in range(50))
            )
            expected = 502 if number == "25" else 201
            assert {answer.status_code for answer in answers} <= {expected, 409}
            assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
                "idempotency_key_in_use"
            }
            given = [answer for answer in answers if answer.status_code == expected]
            assert sum(not _replayed(answer) for answer in given) == 1

            repeats = [await doors[n % 2].http.post("/api/calls/", json=body, headers=key) for n in range(4)]
            assert all(_replayed(answer) for answer in repeats)
            assert {_said(answer) for answer in (*given, *repeats)} == {_said(given[0])}
            call = await doors[0].call_to(contact["id"])
            assert _dials(system)[call["id"]] == (0 if number == "25" else 1)
            if number == "25":
                assert given[0].json()["instance"] == f"/api/calls/{call['id']}/"
            else:
                assert given[0].json()["id"] == call["id"]
        assert set(_dials(system).values()) == {1}


@pytest.mark.timeout(240)
async def test_killed_at_any_moment_of_a_dial_repeats_until_the_answer_dial_at_most_once(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast, replicas=TWICE) as system:
        doors = await _doors(system, sign_up)
        wanted: list[tuple[str, dict[str, str]]] = []
        asking: list[asyncio.Task[httpx2.Response]] = []
        for pause in (0.02, 0.05, 0.1):
            new = [((await doors[0].contact(number))["id"], _key()) for number in NUMBERS]
            wanted += new
            asking += [asyncio.create_task(_until_answered(door, *want)) for want in new for door in doors]
            await asyncio.sleep(pause)
            await asyncio.gather(*(system.kill("calls", index) for index in range(2)))
            await asyncio.gather(*(system.wait_until_restarted("calls", index) for index in range(2)))
        answers = await asyncio.gather(*asking)
        for number, (contact_id, key) in enumerate(wanted):
            repeat = await doors[0].http.post("/api/calls/", json={"contact_id": contact_id}, headers=key)
            assert _replayed(repeat)
            assert {_said(answer) for answer in answers[2 * number : 2 * number + 2]} == {_said(repeat)}
            # Raises where there is more than one.
            call = await doors[0].call_to(contact_id)
            await doors[0].wait_for(call["id"])
        assert set(_dials(system).values()) == {1}


async def test_killed_in_the_midst_of_a_dial_the_repeat_is_answered_with_the_call_that_was_dialled(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast) as system:
        user = await sign_up(system.url)
        contact, key = await user.contact("23"), _key()
        asking = asyncio.create_task(_until_answered(user, contact["id"], key))
        async with asyncio.timeout(30):
            while not _dials(system):
                await asyncio.sleep(0.02)
        await system.kill("calls")
        answer = await asking
        assert (answer.status_code, _replayed(answer)) == (201, True)
        assert _dials(system) == Counter({answer.json()["id"]: 1})
        call = await user.wait_for(answer.json())
        assert call["status"] == "completed"
        assert _said(await _until_answered(user, contact["id"], key)) == _said(answer)


async def test_a_repeat_is_answered_after_its_contact_is_gone_and_while_the_contacts_service_is_away(
    stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with stack(env=fast) as system:
        user = await sign_up(system.url)
        contact, key = await user.contact("00"), _key()
        first = await _until_answered(user, contact["id"], key)
        assert (await user.http.delete(f"/api/contacts/{contact['id']}/")).status_code == 200
        assert _said(await _until_answered(user, contact["id"], key)) == _said(first)
        await system.stop("contacts")
        repeat = await user.http.post("/api/calls/", json={"contact_id": contact["id"]}, headers=key)
        assert (_said(repeat), _replayed(repeat)) == (_said(first), True)
        assert len(_dials(system)) == 1
