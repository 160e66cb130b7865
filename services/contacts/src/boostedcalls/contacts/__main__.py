"""The contacts process: `python -m boostedcalls.contacts`, and its `migrate` command."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from boostedcalls.common.bus import NatsSettings, connect, endpoint, serve, wait_for_streams
from boostedcalls.common.bus.settings import NatsPassword
from boostedcalls.common.bus.streams import CALL_EVENTS
from boostedcalls.common.db import DatabaseSettings, open_pool, reachable
from boostedcalls.common.health import serve_health
from boostedcalls.common.messages import contacts as messages
from boostedcalls.common.migrate import run_command
from boostedcalls.common.outbox import Relay
from boostedcalls.common.runtime import Runtime, run
from boostedcalls.common.settings import Settings, load
from boostedcalls.contacts import contacts, scripts
from boostedcalls.contacts.deps import SCHEMA, Deps
from boostedcalls.contacts.phone import known_region


class ContactsNats(NatsSettings):
    nats_contacts_password: NatsPassword | None = None


class ContactsSettings(Settings):
    """`default_region` says how a phone number without `+` is read when its contact names no region."""

    default_region: Annotated[str, AfterValidator(known_region)] = "US"


async def start(
    settings: ContactsSettings,
    database: DatabaseSettings,
    nats: NatsSettings,
    stack: AsyncExitStack,
    runtime: Runtime,
) -> None:
    """Open everything on the stack and serve. Raises what the database and NATS raise when they are away."""
    pool = await open_pool(stack, database, SCHEMA)
    bus = await connect(stack, runtime, nats, SCHEMA)
    await wait_for_streams(bus, CALL_EVENTS)
    relay = Relay(bus, pool, SCHEMA)
    stack.push_async_callback(runtime.cancel, runtime.spawn(relay.run(), "outbox"))
    deps = Deps(pool, relay, settings.default_region)
    await serve(
        stack,
        bus,
        SCHEMA,
        "0.1.0",
        [
            endpoint(messages.LIST_CONTACTS, contacts.list_contacts, deps),
            endpoint(messages.CREATE_CONTACT, contacts.create_contact, deps),
            endpoint(messages.GET_CONTACT, contacts.get_contact, deps),
            endpoint(messages.REPLACE_CONTACT, contacts.replace_contact, deps),
            endpoint(messages.UPDATE_CONTACT, contacts.update_contact, deps),
            endpoint(messages.DELETE_CONTACT, contacts.delete_contact, deps),
            endpoint(messages.COUNT_CONTACTS, contacts.count_contacts, deps),
            endpoint(messages.LIST_SCRIPTS, scripts.list_scripts, deps),
            endpoint(messages.CREATE_SCRIPT, scripts.create_script, deps),
            endpoint(messages.GET_SCRIPT, scripts.get_script, deps),
            endpoint(messages.REPLACE_SCRIPT, scripts.replace_script, deps),
            endpoint(messages.UPDATE_SCRIPT, scripts.update_script, deps),
            endpoint(messages.DELETE_SCRIPT, scripts.delete_script, deps),
        ],
    )
    await serve_health(stack, runtime, {"nats": bus.connected, "database": partial(reachable, pool)})


def main() -> None:
    match sys.argv[1:]:
        case []:
            run(partial(start, load(ContactsSettings), load(DatabaseSettings), load(ContactsNats)), SCHEMA)
        case ["migrate"]:
            run_command(SCHEMA, "boostedcalls.contacts")
        case _:
            sys.stderr.write("usage: python -m boostedcalls.contacts [migrate]\n")
            sys.exit(2)


if __name__ == "__main__":
    main()
