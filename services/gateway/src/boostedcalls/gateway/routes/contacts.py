"""Contacts: asked of the contacts service."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request
from pydantic import ConfigDict
from starlette.responses import Response

from boostedcalls.common.messages.base import Answer
from boostedcalls.common.messages.contacts import (
    CREATE_CONTACT,
    DELETE_CONTACT,
    GET_CONTACT,
    LIST_CONTACTS,
    REPLACE_CONTACT,
    UPDATE_CONTACT,
    Contact,
    ContactId,
    ContactPatch,
    ContactWrite,
    ListContacts,
    ReplaceContact,
    UpdateContact,
)
from boostedcalls.gateway.forward import ask, forward, forward_list, json_response
from boostedcalls.gateway.openapi import LIST_HEADERS
from boostedcalls.gateway.problems import BODY, answers
from boostedcalls.gateway.routing import user_router

router = user_router("Contacts")


class ContactsQuery(ListContacts):
    """Query parameters that nobody knows are ignored."""

    model_config = ConfigDict(extra="ignore")


class ContactDeleted(Answer):
    message: str


_DELETED = ContactDeleted(message="Contact deleted successfully.").model_dump_json().encode()


@router.get(
    "/api/contacts/",
    summary="List all contacts",
    response_model=list[Contact],
    responses={200: LIST_HEADERS, **answers(LIST_CONTACTS, "validation_failed")},
)
async def list_contacts(request: Request, query: Annotated[ContactsQuery, Query()]) -> Response:
    """Oldest first. `q` searches name, phone and email."""
    return await forward_list(request, LIST_CONTACTS, query)


@router.post(
    "/api/contacts/",
    status_code=201,
    summary="Create a contact",
    response_model=Contact,
    responses=answers(CREATE_CONTACT, *BODY),
)
async def create_contact(request: Request, contact: ContactWrite) -> Response:
    """The phone number is kept as E.164."""
    return await forward(request, CREATE_CONTACT, contact, status=201)


@router.get(
    "/api/contacts/{contact_id}/",
    summary="Get a contact",
    response_model=Contact,
    responses=answers(GET_CONTACT, "validation_failed"),
)
async def get_contact(request: Request, contact_id: UUID) -> Response:
    return await forward(request, GET_CONTACT, ContactId(contact_id=contact_id))


@router.put(
    "/api/contacts/{contact_id}/",
    summary="Replace a contact",
    response_model=Contact,
    responses=answers(REPLACE_CONTACT, *BODY),
)
async def replace_contact(request: Request, contact_id: UUID, contact: ContactWrite) -> Response:
    """What the body leaves out becomes null."""
    return await forward(request, REPLACE_CONTACT, ReplaceContact(contact_id=contact_id, contact=contact))


@router.patch(
    "/api/contacts/{contact_id}/",
    summary="Change a contact",
    response_model=Contact,
    responses=answers(UPDATE_CONTACT, *BODY),
)
async def update_contact(request: Request, contact_id: UUID, changes: ContactPatch) -> Response:
    """What the body leaves out stays as it is."""
    return await forward(request, UPDATE_CONTACT, UpdateContact(contact_id=contact_id, changes=changes))


@router.delete(
    "/api/contacts/{contact_id}/",
    summary="Delete a contact",
    response_model=ContactDeleted,
    responses=answers(DELETE_CONTACT, "validation_failed"),
)
async def delete_contact(request: Request, contact_id: UUID) -> Response:
    """Calls made to the contact keep their copy of it."""
    await ask(request, DELETE_CONTACT, ContactId(contact_id=contact_id))
    return json_response(_DELETED)
