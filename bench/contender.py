"""A contender: a running system that answers our REST API, and what the harness must know of it. Ours is made here."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg

from bench import ours
from bench.data import DataSet
from boostedcalls.devkit.procs import descendants
from boostedcalls.devkit.servers import NATS_CONFIG
from boostedcalls.devkit.stack import Stack
from boostedcalls.devkit.unlimited import UNLIMITED

NatsSync = Literal["always", "default"]
PARTS = ("nats", "postgres", "webhooks", "contacts", "calls", "gateway")


@dataclass
class Contender:
    """A running system.

    name          as in the tables
    url           of its REST API; what is POSTed to `<url>/api/calls/webhook/` is a webhook
    secret        for the header x-vapi-secret
    processes     label -> process ids, those of their children included (workers, Postgres backends)
    database_url  None where there is no database (the floors)
    add_live      add_live(first, count) puts the pending calls `first` and up (data.live_rows) into its database
    live_rows     SQL that selects the live calls whose provider id is between $1 and $2 (text, both included) as
                  (provider_call_id text, status text, reported boolean, updated_at timestamptz): `reported` says
                  whether the transcript is there, `updated_at` when the row was last written
    stack         ours only: to stop and start single services
    """

    name: str
    url: str
    secret: str
    processes: Callable[[], Mapping[str, list[int]]]
    database_url: str | None = None
    add_live: Callable[[int, int], Awaitable[None]] | None = None
    live_rows: str = ""
    stack: Stack | None = None
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


def nats_config(folder: Path, sync: NatsSync) -> Path:
    """Our server's configuration; for `default` a copy without our choice of when to sync."""
    if sync == "always":
        return NATS_CONFIG
    lines = [line for line in NATS_CONFIG.read_text().splitlines(keepends=True) if "sync_interval" not in line]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nats-default-sync.conf"
    # What it includes stays where it is; the server looks for it from the folder of this file, whatever it is called.
    deploy = os.path.relpath(NATS_CONFIG.parent, folder)
    path.write_text("".join(lines).replace('include "', f'include "{deploy}/'))
    return path


def with_children(*pids: int) -> list[int]:
    return sorted({each for pid in pids for each in (pid, *descendants(pid))})


@asynccontextmanager
async def start_ours(
    folder: Path,
    data: DataSet | None,
    *,
    nats_sync: NatsSync,
    replicas: int = 1,
    simulator: bool = False,
    env: Mapping[str, str] | None = None,
) -> AsyncGenerator[Contender]:
    """BoostedCalls with everything it needs. `data` is loaded the first time that the folder is used with it."""
    parts = (*PARTS, "simulator") if simulator else PARTS
    settings = {"ACCESS_TOKEN_MINUTES": "60", **UNLIMITED, **(env or {})}
    if nats_sync == "default":
        # As .env.example says.
        settings["NATS_ATOMIC_BATCHES"] = "false"
    if not simulator:
        # Nothing is placed; and should anything be, it must not leave this machine.
        settings = {"VAPI_BASE_URL": "http://127.0.0.1:9", "VAPI_API_KEY": "none", **settings}
        # And nobody is there to be asked about calls that are left half told.
        settings["SYNC_STEPS"] = "86400"
    if data is not None:
        await ours.load(folder, data)
    # A fresh stream each time: what an earlier run left to do is none of this one's.
    shutil.rmtree(folder / "nats", ignore_errors=True)
    counts = {} if replicas == 1 else dict.fromkeys(("gateway", "webhooks", "contacts", "calls"), replicas)
    config = nats_config(folder, nats_sync)
    async with Stack(folder, parts=parts, replicas=counts, env=settings, nats_config=config, restart=False) as stack:

        def processes() -> dict[str, list[int]]:
            found: dict[str, list[int]] = {}
            for name in parts:
                members = (stack.member(name, index) for index in range(counts.get(name, 1)))
                pids = [member.server.child.pid for member in members if member.server.child.running]
                # Of ours only Postgres has children; looking for them costs CPU time that others should have.
                found[name] = with_children(*pids) if name == "postgres" else pids
            return found

        async def add_live(first: int, count: int) -> None:
            connection = await asyncpg.connect(stack.database_url)
            try:
                await ours.add_live(connection, data or DataSet(), first, count)
            finally:
                await connection.close()

        yield Contender(
            name="BoostedCalls",
            url=stack.url,
            secret=stack.env["VAPI_WEBHOOK_SECRET"],
            processes=processes,
            database_url=stack.database_url,
            add_live=add_live,
            live_rows=ours.LIVE_ROWS,
            stack=stack,
        )
