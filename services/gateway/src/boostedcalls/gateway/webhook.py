"""The provider's webhook: authenticated by its raw bytes, handed to the webhooks service, its answer handed back.

The hot path: plain ASGI, beside FastAPI and not inside it, which would cost three times as much as all that is done
here. The body is not parsed; the webhooks service keeps even what is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from time import time
from typing import Any

from prometheus_client import Counter
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from boostedcalls.common.context import Caller, bind
from boostedcalls.common.errors import ServiceError, problem
from boostedcalls.common.logs import get_logger
from boostedcalls.common.provider import answer_for
from boostedcalls.gateway.deps import CALLER, Deps
from boostedcalls.gateway.drain import to_record
from boostedcalls.gateway.problems import errors, render
from boostedcalls.gateway.replays import Replays
from boostedcalls.gateway.rooms import Room, Unproved, crowded
from boostedcalls.gateway.signatures import Secrets
from boostedcalls.gateway.spool import Refused

log = get_logger(__name__)

type Headers = tuple[tuple[bytes, bytes], ...]

PATH = "/api/calls/webhook/"
_SECRET = b"x-vapi-secret"
_RETRY_AFTER = 5
_STORED = ((b"x-stored", b"spool"),)

SPOOLED = Counter("boostedcalls_webhooks_spooled_total", "Webhooks stored in the spool", ["reason"])
REPEATED = Counter("boostedcalls_webhooks_repeated_total", "Signed webhooks that were stored already, byte for byte")


class WebhookDoor:
    """The webhook's address, as an ASGI application of its own."""

    def __init__(self, deps: Deps, room: Room) -> None:
        """`room`: where its requests were let in."""
        self._deps = deps
        self._room = room
        self._unproved = Unproved(room)
        self._secrets = Secrets(deps.settings.webhook_secrets())
        self._ways = [(way, way.headers) for way in deps.settings.webhook_ways()]
        self._headers = frozenset({_SECRET}).union(*(names for _, names in self._ways))
        self._replays = Replays()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ServiceError for whatever is not answered 200, and ClientDisconnect."""
        who: Caller = scope[CALLER]
        if scope["method"] != "POST":
            await render(problem("method_not_allowed"), who.request_id, {"Allow": "POST"})(scope, receive, send)
            return
        who = replace(who, received_at=datetime.now(UTC))
        headers = {name: value for name, value in scope["headers"] if value and name in self._headers}
        if self._secrets.have(headers.get(_SECRET, b"")):
            answer, stored = await _take_in(self._deps, who, await Request(scope, receive).body())
        else:
            answer, stored = await self._take_signed(who, headers, Request(scope, receive))
        lines = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json"), *stored]
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": answer})

    async def _take_signed(
        self, who: Caller, headers: Mapping[bytes, bytes], request: Request
    ) -> tuple[bytes, Headers]:
        """The same of what is only trusted by its signature. One that was stored is not stored again; one that is still
        on its way is not known yet, and the stream knows it for what it is."""
        now = time()
        ways = [way for way, needed in self._ways if needed <= headers.keys() and way.is_fresh(headers, now)]
        if not ways:
            # A stranger's body is not even read.
            raise problem("webhook_auth_failed")
        body = await self._unproved.read(request)
        now = time()
        key = max([way.prove(headers, body, now) for way in ways])
        if not key:
            raise problem("webhook_auth_failed")
        if self._room.taken > self._room.most:
            raise crowded()
        if key in self._replays:
            REPEATED.inc()
            return answer_for(body), ()
        answer, stored = await _take_in(self._deps, who, body)
        self._replays.add(key)
        return answer, stored


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
    "security": [{"webhookSecret": []}, {"webhookSignature": []}, {"standardWebhooks": []}],
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
        "description": "HMAC of `<x-timestamp>.<body>`, where the operator configured its key; header names, "
        "algorithm, encoding and what is signed may be configured otherwise",
    },
    "standardWebhooks": {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": "With `webhook-id` and `webhook-timestamp`, as in standardwebhooks.com, where the operator "
        "configured its key",
    },
}
