"""Signed webhooks: the provider's HMAC credential in every shape that it can be given, and Standard Webhooks.

The vectors of Standard Webhooks are those of its own Python library: github.com/standard-webhooks/standard-webhooks,
libraries/python/tests/test_webhooks.py, at 33d368b20c55.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
from time import time

import pytest
import pytest_asyncio
from pydantic import ValidationError

from boostedcalls.gateway.signatures import split_format
from boostedcalls.gateway.webhook_settings import WebhookSettings

PATH = "/api/calls/webhook/"
NOW = 1_770_000_000
GOOD = "0123456789abcdef"
KEY, OLD = "the-signing-secret", "the-signing-secret-before"
BODY = b'{"message": {"type": "status-update"}}'

ID, STAMP, PAYLOAD = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
SOMEBODY = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


def ways(**settings):
    return WebhookSettings(**settings, _env_file=None).webhook_ways()


def way(**settings):
    settings = {f"vapi_webhook_hmac_{name}" if name != "url" else "vapi_webhook_url": x for name, x in settings.items()}
    (found,) = ways(**{"vapi_webhook_hmac_secret": KEY, **settings})
    return found


def prove(way, headers, body=BODY, now=NOW):
    """As the door asks: a way of which a header is missing is not asked at all."""
    headers = {name.lower().encode(): value.encode("latin-1") for name, value in headers.items() if value}
    return bool(way.headers <= headers.keys() and way.prove(headers, body, now))


def standard(secret=f"whsec_{SECRET}", **settings):
    (found,) = ways(standard_webhooks_secret=secret, **settings)
    return found


def signed(key=SECRET, message_id=ID, stamp=STAMP, body=PAYLOAD):
    digest = hmac.digest(base64.b64decode(key), f"{message_id}.{stamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


VECTOR = {"webhook-id": ID, "webhook-timestamp": str(STAMP), "webhook-signature": SIGNATURE}


@pytest.mark.parametrize("secret", [SECRET, f"whsec_{SECRET}"])
def test_vector_of_standard_webhooks_is_right(secret):
    assert prove(standard(secret), VECTOR, PAYLOAD, STAMP)
    assert signed() == VECTOR


def test_one_right_signature_among_several_is_enough():
    several = " ".join([SOMEBODY, SOMEBODY.replace("v1", "v2"), SIGNATURE, SOMEBODY])
    assert prove(standard(), {**VECTOR, "webhook-signature": several}, PAYLOAD, STAMP)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": None},
        {"webhook-timestamp": None},
        {"webhook-signature": None},
        {"webhook-id": ""},
        {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJeK"},
        {"webhook-timestamp": "hello"},
        {"webhook-timestamp": str(STAMP + 1)},
        {"webhook-timestamp": f"{STAMP}.0"},
        {"webhook-timestamp": f"+{STAMP}"},
        {"webhook-timestamp": f" {STAMP}"},
        {"webhook-timestamp": "1_614_265_330"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "9" * 17},
        {"webhook-timestamp": "\xb2"},
        {"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="},
        {"webhook-signature": SOMEBODY},
        {"webhook-signature": SIGNATURE.replace("v1", "v2")},
        {"webhook-signature": SIGNATURE.replace("v1", "v1a")},
        {"webhook-signature": SIGNATURE.removeprefix("v1,")},
        {"webhook-signature": SIGNATURE.removesuffix("=")},
        {"webhook-signature": SIGNATURE + "="},
        {"webhook-signature": SIGNATURE.swapcase()},
        {"webhook-signature": "v1,"},
        {"webhook-signature": " ".join([SOMEBODY] * 40 + [SIGNATURE])},
        {"webhook-signature": "\xff\xfe"},
    ],
)
def test_webhook_that_is_not_what_was_signed_is_wrong(changes, attacks):
    headers = {**VECTOR, **changes}
    assert not prove(standard(), {name: value for name, value in headers.items() if value is not None}, PAYLOAD, STAMP)
    attacks("Webhook: Standard Webhooks forged")


def test_other_body_key_or_algorithm_is_wrong(attacks):
    assert not prove(standard(), VECTOR, PAYLOAD + b" ", STAMP)
    assert not prove(standard(), VECTOR, b"", STAMP)
    assert not prove(standard(), signed(base64.b64encode(b"x" * 24)), PAYLOAD, STAMP)
    assert not prove(standard(), signed(""), PAYLOAD, STAMP)
    content = f"{ID}.{STAMP}.".encode() + PAYLOAD
    for algorithm in ("sha1", "sha512", "md5"):
        value = base64.b64encode(hmac.digest(base64.b64decode(SECRET), content, algorithm)).decode()
        assert not prove(standard(), {**VECTOR, "webhook-signature": f"v1,{value}"}, PAYLOAD, STAMP)
    # The secret as it is written is not the key.
    value = base64.b64encode(hmac.digest(SECRET.encode(), content, "sha256")).decode()
    assert not prove(standard(), {**VECTOR, "webhook-signature": f"v1,{value}"}, PAYLOAD, STAMP)
    attacks("Webhook: Standard Webhooks forged", 8)


@pytest.mark.parametrize("unit", [1, 1000])
def test_signature_is_good_for_five_minutes_to_either_side(unit, attacks):
    for shift, right in ((0, True), (-300, True), (300, True), (-301, False), (301, False), (-(10**8), False)):
        assert prove(standard(), signed(stamp=STAMP * unit), PAYLOAD, STAMP + shift) is right
    attacks("Webhook: other times", 3)


def test_two_keys_are_right_while_both_are_configured():
    other = base64.b64encode(b"another key of 24 bytes!").decode()
    both = standard(standard_webhooks_secret_previous=other)
    for found in (signed(), signed(other)):
        assert prove(both, found, PAYLOAD, STAMP)
    assert not prove(standard(), signed(other), PAYLOAD, STAMP)
    # The sender gives a signature of each: of whichever is left out, it is the same message.
    first, second = (
        both.prove({name.encode(): value.encode() for name, value in found.items()}, PAYLOAD, STAMP)
        for found in (signed(), signed(other))
    )
    assert first == second != b""


# The provider's credential: every shape of it


FORMATS = ["{timestamp}.{body}", "{body}", "v0:{timestamp}:{body}", "{svix-id}.{timestamp}.{body}"]
FORMATS += ["{method} {url}\n{timestamp}\n{body}", "{body}.{timestamp}", "{{body}}"]


def fill(payload_format, **values):
    """The text to be signed, in another way than the code under test does it."""
    text = payload_format.encode()
    body = values.pop("body")
    for name, value in values.items():
        text = text.replace(b"{%b}" % name.encode(), value)
    return text.replace(b"{body}", body)


@pytest.mark.parametrize("payload_format", FORMATS)
def test_credential_of_any_shape_is_verified_and_nothing_else(payload_format, attacks):
    tried = 0
    values = {"timestamp": str(NOW).encode(), "svix-id": b"msg.1", "method": b"POST", "url": b"https://a.example/b?c"}
    for algorithm, encoding, prefix, is_base64 in itertools.product(
        ("sha256", "sha512", "sha1"), ("hex", "base64"), ("", "sig:", "sha256="), (False, True)
    ):
        secret = base64.b64encode(KEY.encode()).decode() if is_base64 else KEY
        found = way(
            secret=secret,
            secret_is_base64=is_base64,
            algorithm=algorithm,
            signature_encoding=encoding,
            signature_prefix=prefix,
            signature_header="X-Signed",
            timestamp_header="X-When",
            message_id_header="X-Id",
            payload_format=payload_format,
            url="https://a.example/b?c",
        )
        digest = hmac.digest(KEY.encode(), fill(payload_format, body=BODY, **values), algorithm)
        text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
        headers = {"x-signed": prefix + text, "x-when": str(NOW), "x-id": "msg.1"}
        assert prove(found, headers)
        wrong = [
            {**headers, "x-signed": prefix + text[:-1]},
            {**headers, "x-signed": prefix + text + "0"},
            {**headers, "x-signed": "other" + prefix + text},
            {**headers, "x-signed": prefix + prefix + text if prefix else "x" + text},
            {**headers, "x-signed": prefix},
            {**headers, "x-signed": prefix + ("0" * len(text))},
            {"x-when": str(NOW), "x-id": "msg.1", "x-signature": prefix + text},
        ]
        if prefix:
            wrong.append({**headers, "x-signed": text})
        if "{timestamp}" in payload_format:
            wrong += [{**headers, "x-when": str(NOW + 1)}, {**headers, "x-when": ""}]
        if "{svix-id}" in payload_format:
            wrong += [{**headers, "x-id": "msg.2"}, {**headers, "x-id": ""}]
        for one in wrong:
            assert not prove(found, one), one
        assert not prove(found, headers, BODY + b"\n")
        tried += len(wrong) + 1
    attacks("Webhook: HMAC credential forged", tried)


def test_hex_may_be_written_in_either_case_and_with_its_algorithm():
    digest = hmac.digest(KEY.encode(), b"%d." % NOW + BODY, "sha256").hex()
    for text in (digest, digest.upper(), f"sha256={digest}"):
        assert prove(way(), {"x-signature": text, "x-timestamp": str(NOW)})
    assert not prove(way(), {"x-signature": f"sha1={digest}", "x-timestamp": str(NOW)})


def test_key_before_the_last_change_is_right_while_it_is_configured():
    digest = hmac.digest(OLD.encode(), b"%d." % NOW + BODY, "sha256").hex()
    headers = {"x-signature": digest, "x-timestamp": str(NOW)}
    assert prove(way(secret_previous=OLD), headers)
    assert not prove(way(), headers)


def test_time_that_is_not_signed_is_not_looked_at():
    found = way(payload_format="{body}")
    digest = hmac.digest(KEY.encode(), BODY, "sha256").hex()
    assert found.timestamp is None
    for stamp in ("", "1", "rubbish"):
        assert prove(found, {"x-signature": digest, "x-timestamp": stamp})


@pytest.mark.parametrize("text", ["", "{timestamp}", "{body}{body}", "{timestamp}{body}", "{Body}", "{body}.{secret}"])
def test_format_that_proves_too_little_is_refused(text):
    with pytest.raises(ValueError, match=r"needs|knows no"):
        split_format(text)


def test_secrets_that_anybody_could_guess_are_refused(attacks):
    weak = [
        {},
        {"vapi_webhook_secret": "x" * 15},
        {"vapi_webhook_hmac_secret": "x" * 15},
        {"vapi_webhook_hmac_secret": base64.b64encode(b"x" * 15).decode(), "vapi_webhook_hmac_secret_is_base64": True},
        {"standard_webhooks_secret": "whsec_" + base64.b64encode(b"x" * 23).decode()},
        {"standard_webhooks_secret": "whsec_"},
        {"vapi_webhook_secret_previous": "x" * 32},
        {"vapi_webhook_secret": "a" * 16},
        {"vapi_webhook_secret": "abcdefg" * 9},
        {"vapi_webhook_secret": GOOD, "vapi_webhook_secret_previous": "a" * 32},
        {"vapi_webhook_hmac_secret": "a" * 16},
        {"vapi_webhook_hmac_secret": GOOD, "vapi_webhook_hmac_secret_previous": "abcdefg" * 9},
        {"vapi_webhook_hmac_secret": base64.b64encode(b"x" * 32).decode(), "vapi_webhook_hmac_secret_is_base64": True},
        {"standard_webhooks_secret": "whsec_" + base64.b64encode(b"x" * 32).decode()},
        {"standard_webhooks_secret": SECRET, "standard_webhooks_secret_previous": base64.b64encode(b"x" * 32).decode()},
    ]
    WebhookSettings(vapi_webhook_secret=GOOD, _env_file=None)
    for settings in weak:
        with pytest.raises(ValidationError, match=r"needs at least|too easy to guess|is missing"):
            WebhookSettings(**settings, _env_file=None)
    attacks("Webhook: weak or missing secrets", len(weak))


DEMO = "demo-only-webhook-secret"


@pytest.mark.parametrize("way", [{"vapi_webhook_hmac_secret": KEY}, {"standard_webhooks_secret": SECRET}])
def test_demo_secret_is_none_where_webhooks_are_signed(way):
    secrets = {"vapi_webhook_secret": DEMO, "vapi_webhook_secret_previous": GOOD}
    assert WebhookSettings(**secrets, _env_file=None).webhook_secrets() == (DEMO.encode(), GOOD.encode())
    assert WebhookSettings(**secrets, **way, _env_file=None).webhook_secrets() == (GOOD.encode(),)
    secrets = {"vapi_webhook_secret": GOOD, "vapi_webhook_secret_previous": DEMO}
    assert WebhookSettings(**secrets, **way, _env_file=None).webhook_secrets() == (GOOD.encode(),)


# At the door


async def test_demo_secret_does_not_open_a_door_that_takes_signatures(running, dsn, nats_server, attacks):
    options = {"vapi_webhook_secret": DEMO, "standard_webhooks_secret": SECRET}
    async with running(dsn, nats_server.url, **options) as signing:
        answer = await signing.client.post(PATH, content=PAYLOAD, headers={"x-vapi-secret": DEMO})
        signing.is_problem(answer, 401, "webhook_auth_failed")
        answer = await signing.client.post(PATH, content=PAYLOAD, headers=signed(stamp=int(time())))
        signing.is_problem(answer, 503, "unavailable")
    attacks("Webhook: the secret of the demo")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def signing(running, dsn, nats_server):
    """A gateway that takes nothing but Standard Webhooks."""
    options = {"vapi_webhook_secret": None, "standard_webhooks_secret": SECRET}
    async with running(dsn, nats_server.url, **options) as found:
        yield found


async def test_gateway_takes_only_what_is_configured(gateway, signing, attacks):
    # Nobody takes webhooks here, so one that is let in is answered 503.
    right = signed(stamp=int(time()))
    answer = await signing.client.post(PATH, content=PAYLOAD, headers=right)
    signing.is_problem(answer, 503, "unavailable")
    signing.is_problem(await signing.client.post(PATH, content=PAYLOAD, headers=VECTOR), 401, "webhook_auth_failed")
    for secret in (gateway.webhook_secret, SECRET, f"whsec_{SECRET}", "", "None"):
        answer = await signing.client.post(PATH, content=PAYLOAD, headers={"x-vapi-secret": secret})
        signing.is_problem(answer, 401, "webhook_auth_failed")
    gateway.is_problem(await gateway.client.post(PATH, content=PAYLOAD, headers=right), 401, "webhook_auth_failed")
    attacks("Webhook: ways that are not configured", 7)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_body_of_a_stranger_is_not_read(signing, missing, attacks):
    headers = signed(stamp=int(time()))
    headers.pop(missing)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", int(signing.url.rpartition(":")[2]))
    # Of the million bytes that are announced none comes.
    writer.write(f"POST {PATH} HTTP/1.1\r\nContent-Length: 1000000\r\n{lines}\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    attacks("Webhook: body without a signature")


async def test_refusals_do_not_say_what_was_wrong(signing, attacks):
    right = signed(stamp=int(time()))
    wrong = [
        {},
        {**right, "webhook-signature": SOMEBODY},
        {**right, "webhook-timestamp": "0"},
        signed(stamp=int(time()) - 1000),
        {**right, "webhook-id": "other"},
    ]
    found = []
    for headers in wrong:
        answer = await signing.client.post(PATH, content=PAYLOAD, headers={**headers, "x-request-id": "same"})
        found.append((answer.status_code, answer.content, {**answer.headers, "date": ""}))
    assert all(one == found[0] for one in found)
    attacks("Webhook: asking what was wrong", len(wrong))
