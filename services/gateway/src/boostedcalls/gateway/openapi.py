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
    for path in found["paths"].values():
        for operation in path.values():
            _add_examples(operation)
    return found


def _add_examples(operation: dict[str, Any]) -> None:
    # Afterwards, not on the routes: FastAPI drops every null of an example.
    name = operation["operationId"]
    if name in REQUESTS:
        operation["requestBody"]["content"]["application/json"]["example"] = REQUESTS[name]
    if name in ANSWERS:
        success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        success["content"]["application/json"]["example"] = ANSWERS[name]
