"""Who asks the same at the same time shares an answer, and nobody gets one that is older than his question."""

import asyncio

import pytest

from boostedcalls.gateway.flights import Flights


class Backend:
    """Answers each question with its number, when `go` is set."""

    def __init__(self):
        self.asked = 0
        self.go = asyncio.Event()
        self.failing = False

    async def question(self):
        self.asked += 1
        number = self.asked
        await self.go.wait()
        if self.failing:
            raise ValueError(number)
        return b"%d" % number


@pytest.fixture
def flights():
    return Flights()


@pytest.fixture
def backend():
    return Backend()


async def ask_at_once(flights, backend, number, key="key"):
    tasks = [asyncio.create_task(flights.ask(key, backend.question)) for _ in range(number)]
    await asyncio.sleep(0.01)
    return tasks


async def test_whoever_comes_while_a_question_is_under_way_shares_the_next_one(flights, backend):
    tasks = await ask_at_once(flights, backend, 10)
    assert backend.asked == 1
    backend.go.set()
    assert await asyncio.gather(*tasks) == [b"1"] + [b"2"] * 9
    assert backend.asked == 2


async def test_answer_is_never_older_than_its_question(flights, backend):
    tasks = await ask_at_once(flights, backend, 3)
    backend.go.set()
    await asyncio.gather(*tasks)
    assert await flights.ask("key", backend.question) == b"3"


async def test_other_questions_are_asked_by_themselves(flights, backend):
    tasks = [*(await ask_at_once(flights, backend, 2, "a")), *(await ask_at_once(flights, backend, 2, "b"))]
    assert backend.asked == 2
    backend.go.set()
    assert len(set(await asyncio.gather(*tasks))) == 4


async def test_failure_reaches_all_who_share_it_and_the_next_question_is_asked_anew(flights, backend):
    backend.failing = True
    tasks = await ask_at_once(flights, backend, 3)
    backend.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [ValueError] * 3
    backend.failing = False
    assert await flights.ask("key", backend.question) == b"3"


async def test_whoever_leaves_does_not_take_the_answer_from_the_others(flights, backend):
    first, second, third = await ask_at_once(flights, backend, 3)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0.01)
    backend.go.set()
    assert await third == b"2"


async def test_nothing_is_kept_of_what_was_answered(flights, backend):
    backend.go.set()
    for _ in range(3):
        await asyncio.gather(*(flights.ask("key", backend.question) for _ in range(5)))
    assert flights._under_way == flights._next == {}
