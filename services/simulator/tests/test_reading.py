"""`GET /call`, `GET /call/{id}` and `DELETE /call/{id}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Launch, Receiver, Simulator

NUMBER = "+12025550100"
UNKNOWN = "019ab4c2-7d1e-7c43-9f55-8c2f4f0a9d31"


async def listed(sim: Simulator, **query: str) -> list[str]:
    status, found = await sim.ask("GET", "/call", params=query)
    assert status == 200, found
    return [call["id"] for call in found]


async def test_the_list_is_a_plain_array_newest_first(sim: Simulator) -> None:
    ids = [(await sim.create(NUMBER))["id"] for _ in range(3)]
    assert await listed(sim) == ids[::-1]
    assert await listed(sim, limit="2") == ids[:0:-1]
    assert await listed(sim, limit="0") == []


async def test_the_list_filters_by_id_assistant_and_phone_number(sim: Simulator) -> None:
    first = await sim.create(NUMBER)
    _, second = await sim.ask("POST", "/call", sim.order(NUMBER) | {"assistantId": "a2", "phoneNumberId": "p2"})
    assert await listed(sim, id=first["id"]) == [first["id"]]
    assert await listed(sim, assistantId="a2") == [second["id"]]
    assert await listed(sim, phoneNumberId="p2") == [second["id"]]
    assert await listed(sim, phoneNumberId="p2", assistantId="assistant-1") == []


async def test_the_list_filters_by_creation_time_with_and_without_its_bounds(sim: Simulator) -> None:
    created = await sim.create(NUMBER)
    at = created["createdAt"]
    assert await listed(sim, createdAtGe=at, createdAtLe=at) == [created["id"]]
    assert await listed(sim, createdAtGt=at) == []
    assert await listed(sim, createdAtLt=at) == []
    assert await listed(sim, createdAtGe="2001-01-01T00:00:00", createdAtLt="2101-01-01T00:00:00+02:00") != []


async def test_the_time_of_the_last_change_moves_until_the_report_is_made(sim: Simulator) -> None:
    created = await sim.create("+12025550110")
    ended = await sim.ended(created["id"])
    assert ended["updatedAt"] > ended["endedAt"] >= created["updatedAt"]
    at = ended["updatedAt"]
    assert await listed(sim, updatedAtGe=at, updatedAtLe=at) == [created["id"]]
    assert await listed(sim, updatedAtGt=at) == []
    assert await listed(sim, updatedAtLt=at) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", "1001", "limit must not be greater than 1000"),
        ("limit", "-1", "limit must not be less than 0"),
        ("limit", "many", "limit must be a number conforming to the specified constraints"),
        ("createdAtGe", "yesterday", "createdAtGe must be a valid ISO 8601 date string"),
        ("updatedAtLt", "1795343441230", "updatedAtLt must be a valid ISO 8601 date string"),
        ("status", "ended", "property status should not exist"),
    ],
)
async def test_a_filter_that_does_not_exist_or_fit_is_refused(
    sim: Simulator, name: str, value: str, message: str
) -> None:
    assert await sim.ask("GET", "/call", params={name: value}) == (
        400,
        {"message": [message], "error": "Bad Request", "statusCode": 400},
    )


async def test_a_new_call_is_missing_from_a_lagging_list_only(launch: Launch) -> None:
    sim = await launch(simulator_list_lag=3600)
    created = await sim.create(NUMBER)
    assert await listed(sim) == []
    assert (await sim.ask("GET", f"/call/{created['id']}"))[0] == 200


async def test_post_processing_follows_the_end(launch: Launch) -> None:
    sim = await launch(simulator_speed=3.0)
    created = await sim.create(NUMBER)
    await sim.ask("POST", f"/{created['id']}/control", {"type": "end-call"})
    ended = await sim.reaches(created["id"], "ended")
    assert ended["endedReason"] == "manually-canceled"
    assert "analysis" not in ended
    assert "cost" not in ended
    assert (await sim.ended(created["id"]))["analysis"] == {}


async def test_short_lived_links_differ_in_every_answer(sim: Simulator) -> None:
    call_id = (await sim.create(NUMBER))["id"]
    links = [(await sim.ended(call_id))["artifact"]["presignedMonoUrl"] for _ in range(2)]
    assert links[0] != links[1]


async def test_an_unknown_call_is_a_404_in_the_providers_words(sim: Simulator) -> None:
    for method in ("GET", "DELETE"):
        status, fault = await sim.ask(method, f"/call/{UNKNOWN}")
        assert (status, fault["error"], fault["statusCode"]) == (404, "Not Found", 404)


async def test_deleting_erases_the_data_but_does_not_hang_up(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(NUMBER)
    status, deleted = await sim.ask("DELETE", f"/call/{created['id']}")
    assert (status, deleted["id"]) == (200, created["id"])
    assert (await sim.ask("GET", f"/call/{created['id']}"))[0] == 404
    assert await listed(sim) == []
    await receiver.until("end-of-call-report")
    assert (await sim.ask("GET", f"/call/{created['id']}"))[0] == 404
    assert len(sim.dials()) == 1


async def test_only_the_newest_ended_calls_are_kept(launch: Launch) -> None:
    sim = await launch(simulator_keep=2)
    ids: list[str] = []
    for _ in range(3):
        ids.append((await sim.create("+12025550101"))["id"])
        await sim.ended(ids[-1])
    assert await listed(sim) == ids[:0:-1]
    assert (await sim.ask("GET", f"/call/{ids[0]}"))[0] == 404
