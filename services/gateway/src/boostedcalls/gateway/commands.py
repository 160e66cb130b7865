"""The gateway's commands beside serving: users and their passwords, keys, the OpenAPI document."""

from __future__ import annotations

import asyncio
import csv
import getpass
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

import asyncpg
from pydantic import TypeAdapter, ValidationError

from boostedcalls.common.db import DatabaseSettings, Pool, open_pool
from boostedcalls.common.errors import ServiceError, Unavailable, problem
from boostedcalls.common.messages.base import Email
from boostedcalls.common.settings import load
from boostedcalls.gateway.keyfile import add_key, list_keys, retire_key, sign_with
from boostedcalls.gateway.keyring import KeysError
from boostedcalls.gateway.legacy import importable
from boostedcalls.gateway.passwords import MAX_BYTES, MIN_BYTES, Passwords
from boostedcalls.gateway.settings import KeyFileSettings
from boostedcalls.gateway.users import change_password, find_user, insert_user


def _give_up(line: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    raise SystemExit(code)


def _address(email: str) -> str:
    try:
        return TypeAdapter[str](Email).validate_python(email)
    except ValidationError as error:
        _give_up(f"{email}: {error.errors()[0]['msg']}")


def _run(work: Callable[[Pool], Awaitable[str]], failed: Callable[[str], bool] = lambda _: False) -> None:
    """Do something with the database and print what it says; exit code 1 with one line when that cannot be, and when
    what it says means that it `failed`."""
    settings = load(DatabaseSettings)

    async def connected() -> str:
        async with AsyncExitStack() as stack:
            return await work(await open_pool(stack, settings, "gateway-command"))

    try:
        said = asyncio.run(connected())
    except ServiceError as error:
        _give_up(error.detail or error.title)
    except asyncpg.UndefinedTableError:
        _give_up("the database is not migrated; run: python -m boostedcalls.gateway migrate")
    except (OSError, TimeoutError, asyncpg.PostgresError, Unavailable) as error:
        _give_up(str(error) or type(error).__name__)
    sys.stdout.write(f"{said}\n")
    if failed(said):
        raise SystemExit(1)


def add_user(email: str, password: str | None, if_missing: bool) -> None:
    """Add a user; the password is asked for, without echo, when it is not given. Exit code 1 when that cannot be."""
    email, password = _address(email), _checked(password if password is not None else _ask_password())

    async def add(pool: Pool) -> str:
        if if_missing and (known := await find_user(pool, email)):
            return f"{known.email} exists already; nothing was changed"
        try:
            user = await insert_user(pool, email, await Passwords().hash(password))
        except ServiceError as error:
            raise problem(error.code, f"{email}: {error.title}") from None
        return f"added {user.email} ({user.id})"

    _run(add)


def set_password(email: str, password: str | None, if_exists: bool) -> None:
    """Give a user another password and end their sessions. Exit code 1 when there is no such user."""
    email, password = _address(email), _checked(password if password is not None else _ask_password())

    async def change(pool: Pool) -> str:
        user = await find_user(pool, email)
        if user is None and if_exists:
            return f"{email}: no such user; nothing was changed"
        if user is None:
            raise problem("not_found", f"{email}: no such user")
        if await change_password(pool, user, await Passwords().hash(password)) is None:
            raise problem("unavailable", f"{email}: the password was changed by another at the same time; try again")
        return f"{email}: password changed, sessions ended"

    _run(change)


def import_users(path: Path) -> None:
    """Add the users of a CSV file, lines of `email,hash`; those who are there already are left as they are. Says which
    lines were refused, and then leaves with exit code 1."""
    try:
        with sys.stdin if str(path) == "-" else path.open(newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        _give_up(f"{path}: {error}")

    async def add(pool: Pool) -> str:
        counts = Counter[str]()
        for number, (email, *rest) in lines:
            try:
                # A PHC string holds commas; with quotes around it or without.
                await insert_user(pool, TypeAdapter[str](Email).validate_python(email), importable(",".join(rest)))
                counts["added"] += 1
            except ServiceError as error:
                if error.code != "email_taken":
                    raise
                counts["known"] += 1
            except ValueError as error:
                why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                sys.stderr.write(f"line {number}: {why}\n")
                counts["refused"] += 1
        return f"{counts['added']} added, {counts['known']} there already, {counts['refused']} refused"

    _run(add, lambda said: not said.endswith(" 0 refused"))


def edit_keys(action: str, kid: str, algorithm: str, now: bool) -> None:
    """The command `keys`. Exit code 1 with one line when it cannot be done."""
    settings = load(KeyFileSettings)
    if settings.jwt_keys_file is None:
        _give_up("JWT_KEYS_FILE: is missing; name the file of the keys, `keys add` makes it", 2)
    path, minutes = settings.jwt_keys_file, settings.access_token_minutes
    try:
        match action:
            case "list":
                said = list_keys(path)
            case "add":
                said = add_key(path, algorithm)
            case "sign":
                said = sign_with(path, kid, minutes, now=now)
            case _:
                said = retire_key(path, kid, minutes, now=now)
    except KeysError as error:
        _give_up(str(error))
    sys.stdout.write(f"{said}\n")


def _ask_password() -> str:
    """From the terminal, twice and without echo; from elsewhere, the first line."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            _give_up("the two passwords differ")
    except (KeyboardInterrupt, EOFError):
        _give_up("\nno password given", 130)
    return password


def _checked(password: str) -> str:
    if not MIN_BYTES <= len(password.encode()) <= MAX_BYTES:
        _give_up(f"a password has {MIN_BYTES} to {MAX_BYTES} bytes")
    return password


def write_document(path: Path, check: bool) -> None:
    """Write the OpenAPI document, or with `check` only compare: exit code 1 when the file is out of date."""
    from boostedcalls.gateway.app import api_document

    text = json.dumps(api_document(), indent=2, ensure_ascii=False) + "\n"
    if not check:
        path.write_text(text)
    elif not path.is_file() or path.read_text() != text:
        _give_up(f"{path} is out of date; run: python -m boostedcalls.gateway openapi")
