from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from boostedcalls.calls.schedule import Stage, next_due, stage
from boostedcalls.calls.settings import CallsSettings

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SETTINGS = CallsSettings(sync_steps=(10, 20, 40), reconcile_steps=(30, 60, 300))


def _row(**changes: Any) -> dict[str, Any]:
    return {
        "status": "pending",
        "final": False,
        "provider_call_id": None,
        "dispatch_started_at": None,
        "dispatch_closed": False,
        "hang_up_wanted": False,
        "checks": 0,
        "synced_at": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Stage.DISPATCH),
        ({"dispatch_started_at": NOW}, Stage.RECONCILE),
        ({"dispatch_started_at": NOW, "status": "cancelled"}, Stage.RECONCILE),
        ({"dispatch_started_at": NOW, "dispatch_closed": True, "status": "failed"}, Stage.SETTLED),
        ({"dispatch_closed": True, "status": "cancelled"}, Stage.SETTLED),
        ({"provider_call_id": "p"}, Stage.FOLLOW),
        ({"provider_call_id": "p", "status": "completed"}, Stage.FOLLOW),
        ({"provider_call_id": "p", "status": "completed", "final": True}, Stage.SETTLED),
        ({"provider_call_id": "p", "dispatch_closed": True, "status": "failed"}, Stage.FOLLOW),
    ],
)
def test_what_a_call_waits_for_follows_from_its_row(changes: dict[str, Any], expected: Stage) -> None:
    assert stage(_row(**changes)) is expected


@pytest.mark.parametrize(("checks", "seconds"), [(0, 10), (1, 20), (2, 40), (3, 40), (5, 40)])
def test_looks_at_an_ended_call_whose_report_is_missing_grow_apart(checks: int, seconds: int) -> None:
    row = _row(provider_call_id="p", status="completed", checks=checks)
    assert next_due(row, SETTINGS, NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("checks", "seconds"), [(0, 10), (1, 20), (2, 20), (50, 20)])
@pytest.mark.parametrize("status", ["pending", "in-progress"])
def test_looks_at_a_call_that_goes_on_are_never_further_apart_than_the_second_step(
    checks: int, seconds: int, status: str
) -> None:
    row = _row(provider_call_id="p", status=status, checks=checks)
    assert next_due(row, SETTINGS, NOW) == NOW + timedelta(seconds=seconds)


def test_a_schedule_of_one_step_is_kept_to() -> None:
    settings = CallsSettings(sync_steps=(10,))
    for checks in (0, 1, 9):
        assert next_due(_row(provider_call_id="p", checks=checks), settings, NOW) == NOW + timedelta(seconds=10)


@pytest.mark.parametrize(("checks", "seconds"), [(0, 30), (1, 60), (2, 300)])
def test_looks_at_an_unclear_call_are_counted_from_its_dispatch(checks: int, seconds: int) -> None:
    row = _row(dispatch_started_at=NOW, checks=checks)
    assert next_due(row, SETTINGS, NOW + timedelta(seconds=5)) == NOW + timedelta(seconds=seconds)


def test_an_ended_call_whose_report_never_comes_is_left_alone_at_last() -> None:
    ended = _row(provider_call_id="p", status="completed", checks=6)
    assert next_due(ended, SETTINGS, NOW) is None
    assert next_due({**ended, "status": "in-progress"}, SETTINGS, NOW) is not None


def test_a_cancelled_call_that_turns_up_at_the_provider_is_due_at_once() -> None:
    row = _row(provider_call_id="p", status="cancelled", hang_up_wanted=True)
    assert next_due(row, SETTINGS, NOW) == NOW
