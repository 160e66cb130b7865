import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boostedcalls.calls.reports import create_answer, facts_of, moment, snapshot
from boostedcalls.calls.state import CallState, Source, fold
from boostedcalls.common.events import ProviderEvent

DATA = Path(__file__).parent / "data"
NOW = datetime(2026, 11, 22, 11, 0, tzinfo=UTC)


def _event(kind: str, message: dict[str, Any]) -> ProviderEvent:
    return ProviderEvent(source="webhook", kind=kind, provider_call_id="p", received_at=NOW, message=message)


def _example(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())["message"]


def test_the_end_of_call_report_gives_the_whole_result() -> None:
    (fact,) = facts_of(_event("end-of-call-report", _example("end-of-call-report")))
    state = fold(CallState(), [fact])
    assert (fact.source, fact.final, fact.reason) == (Source.REPORT, True, "assistant-ended-call")
    assert state.status == "completed"
    assert state.outcome == "success"
    assert state.cost == Decimal("0.04")
    assert state.cost_breakdown is not None
    assert state.cost_breakdown["total"] == 0.04
    assert state.duration_seconds == 25
    assert state.started_at == datetime(2026, 11, 22, 10, 30, 9, 20000, tzinfo=UTC)
    assert state.transcript is not None
    assert state.transcript.startswith("AI: Hi Dana")
    assert state.summary is not None
    assert state.recording_url is not None
    assert state.recording_url.endswith("/mono.wav")
    assert state.messages is not None
    assert len(state.messages) == 6
    assert state.analysis is not None
    assert "structuredOutputs" in state.analysis


def test_a_status_update_gives_status_and_reason() -> None:
    (busy,) = facts_of(_event("status-update", _example("status-update.ended")))
    assert (busy.status, busy.reason, busy.final) == ("no-answer", "customer-did-not-answer", False)
    (live,) = facts_of(_event("status-update", _example("status-update.in-progress")))
    assert (live.status, live.reason) == ("in-progress", None)


@pytest.mark.parametrize("word", ["not-found", "deletion-failed", "paused", 7, None, ["ringing"], {}])
def test_a_status_that_is_no_progress_gives_no_fact(word: Any) -> None:
    assert facts_of(_event("status-update", {"status": word, "timestamp": 1})) == []


def test_a_report_reads_the_fields_that_real_payloads_carry_at_the_top() -> None:
    message = {
        "type": "end-of-call-report",
        "endedReason": "customer-ended-call",
        "transcript": "AI: hello",
        "summary": "short",
        "recordingUrl": "https://storage.example.test/a.wav",
        "durationSeconds": 12.4,
        "costBreakdown": {"total": 0.1},
        "cost": 0.1,
    }
    state = fold(CallState(), facts_of(_event("end-of-call-report", message)))
    assert (state.transcript, state.summary, state.duration_seconds) == ("AI: hello", "short", 12)
    assert (state.recording_url, state.cost) == ("https://storage.example.test/a.wav", Decimal("0.1"))


@pytest.mark.parametrize(("started", "status"), [("2026-11-22T10:30:09.020Z", "completed"), (None, "failed")])
def test_an_end_without_a_reason_is_judged_by_whether_the_call_connected(started: str | None, status: str) -> None:
    (fact,) = facts_of(_event("status-update", {"status": "ended", "call": {"startedAt": started}}))
    assert fact.status == status


def test_a_snapshot_is_final_once_the_call_has_ended_and_its_analysis_and_cost_are_known() -> None:
    ended = {
        "status": "ended",
        "endedReason": "voicemail",
        "artifact": {"transcript": "t"},
        "cost": 0.01,
        "analysis": {},
    }
    assert snapshot(ended, NOW).final
    assert snapshot(ended, NOW).values["transcript"] == "t"
    for missing in ("endedReason", "cost", "analysis"):
        assert not snapshot({name: value for name, value in ended.items() if name != missing}, NOW).final
    live = snapshot({"status": "in-progress", "startedAt": "2026-11-22T10:30:09Z"}, NOW)
    assert (live.status, live.final) == ("in-progress", False)


def test_the_create_answer_queued_leaves_the_call_pending() -> None:
    assert create_answer({"status": "queued"}, NOW).status == "pending"
    assert create_answer({"status": "ringing"}, NOW).status == "ringing"


@pytest.mark.parametrize(
    ("analysis", "structured", "outcome"),
    [
        ({"successEvaluation": "true"}, {}, "success"),
        ({"successEvaluation": True}, {}, "success"),
        ({"successEvaluation": "Fail"}, {}, "failed"),
        ({"successEvaluation": "7"}, {}, None),
        ({"successEvaluation": "Good"}, {}, None),
        ({"successEvaluation": "not interested"}, {}, "not_interested"),
        ({}, {"x": {"name": "Outcome", "result": "wrong-number"}}, "wrong_number"),
        ({"successEvaluation": "true"}, {"x": {"name": "outcome", "result": {"outcome": "partial"}}}, "partial"),
        ({}, {"x": {"name": "outcome", "result": {"rescheduled": True}}}, None),
        ({}, {}, None),
    ],
)
def test_the_analysis_is_read_for_an_outcome_in_our_words(
    analysis: dict[str, Any], structured: dict[str, Any], outcome: str | None
) -> None:
    message = {
        "endedReason": "assistant-ended-call",
        "analysis": analysis,
        "artifact": {"structuredOutputs": structured},
    }
    assert fold(CallState(), facts_of(_event("end-of-call-report", message))).outcome == outcome


@pytest.mark.parametrize("value", ["", "yesterday", 1e300, float("nan"), True, None, [], "2026-13-40", -1e18])
def test_a_time_that_is_none_counts_as_absent(value: Any) -> None:
    assert moment(value) is None


@pytest.mark.parametrize(
    "value",
    ["0001-01-01T00:00:00Z", -62135596800000, 0, "9999-12-31T23:59:59.999999Z", 253402300799999, "1999-12-31"],
)
def test_a_time_at_which_no_call_can_be_counts_as_absent(value: Any) -> None:
    """The first and the last one of all become Postgres' infinities, which come back as no time that can be written."""
    assert moment(value) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = [
    "status", "endedReason", "artifact", "analysis", "call", "cost", "costBreakdown", "startedAt", "endedAt",
    "durationSeconds", "transcript", "messages", "timestamp", "recordingUrl", "updatedAt",
]  # fmt: skip


@settings(max_examples=300)
@given(
    st.sampled_from(["status-update", "end-of-call-report", "call-snapshot", "hang", "anything"]),
    st.dictionaries(st.sampled_from(MEMBERS), json_values | st.just("ended"), max_size=8),
)
def test_no_payload_of_whatever_types_makes_the_reading_fail(kind: str, message: dict[str, Any]) -> None:
    for fact in facts_of(_event(kind, {**message, "call": message})):
        fold(CallState(), [fact])
