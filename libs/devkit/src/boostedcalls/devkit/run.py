"""`make run`: a whole BoostedCalls in one terminal, until Ctrl-C.

Owns the terminal, the signals and the exit code. `stack` starts and watches the processes, `environment` decides with
what, `demo` fills in something to look at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from boostedcalls.devkit import demo, environment
from boostedcalls.devkit.console import Console
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.folder import locked, private_folder
from boostedcalls.devkit.net import reserved_port
from boostedcalls.devkit.servers import CHECKOUT
from boostedcalls.devkit.stack import Stack


def run() -> int:
    """Run everything until a signal; 0 after an ordered end, 1 with one line when it could not start."""
    console = Console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Forward(console)])
    return asyncio.run(_until_signal(console))


class _Forward(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.say(record.getMessage())


async def _until_signal(console: Console) -> int:
    work = asyncio.create_task(_run(console))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not work.cancelling():
            console.say("stopping")
            work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await work
    except DevkitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except asyncio.CancelledError:
        console.say("stopped")
    return 0


async def _run(console: Console) -> None:
    started = time.monotonic()
    env = environment.given(Path.cwd())
    home = environment.home_folder(env, CHECKOUT)
    port, parts = environment.gateway_port(env), environment.parts(env)
    private_folder(home, passable=True)
    async with locked(home, "make run"):
        with reserved_port(port):
            pass
        kept = environment.kept_secrets(home)
        stack = Stack(
            home,
            parts=parts,
            env=environment.service_environment(env, kept, parts),
            port=port,
            nats_passwords=environment.nats_users(env, kept),
            sinks=console.sink,
            say=console.say,
        )
        try:
            async with stack:
                environment.write_running(home, stack.env, environment.setting_names(CHECKOUT))
                contact = await _demo(stack, console) if "simulator" in parts else None
                if contact is None:
                    await demo.lock(stack)
                seconds = time.monotonic() - started
                docs = f"http://localhost:{env.get('OPERATIONS_PORT', port)}/docs"
                _welcome(console, f"http://localhost:{port}", docs, contact, seconds, _real(env, parts))
                await asyncio.Event().wait()
        finally:
            environment.forget_running(home)


async def _demo(stack: Stack, console: Console) -> str | None:
    try:
        return await demo.prepare(stack)
    except Exception as error:
        console.say(f"no demonstration data: {error}")
        return None


def _welcome(console: Console, url: str, docs: str, contact: str | None, seconds: float, real: list[str]) -> None:
    lines = ["", f"BoostedCalls is ready after {seconds:.1f} s.", "", f"  API    {url}", f"  docs   {docs}"]
    if contact is not None:
        lines += [
            f"  login  {demo.EMAIL} / {demo.PASSWORD}",
            "",
            "Place a call (paste this into another terminal):",
            "",
        ]
        lines += [demo.curl(url, contact)]
    lines += ["", *real, "Ctrl-C stops everything.", ""]
    for line in lines:
        console.write(line)


def _real(env: Mapping[str, str], parts: list[str]) -> list[str]:
    """What to say where the provider is the real one."""
    if "simulator" in parts:
        return []
    lines = ["CALLS ARE REAL: they ring and cost money. Add a user with: make user EMAIL=you@example.com"]
    if "VAPI_WEBHOOK_URL" not in env:
        lines += ["VAPI_WEBHOOK_URL is not set: the provider cannot report; results come with the next sync only."]
    return [*lines, ""]


def command(service: str, *arguments: str) -> int:
    """Become a command of a service, with the settings of the running `make run`, else with those given.

    Variables in the caller's own environment win.
    """
    env = environment.given(Path.cwd())
    settings = environment.running(environment.home_folder(env, CHECKOUT))
    if settings is None:
        if not {"DATABASE_URL", "DB_HOST"} & env.keys():
            sys.stderr.write("no `make run` is running here: start it, or set DATABASE_URL (or DB_HOST …)\n")
            return 1
        sys.stderr.write("no `make run` is running here: using the environment and .env\n")
    argv = [sys.executable, "-m", f"boostedcalls.{service}", *arguments]
    sys.stdout.flush()
    os.execve(argv[0], argv, {**(settings or {}), **env})  # noqa: S606 - our own program, from a list
