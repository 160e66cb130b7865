"""Who may report to us: the provider's secret (two of them while it changes), or its signature. Nobody else."""

import hashlib
import hmac
from time import time

import pytest
import pytest_asyncio

from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK
from boostedcalls.gateway.signatures import Secrets

PATH = "/api/calls/webhook/"
BODY = b'{"message": {"type": "status-update"}}'
PREVIOUS = "the-secret-before"
SIGNING = "the-signing-secret"


def signature(body=BODY, timestamp=None, secret=SIGNING, prefix=""):
    timestamp = str(int(time())) if timestamp is None else timestamp
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"x-signature": prefix + digest, "x-timestamp": timestamp}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def signing(running, dsn, nats_server):
    """A gateway that takes signatures too, and the previous secret."""
    options = {"vapi_webhook_secret_previous": PREVIOUS, "vapi_webhook_hmac_secret": SIGNING}
    async with running(dsn, nats_server.url, **options) as found:
        yield found


# Nobody takes webhooks here, so one that is let in is answered 503.
async def assert_let_in(gateway, headers, body=BODY):
    answer = await gateway.client.post(PATH, content=body, headers=headers)
    gateway.is_problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def assert_kept_out(gateway, headers, body=BODY):
    gateway.is_problem(await gateway.client.post(PATH, content=body, headers=headers), 401, "webhook_auth_failed")


async def test_right_secret_is_let_in(gateway, signing):
    await assert_let_in(gateway, {"x-vapi-secret": gateway.webhook_secret})
    await assert_let_in(signing, {"X-Vapi-Secret": gateway.webhook_secret})


async def test_previous_secret_is_let_in_only_while_it_is_configured(gateway, signing):
    await assert_let_in(signing, {"x-vapi-secret": PREVIOUS})
    await assert_kept_out(gateway, {"x-vapi-secret": PREVIOUS})


@pytest.mark.parametrize("secret", ["", "wrong", "test-webhook-secre", "test-webhook-secret2", "TEST-WEBHOOK-SECRET"])
async def test_wrong_secret_is_kept_out(gateway, signing, secret):
    for one in (gateway, signing):
        await assert_kept_out(one, {"x-vapi-secret": secret.encode()})


async def test_secret_of_other_bytes_is_kept_out(gateway):
    await assert_kept_out(gateway, {"x-vapi-secret": b"\xff\xfe"})


async def test_missing_secret_is_kept_out(gateway, signing):
    await assert_kept_out(gateway, {})
    await assert_kept_out(signing, {})
    await assert_kept_out(gateway, gateway.bearer())


async def test_secret_elsewhere_than_in_its_header_is_kept_out(gateway):
    await assert_kept_out(gateway, {"authorization": f"Bearer {gateway.webhook_secret}"})
    answer = await gateway.client.post(PATH, params={"secret": gateway.webhook_secret}, content=BODY)
    gateway.is_problem(answer, 401, "webhook_auth_failed")


async def test_right_signature_is_let_in(signing):
    await assert_let_in(signing, signature())
    await assert_let_in(signing, signature(prefix="sha256="))
    await assert_let_in(signing, signature(timestamp=str(int(time() * 1000))))
    await assert_let_in(signing, {**signature(), "x-vapi-secret": ""})
    await assert_let_in(signing, signature(b"\xff\x00"), b"\xff\x00")


async def test_signature_counts_for_nothing_where_none_is_configured(gateway):
    await assert_kept_out(gateway, signature())
    await assert_kept_out(gateway, signature(secret=""))


async def test_wrong_signature_is_kept_out(signing):
    await assert_kept_out(signing, signature(secret="other"))
    await assert_kept_out(signing, signature(secret=""))
    await assert_kept_out(signing, signature(b"other body"))
    await assert_kept_out(signing, {**signature(), "x-timestamp": str(int(time()) - 1)})
    await assert_kept_out(signing, {"x-signature": signature()["x-signature"]})
    await assert_kept_out(signing, {"x-timestamp": signature()["x-timestamp"]})
    await assert_kept_out(signing, {**signature(), "x-signature": ""})
    await assert_kept_out(signing, {**signature(), "x-signature": "sha256="})


@pytest.mark.parametrize("shift", [-301, 301, -(10**6), 10**9])
async def test_signature_of_another_time_is_kept_out(signing, shift):
    await assert_kept_out(signing, signature(timestamp=str(int(time()) + shift)))
    await assert_kept_out(signing, signature(timestamp=str((int(time()) + shift) * 1000)))


@pytest.mark.parametrize("timestamp", ["", "0", "now", "-1", "1e9", "9" * 17, "1.5"])
async def test_signature_with_a_timestamp_that_is_none_is_kept_out(signing, timestamp):
    await assert_kept_out(signing, signature(timestamp=timestamp))


def test_empty_secret_never_opens_the_door():
    assert not Secrets([b""]).have(b"")
    assert not Secrets([]).have(b"")
    assert not Secrets([b""]).have(b"a")
    assert Secrets([b"", b"a"]).have(b"a")
    assert not Secrets([b"", b"a"]).have(b"")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"message": null}'])
async def test_broken_body_of_the_provider_is_handed_on_as_it_is(gateway, body):
    await assert_let_in(gateway, {"x-vapi-secret": gateway.webhook_secret}, body)


async def test_webhook_that_nobody_answers_in_time_is_unavailable(gateway, nats_server, silent_peer):
    async with silent_peer(nats_server.url, INGEST_WEBHOOK):
        await assert_let_in(gateway, {"x-vapi-secret": gateway.webhook_secret})


async def test_webhook_while_nats_is_away_is_unavailable(dsn, nats_server, running):
    async with running(dsn, nats_server.url) as gateway:
        await nats_server.stop()
        try:
            await assert_let_in(gateway, {"x-vapi-secret": gateway.webhook_secret})
        finally:
            await nats_server.start()
