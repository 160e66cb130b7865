"""Pages, filters, totals, counts and stats, on a real database."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from boostedcalls.calls import dispatch, queries, store
from boostedcalls.calls.state import Fact, Source
from boostedcalls.calls.stats import line_chart, read_figures, stats, trend
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import connection as reading
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import ServiceError
from boostedcalls.common.messages.base import encoded
from boostedcalls.common.messages.calls import Call, CallItem, CallPage, CallStatus, ListCalls, Stats

from .conftest import World

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


async def _page(world: World, user_id: UUID, **query: Any) -> CallPage:
    async with reading(world.deps.pool, user_id) as connection:
        answer = await queries.list_calls(connection, user_id, ListCalls(**query))
    page = CallPage.model_validate_json(answer)
    assert encoded(page) == answer
    return page


async def _end(world: World, row: store.Row, status: CallStatus, cost: str | None = None) -> None:
    values = {"cost": Decimal(cost)} if cost else {}
    fact = Fact(Source.REPORT, NOW, status, "some-reason", values=values, final=True)
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, [fact]))


async def _many(world: World, user_id: UUID) -> None:
    """20,400 calls of the user to one contact, the oldest 400 of them busy."""
    async with transaction(world.admin) as connection:
        # Else VACUUM may come before the commit is on disk, and leaves the pages as they are.
        await connection.execute("SET LOCAL synchronous_commit TO on")
        await connection.execute(
            "INSERT INTO calls.calls (id, user_id, created_at, updated_at, contact_id, contact_name, contact_phone,"
            " assistant_id, phone_number_id, status) SELECT gen_random_uuid(), $1,"
            " $2::timestamptz - n * interval '1 s', $2, $1, '', '', '', '',"
            " CASE WHEN n > 20000 THEN 'busy' ELSE 'completed' END FROM generate_series(1, 20400) n",
            user_id,
            NOW,
        )


@asynccontextmanager
async def _reads(world: World) -> AsyncGenerator[dict[str, tuple[int, int]]]:
    """What is read inside from each index of the calls: entries, and rows of the table."""

    async def look() -> dict[str, tuple[int, int]]:
        # Every connection tells what it counted when it feels like it, or is told to.
        size = world.deps.pool.get_size()
        async with AsyncExitStack() as stack:
            for _ in range(size):
                connection = await stack.enter_async_context(world.deps.pool.acquire())
                await connection.execute("SELECT pg_stat_force_next_flush()")
        rows = await world.admin.fetch(
            "SELECT indexrelname AS name, idx_tup_read AS read, idx_tup_fetch AS fetched FROM pg_stat_user_indexes"
            " WHERE relname = 'calls'"
        )
        return {row["name"]: (row["read"], row["fetched"]) for row in rows}

    found: dict[str, tuple[int, int]] = {}
    before = await look()
    yield found
    after = await look()
    for name, (read, fetched) in after.items():
        if read > before[name][0]:
            found[name] = read - before[name][0], fetched - before[name][1]


async def test_pages_by_number_and_by_cursor_give_every_call_once_newest_first(world: World, user_id: UUID) -> None:
    same_moment = [NOW] * 5 + [NOW - timedelta(seconds=n) for n in range(1, 9)]
    rows = [await world.insert(user_id, created_at=at) for at in same_moment]
    await world.insert(new_id())
    expected = [row["id"] for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)]

    numbered = [await _page(world, user_id, page=page, limit=4) for page in (1, 2, 3, 4, 5)]
    assert [item.id for page in numbered for item in page.data] == expected
    assert {(page.total, page.total_pages, page.limit) for page in numbered} == {(13, 4, 4)}
    assert [len(page.data) for page in numbered] == [4, 4, 4, 1, 0]

    ids: list[UUID] = []
    cursor: str | None = None
    while True:
        page = await _page(world, user_id, limit=4, **({"cursor": cursor} if cursor else {}))
        ids += [item.id for item in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == expected


async def test_a_page_and_a_call_are_the_json_of_their_models(world: World, user_id: UUID) -> None:
    text = 'plain, "quoted", \\, / \b\f\n\r\t\x01\x1f\x7f é 漢 😀 \u2028 </script>'
    goal = {"name": "n", "description": None, "successCriteria": text}
    filled = await world.insert(
        user_id,
        contact_name=text,
        contact_email="ada@example.com",
        contact_metadata={"a": [1, 1.0, 1e-7, 1e22, -0.0, None, True, {"b": text}]},
        script_id=new_id(),
        script={"name": text, "custom_prompt": None, "first_message": text, "call_goals": ["goal", goal]},
        custom_prompt=text,
        call_goals=[goal, text],
        request_metadata={"cost": "ours", "key": text},
        created_at=NOW.replace(microsecond=120),
    )
    await world.insert(user_id, created_at=NOW - timedelta(seconds=1))
    values = {
        "transcript": text * 100,
        "summary": text,
        "analysis": {"summary": text, "score": 0.1},
        "messages": [{"time": 1.5}],
        "cost_breakdown": {"total": 1},
        "recording_url": "https://example.com/é",
        "started_at": NOW,
        "ended_at": NOW + timedelta(milliseconds=1500),
        "duration_seconds": 2,
        "cost": Decimal("0.000001"),
    }
    fact = Fact(Source.REPORT, NOW, CallStatus.COMPLETED, "customer-busy", values=values, final=True)
    await dispatch.change(world.deps, caller(), filled["id"], store.Change(filled, [fact]))

    page = await _page(world, user_id)
    assert [item.transcript for item in page.data] == [text * 100, None]
    assert page.data[0].started_at == NOW
    assert (page.data[0].cost, page.data[0].outcome) == (1e-06, "busy")
    for item in page.data:
        async with reading(world.deps.pool, user_id) as connection:
            answer = queries.call_json(await queries.get_call(connection, user_id, item.id))
        call = Call.model_validate_json(answer)
        assert encoded(call) == answer
        shared = set(CallItem.model_fields) - {"contact"}
        assert call.model_dump(include=shared) == item.model_dump(include=shared)


async def test_a_page_takes_one_statement(world: World, user_id: UUID) -> None:
    await world.insert(user_id)
    asked: list[str] = []
    async with transaction(world.deps.pool, user_id) as connection:
        with connection.query_logger(lambda record: asked.append(record.query)):
            for query in (ListCalls(), ListCalls(page=7), ListCalls(contact_id=user_id, status=["busy", "failed"])):
                await queries.list_calls(connection, user_id, query)
    assert len(asked) == 3


async def test_an_empty_page_has_its_total(world: World, user_id: UUID) -> None:
    for total in (0, 1):
        for query in ({"page": 2}, {"page": 9, "status": ["pending"]}, {"page": 2, "created_from": NOW - timedelta(9)}):
            page = await _page(world, user_id, **query)
            assert (page.total, page.data, page.next_cursor) == (total, [], None), query
        await world.insert(user_id)


async def test_filters_narrow_the_page_and_its_total(world: World, user_id: UUID) -> None:
    contact, script = new_id(), new_id()
    first = await world.insert(user_id, contact_id=contact, created_at=NOW)
    second = await world.insert(user_id, script_id=script, created_at=NOW + timedelta(days=1))
    await _end(world, second, CallStatus.BUSY)
    for query, expected in (
        ({"contact_id": contact}, [first]),
        ({"script_id": script}, [second]),
        ({"status": ["busy"]}, [second]),
        ({"status": ["busy", "pending"]}, [second, first]),
        ({"status": ["busy", "busy"]}, [second]),
        ({"status": ["failed"]}, []),
        ({"created_from": NOW + timedelta(days=1)}, [second]),
        ({"created_to": NOW + timedelta(days=1)}, [first]),
        ({"status": ["pending"], "contact_id": contact}, [first]),
        ({"status": ["busy"], "contact_id": contact}, []),
    ):
        page = await _page(world, user_id, **query)
        assert ([item.id for item in page.data], page.total) == ([row["id"] for row in expected], len(expected)), query


async def test_a_page_of_rare_statuses_is_read_from_the_index_and_not_from_every_call(
    world: World, user_id: UUID
) -> None:
    await _many(world, user_id)
    await world.admin.execute("ANALYZE calls.calls")
    async with _reads(world) as reads:
        shown = await _page(world, user_id, status=["busy", "voicemail"])
    assert [item.created_at for item in shown.data] == [NOW - timedelta(seconds=20001 + n) for n in range(20)]
    assert set(reads) == {"calls_by_status", "calls_pkey"}
    # 21 and 21, and what the planner looks up of an index while it plans.
    assert sum(read for read, _ in reads.values()) < 50


async def test_a_page_far_behind_skips_entries_of_an_index_and_reads_its_own_calls(world: World, user_id: UUID) -> None:
    await _many(world, user_id)
    await world.admin.execute("VACUUM ANALYZE calls.calls")
    for query in ({}, {"status": ["completed"]}, {"created_to": NOW}, {"contact_id": user_id}):
        async with _reads(world) as reads:
            shown = await _page(world, user_id, page=500, **query)
        assert [item.created_at for item in shown.data] == [NOW - timedelta(seconds=9981 + n) for n in range(20)]
        assert sum(fetched for _, fetched in reads.values()) < 30, (query, reads)


@pytest.mark.parametrize("cursor", ["x", "AAAA", "a" * 32, "_" * 32, "-" * 33])
async def test_a_cursor_that_is_not_ours_is_refused_or_finds_nothing(world: World, user_id: UUID, cursor: str) -> None:
    refusal = (422, "validation_failed")
    found: list[Any] | tuple[int, str]
    try:
        found = (await _page(world, user_id, cursor=cursor)).data
    except ServiceError as error:
        found = (error.status, error.code)
    assert found in ([], refusal)


async def test_a_foreign_call_is_not_found(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    async with reading(world.deps.pool, user_id) as connection:
        for user, call in ((new_id(), row["id"]), (user_id, new_id())):
            with pytest.raises(ServiceError) as caught:
                await queries.get_call(connection, user, call)
            assert caught.value.code == "call_not_found"


async def test_the_rollups_equal_a_recount_after_many_changes_at_once(world: World, user_id: UUID) -> None:
    rows = [await world.insert(user_id, created_at=NOW - timedelta(days=n % 5)) for n in range(30)]
    statuses = [CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.BUSY, CallStatus.RINGING]
    await asyncio.gather(
        *(_end(world, row, statuses[(n + k) % 4], f"0.{n}{k}") for n, row in enumerate(rows) for k in range(3))
    )
    assert await world.rollups(user_id) == await world.recount(user_id)
    async with reading(world.deps.pool, user_id) as connection:
        active = await store.active_calls(connection, user_id)
    assert active == await world.admin.fetchval(
        "SELECT count(*) FROM calls.calls WHERE user_id = $1 AND status IN ('pending', 'ringing')", user_id
    )


async def test_of_many_claims_of_one_call_one_wins(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)

    async def claim() -> store.Row | None:
        async with transaction(world.admin) as connection:
            return await store.claim(connection, row["id"], world.deps.settings)

    won = [claimed for claimed in await asyncio.gather(*(claim() for _ in range(20))) if claimed]
    assert len(won) == 1


async def test_stats_show_money_counts_and_a_chart_of_fourteen_days(world: World, user_id: UUID) -> None:
    rows = [await world.insert(user_id) for _ in range(3)]
    await _end(world, rows[0], CallStatus.COMPLETED, "1234.5")
    await _end(world, rows[1], CallStatus.FAILED)
    today = datetime.now(UTC).date()
    async with reading(world.deps.pool, user_id) as connection:
        answers = [
            stats(await read_figures(connection, user_id, today), 4902, today),
            stats(await read_figures(connection, new_id(), today), 0, today),
        ]
    shown, empty = (Stats.model_validate_json(answer) for answer in answers)
    assert [encoded(shown), encoded(empty)] == answers
    assert [(card.title, card.value) for card in shown.cards] == [
        ("Total Spent on Calls", "$1,234.50"),
        ("Calls made", "3"),
        ("Failed calls", "1"),
        ("Contacts", "4902"),
    ]
    assert [point.y for point in shown.lineChart.points] == [0] * 13 + [1]
    assert shown.lineChart.subtitle == "No prior data"
    assert [card.value for card in empty.cards] == ["$0.00", "0", "0", "0"]


@pytest.mark.parametrize(
    ("current", "previous", "text"),
    [
        (118, 100, "+18% vs previous 14 days"),
        (50, 100, "-50% vs previous 14 days"),
        (7, 7, "+0% vs previous 14 days"),
        (5, 0, "No prior data"),
        (0, 0, "No prior data"),
        (0, 3, "-100% vs previous 14 days"),
    ],
)
def test_the_trend_compares_with_the_fourteen_days_before(current: int, previous: int, text: str) -> None:
    assert trend(current, previous) == text


def test_the_chart_is_oldest_first_and_ends_today() -> None:
    today = date(2026, 11, 22)
    counts = {0: 3, 13: 2, 14: 1, 27: 0, 28: 9, 30: 9}
    chart = line_chart({(today - timedelta(back)).isoformat(): count for back, count in counts.items()}, today)
    points = [(point["x"], point["y"], point["label"]) for point in chart["points"]]
    assert (points[0], points[-1]) == ((0, 2, "Mon"), (13, 3, "Sun"))
    assert [label for _, _, label in points[:7]] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    assert chart["subtitle"] == "+400% vs previous 14 days"
