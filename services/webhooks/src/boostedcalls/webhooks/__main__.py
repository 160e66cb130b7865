"""The webhooks process: `python -m boostedcalls.webhooks`. It has no database."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial

from boostedcalls.common.bus import Endpoint, NatsSettings, connect, serve, wait_for_streams
from boostedcalls.common.bus.settings import NatsPassword
from boostedcalls.common.bus.streams import DLQ, PROVIDER_EVENTS
from boostedcalls.common.health import serve_health
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import load
from boostedcalls.webhooks.handlers import ingest, ingest_many


class WebhooksNats(NatsSettings):
    nats_webhooks_password: NatsPassword | None = None


async def start(nats: NatsSettings, stack: AsyncExitStack, runtime: Runtime) -> None:
    """Open everything on the stack and serve. Raises what NATS raises when it is away."""
    bus = await connect(stack, runtime, nats, "webhooks")
    await wait_for_streams(bus, PROVIDER_EVENTS, DLQ)
    endpoints = [
        Endpoint(INGEST_WEBHOOK, partial(ingest, bus)),
        Endpoint(INGEST_WEBHOOKS, partial(ingest_many, bus)),
    ]
    await serve(stack, bus, "webhooks", "0.1.0", endpoints)
    await serve_health(stack, runtime, {"nats": bus.connected})


def main() -> None:
    if sys.argv[1:]:
        sys.stderr.write("usage: python -m boostedcalls.webhooks\n")
        sys.exit(2)
    run(partial(start, load(WebhooksNats)), "webhooks")


if __name__ == "__main__":
    main()
