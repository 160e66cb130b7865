"""The gateway's commands beside serving: adding a user, writing the OpenAPI document."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

import asyncpg
from pydantic import TypeAdapter, ValidationError

from boostedcalls.common.db import DatabaseSettings, open_pool
from boostedcalls.common.errors import ServiceError, Unavailable
from boostedcalls.common.messages.base import Email
from boostedcalls.common.settings import load
from boostedcalls.gateway.passwords import MAX_BYTES, MIN_BYTES, Passwords
from boostedcalls.gateway.users import find_user, insert_user


def _give_up(line: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    raise SystemExit(code)


def add_user(email: str, password: str | None, if_missing: bool) -> None:
    """Add a user; the password is asked for, without echo, when it is not given. Exit code 1 when that cannot be."""
    settings = load(DatabaseSettings)
    try:
        email = TypeAdapter[str](Email).validate_python(email)
    except ValidationError as error:
        _give_up(f"{email}: {error.errors()[0]['msg']}")
    try:
        said = asyncio.run(_add_user(settings, email, password, if_missing))
    except ServiceError as error:
        _give_up(f"{email}: {error.title}")
    except asyncpg.UndefinedTableError:
        _give_up("the database is not migrated; run: python -m boostedcalls.gateway migrate")
    except (OSError, TimeoutError, asyncpg.PostgresError, Unavailable) as error:
        _give_up(f"the database does not answer: {error}")
    sys.stdout.write(f"{said}\n")


async def _add_user(settings: DatabaseSettings, email: str, password: str | None, if_missing: bool) -> str:
    async with AsyncExitStack() as stack:
        pool = await open_pool(stack, settings, "gateway-command")
        if if_missing and (known := await find_user(pool, email)):
            return f"{known.email} exists already; nothing was changed"
        password = _checked(password if password is not None else await asyncio.to_thread(_ask_password))
        user = await insert_user(pool, email, await Passwords().hash(password))
        return f"added {user.email} ({user.id})"


def _ask_password() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        _give_up("the two passwords differ")
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
