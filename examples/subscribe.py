"""Print call events from NATS. `core`: those that happen now; `durable`: all since it was last here. Usage:
. .run/env; export NATS_URL NATS_SUBSCRIBER_PASSWORD; .venv/bin/python examples/subscribe.py core|durable
(beside `make run`)"""

import asyncio
import contextlib
import os
import sys

import nats

USER = "subscriber"


async def main(durable: bool) -> None:
    connection = await nats.connect(
        os.environ["NATS_URL"].split(","),
        user=USER,
        password=os.environ["NATS_SUBSCRIBER_PASSWORD"],
        inbox_prefix=f"_INBOX_{USER}",
        max_reconnect_attempts=-1,
    )
    if durable:
        events = await connection.jetstream().pull_subscribe_bind(durable=USER, stream="CALL_EVENTS")
    else:
        events = await connection.subscribe("bc.evt.call.>")
    while True:
        with contextlib.suppress(TimeoutError):
            message = (await events.fetch(1, timeout=2))[0] if durable else await events.next_msg(timeout=2)
            print(message.subject, message.data.decode(), flush=True)
            if durable:
                await message.ack()


if sys.argv[1:] not in (["core"], ["durable"]) or not {"NATS_URL", "NATS_SUBSCRIBER_PASSWORD"} <= os.environ.keys():
    sys.exit(__doc__)
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(durable=sys.argv[1] == "durable"))
