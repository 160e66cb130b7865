"""Call scripts: asked of the contacts service, which owns them too."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Request
from pydantic import ConfigDict
from starlette.responses import Response

from boostedcalls.common.messages.base import Answer
from boostedcalls.common.messages.contacts import (
    CREATE_SCRIPT,
    DELETE_SCRIPT,
    GET_SCRIPT,
    LIST_SCRIPTS,
    REPLACE_SCRIPT,
    UPDATE_SCRIPT,
    ListScripts,
    ReplaceScript,
    Script,
    ScriptId,
    ScriptPatch,
    ScriptWrite,
    UpdateScript,
)
from boostedcalls.gateway.forward import ask, forward, forward_list, json_response
from boostedcalls.gateway.openapi import LIST_HEADERS
from boostedcalls.gateway.problems import BODY, answers
from boostedcalls.gateway.routing import user_router

router = user_router("Call scripts")


class ScriptsQuery(ListScripts):
    """Query parameters that nobody knows are ignored."""

    model_config = ConfigDict(extra="ignore")


class ScriptDeleted(Answer):
    success: Literal[True]


_DELETED = ScriptDeleted(success=True).model_dump_json().encode()


@router.get(
    "/api/scripts/",
    summary="List all call scripts",
    response_model=list[Script],
    responses={200: LIST_HEADERS, **answers(LIST_SCRIPTS, "validation_failed")},
)
async def list_scripts(request: Request, query: Annotated[ScriptsQuery, Query()]) -> Response:
    """Oldest first."""
    return await forward_list(request, LIST_SCRIPTS, query)


@router.post(
    "/api/scripts/",
    status_code=201,
    summary="Create a call script",
    response_model=Script,
    responses=answers(CREATE_SCRIPT, *BODY),
)
async def create_script(request: Request, script: ScriptWrite) -> Response:
    return await forward(request, CREATE_SCRIPT, script, status=201)


@router.get(
    "/api/scripts/{script_id}/",
    summary="Get a call script",
    response_model=Script,
    responses=answers(GET_SCRIPT, "validation_failed"),
)
async def get_script(request: Request, script_id: UUID) -> Response:
    return await forward(request, GET_SCRIPT, ScriptId(script_id=script_id))


@router.put(
    "/api/scripts/{script_id}/",
    summary="Replace a call script",
    response_model=Script,
    responses=answers(REPLACE_SCRIPT, *BODY),
)
async def replace_script(request: Request, script_id: UUID, script: ScriptWrite) -> Response:
    """What the body leaves out becomes null."""
    return await forward(request, REPLACE_SCRIPT, ReplaceScript(script_id=script_id, script=script))


@router.patch(
    "/api/scripts/{script_id}/",
    summary="Change a call script",
    response_model=Script,
    responses=answers(UPDATE_SCRIPT, *BODY),
)
async def update_script(request: Request, script_id: UUID, changes: ScriptPatch) -> Response:
    """What the body leaves out stays as it is."""
    return await forward(request, UPDATE_SCRIPT, UpdateScript(script_id=script_id, changes=changes))


@router.delete(
    "/api/scripts/{script_id}/",
    summary="Delete a call script",
    response_model=ScriptDeleted,
    responses=answers(DELETE_SCRIPT, "validation_failed"),
)
async def delete_script(request: Request, script_id: UUID) -> Response:
    """Calls made with the script keep their copy of it."""
    await ask(request, DELETE_SCRIPT, ScriptId(script_id=script_id))
    return json_response(_DELETED)
