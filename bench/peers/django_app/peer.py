"""Starts the Django peer: Postgres, migrations, the data set, gunicorn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench.contender import Contender, NatsSync, with_children
from bench.data import PASSWORD, DataSet, User
from bench.peers.load import Tables, add_live, load
from bench.peers.serving import JWT_SECRET, SECRET, python, run_once, running
from boostedcalls.devkit.net import HOST, reserved_port
from boostedcalls.devkit.servers import postgres_server

_GUNICORN = ("--worker-class", "gthread", "--workers", "2", "--threads", "4", "--keep-alive", "75", "--backlog", "2048")
_QUIET = ("--log-level", "warning", "--no-control-socket")
_USER = (
    "id",
    "username",
    "email",
    "password",
    "first_name",
    "last_name",
    "is_superuser",
    "is_staff",
    "is_active",
    "date_joined",
)
_INDEX = "CREATE INDEX IF NOT EXISTS calls_call_newest ON calls_call (user_id, created_at DESC)"


def _key(user_id: UUID) -> int:
    """Django's users have numbers."""
    return (user_id.int & 0xFFFF_FFFF_FFFF) + 1


@cache
def _password() -> str:
    # Not above: the other peers' processes have no use for Django.
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    return PBKDF2PasswordHasher().encode(PASSWORD, "salt-of-the-bench")


def _user(user: User) -> tuple[Any, ...]:
    now = datetime.now(UTC)
    return _key(user.id), user.email, user.email, _password(), "", "", False, False, True, now


TABLES = Tables("auth_user", "calls_contact", "calls_call", _USER, _user, _key)


@asynccontextmanager
async def start(
    folder: Path,
    data: DataSet | None,
    *,
    nats_sync: NatsSync,
    tuned: bool = False,
    index: bool = False,
    env: Mapping[str, str] | None = None,
) -> AsyncGenerator[Contender]:
    """`django`, or `django-persistent` when tuned. Without `data` the folder's database is used as it is.

    `nats_sync` says nothing here. `env`: VAPI_BASE_URL and what else the settings read.
    """
    settings = {
        "DJANGO_SETTINGS_MODULE": "bench.peers.django_app.settings",
        "JWT_SECRET": JWT_SECRET,
        "VAPI_WEBHOOK_SECRET": SECRET,
        "TUNED": str(int(tuned)),
        **(env or {}),
    }

    async def migrate(url: str) -> None:
        arguments = ("-m", "django", "migrate", "--verbosity", "0")
        await run_once(python("django-migrate", folder, arguments, {**settings, "DATABASE_URL": url}))

    if data is not None:
        await load(folder, data, TABLES, migrate)
    async with postgres_server(folder / "postgres") as postgres:
        if data is None:
            await migrate(postgres.url)
        await _set_index(postgres.url, wanted=index)
        with reserved_port() as port:
            url = f"http://{HOST}:{port}"
            settings |= {"DATABASE_URL": postgres.url, "VAPI_WEBHOOK_URL": f"{url}/api/calls/webhook/"}
            arguments = ("-m", "gunicorn", *_GUNICORN, *_QUIET, "--bind", f"{HOST}:{port}")
            child = python("django", folder, (*arguments, "bench.peers.django_app.wsgi:application"), settings)
            async with running(child, port) as app:
                yield Contender(
                    name=("django-persistent" if tuned else "django") + (" + index" if index else ""),
                    url=url,
                    secret=SECRET,
                    processes=lambda: {
                        "gunicorn": with_children(app.pid),
                        "postgres": with_children(postgres.child.pid),
                    },
                    database_url=postgres.url,
                    add_live=partial(add_live, postgres.url, TABLES, data or DataSet()),
                    live_rows=TABLES.live_rows,
                )


async def _set_index(url: str, *, wanted: bool) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(_INDEX if wanted else "DROP INDEX IF EXISTS calls_call_newest", timeout=600)
    await connection.execute("ANALYZE calls_call")
    await connection.close()
