"""Creating a call: what a `POST /api/calls/` does, once or again with the same Idempotency-Key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from boostedcalls.calls import idempotency, limits, queries, store
from boostedcalls.calls.dispatch import Deps
from boostedcalls.calls.handlers import PEER, Service
from boostedcalls.calls.idempotency import First, Key
from boostedcalls.calls.state import timeline_entry
from boostedcalls.common.context import Caller, new_id
from boostedcalls.common.db import connection as reading
from boostedcalls.common.db import transaction
from boostedcalls.common.errors import FieldError, problem
from boostedcalls.common.messages.calls import CallStatus, CreateCall, PlaceCall
from boostedcalls.common.messages.contacts import GET_CONTACT, GET_SCRIPT, Contact, ContactId, Script, ScriptId


async def create_call(service: Service, who: Caller, request: PlaceCall) -> bytes:
    """Insert the call, place it, and wait a while for what becomes of that. A repeat gets the first one's answer."""
    deps = service.deps
    key = idempotency.key_of(who, request)
    if key is not None:
        # Before contact and script are asked for: they may be gone by now, or their service away.
        async with reading(deps.pool, who.user) as connection:
            first = await idempotency.find(connection, key)
        if first is not None:
            return await idempotency.repeat(deps.pool, first)
    contact, script = await asyncio.gather(_ask_contact(service, who, request), _ask_script(service, who, request))
    columns = _columns(deps, who, request, contact, script)
    made = await _insert(deps, who, columns, key, allow_repeat=request.allow_repeat)
    if isinstance(made, First):
        return await idempotency.repeat(deps.pool, made)
    deps.relay.wake()
    row = await _place(service, who, made)
    answer = idempotency.answer_to(row)
    if key is None:
        return answer.give()
    kept = await idempotency.keep(deps.pool, key, row["id"], answer)
    return kept.give(replayed=kept is not answer)


async def _ask_contact(service: Service, who: Caller, request: CreateCall) -> Contact:
    data = ContactId(contact_id=request.contact_id).model_dump_json().encode()
    return Contact.model_validate_json(await service.bus.request(GET_CONTACT.subject, data, who, PEER))


async def _ask_script(service: Service, who: Caller, request: CreateCall) -> Script | None:
    if request.script_id is None:
        return None
    data = ScriptId(script_id=request.script_id).model_dump_json().encode()
    return Script.model_validate_json(await service.bus.request(GET_SCRIPT.subject, data, who, PEER))


async def _insert(
    deps: Deps, who: Caller, columns: store.Row, key: Key | None, *, allow_repeat: bool
) -> store.Row | First:
    """The new call's row; or the request that was quicker with the same key."""
    created = timeline_entry(columns["id"], "created", "user", columns["created_at"], CallStatus.PENDING, None)
    async with transaction(deps.pool, who.user) as connection:
        # One at a time per user, so that neither the look for the key nor a count can be true for two at once.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"calls.create {who.user}")
        if key is not None and (first := await idempotency.find(connection, key)) is not None:
            return first
        await limits.check(connection, columns, deps.settings, allow_repeat=allow_repeat)
        row = await store.insert(connection, columns, created, who.traceparent)
        if key is not None:
            await idempotency.take(connection, key, row["id"], deps.settings.dispatch_wait)
        return row


async def _place(service: Service, who: Caller, row: store.Row) -> store.Row:
    """Dispatch the call: its row as the dispatch left it; while its outcome is unclear, as it is after the wait."""
    deps = service.deps
    placing = service.dispatch(who, row)
    await asyncio.wait([placing], timeout=deps.settings.dispatch_wait)
    placed = placing.result() if placing.done() and not placing.cancelled() else None
    if placed is None:
        async with reading(deps.pool, who.user) as connection:
            placed = await queries.get_call(connection, who.user, row["id"])
    return placed


def _columns(deps: Deps, who: Caller, request: CreateCall, contact: Contact, script: Script | None) -> dict[str, Any]:
    """The new row: what the request says, filled up from the script and then from the settings."""
    assistant = request.assistant_id or deps.provider.vapi_assistant_id
    number = request.phone_number_id or deps.provider.vapi_phone_number_id
    missing: list[FieldError] = [
        {"field": name, "message": "is required: this service has no default for it"}
        for name, value in (("assistant_id", assistant), ("phone_number_id", number))
        if value is None
    ]
    if missing:
        raise problem("validation_failed", errors=missing)
    given = request.model_dump(mode="json", by_alias=True)
    filled = {
        name: given[name] if given[name] is not None else script and script.model_dump(mode="json", by_alias=True)[name]
        for name in ("custom_prompt", "first_message", "call_goals")
    }
    now = datetime.now(UTC)
    return {
        "id": new_id(),
        "user_id": who.user,
        "created_at": now,
        "updated_at": now,
        "contact_id": contact.id,
        "contact_name": contact.name,
        "contact_phone": contact.phone,
        "contact_email": contact.email,
        "contact_metadata": contact.metadata,
        "script_id": request.script_id,
        "script": {**filled, "name": script.name} if script else None,
        "assistant_id": assistant,
        "phone_number_id": number,
        **filled,
        "request_metadata": request.metadata,
    }
