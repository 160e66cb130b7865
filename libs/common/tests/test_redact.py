import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common.redact import MAX_DEPTH, REDACTED, TOO_DEEP, is_secret, redact

SECRETS = [
    "twilioAuthToken",
    "twilioApiSecret",
    "twilioApiKey",
    "apiKey",
    "api_key",
    "API-KEY",
    "authToken",
    "accessToken",
    "refresh_token",
    "token",
    "secret",
    "serverUrlSecret",
    "clientSecret",
    "password",
    "authPassword",
    "credential",
    "credentials",
    "credentialId",
    "credentialIds",
    "authorization",
    "Authorization",
    "proxyAuthorization",
    "cookie",
    "Set-Cookie",
    "privateKey",
    "secretAccessKey",
    "secretKey",
    "x-vapi-secret",
    "headers",
    "controlUrl",
    "listenUrl",
    "passphrase",
]
HARMLESS = [
    "promptTokens",
    "completionTokens",
    "llmPromptTokens",
    "maxTokens",
    "tokens",
    "id",
    "callId",
    "internalCallId",
    "internalCallSignature",
    "signature",
    "metadata",
    "server",
    "url",
    "name",
    "number",
    "transcript",
    "key",
    "keyboard",
    "secretary",
    "passwordless",
    "endedReason",
    "author",
    "header",
    "type",
    "twilioAccountSid",
    "recordingUrl",
    "presignedMonoUrl",
    "sessionId",
    "privateKeyId",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secret_member_is_replaced_whatever_it_holds(name):
    for value in ("s3cret", {"a": "s3cret"}, ["s3cret"], 7, True, ""):
        assert redact({"x": [{name: value}]}) == {"x": [{name: REDACTED}]}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_member_is_kept(name):
    assert redact({name: "value"}) == {name: "value"}


def test_member_without_a_value_stays_null():
    assert redact({"token": None}) == {"token": None}


def test_original_is_not_changed():
    original = {"a": {"token": "s3cret"}, "b": ["x\x00"]}
    redact(original)
    assert original == {"a": {"token": "s3cret"}, "b": ["x\x00"]}


def test_nul_is_removed_from_values_and_names_and_hides_no_secret():
    assert redact({"a\x00b": "c\x00d", "to\x00ken": "s3cret"}) == {"ab": "cd", "token": REDACTED}


def test_numbers_that_json_does_not_know_become_null():
    assert redact([math.nan, math.inf, -math.inf, 1.5, 10**30]) == [None, None, None, 1.5, 10**30]


def test_what_is_nested_too_deep_is_cut():
    value = "bottom"
    for _ in range(5000):
        value = [value]
    found = redact(value)
    for _ in range(MAX_DEPTH):
        [found] = found
    assert found == TOO_DEEP


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=30,
)


@given(json_values)
def test_what_comes_out_can_be_stored_and_comes_out_the_same_again(value):
    found = redact(value)
    raw = orjson.dumps(found)
    assert redact(found) == found
    assert b"\\u0000" not in raw.replace(b"\\\\", b"")


@given(st.dictionaries(st.sampled_from(SECRETS + HARMLESS), st.just("s3cret")))
def test_only_secrets_are_replaced(value):
    found = redact(value)
    assert {name for name in found if found[name] == REDACTED} == {name for name in value if is_secret(name)}
