"""Provider events through the real stream, consumer and database."""

import asyncio
import random
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from boostedcalls.calls import consumer, dispatch, matching, store
from boostedcalls.calls.reports import create_answer
from boostedcalls.calls.state import JOINED
from boostedcalls.common.bus import Delivery
from boostedcalls.common.bus.streams import CALL_EVENTS, DLQ, PROVIDER_EVENTS
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.db import transaction
from boostedcalls.common.events import ProviderEvent

from .conftest import NO_TRACE, World
from .facts import T0

RESULT = {
    "artifact": {"transcript": "AI: hi\nUser: hello", "messages": [{"role": "bot", "message": "hi"}]},
    "analysis": {"summary": "They talked.", "successEvaluation": "true"},
    "startedAt": "2026-11-22T10:30:09.020Z",
    "endedAt": "2026-11-22T10:30:33.820Z",
}
REPORTS: list[tuple[str, dict[str, Any]]] = [
    ("status-update", {"status": "queued", "timestamp": 1795343400000}),
    ("status-update", {"status": "ringing", "timestamp": 1795343402000}),
    ("status-update", {"status": "in-progress", "timestamp": 1795343409000}),
    ("status-update", {"status": "ended", "endedReason": "customer-ended-call", "timestamp": 1795343438410}),
    ("call-snapshot", {"call": {"status": "ringing", "updatedAt": "2026-11-22T10:30:03Z"}}),
    (
        "call-snapshot",
        {
            "call": {
                "status": "ended",
                "endedReason": "silence-timed-out",
                "cost": 0.03,
                "updatedAt": "2026-11-22T10:30:40Z",
            }
        },
    ),
    ("end-of-call-report", {**RESULT, "endedReason": "customer-ended-call", "cost": 0.04, "timestamp": 1795343441230}),
    ("end-of-call-report", {**RESULT, "endedReason": "customer-ended-call", "cost": 0.05, "timestamp": 1795343441230}),
]


def _with_call(message: dict[str, Any], provider_call_id: str, row: store.Row, world: World) -> dict[str, Any]:
    carried = {"id": provider_call_id, "assistantOverrides": {"metadata": world.metadata(row)}}
    return {**message, "call": {**message.get("call", {}), **carried}}


async def _timeline(world: World, call_id: UUID) -> list[tuple[Any, ...]]:
    rows = await world.admin.fetch(
        "SELECT at, type, source, status, detail FROM calls.timeline WHERE call_id = $1 AND type <> 'created'", call_id
    )
    return sorted((row["at"], row["type"], row["source"], row["status"], str(row["detail"])) for row in rows)


async def test_any_order_and_any_repeats_of_reports_give_the_identical_row(world: World, user_id: UUID) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    rnd = random.Random(seed)
    world.consume(2)
    calls: list[store.Row] = []
    sends: list[Any] = []
    for _ in range(40):
        row = await world.insert(user_id)
        provider_call_id = str(new_id())
        reports = REPORTS + rnd.choices(REPORTS, k=rnd.randint(0, 6))
        rnd.shuffle(reports)
        sends.append((row, provider_call_id, reports))
        calls.append(row)

    async def send(row: store.Row, provider_call_id: str, reports: list[tuple[str, dict[str, Any]]]) -> None:
        for kind, message in reports:
            await world.report(kind, provider_call_id, _with_call(message, provider_call_id, row, world))

    await asyncio.gather(*(send(*each) for each in sends))
    await world.quiet()

    seen = {str({name: (await world.row(row["id"]))[name] for name in JOINED}) for row in calls}
    assert len(seen) == 1
    assert len({str(await _timeline(world, row["id"])) for row in calls}) == 1
    final = await world.row(calls[0]["id"])
    assert final["messages"] == RESULT["artifact"]["messages"]
    assert final["analysis"] == RESULT["analysis"]
    assert (final["status"], final["ended_reason"], final["outcome"]) == ("completed", "customer-ended-call", "success")
    assert await world.rollups(user_id) == await world.recount(user_id)


async def test_a_report_with_our_signed_id_adopts_a_call_whose_provider_id_is_not_known(
    world: World, user_id: UUID
) -> None:
    row = await world.insert(user_id)
    world.consume()
    await world.report("status-update", "p-1", _with_call({"status": "ringing"}, "p-1", row, world))
    await world.quiet()
    found = await world.row(row["id"])
    assert (found["provider_call_id"], found["status"]) == ("p-1", "ringing")


@pytest.mark.parametrize("forged", ["0" * 32, "", "é"])
async def test_a_report_with_a_wrong_signature_changes_nothing_and_is_parked(
    world: World, user_id: UUID, forged: str
) -> None:
    row = await world.insert(user_id)
    world.consume()
    carried = {**world.metadata(row), "internalCallSignature": forged}
    message = {"status": "ringing", "call": {"assistantOverrides": {"metadata": carried}}}
    provider_call_id = str(new_id())
    await world.report("status-update", provider_call_id, message)
    await world.quiet()
    assert await world.row(row["id"]) == {**row, "due_at": (await world.row(row["id"]))["due_at"]}
    parked = await world.admin.fetchval(
        "SELECT count(*) FROM calls.unmatched WHERE provider_call_id = $1", provider_call_id
    )
    assert parked == 1


async def test_a_signed_id_of_another_users_call_does_not_verify(world: World, user_id: UUID) -> None:
    row, other = await world.insert(user_id), await world.insert(new_id())
    world.consume()
    carried = {**world.metadata(other), "internalCallId": str(row["id"])}
    message = {"status": "ringing", "call": {"assistantOverrides": {"metadata": carried}}}
    await world.report("status-update", str(new_id()), message)
    await world.quiet()
    assert (await world.row(row["id"]))["status"] == "pending"


async def test_a_second_provider_id_for_one_call_is_counted_and_does_not_take_it_over(
    world: World, user_id: UUID
) -> None:
    row = await world.insert(user_id)
    world.consume()
    before = matching.CONFLICTS._value.get()
    await world.report("status-update", "first", _with_call({"status": "ringing"}, "first", row, world))
    await world.quiet()
    ended = {"status": "ended", "endedReason": "customer-busy"}
    await world.report("status-update", "second", _with_call(ended, "second", row, world))
    await world.quiet()
    found = await world.row(row["id"])
    assert (found["provider_call_id"], found["status"]) == ("first", "ringing")
    assert matching.CONFLICTS._value.get() == before + 1


async def test_reports_that_come_before_the_provider_id_is_known_are_applied_when_it_is(
    world: World, user_id: UUID
) -> None:
    row = await world.insert(user_id)
    world.consume()
    for kind, message in REPORTS:
        await world.report(kind, "early", {**message, "call": {**message.get("call", {}), "id": "early"}})
    await world.quiet()
    assert (await world.row(row["id"]))["status"] == "pending"
    learned = store.Change(row, [create_answer({"status": "queued"}, row["created_at"])], provider_call_id="early")
    await dispatch.change(world.deps, caller(), row["id"], learned)
    found = await world.row(row["id"])
    assert (found["status"], found["transcript"]) == ("completed", "AI: hi\nUser: hello")
    assert await world.admin.fetchval("SELECT count(*) FROM calls.unmatched") == 0


async def test_reports_are_parked_although_the_numbers_of_a_new_stream_begin_anew(world: World, user_id: UUID) -> None:
    rows = [await world.insert(user_id) for _ in range(2)]
    for name in ("before", "after"):
        event = ProviderEvent(
            source="webhook", kind="status-update", provider_call_id=name, received_at=T0, message={"status": "ringing"}
        )
        async with transaction(world.admin) as connection:
            await matching.apply(connection, [matching.Arrival(1, event)], world.deps.settings, b"", NO_TRACE)
    for name, row in zip(("before", "after"), rows, strict=True):
        await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id=name))
        assert (await world.row(row["id"]))["status"] == "ringing"


async def test_a_report_parked_in_the_moment_of_adoption_is_found_by_the_sweep(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id="raced"))
    event = {"source": "webhook", "kind": "status-update", "provider_call_id": "raced",
             "received_at": "2026-11-22T10:30:00Z", "message": {"status": "ringing"}}  # fmt: skip
    await world.admin.execute(
        "INSERT INTO calls.unmatched (sequence, provider_call_id, event) VALUES (1, 'raced', $1)", event
    )
    async with transaction(world.admin) as connection:
        assert await matching.sweep(connection, world.deps.settings, caller().traceparent) == 1
    assert (await world.row(row["id"]))["status"] == "ringing"


async def test_a_message_that_is_no_event_goes_to_the_dead_letters_and_its_batch_is_applied(
    world: World, user_id: UUID
) -> None:
    row = await world.insert(user_id)
    provider_call_id = str(new_id())
    await world.report(
        "status-update", provider_call_id, _with_call({"status": "queued"}, provider_call_id, row, world)
    )
    poison = await world.bus.publish(
        "bc.evt.provider.status-update.x", b"{nonsense", stream=PROVIDER_EVENTS, message_id=str(new_id()), headers={},
        timeout=5,
    )  # fmt: skip
    await world.report(
        "status-update", provider_call_id, _with_call({"status": "ringing"}, provider_call_id, row, world)
    )
    world.consume()
    await world.quiet()
    assert (await world.row(row["id"]))["status"] == "ringing"
    letters = await world.stream(DLQ)
    assert letters[-1]["subject"] == f"bc.dlq.PROVIDER_EVENTS.{poison}"
    assert letters[-1]["data"] == b"{nonsense"
    assert letters[-1]["headers"]["Bc-Reason"].startswith("Poison")


async def test_a_number_too_large_for_json_libraries_does_not_stop_its_report(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    message = _with_call({**RESULT, "endedReason": "customer-busy", "messages": ["@"]}, "big", row, world)
    del message["artifact"]
    event = ProviderEvent(
        source="webhook", kind="end-of-call-report", provider_call_id="big", received_at=T0, message=message
    )
    data = event.model_dump_json().replace('"@"', "9" * 30).encode()
    await consumer.apply_batch(world.deps, [Delivery("bc.evt.provider.x.big", data, {}, 1, 1, T0)])
    assert (await world.row(row["id"]))["status"] == "busy"


async def test_changes_leave_as_call_events_once_each_with_growing_versions(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    world.consume()
    relay = world.runtime.spawn(world.deps.relay.run(), "relay")
    for kind, message in [*REPORTS[1:4], *REPORTS[1:4], REPORTS[6], REPORTS[6]]:
        await world.report(kind, "events", _with_call(message, "events", row, world))
        await world.quiet()
    for _ in range(100):
        if not await world.admin.fetchval("SELECT count(*) FROM calls.outbox"):
            break
        await asyncio.sleep(0.05)
    assert not relay.done()
    events = [event for event in await world.stream(CALL_EVENTS) if event["subject"].endswith(str(row["id"]))]
    told = [(event["subject"].split(".")[3], event["data"]["status"], event["data"]["version"]) for event in events]
    assert told == [
        ("created", "pending", 1),
        ("status-changed", "ringing", 2),
        ("status-changed", "in-progress", 3),
        ("status-changed", "completed", 4),
        ("updated", "completed", 5),
    ]
    assert {event["headers"]["ce-type"] for event in events} == {
        "io.boostedcalls.call.v1.created",
        "io.boostedcalls.call.v1.status_changed",
        "io.boostedcalls.call.v1.updated",
    }
    assert all("transcript" not in event["data"] for event in events)


async def test_while_the_database_is_away_nothing_is_dead_lettered_and_afterwards_all_is_applied(
    world: World, user_id: UUID, postgres_server: Any
) -> None:
    row = await world.insert(user_id)
    before = len(await world.stream(DLQ))
    name = await world.admin.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    world.consume()
    for kind, message in REPORTS:
        await world.report(kind, "away", _with_call(message, "away", row, world))
    await asyncio.sleep(1)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    await world.quiet()
    assert (await world.row(row["id"]))["status"] == "completed"
    assert len(await world.stream(DLQ)) == before
