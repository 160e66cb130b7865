"""The OpenAPI document: what FastAPI knows of the routes, and what it cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from boostedcalls.gateway import webhook
from boostedcalls.gateway.examples import ANSWERS, REQUESTS
from boostedcalls.gateway.problems import Problem

_DESCRIPTION = """\
Outbound calls made by a voice AI: contacts, call scripts, calls, and what became of them.

Every path answers the same with and without its trailing slash. Times are UTC, RFC 3339. Every answer carries
`X-Request-Id`; a well-formed one in the request is kept. Errors are RFC 9457 problem documents with a stable `code`.
"""

LIST_HEADERS: dict[str, Any] = {
    "headers": {
        "X-Total-Count": {"description": "The length of the whole list", "schema": {"type": "integer"}},
        "Link": {"description": 'Where there is more: `<…>; rel="next"`', "schema": {"type": "string"}},
    }
}
REPLAYED_HEADER: dict[str, Any] = {
    "headers": {
        "Idempotency-Replayed": {
            "description": "`true` where an earlier request with the same Idempotency-Key was answered so",
            "schema": {"type": "string", "enum": ["true"]},
        }
    }
}
# What an operation's answer leads to: operation, its parameter (or member of its body), and where the value stands.
_LINKS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "create_contact": (
        *((name, "contact_id", "/id") for name in ("get_contact", "replace_contact", "update_contact")),
        ("delete_contact", "contact_id", "/id"),
        ("create_call", "contact_id", "/id"),
    ),
    "create_script": tuple(
        (name, "script_id", "/id") for name in ("get_script", "replace_script", "update_script", "delete_script")
    ),
    "create_call": tuple(
        (name, "call_id", "/id") for name in ("get_call", "list_call_events", "sync_call", "cancel_call")
    ),
    "list_calls": (("get_call", "call_id", "/data/0/id"), ("list_calls", "cursor", "/next_cursor")),
    "list_contacts": (("get_contact", "contact_id", "/0/id"),),
    "list_scripts": (("get_script", "script_id", "/0/id"),),
    "create_token": (("refresh_token", "refresh", "/refresh"), ("logout", "refresh", "/refresh")),
}
# In a PATCH a member that is left out keeps its value: what stands as its default in the model is no default.
_NO_DEFAULTS = ("ContactPatch", "ScriptPatch")


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The document for the routes; the webhook is added, as a plain route says nothing about itself."""
    found = get_openapi(
        title="BoostedCalls", version=version("boostedcalls-gateway"), description=_DESCRIPTION, routes=routes
    )
    found["paths"][webhook.PATH] = {"post": {**webhook.OPERATION}}
    components = found["components"]
    components["securitySchemes"] |= webhook.SECURITY_SCHEMES
    problem = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    components["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
    for name in _NO_DEFAULTS:
        for member in components["schemas"][name]["properties"].values():
            member.pop("default", None)
    operations = {each["operationId"]: each for path in found["paths"].values() for each in path.values()}
    for operation in operations.values():
        _add_examples(operation)
        _add_links(operation, operations)
    return found


def _success(operation: dict[str, Any]) -> dict[str, Any]:
    return next(answer for status, answer in operation["responses"].items() if status.startswith("2"))


def _add_links(operation: dict[str, Any], operations: dict[str, dict[str, Any]]) -> None:
    for target, name, where in _LINKS.get(operation["operationId"], ()):
        value = {name: f"$response.body#{where}"}
        given = {each["name"] for each in operations[target].get("parameters", ())}
        link = {"operationId": target, "parameters" if name in given else "requestBody": value}
        _success(operation).setdefault("links", {})[target] = link


def _add_examples(operation: dict[str, Any]) -> None:
    # Afterwards, not on the routes: FastAPI drops every null of an example.
    name = operation["operationId"]
    if name in REQUESTS:
        operation["requestBody"]["content"]["application/json"]["example"] = REQUESTS[name]
    if name in ANSWERS:
        _success(operation)["content"]["application/json"]["example"] = ANSWERS[name]
