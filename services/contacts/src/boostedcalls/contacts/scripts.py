"""A user's call scripts: requests -> answers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from boostedcalls.common.context import Caller
from boostedcalls.common.db import connection, transaction
from boostedcalls.common.errors import problem
from boostedcalls.common.messages.base import Nothing
from boostedcalls.common.messages.contacts import (
    ListScripts,
    ReplaceScript,
    Script,
    ScriptId,
    ScriptWrite,
    UpdateScript,
)
from boostedcalls.contacts import store
from boostedcalls.contacts.deps import Deps
from boostedcalls.contacts.store import SCRIPTS


async def list_scripts(deps: Deps, who: Caller, request: ListScripts) -> bytes:
    """A ScriptPage."""
    async with transaction(deps.pool, who.user) as reader:
        total = await store.count(reader, SCRIPTS, who.user)
        page = await store.page(reader, SCRIPTS, who.user, request.cursor, request.limit)
    return page.answer(total)


async def get_script(deps: Deps, who: Caller, request: ScriptId) -> Script:
    async with connection(deps.pool, who.user) as reader:
        return _script(await store.get(reader, SCRIPTS, who.user, request.script_id))


async def create_script(deps: Deps, who: Caller, request: ScriptWrite) -> Script:
    async with transaction(deps.pool, who.user) as writer:
        return _script(await store.insert(writer, SCRIPTS, who.user, request.model_dump(by_alias=True)))


async def replace_script(deps: Deps, who: Caller, request: ReplaceScript) -> Script:
    return await _change(deps, who, request.script_id, request.script.model_dump(by_alias=True))


async def update_script(deps: Deps, who: Caller, request: UpdateScript) -> Script:
    """Change the members that were sent."""
    changes = request.changes
    return await _change(
        deps, who, request.script_id, changes.model_dump(by_alias=True, include=changes.model_fields_set)
    )


async def delete_script(deps: Deps, who: Caller, request: ScriptId) -> Nothing:
    async with transaction(deps.pool, who.user) as writer:
        if not await store.delete(writer, SCRIPTS, who.user, request.script_id):
            raise problem("script_not_found")
    return Nothing()


async def _change(deps: Deps, who: Caller, script_id: UUID, values: dict[str, Any]) -> Script:
    async with transaction(deps.pool, who.user) as writer:
        row, _ = await store.change(writer, SCRIPTS, who.user, script_id, values)
    return _script(row)


def _script(row: asyncpg.Record | None) -> Script:
    if row is None:
        raise problem("script_not_found")
    return Script.model_validate(dict(row))
