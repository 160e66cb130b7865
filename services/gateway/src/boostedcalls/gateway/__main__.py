"""Runs the gateway; `migrate`, `user add` and `openapi` are its commands."""

from __future__ import annotations

import argparse
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from boostedcalls.common.migrate import run_command


def _bind(host: str, port: int) -> socket.socket:
    from boostedcalls.common.http_server import bind

    try:
        return bind(host, port)
    except OSError as error:
        sys.stderr.write(f"cannot start: port {port} on {host}: {error.strerror}\n")
        raise SystemExit(1) from None


def _serve() -> None:
    from boostedcalls.common.logs import get_logger
    from boostedcalls.common.runtime import Runtime, run
    from boostedcalls.common.settings import load
    from boostedcalls.gateway.app import start
    from boostedcalls.gateway.settings import GatewaySettings

    settings = load(GatewaySettings)
    sock = _bind(settings.host, settings.port)
    aside = None if settings.operations_port is None else _bind(settings.operations_host, settings.operations_port)

    async def main(stack: AsyncExitStack, runtime: Runtime) -> None:
        if any(way.timestamp is None for way in settings.webhook_ways()):
            get_logger(__name__).warning("signature_without_time", setting="VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT")
        await start(settings, sock, stack, runtime, aside)

    run(main, "gateway")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m boostedcalls.gateway", description="Without a command: serve.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the schema auth up to date")
    user = commands.add_parser("user", help="manage users").add_subparsers(dest="action", required=True)
    add = user.add_parser("add", help="add a user")
    add.add_argument("email", metavar="EMAIL")
    add.add_argument("--password", help="asked for, without echo, when it is not given")
    add.add_argument("--if-missing", action="store_true", help="leave a user that exists as it is")
    password = user.add_parser("password", help="give a user another password, and end their sessions")
    password.add_argument("email", metavar="EMAIL")
    password.add_argument("--password", help="asked for, without echo, when it is not given")
    password.add_argument("--if-exists", action="store_true", help="no fault when there is no such user")
    openapi = commands.add_parser("openapi", help="write docs/openapi.json")
    openapi.add_argument("--check", action="store_true", help="only say whether it is up to date")
    openapi.add_argument("--path", type=Path, default=Path("docs/openapi.json"))
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.command == "migrate":
        run_command("auth", "boostedcalls.gateway")
    elif arguments.command == "user":
        from boostedcalls.gateway.commands import add_user, set_password

        if arguments.action == "add":
            add_user(arguments.email, arguments.password, arguments.if_missing)
        else:
            set_password(arguments.email, arguments.password, arguments.if_exists)
    elif arguments.command == "openapi":
        from boostedcalls.gateway.commands import write_document

        write_document(arguments.path, arguments.check)
    else:
        _serve()


if __name__ == "__main__":
    main()
