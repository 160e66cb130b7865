"""Makes the streams and consumers, or brings them up to date: `python -m boostedcalls.common.streams`.

Run it before the services start, and after every upgrade, as the user `admin`: the services may not do it themselves.
It changes nothing that is as it should be.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from boostedcalls.common.bus import connect
from boostedcalls.common.bus.settings import ADMIN, AdminSettings
from boostedcalls.common.bus.streams import CONSUMERS, STREAMS, SUBSCRIBER, ensure_consumer, wait_for_streams
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import load


async def main(stack: AsyncExitStack, runtime: Runtime) -> None:
    """Make them and stop; the process fails with one line when NATS does not answer, or not to us."""
    try:
        bus = await connect(stack, runtime, load(AdminSettings), ADMIN)
        await wait_for_streams(bus, *STREAMS)
        for consumer in (*CONSUMERS, SUBSCRIBER):
            await ensure_consumer(bus, consumer)
        sys.stdout.write(f"{', '.join(STREAMS)}: up to date\n")
    except Unavailable as error:
        sys.stderr.write(f"streams: {error}\n")
        runtime.failed = True
    runtime.stop()


if __name__ == "__main__":
    run(main, "streams", quiet=True)
