import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common.errors import ServiceError
from boostedcalls.contacts.phone import known_region, normalise


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("+1234567890", "+1234567890"),
        ("+1 (202) 555-0123", "+12025550123"),
        ("+49 30/123456", "+4930123456"),
        ("+44.20.7946.0018", "+442079460018"),
        ("  +1202\u00a0555\u20110123", "+12025550123"),
        ("\u202a+12025550123\u202c", "+12025550123"),
        ("\uff0b12025550123", "+12025550123"),
        ("(+1) 202 555 0123", "+12025550123"),
        ("+1234567", "+1234567"),
        ("+123456789012345", "+123456789012345"),
        ("+0000000", "+0000000"),
    ],
)
def test_number_with_a_plus_keeps_its_digits_without_judgement(raw, expected):
    assert normalise(raw, "US") == expected


@pytest.mark.parametrize(
    ("raw", "region", "expected"),
    [
        ("2025550123", "US", "+12025550123"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("9876543210", "IN", "+919876543210"),
        ("020 7946 0018", "GB", "+442079460018"),
        ("0044 20 7946 0018", "DE", "+442079460018"),
        ("tel:+1-202-555-0123", "DE", "+12025550123"),
    ],
)
def test_number_without_a_plus_is_read_in_its_region(raw, region, expected):
    assert normalise(raw, region) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "+",
        "+123456",
        "+1234567890123456",
        "+12a4567890",
        "+1 202 555 0123 ext 5",
        "++12025550123",
        "+\u0661234567",
        "   ",
        "123",
        "5550123",
        "abc",
        "202555012345678",
        "2025550123 ext. 5",
        "'; DROP TABLE contacts; --",
        "\ud83d\ude00" * 3,
    ],
)
def test_unreadable_number_is_refused_with_the_field_named(raw):
    with pytest.raises(ServiceError) as caught:
        normalise(raw, "US")
    assert (caught.value.status, caught.value.code) == (422, "phone_invalid")
    assert caught.value.errors[0]["field"] == "phone"


@given(st.text(max_size=40))
def test_any_text_is_either_e164_or_refused(raw):
    try:
        found = normalise(raw, "US")
    except ServiceError:
        return
    assert re.fullmatch(r"\+[0-9]{7,15}", found)


def test_region_without_a_numbering_plan_is_refused():
    assert known_region("IN") == "IN"
    with pytest.raises(ValueError, match="numbering plan"):
        known_region("ZZ")
