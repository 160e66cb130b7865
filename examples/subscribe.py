"""Print call events from NATS. `core`: what happens while it runs; `durable`: all since it was last here. Usage:
. .run/env; export NATS_URL; .venv/bin/python examples/subscribe.py core|durable   (beside a running `make run`)
"""

import asyncio
import os
import sys

import nats


async def main(durable: bool) -> None:
    connection = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)
    if durable:
        events = await connection.jetstream().pull_subscribe("bc.evt.call.>", durable="example", stream="CALL_EVENTS")
    else:
        events = await connection.subscribe("bc.evt.call.>")
    while True:
        try:
            message = (await events.fetch(1, timeout=2))[0] if durable else await events.next_msg(timeout=2)
        except TimeoutError:
            continue
        print(message.subject, message.data.decode(), flush=True)
        if durable:
            await message.ack()


asyncio.run(main(durable=sys.argv[1:] == ["durable"]))
