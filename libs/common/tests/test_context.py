from datetime import UTC, datetime
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common.context import bind, caller, new_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_ids_are_of_version_7_and_in_order():
    made = [new_id() for _ in range(100)]
    assert {found.version for found in made} == {7}
    assert made == sorted(made)


def test_trace_goes_on_in_a_span_of_its_own():
    version, trace, span, flags = caller(traceparent=PARENT).traceparent.split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != "b7ad6b7169203331"


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "x",
        PARENT.upper(),
        PARENT + "0",
        "01" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        PARENT + "\n",
    ],
)
def test_malformed_trace_is_replaced(traceparent):
    who = caller(traceparent=traceparent)
    assert who.traceparent.split("-")[1] not in {TRACE, "0" * 32}
    assert len(who.traceparent) == 55


@given(st.text())
def test_request_id_is_kept_when_it_is_safe_in_a_header_and_replaced_otherwise(given_id):
    found = caller(request_id=given_id).request_id
    assert found.isascii()
    assert not set(found) & set("\r\n ")
    assert 1 <= len(found) <= 100
    assert found == given_id or UUID(found)


def test_work_without_a_user_is_no_work_of_a_user():
    user_id = new_id()
    assert caller(user_id).user == user_id
    with pytest.raises(LookupError):
        _ = caller().user


@pytest.mark.parametrize("text", ["2026-11-22T10:30:09.02Z", "2026-11-22T12:30:09.020+02:00"])
def test_time_of_receipt_is_taken_as_utc(text):
    assert caller(received_at=text).received_at == datetime(2026, 11, 22, 10, 30, 9, 20_000, UTC)


@pytest.mark.parametrize(
    "text", [None, "", "now", "2026-11-22", "2026-11-22T10:30:09", "1770000000", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_of_receipt_counts_as_none(text):
    assert caller(received_at=text).received_at is None


def test_ids_are_bound_to_the_log_lines_of_the_task():
    with structlog.contextvars.bound_contextvars():
        who = caller(request_id="r1", traceparent=PARENT)
        bind(who)
        assert structlog.contextvars.get_contextvars() == {"request_id": "r1", "trace_id": TRACE}
        structlog.contextvars.unbind_contextvars("request_id", "trace_id")
