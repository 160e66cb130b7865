from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common.cursor import decode_cursor, encode_cursor
from boostedcalls.common.errors import ServiceError

moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))


@given(moments, st.uuids())
def test_cursor_survives_the_round_trip_to_the_microsecond(at, object_id):
    assert decode_cursor(encode_cursor(at, object_id)) == (at, object_id)


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{1,200}", fullmatch=True)))
def test_foreign_cursor_is_read_or_refused_with_the_field_named(cursor):
    refused: list[ServiceError] = []
    try:
        at, object_id = decode_cursor(cursor)
        assert at.tzinfo is not None
        assert isinstance(object_id, UUID)
    except ServiceError as error:
        refused.append(error)
    assert all((error.code, error.errors[0]["field"]) == ("validation_failed", "cursor") for error in refused)


@pytest.mark.parametrize("cursor", ["x", "A" * 31, "A" * 33, "f" + "_" * 31, "A" * 16 + "=" * 16, "ä" * 32])
def test_malformed_cursor_is_refused(cursor):
    with pytest.raises(ServiceError) as caught:
        decode_cursor(cursor)
    assert caught.value.code == "validation_failed"
