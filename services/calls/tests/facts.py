"""Hypothesis strategies for facts: few values each, so that ties and repeats are frequent."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from boostedcalls.calls.reasons import status_of
from boostedcalls.calls.state import Fact, Source
from boostedcalls.common.messages.calls import CallStatus

T0 = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
REASONS = [
    "customer-busy",
    "assistant-ended-call",
    "voicemail",
    "customer-did-not-answer",
    "worker-shutdown",
    "odd-one",
]

times = st.integers(0, 3).map(lambda seconds: T0 + timedelta(seconds=seconds))
values = st.fixed_dictionaries(
    {},
    optional={
        "transcript": st.sampled_from(["AI: hi", "AI: hi\nUser: hello", "…"]),
        "summary": st.sampled_from(["a", "b"]),
        "analysis": st.sampled_from([{"summary": "a"}, {"successEvaluation": "true"}]),
        "analysed_outcome": st.sampled_from(["success", "failed"]),
        "messages": st.sampled_from([[{"role": "bot"}], [{"role": "user"}]]),
        "started_at": times,
        "ended_at": times,
        "duration_seconds": st.integers(0, 2),
        "cost": st.sampled_from([Decimal("0.04"), Decimal("0.05"), Decimal("0.000001")]),
    },
)
reports = st.builds(
    lambda source, at, reason, found: Fact(
        source, at, status_of(reason), reason, values=found, final=source is not Source.STATUS_UPDATE
    ),
    st.sampled_from([Source.REPORT, Source.SNAPSHOT, Source.STATUS_UPDATE]),
    times,
    st.sampled_from(REASONS),
    values,
)
reasonless = st.builds(
    lambda source, at, status: Fact(source, at, status),
    st.sampled_from([Source.REPORT, Source.SNAPSHOT, Source.STATUS_UPDATE]),
    times,
    st.sampled_from([CallStatus.COMPLETED, CallStatus.FAILED]),
)
progress = st.builds(
    lambda source, at, status, found: Fact(source, at, status, values=found),
    st.sampled_from([Source.SNAPSHOT, Source.STATUS_UPDATE, Source.CREATE_ANSWER]),
    times,
    st.sampled_from([CallStatus.PENDING, CallStatus.QUEUED, CallStatus.RINGING, CallStatus.IN_PROGRESS]),
    values,
)
cancels = st.builds(lambda at: Fact(Source.CANCEL, at, CallStatus.CANCELLED), times)
verdicts = st.builds(
    lambda at, code: Fact(Source.OURS, at, CallStatus.FAILED, error_code=code, error_message=code),
    times,
    st.sampled_from(["not_placed", "timed_out", "lost"]),
)
facts = st.one_of(reports, reasonless, progress, cancels, verdicts)
