"""Events of a call that is not known yet, and of one that was given up: the right end, and the counters."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from boostedcalls.calls import consumer, dispatch, handlers, matching, store, sync
from boostedcalls.calls.reports import snapshot
from boostedcalls.calls.state import Fact, Source
from boostedcalls.common.bus import Delivery
from boostedcalls.common.context import caller, new_id
from boostedcalls.common.events import ProviderEvent
from boostedcalls.common.messages.calls import Call, CallId, CallStatus

from .conftest import Make, World
from .facts import T0
from .provider import Provider

RESULT = {
    "artifact": {"transcript": "AI: hi\nUser: hello"},
    "analysis": {"summary": "They talked.", "successEvaluation": "true"},
    "startedAt": "2026-11-22T10:30:09.020Z",
    "endedAt": "2026-11-22T10:30:33.820Z",
    "endedReason": "customer-ended-call",
    "cost": 0.05,
}
REPORTS: list[tuple[str, dict[str, Any]]] = [
    ("status-update", {"status": "ringing", "timestamp": 1795343402000}),
    ("status-update", {"status": "in-progress", "timestamp": 1795343409000}),
    ("end-of-call-report", {**RESULT, "timestamp": 1795343441230}),
]


class Counted:
    """How far the counters moved since it was made."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return matching.PARKED._value.get(), matching.LATE._value.get()

    @property
    def moved(self) -> tuple[int, int]:
        """(parked, late)"""
        now = self._now()
        return int(now[0] - self._start[0]), int(now[1] - self._start[1])


async def _send(world: World, provider_call_id: str, signed: store.Row | None = None) -> None:
    """All reports of the call; with our signed id in them where they carry it."""
    call: dict[str, Any] = {"id": provider_call_id}
    if signed:
        call["assistantOverrides"] = {"metadata": world.metadata(signed)}
    for kind, message in REPORTS:
        await world.report(kind, provider_call_id, {**message, "call": call})
    await world.quiet()


async def _is_complete(world: World, row: store.Row, provider_call_id: str, status: str = "completed") -> None:
    found = await world.row(row["id"])
    assert (found["provider_call_id"], found["status"], found["outcome"]) == (provider_call_id, status, "success")
    assert (found["transcript"], found["cost"], found["final"]) == ("AI: hi\nUser: hello", Decimal("0.05"), True)
    assert found["error_code"] is None
    assert await world.rollups(row["user_id"]) == await world.recount(row["user_id"])
    assert await world.admin.fetchval("SELECT count(*) FROM calls.unmatched") == 0


async def _not_placed(world: World, user_id: UUID) -> store.Row:
    row = await _unclear(world, user_id)
    assert await dispatch.reconcile_step(world.deps, caller(), row)
    given_up = await world.row(row["id"])
    assert (given_up["status"], given_up["error_code"]) == ("failed", "not_placed")
    return given_up


async def _timed_out(world: World, user_id: UUID) -> store.Row:
    row = await _unclear(world, user_id)
    await dispatch._fail(world.deps, caller(), row, "timed_out", "nobody could be asked")
    return await world.row(row["id"])


async def _unclear(world: World, user_id: UUID) -> store.Row:
    row = await world.insert(user_id)
    await dispatch.dispatch(world.deps, caller(user_id), row["id"])
    unclear = await world.row(row["id"])
    assert unclear["dispatch_started_at"]
    assert not unclear["dispatch_closed"]
    return unclear


@pytest.fixture
def unclear_world(make_world: Make, provider: Provider) -> Callable[[], Awaitable[World]]:
    """A world whose provider leaves it unclear whether it placed a call, and shows none."""

    async def make() -> World:
        provider.failing["create"] = 500
        world = await make_world(vapi_base_url=provider.url, reconcile_steps=(60,))
        world.consume()
        return world

    return make


async def test_events_without_our_id_wait_until_the_call_is_adopted(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    world.consume()
    counted = Counted()
    await _send(world, "p-1")
    assert (await world.row(row["id"]))["status"] == "pending"
    assert counted.moved == (3, 0)
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id="p-1"))
    await _is_complete(world, row, "p-1")
    assert counted.moved == (3, 0)


@pytest.mark.parametrize("signed", [True, False])
async def test_events_that_overtake_the_answer_to_our_own_request_end_in_the_right_state(
    make_world: Make, provider: Provider, user_id: UUID, signed: bool
) -> None:
    world = await make_world(vapi_base_url=provider.url)
    world.consume()
    row = await world.insert(user_id)
    provider.going.clear()
    counted = Counted()
    dialling = asyncio.create_task(dispatch.dispatch(world.deps, caller(user_id), row["id"]))
    await provider.came.wait()
    (provider_call_id,) = provider.calls
    await _send(world, provider_call_id, row if signed else None)
    provider.going.set()
    await dialling
    await _is_complete(world, row, provider_call_id)
    assert counted.moved == (0 if signed else 3, 0)


@pytest.mark.parametrize("give_up", [_not_placed, _timed_out])
async def test_a_call_that_was_given_up_and_is_reported_after_all_gets_its_true_end_and_is_counted_once(
    unclear_world: Callable[[], Awaitable[World]], user_id: UUID, give_up: Any
) -> None:
    world = await unclear_world()
    row = await give_up(world, user_id)
    counted = Counted()
    await _send(world, "late", row)
    await _is_complete(world, row, "late")
    assert counted.moved == (0, 1)


async def test_a_call_that_was_given_up_and_is_live_after_all_is_followed_to_its_end(
    unclear_world: Callable[[], Awaitable[World]], provider: Provider, user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _not_placed(world, user_id)
    assert row["due_at"] is None
    counted = Counted()
    call = provider.place({"name": str(row["id"])}, status="in-progress")
    carried = {"id": call["id"], "assistantOverrides": {"metadata": world.metadata(row)}}
    await world.report("status-update", call["id"], {"status": "in-progress", "call": carried})
    await world.quiet()
    assert (await world.row(row["id"]))["due_at"] is not None
    provider.calls[call["id"]].update(RESULT, status="ended")
    await sync.look(world.deps, world.bus, caller(), row["id"])
    await world.quiet()
    await _is_complete(world, row, call["id"])
    assert counted.moved == (0, 1)


async def test_a_sync_by_hand_finds_a_call_that_was_given_up_and_counts_it(
    unclear_world: Callable[[], Awaitable[World]], provider: Provider, user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _not_placed(world, user_id)
    counted = Counted()
    call = provider.place({"name": str(row["id"])}, status="in-progress")
    await _send(world, call["id"])
    assert counted.moved == (3, 0)
    answer = await handlers.sync_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    assert Call.model_validate_json(answer).status == "completed"
    await _is_complete(world, row, call["id"])
    assert counted.moved == (3, 1)


async def test_a_sync_by_hand_of_a_call_that_is_really_not_there_changes_nothing(
    unclear_world: Callable[[], Awaitable[World]], user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _not_placed(world, user_id)
    counted = Counted()
    answer = await handlers.sync_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    assert Call.model_validate_json(answer).error_code == "not_placed"
    assert await world.row(row["id"]) == row
    assert counted.moved == (0, 0)


async def test_a_call_that_turns_up_by_two_ways_at_once_is_counted_once(
    unclear_world: Callable[[], Awaitable[World]], provider: Provider, user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _not_placed(world, user_id)
    counted = Counted()
    call = provider.place({"name": str(row["id"])}, status="in-progress")
    found = store.Change(row, [snapshot(call, T0)], provider_call_id=call["id"])
    await asyncio.gather(
        _send(world, call["id"], row),
        *(dispatch.change(world.deps, caller(), row["id"], found) for _ in range(3)),
    )
    await _is_complete(world, row, call["id"])
    assert counted.moved == (0, 1)


async def test_a_placed_call_that_timed_out_takes_its_true_end(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    world.consume()
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, provider_call_id="slow"))
    verdict = Fact(Source.OURS, T0, CallStatus.FAILED, error_code="timed_out", error_message="too late")
    await dispatch.change(world.deps, caller(), row["id"], store.Change(row, [verdict]))
    assert (await world.row(row["id"]))["status"] == "failed"
    counted = Counted()
    await _send(world, "slow")
    await _is_complete(world, row, "slow")
    assert counted.moved == (0, 0)


async def test_a_call_that_was_cancelled_while_its_placing_was_unclear_stays_cancelled_with_its_result(
    unclear_world: Callable[[], Awaitable[World]], user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _unclear(world, user_id)
    await handlers.cancel_call(world.service, caller(user_id), CallId(call_id=row["id"]))
    counted = Counted()
    await _send(world, "cancelled", row)
    await _is_complete(world, row, "cancelled", status="cancelled")
    assert (await world.row(row["id"]))["hang_up_wanted"]
    assert counted.moved == (0, 0)


async def test_counters_move_once_the_transaction_is_committed_and_not_before(
    unclear_world: Callable[[], Awaitable[World]], user_id: UUID
) -> None:
    world = await unclear_world()
    row = await _not_placed(world, user_id)
    carried = {"id": "late", "assistantOverrides": {"metadata": world.metadata(row)}}
    deliveries = [
        Delivery(
            "bc.evt.provider.x.y",
            ProviderEvent(
                source="webhook",
                kind="status-update",
                provider_call_id=provider_call_id,
                received_at=T0,
                message={"status": "ended", "endedReason": reason, "call": call},
            )
            .model_dump_json()
            .encode(),
            {},
            sequence,
            1,
            T0,
        )
        for sequence, (provider_call_id, reason, call) in enumerate(
            [("late", "customer-busy", carried), (str(new_id()), "odd-reason", {})], 1_000_000
        )
    ]
    await world.admin.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$"
    )
    await world.admin.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON calls.settled DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )
    counted, unmapped = Counted(), matching.UNMAPPED._value.get()
    with pytest.raises(asyncpg.RaiseError):
        await consumer.apply_batch(world.deps, deliveries)
    assert counted.moved == (0, 0)
    assert matching.UNMAPPED._value.get() == unmapped
    await world.admin.execute("DROP TRIGGER refuse ON calls.settled")
    await consumer.apply_batch(world.deps, deliveries)
    assert counted.moved == (1, 1)
    assert matching.UNMAPPED._value.get() == unmapped + 1
    # Delivered again: nothing new.
    await consumer.apply_batch(world.deps, deliveries)
    assert counted.moved == (1, 1)


async def test_events_that_nobody_claims_for_ten_minutes_are_told_of(make_world: Make) -> None:
    world = await make_world(sync_poll=0.05)
    for name, age in (("old", "11 minutes"), ("older", "2 days"), ("fresh", "9 minutes")):
        await world.admin.execute(
            "INSERT INTO calls.unmatched (provider_call_id, sequence, event, parked_at)"
            " VALUES ($1, 1, '{}', now() - $2::text::interval)",
            name,
            age,
        )
    matching.LEFT.set(0)
    world.runtime.spawn(sync.publish_jobs(world.deps, world.bus), "publisher")
    async with asyncio.timeout(10):
        while matching.LEFT._value.get() != 2:  # noqa: ASYNC110 - another task's work
            await asyncio.sleep(0.05)
    assert sync.STALE._value.get() > 86400
