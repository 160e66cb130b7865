"""Composition root of the simulator."""

from __future__ import annotations

from contextlib import AsyncExitStack

from boostedcalls.common.logs import get_logger
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import load
from boostedcalls.simulator.app import serve
from boostedcalls.simulator.settings import SimulatorSettings

log = get_logger(__name__)


def main() -> None:
    settings = load(SimulatorSettings)

    async def start(stack: AsyncExitStack, _: Runtime) -> None:
        url = await stack.enter_async_context(serve(settings))
        log.info("listening", url=url)

    run(start, "simulator")


if __name__ == "__main__":
    main()
