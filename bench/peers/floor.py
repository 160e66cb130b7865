"""The floor: how fast anything behind uvicorn can be (uvloop, httptools, one process, no access log).

`publish` puts the body of a webhook into a JetStream stream configured as ours, with the subject ours would have and a
message id, and answers after the PubAck: what no way through NATS can do without. It finds the call's id with a regular
expression, which is cheaper than parsing. `constant` reads the body and answers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import nats as nats_client  # noqa: TID251 - bare: nothing of ours is in between
from nats.js import JetStreamContext  # noqa: TID251

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CALL = re.compile(rb'"call":\s*\{[^{}]*?"id":\s*"([A-Za-z0-9_-]{1,64})"')
_KIND = re.compile(rb'"type":\s*"([A-Za-z0-9_-]{1,64})"')
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"11")]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS}
_BODY = {"type": "http.response.body", "body": b'{"ok":true}'}


async def _read(receive: Receive) -> bytes:
    event = await receive()
    body: bytes = event.get("body", b"")
    while event.get("more_body"):
        event = await receive()
        body += event.get("body", b"")
    return body


async def constant(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Reads the body and answers a constant."""
    if scope["type"] != "http":
        return
    await _read(receive)
    await send(_START)
    await send(_BODY)


class _Publish:
    """Puts the body into the stream, then answers a constant. Without a body (a probe) it only answers."""

    _jetstream: JetStreamContext

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if body := await _read(receive):
            kind, call = _KIND.search(body), _CALL.search(body)
            subject = "bc.evt.provider.{}.{}".format(
                kind[1].decode() if kind else "unknown", call[1].decode() if call else "none"
            )
            await self._jetstream.publish(
                subject, body, headers={"Nats-Msg-Id": hashlib.sha256(body).hexdigest()}, timeout=5
            )
        await send(_START)
        await send(_BODY)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        client = await nats_client.connect(os.environ["NATS_URL"])
        self._jetstream = client.jetstream()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await client.close()
        await send({"type": "lifespan.shutdown.complete"})


publish = _Publish()
