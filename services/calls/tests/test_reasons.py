import csv
from pathlib import Path

import pytest

from boostedcalls.calls.reasons import is_mapped, status_of

KNOWN = list(csv.DictReader((Path(__file__).parent / "data" / "ended-reasons.csv").read_text().splitlines()))


def test_every_known_ended_reason_maps_as_the_reference_table_says() -> None:
    assert len(KNOWN) == 604
    wrong = {
        row["endedReason"]: status_of(row["endedReason"]).value
        for row in KNOWN
        if status_of(row["endedReason"]).value != row["proposed_status"]
    }
    assert wrong == {}


@pytest.mark.parametrize("reason", ["hangup", "a-reason-of-next-year", "", "x" * 500, "voicemail2", "customer-busy!"])
def test_an_unknown_reason_is_failed_and_reported_as_unmapped(reason: str) -> None:
    assert status_of(reason) == "failed"
    assert not is_mapped(reason)


@pytest.mark.parametrize("reason", ["call.forwarding.operator-busy", "call.forwarding.no-answer"])
def test_a_busy_operator_is_not_a_busy_customer(reason: str) -> None:
    assert status_of(reason) == "completed"
