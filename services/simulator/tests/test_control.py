"""The control address of a live call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Launch, Receiver, Simulator

ENDLESS = "+12025550105"


async def control(sim: Simulator, call: dict[str, Any], command: Any) -> int:
    """It is a capability: it asks for no key."""
    async with sim.http.post(call["monitor"]["controlUrl"], json=command) as answer:
        return answer.status


async def test_end_call_hangs_up_and_then_the_address_is_gone(sim: Simulator, receiver: Receiver) -> None:
    created = await sim.create(ENDLESS)
    await sim.reaches(created["id"], "in-progress")
    assert await control(sim, created, {"type": "end-call"}) == 200
    ended = await sim.ended(created["id"])
    assert ended["endedReason"] == "manually-canceled"
    assert await control(sim, created, {"type": "end-call"}) == 404
    assert (await receiver.until("end-of-call-report"))[-2:] == ["ended", "end-of-call-report"]


async def test_end_call_before_the_answer_ends_a_call_that_never_started(launch: Launch) -> None:
    sim = await launch(simulator_speed=2.0)
    created = await sim.create("+12025550100")
    assert await control(sim, created, {"type": "end-call"}) == 200
    ended = await sim.ended(created["id"])
    assert ended["endedReason"] == "manually-canceled"
    assert "startedAt" not in ended
    assert ended["cost"] == 0


async def test_say_is_heard_and_may_end_the_call(sim: Simulator) -> None:
    created = await sim.create(ENDLESS)
    await sim.reaches(created["id"], "in-progress")
    assert await control(sim, created, {"type": "say", "content": "One moment."}) == 200
    assert await control(sim, created, {"type": "say", "content": "Goodbye now.", "endCallAfterSpoken": True}) == 200
    ended = await sim.ended(created["id"])
    assert ended["endedReason"] == "assistant-ended-call-after-message-spoken"
    assert "AI: One moment.\n" in ended["artifact"]["transcript"]
    # The other side may get in a word before the line is cut.
    assert "AI: Goodbye now.\n" in ended["artifact"]["transcript"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ({"type": "control", "control": "mute-assistant"}, 200),
        ({"type": "add-message"}, 200),
        ({"type": "say"}, 400),
        ({}, 400),
        ([], 400),
    ],
)
async def test_other_commands_are_taken_and_broken_ones_refused(sim: Simulator, command: Any, status: int) -> None:
    created = await sim.create(ENDLESS)
    assert await control(sim, created, command) == status
    await control(sim, created, {"type": "end-call"})


async def test_the_control_address_of_no_call_is_a_404(sim: Simulator) -> None:
    assert await control(sim, {"monitor": {"controlUrl": f"{sim.url}/nobody/control"}}, {"type": "end-call"}) == 404
