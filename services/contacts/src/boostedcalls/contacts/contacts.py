"""A user's contacts: requests -> answers. Owns which changes become events; phone.py owns how numbers are read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from boostedcalls.common import subjects
from boostedcalls.common.context import Caller
from boostedcalls.common.db import connection, transaction
from boostedcalls.common.errors import problem
from boostedcalls.common.events import CONTACT_CREATED, CONTACT_DELETED, CONTACT_UPDATED, ContactEvent, EventType
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.messages.contacts import (
    Contact,
    ContactId,
    ContactWrite,
    Count,
    ListContacts,
    ReplaceContact,
    UpdateContact,
)
from boostedcalls.common.outbox import Pending, enqueue
from boostedcalls.contacts import store
from boostedcalls.contacts.deps import SCHEMA, Deps
from boostedcalls.contacts.phone import known_region, normalise
from boostedcalls.contacts.store import CONTACTS


async def list_contacts(deps: Deps, who: Caller, request: ListContacts) -> bytes:
    """A ContactPage."""
    async with transaction(deps.pool, who.user) as reader:
        total = await store.count(reader, CONTACTS, who.user, request.q)
        page = await store.page(reader, CONTACTS, who.user, request.cursor, request.limit, request.q)
    return page.answer(total)


async def count_contacts(deps: Deps, who: Caller, _: Nothing) -> Count:
    async with connection(deps.pool, who.user) as reader:
        return Count(count=await store.count(reader, CONTACTS, who.user))


async def get_contact(deps: Deps, who: Caller, request: ContactId) -> Contact:
    async with connection(deps.pool, who.user) as reader:
        return _contact(await store.get(reader, CONTACTS, who.user, request.contact_id))


async def create_contact(deps: Deps, who: Caller, request: ContactWrite) -> Contact:
    values = _values(deps, request)
    async with transaction(deps.pool, who.user) as writer:
        row = await store.insert(writer, CONTACTS, who.user, values)
        await enqueue(writer, SCHEMA, [_event(CONTACT_CREATED, who, row["id"])])
    deps.relay.wake()
    return _contact(row)


async def replace_contact(deps: Deps, who: Caller, request: ReplaceContact) -> Contact:
    return await _change(deps, who, request.contact_id, _values(deps, request.contact))


async def update_contact(deps: Deps, who: Caller, request: UpdateContact) -> Contact:
    """Change the members that were sent. `region` only says how `phone` is read: alone it changes nothing."""
    changes = request.changes
    values = changes.model_dump(include=changes.model_fields_set - {"region"})
    region = _region(deps, changes.region)
    if "phone" in values:
        values["phone"] = normalise(changes.phone, region)
    return await _change(deps, who, request.contact_id, values)


async def delete_contact(deps: Deps, who: Caller, request: ContactId) -> Nothing:
    async with transaction(deps.pool, who.user) as writer:
        if not await store.delete(writer, CONTACTS, who.user, request.contact_id):
            raise problem("contact_not_found")
        await enqueue(writer, SCHEMA, [_event(CONTACT_DELETED, who, request.contact_id)])
    deps.relay.wake()
    return Nothing()


async def _change(deps: Deps, who: Caller, contact_id: UUID, values: dict[str, Any]) -> Contact:
    async with transaction(deps.pool, who.user) as writer:
        row, changed = await store.change(writer, CONTACTS, who.user, contact_id, values)
        if changed:
            await enqueue(writer, SCHEMA, [_event(CONTACT_UPDATED, who, contact_id)])
    if changed:
        deps.relay.wake()
    return _contact(row)


def _region(deps: Deps, region: str | None) -> str:
    try:
        return known_region(region or deps.default_region)
    except ValueError as error:
        raise problem("validation_failed", errors=[{"field": "region", "message": str(error)}]) from None


def _values(deps: Deps, contact: ContactWrite) -> dict[str, Any]:
    phone = normalise(contact.phone, _region(deps, contact.region))
    return {**contact.model_dump(exclude={"region"}), "phone": phone}


def _contact(row: asyncpg.Record | None) -> Contact:
    if row is None:
        raise problem("contact_not_found")
    return Contact.model_construct(**dict(row))


def _event(kind: EventType, who: Caller, contact_id: UUID) -> Pending:
    subject = subjects.contact_event(kind.type.rpartition(".")[2], who.user, contact_id)
    return Pending(kind, subject, ContactEvent(contact_id=contact_id, user_id=who.user), who.traceparent)
