import contextlib
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common import subjects
from boostedcalls.webhooks.vapi import DOCUMENTED, NotAMessage, parse

CALL_ID = "019ab4c2-7d1e-7c43-9f55-8c2f4f0a9d31"


def parsed(message):
    return parse(orjson.dumps({"message": message}))


@pytest.mark.parametrize("kind", sorted(DOCUMENTED))
def test_every_documented_type_is_read_with_its_call(kind):
    message = parsed({"type": kind, "call": {"id": CALL_ID}})
    assert (message.kind, message.call_id, message.label) == (kind, CALL_ID, subjects.slug(kind))


@pytest.mark.parametrize("kind", ["new.type", "a b > *", "x" * 10_000, "☎"])
def test_unknown_type_is_kept_and_counted_as_other(kind):
    message = parsed({"type": kind, "call": {"id": CALL_ID}})
    assert (message.kind, message.label) == (kind, "other")
    assert subjects.provider_event(message.kind, message.call_id)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"call": {"id": CALL_ID}}, CALL_ID),
        ({"call": {"id": CALL_ID}, "callId": "other"}, CALL_ID),
        ({"callId": CALL_ID}, CALL_ID),
        ({"data": {"callId": CALL_ID}}, CALL_ID),
        ({"call": {"id": "a.b"}, "callId": CALL_ID}, CALL_ID),
        ({}, None),
        ({"call": None}, None),
        ({"call": []}, None),
        ({"call": {"id": 7}}, None),
        ({"call": {"id": ""}}, None),
        ({"call": {"id": "a.b"}}, None),
        ({"call": {"id": "*"}}, None),
        ({"call": {"id": ">"}}, None),
        ({"call": {"id": "a b"}}, None),
        ({"call": {"id": "a\r\nPUB x 0"}}, None),
        ({"call": {"id": "x" * 65}}, None),
        ({"call": {"id": "ünïcode"}}, None),
    ],
)
def test_call_id_is_taken_where_it_is_a_token_and_nowhere_else(message, expected):
    assert parsed({"type": "status-update", **message}).call_id == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"message":{"type":"x"}', "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
        (b"null", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'"message"', "no JSON object"),
        (b"7", "no JSON object"),
        (b"{}", "no message"),
        (b'{"message":null}', "no message"),
        (b'{"message":[]}', "no message"),
        (b'{"message":"x"}', "no message"),
        (b'{"message":{"status":"ended"}}', "no type"),
        (b'{"message":{"type":null}}', "no type"),
        (b'{"message":{"type":7}}', "no type"),
        (b'{"message":{"type":""}}', "no type"),
        (b'{"message":{"type":"\\u0000"}}', "no type"),
    ],
)
def test_body_that_is_no_message_says_why(body, reason):
    with pytest.raises(NotAMessage) as caught:
        parse(body)
    assert caught.value.reason == reason


def test_body_without_json_is_kept_as_it_came_and_other_bodies_without_secrets():
    with pytest.raises(NotAMessage) as caught:
        parse(b"\x00broken")
    assert caught.value.data == b"\x00broken"
    with pytest.raises(NotAMessage) as caught:
        parse(b'{"apiKey":"s3cret","message":{"status":"ended"}}')
    assert orjson.loads(caught.value.data) == {"apiKey": "[REDACTED]", "message": {"status": "ended"}}


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (b'"a\\u0000b"', "ab"),
        (b'"cut \\ud83d"', "cut ?"),
        (b'"\\ude00\\ud83d"', "??"),
        (b'"whole \\ud83d\\ude00"', "whole 😀"),
        (b"NaN", None),
        (b"-Infinity", None),
        (b"123456789012345678901234567890", 123456789012345678901234567890.0),
        (b'1,"x":2', 2),
    ],
)
def test_what_json_parsers_disagree_on_does_not_lose_the_report(member, expected):
    message = parse(b'{"message":{"type":"end-of-call-report","x":' + member + b"}}")
    assert message.content["x"] == expected
    orjson.dumps(message.content)


def test_deep_nesting_is_cut_and_can_be_written_again():
    message = parse(b'{"message":{"type":"hang","x":' + b'{"y":' * 800 + b"1" + b"}" * 800 + b"}}")
    assert b"TOO DEEP" in orjson.dumps(message.content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_or_refused(value):
    try:
        message = parse(json.dumps({"message": value}).encode())
    except NotAMessage:
        return
    assert isinstance(message.kind, str)
    orjson.dumps(message.content)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body):
    with contextlib.suppress(NotAMessage):
        parse(body)


def test_number_beyond_all_floats_makes_the_body_no_json():
    with pytest.raises(NotAMessage) as caught:
        parse(b'{"message":{"type":"hang","x":1e999}}')
    assert caught.value.reason == "not JSON"
