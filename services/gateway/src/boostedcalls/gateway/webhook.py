"""The provider's webhook: authenticated by its raw bytes, handed to the webhooks service, its answer handed back.

The hot path: plain ASGI, beside FastAPI and not inside it, which would cost three times as much as all that is done
here. The body is not parsed; the webhooks service keeps even what is broken.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import time
from typing import Any

from prometheus_client import Counter
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from boostedcalls.common.context import Caller, bind
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.provider import answer_for
from boostedcalls.gateway.deps import CALLER, Deps
from boostedcalls.gateway.drain import to_record
from boostedcalls.gateway.problems import errors, render
from boostedcalls.gateway.settings import GatewaySettings
from boostedcalls.gateway.spool import Refused

log = get_logger(__name__)

type Headers = tuple[tuple[bytes, bytes], ...]

PATH = "/api/calls/webhook/"
_HEADERS = frozenset({b"x-vapi-secret", b"x-signature", b"x-timestamp"})
_RETRY_AFTER = 5
_STORED = ((b"x-stored", b"spool"),)
_MAX_AGE = 300
_TIMESTAMP = re.compile(r"[0-9]{1,16}")
# A number of seconds beyond this would be in the year 5138: it counts milliseconds.
_MILLISECONDS = 10**11

SPOOLED = Counter("boostedcalls_webhooks_spooled_total", "Webhooks stored in the spool", ["reason"])


@dataclass(frozen=True, slots=True)
class Keys:
    """What the provider may prove itself with: secrets for x-vapi-secret, and one for signatures."""

    secrets: tuple[bytes, ...]
    hmac: bytes | None


def keys(settings: GatewaySettings) -> Keys:
    found = (settings.vapi_webhook_secret, settings.vapi_webhook_secret_previous)
    return Keys(tuple(_bytes(secret) for secret in found if secret), _bytes(settings.vapi_webhook_hmac_secret) or None)


def _bytes(secret: SecretStr | None) -> bytes:
    return secret.get_secret_value().encode() if secret else b""


def _same(left: bytes, right: bytes) -> bool:
    """Compared by digest, so that the time says nothing of where, or after how many bytes, they differ."""
    return hmac.compare_digest(hashlib.sha256(left).digest(), hashlib.sha256(right).digest())


def secret_is_right(given: bytes, secrets: Sequence[bytes]) -> bool:
    """Nothing given, or nothing configured, is never right."""
    found = [_same(given, secret) for secret in secrets if secret]
    return bool(given) and any(found)


def signature_is_right(signature: str, timestamp: str, body: bytes, secret: bytes | None, now: float) -> bool:
    """Whether the signature is hex HMAC-SHA256 of `<timestamp>.<body>`, no older or newer than 300 s.

    `timestamp` is in seconds or milliseconds, `now` in seconds.
    """
    if not secret or not signature or not _TIMESTAMP.fullmatch(timestamp):
        return False
    at = int(timestamp)
    if abs(now - (at / 1000 if at > _MILLISECONDS else at)) > _MAX_AGE:
        return False
    expected = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return _same(signature.removeprefix("sha256=").lower().encode(), expected.encode())


class WebhookDoor:
    """The webhook's address, as an ASGI application of its own."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._keys = keys(deps.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ServiceError for whatever is not answered 200, and ClientDisconnect."""
        who: Caller = scope[CALLER]
        if scope["method"] != "POST":
            await render(problem("method_not_allowed"), who.request_id, {"Allow": "POST"})(scope, receive, send)
            return
        who = replace(who, received_at=datetime.now(UTC))
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        trusted = secret_is_right(headers.get(b"x-vapi-secret", b""), self._keys.secrets)
        if not trusted and not self._keys.hmac:
            # A stranger's body is not even read.
            raise problem("webhook_auth_failed")
        body = await Request(scope, receive).body()
        if not trusted and not signature_is_right(
            headers.get(b"x-signature", b"").decode("latin-1"),
            headers.get(b"x-timestamp", b"").decode("latin-1"),
            body,
            self._keys.hmac,
            time(),
        ):
            raise problem("webhook_auth_failed")
        answer, stored = await _take_in(self._deps, who, body)
        lines = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json"), *stored]
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": answer})


async def _take_in(deps: Deps, who: Caller, body: bytes) -> tuple[bytes, Headers]:
    """The body and more headers to answer with when the webhook is stored: by the webhooks service, else in the spool.
    Raises ServiceError."""
    reason = deps.breaker.why_not_ask()
    asked = deps.spool is None or not reason
    if asked:
        try:
            return await deps.breaker.ask(who, body), ()
        except ServiceError as error:
            if error.code == "payload_too_large":
                raise
            bind(who)
            log.warning("webhook_not_taken", code=error.code, detail=error.detail, error_id=error.error_id)
            reason = error.code
    if deps.spool is None:
        raise problem("unavailable", retry_after=_RETRY_AFTER)
    try:
        await deps.spool.append(to_record(who, body))
    except Refused:
        return await _last_resort(deps, who, body, asked=asked)
    SPOOLED.labels(reason).inc()
    return answer_for(body), _STORED


async def _last_resort(deps: Deps, who: Caller, body: bytes, *, asked: bool) -> tuple[bytes, Headers]:
    """Without the spool the webhooks service is asked even where it is not expected to answer: the provider sends a
    report once."""
    if not asked:
        try:
            return await deps.breaker.ask(who, body), ()
        except ServiceError as error:
            if error.code == "payload_too_large":
                raise
    raise problem("unavailable", retry_after=_RETRY_AFTER)


OPERATION: dict[str, Any] = {
    "tags": ["Calls"],
    "summary": "Receive the provider's report of a call",
    "description": "For the provider alone. 200 means that the report is stored durably.",
    "operationId": "receive_webhook",
    "security": [{"webhookSecret": []}, {"webhookSignature": []}],
    "requestBody": {
        "required": True,
        "description": "The provider's envelope. Whatever it is: authenticated bytes are kept.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    "responses": {
        "200": {
            "description": "Stored. Messages that want an answer (tool calls, say) get theirs instead of `ok`.",
            "headers": {
                "X-Stored": {
                    "description": "`spool`: kept on the gateway's disk, because what is behind it did not answer",
                    "schema": {"type": "string", "enum": ["spool"]},
                }
            },
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **{
            str(status): answer
            for status, answer in errors(
                "webhook_auth_failed", "payload_too_large", "unavailable", "internal_error"
            ).items()
        },
    },
}

SECURITY_SCHEMES: dict[str, Any] = {
    "webhookSecret": {"type": "apiKey", "in": "header", "name": "x-vapi-secret"},
    "webhookSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "x-signature",
        "description": "Hex HMAC-SHA256 of `<x-timestamp>.<body>`, where the operator configured its key",
    },
}
