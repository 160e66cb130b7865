"""Runs the gateway; `migrate`, `user`, `keys` and `openapi` are its commands."""

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
    from boostedcalls.common.settings import demo_secrets, load
    from boostedcalls.gateway.app import start
    from boostedcalls.gateway.settings import GatewaySettings

    settings = load(GatewaySettings)
    sock = _bind(settings.host, settings.port)
    aside = None if settings.operations_port is None else _bind(settings.operations_host, settings.operations_port)

    async def main(stack: AsyncExitStack, runtime: Runtime) -> None:
        if any(way.timestamp is None for way in settings.webhook_ways()):
            get_logger(__name__).warning("signature_without_time", setting="VAPI_WEBHOOK_HMAC_PAYLOAD_FORMAT")
        for name in demo_secrets(settings):
            get_logger(__name__).warning("demo_secret", setting=name, text="for trying it out only: everybody knows it")
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
    users = user.add_parser("import", help="add users with the hashes of their passwords, from a Django database say")
    users.add_argument("path", metavar="FILE", type=Path, help="CSV, lines of email,hash; - for the standard input")
    keys = commands.add_parser("keys", help="the keys of access tokens, in JWT_KEYS_FILE")
    keys = keys.add_subparsers(dest="action", required=True)
    keys.add_parser("list", help="show them, without their secrets")
    new = keys.add_parser("add", help="publish a new one")
    new.add_argument("--alg", choices=["HS256", "EdDSA"], default="HS256")
    for action, text in (("sign", "let this one sign"), ("retire", "remove one that does not sign any more")):
        of = keys.add_parser(action, help=text)
        of.add_argument("kid", metavar="KID")
        of.add_argument("--now", action="store_true", help="do not wait for those who hold tokens")
    openapi = commands.add_parser("openapi", help="write docs/openapi.json")
    openapi.add_argument("--check", action="store_true", help="only say whether it is up to date")
    openapi.add_argument("--path", type=Path, default=Path("docs/openapi.json"))
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.command == "migrate":
        run_command("auth", "boostedcalls.gateway")
    elif arguments.command == "user":
        from boostedcalls.gateway.commands import add_user, import_users, set_password

        if arguments.action == "add":
            add_user(arguments.email, arguments.password, arguments.if_missing)
        elif arguments.action == "import":
            import_users(arguments.path)
        else:
            set_password(arguments.email, arguments.password, arguments.if_exists)
    elif arguments.command == "keys":
        from boostedcalls.gateway.commands import edit_keys

        given = vars(arguments)
        edit_keys(given["action"], given.get("kid", ""), given.get("alg", ""), given.get("now", False))
    elif arguments.command == "openapi":
        from boostedcalls.gateway.commands import write_document

        write_document(arguments.path, arguments.check)
    else:
        _serve()


if __name__ == "__main__":
    main()
