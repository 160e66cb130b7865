"""A list that outgrows a message is put together from several answers: every row once, in order, whatever the sizes."""

import orjson
import pytest

from boostedcalls.common.bus import Endpoint
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.messages.calls import LIST_CALLS, ListCalls
from boostedcalls.gateway import forward
from boostedcalls.gateway.forward import gather


def service(rows, most, ends_early=10**9):
    """A list whose answers hold `most` rows, and which ends its pages after `ends_early` of its own accord."""
    asked = []

    async def ask_page(limit, cursor):
        asked.append(limit)
        start = int(cursor or 0)
        found = rows[start : start + min(limit, ends_early)]
        if len(found) > most:
            raise problem("answer_too_large")
        end = start + len(found)
        page = {"total": len(rows), "next_cursor": str(end) if end < len(rows) else None}
        # As calls does, which never ends a page early, and as contacts does.
        counted = {"limit": limit} if ends_early > len(rows) else {"count": len(found)}
        return orjson.dumps({**page, **counted, "data": found})

    return ask_page, asked


@pytest.mark.parametrize(
    ("count", "limit", "most", "ends_early"),
    [
        (0, 10, 10, 10),
        (7, 10, 10, 10),
        (10, 10, 10, 10),
        (100, 100, 10, 1000),
        (100, 100, 1, 1000),
        (97, 97, 13, 1000),
        (100, 37, 5, 1000),
        (100, 100, 100, 7),
        (100, 60, 11, 7),
        (1, 1, 1, 1),
    ],
)
async def test_rows_come_once_and_in_order(count, limit, most, ends_early):
    rows = list(range(count))
    ask_page, asked = service(rows, most, ends_early)
    found = await gather(ask_page, limit, None)
    assert orjson.loads(found.rows) == rows[:limit]
    assert found.total == count
    assert found.next_cursor == (str(limit) if count > limit else None)
    assert max(asked) <= limit


async def test_gathering_goes_on_after_the_cursor_it_is_given():
    ask_page, _ = service(list(range(50)), 4)
    found = await gather(ask_page, 20, "10")
    assert (orjson.loads(found.rows), found.next_cursor) == (list(range(10, 30)), "30")


async def test_row_that_does_not_fit_alone_is_an_error():
    ask_page, asked = service([1, 2, 3], 0)
    with pytest.raises(ServiceError, match="answer_too_large"):
        await gather(ask_page, 100, None)
    assert asked[-1] == 1


async def test_other_errors_end_the_gathering():
    async def ask_page(limit, cursor):
        raise problem("unavailable")

    with pytest.raises(ServiceError, match="unavailable"):
        await gather(ask_page, 100, None)


async def test_list_of_many_megabytes_ends_with_a_cursor(monkeypatch):
    monkeypatch.setattr(forward, "MAX_LIST_BYTES", 1000)
    ask_page, _ = service(["x" * 100] * 100, 5)
    found = await gather(ask_page, 100, None)
    rows = orjson.loads(found.rows)
    assert 5 <= len(rows) < 10
    assert found.next_cursor == str(len(rows))


async def test_rows_are_passed_on_as_they_stand():
    rows = [{"data": [{"x": 'a"data":[b'}], "next_cursor": "no"}, "]}", "},{", [], "é漢"]
    ask_page, _ = service(rows, 2)
    found = await gather(ask_page, 5, None)
    assert found.rows == orjson.dumps(rows)


@pytest.mark.parametrize("most", [100, 7, 1])
async def test_page_of_calls_that_outgrows_a_message_holds_the_same_rows(gateway, client, nats_server, peer, most):
    rows = list(range(150))

    async def list_calls(_, data):
        query = ListCalls.model_validate_json(data)
        start = int(query.cursor) if query.cursor else (query.page - 1) * query.limit
        found = rows[start : start + query.limit]
        if len(found) > most:
            raise problem("answer_too_large")
        following = str(start + len(found)) if start + len(found) < len(rows) else None
        page = {
            "total": len(rows),
            "page": query.page,
            "limit": query.limit,
            "total_pages": -(-len(rows) // query.limit),
        }
        return orjson.dumps({**page, "next_cursor": following, "data": found})

    async with peer(nats_server.url, Endpoint(LIST_CALLS.subject, list_calls)):
        for query, expected in [
            ("limit=100", rows[:100]),
            ("page=2&limit=100", rows[100:]),
            ("page=3&limit=37", rows[74:111]),
            ("page=5&limit=31", rows[124:]),
            ("page=4&limit=50", []),
            ("cursor=10&limit=40", rows[10:50]),
        ]:
            answer = await client.get(f"/api/calls/?{query}", headers=gateway.bearer())
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert found["data"] == expected, query
            limit = int(query.split("limit=")[1])
            assert (found["total"], found["limit"], found["total_pages"]) == (150, limit, -(-150 // limit))
            end = expected[-1] + 1 if expected else 150
            assert found["next_cursor"] == (str(end) if end < 150 else None)
