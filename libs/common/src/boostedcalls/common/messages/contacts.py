"""Contacts and call scripts: requests, answers, and their request/reply pairs."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from boostedcalls.common import subjects
from boostedcalls.common.messages.base import (
    Answer,
    Cursor,
    Email,
    Goal,
    Goals,
    Line,
    Metadata,
    Model,
    Moment,
    Name,
    Nothing,
    Phone,
    Prompt,
    Query,
    Rpc,
)

MAX_CONTACTS_PAGE = 10_000
Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["US"])]


class ContactWrite(Model):
    """A new contact, or the whole of a replaced one. `region` says how a number without `+` is read; not kept."""

    name: Name = Field(examples=["Jane Doe"])
    phone: Phone = Field(examples=["+1987654321"])
    email: Email | None = Field(None, examples=["jane@example.com"])
    metadata: Metadata | None = Field(None, examples=[{"key": "value"}])
    region: Region | None = None


class ContactPatch(Model):
    """The members to change; those left out stay."""

    name: Name = Field("", validate_default=False, examples=["Jane Updated"])
    phone: Phone = Field("", validate_default=False)
    email: Email | None = Field(None, examples=["newemail@example.com"])
    metadata: Metadata | None = None
    region: Region | None = None


class Contact(Answer):
    id: UUID
    name: str
    phone: str = Field(description="E.164")
    email: str | None
    metadata: dict[str, object] | None
    created_at: Moment
    updated_at: Moment


class ListContacts(Model):
    """`limit` rows after `cursor`, oldest first; fewer when the answer would grow beyond what a message holds."""

    limit: int = Field(MAX_CONTACTS_PAGE, ge=1, le=MAX_CONTACTS_PAGE)
    cursor: Cursor | None = None
    q: Query | None = None


class ContactPage(Answer):
    """Its members come in this order: whoever passes `data` on need not read it. `count` is its length."""

    total: int
    next_cursor: str | None
    count: int
    data: list[Contact]


class ContactId(Model):
    contact_id: UUID


class ReplaceContact(ContactId):
    contact: ContactWrite


class UpdateContact(ContactId):
    changes: ContactPatch


class Count(Answer):
    count: int


class ScriptWrite(Model):
    """A new script, or the whole of a replaced one."""

    name: Name = Field(examples=["Support Script"])
    description: Line | None = Field(None, examples=["Technical support call"])
    custom_prompt: Prompt | None = Field(None, examples=["You are a support agent..."])
    first_message: Line | None = Field(None, examples=["Hi, how can I help?"])
    call_goals: Goals | None = Field(None, examples=[["Resolve issue", "Collect feedback"]])


class ScriptPatch(Model):
    """The members to change; those left out stay."""

    name: Name = Field("", validate_default=False)
    description: Line | None = Field(None, examples=["New description"])
    custom_prompt: Prompt | None = None
    first_message: Line | None = None
    call_goals: Goals | None = None


class Script(Answer):
    id: UUID
    name: str
    description: str | None
    custom_prompt: str | None
    first_message: str | None
    call_goals: list[str | Goal] | None
    created_at: Moment
    updated_at: Moment


class ListScripts(Model):
    limit: int = Field(MAX_CONTACTS_PAGE, ge=1, le=MAX_CONTACTS_PAGE)
    cursor: Cursor | None = None


class ScriptPage(Answer):
    """As ContactPage."""

    total: int
    next_cursor: str | None
    count: int
    data: list[Script]


class ScriptId(Model):
    script_id: UUID


class ReplaceScript(ScriptId):
    script: ScriptWrite


class UpdateScript(ScriptId):
    changes: ScriptPatch


_CONTACT = ("contact_not_found",)
_SCRIPT = ("script_not_found",)

LIST_CONTACTS = Rpc(subjects.service("contacts", "list"), ListContacts, ContactPage)
CREATE_CONTACT = Rpc(subjects.service("contacts", "create"), ContactWrite, Contact, ("phone_invalid",))
GET_CONTACT = Rpc(subjects.service("contacts", "get"), ContactId, Contact, _CONTACT)
REPLACE_CONTACT = Rpc(subjects.service("contacts", "replace"), ReplaceContact, Contact, (*_CONTACT, "phone_invalid"))
UPDATE_CONTACT = Rpc(subjects.service("contacts", "update"), UpdateContact, Contact, (*_CONTACT, "phone_invalid"))
DELETE_CONTACT = Rpc(subjects.service("contacts", "delete"), ContactId, Nothing, _CONTACT)
COUNT_CONTACTS = Rpc(subjects.service("contacts", "count"), Nothing, Count)

LIST_SCRIPTS = Rpc(subjects.service("scripts", "list"), ListScripts, ScriptPage)
CREATE_SCRIPT = Rpc(subjects.service("scripts", "create"), ScriptWrite, Script)
GET_SCRIPT = Rpc(subjects.service("scripts", "get"), ScriptId, Script, _SCRIPT)
REPLACE_SCRIPT = Rpc(subjects.service("scripts", "replace"), ReplaceScript, Script, _SCRIPT)
UPDATE_SCRIPT = Rpc(subjects.service("scripts", "update"), UpdateScript, Script, _SCRIPT)
DELETE_SCRIPT = Rpc(subjects.service("scripts", "delete"), ScriptId, Nothing, _SCRIPT)
