"""The AsyncAPI 3.0 document, built from the messages and events that the code itself uses.

`python -m boostedcalls.common.asyncapi` writes docs/asyncapi.json below the current folder; with `--check` it only
says, by its exit code, whether the file is up to date.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from pydantic.json_schema import models_json_schema

from boostedcalls.common import events, messages
from boostedcalls.common.errors import CODES
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS

FILE = Path("docs/asyncapi.json")

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_FIELD: Json = {"type": "object", "required": ["field", "message"], "properties": {"field": _TEXT, "message": _TEXT}}
_PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457. The reply's header Nats-Service-Error-Code holds the status.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        **{name: _TEXT for name in ("type", "title", "detail", "request_id", "error_id")},
        "status": {"type": "integer"},
        "code": {"enum": sorted(CODES)},
        "errors": {"type": "array", "items": _FIELD},
    },
}


def _ref(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}


def _channel(address: str | None, *carried: str, **more: Any) -> Json:
    return {"address": address, "messages": {name: _ref("components", "messages", name) for name in carried}, **more}


def _add_exchange(document: Json, subject: str, request: str, answer: str, description: str) -> None:
    """A request/reply pair, from the side of the service that answers."""
    key = subject.removeprefix("bc.").replace(".", "-")
    reply = f"{key}-reply"
    document["channels"] |= {key: _channel(subject, request), reply: _channel(None, answer, "Problem")}
    document["operations"][key] = {
        "action": "receive",
        "description": description,
        "channel": _ref("channels", key),
        "reply": {
            "channel": _ref("channels", reply),
            "messages": [_ref("channels", reply, "messages", name) for name in (answer, "Problem")],
        },
    }


def _add_event(document: Json, kind: events.EventType, data: str) -> None:
    key = re.sub(r"[._]", "-", kind.type.removeprefix("io.boostedcalls."))
    address = re.sub(r"<([^>]+)>", lambda match: "{" + match[1].replace(" ", "_") + "}", kind.subject)
    parameters: Json = {name: {} for name in re.findall(r"{(\w+)}", address)}
    description = f"Stream {kind.stream}; CloudEvents type {kind.type}; source {kind.source}"
    document["channels"][key] = _channel(address, data, description=description, parameters=parameters)
    document["operations"][key] = {"action": "send", "channel": _ref("channels", key)}


def build() -> Json:
    """The whole document."""
    requests = [(rpc.request, "validation") for rpc in messages.ALL]
    answers = [(rpc.response, "serialization") for rpc in messages.ALL]
    data = [(kind.data, "serialization") for kind in events.ALL]
    used: Any = list(dict.fromkeys([*requests, *answers, *data]))
    found, schemas = models_json_schema(used, ref_template="#/components/schemas/{model}")
    names = {(model, str(mode)): str(ref["$ref"]).rpartition("/")[2] for (model, mode), ref in found.items()}
    carried = {name: {"payload": _ref("components", "schemas", name)} for name in (*names.values(), "Problem")}
    raw: Json = {"contentType": "application/octet-stream", "payload": {}}
    document: Json = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "BoostedCalls messages",
            "version": version("boostedcalls-common"),
            "description": "Requests between the services, and the events they publish, on NATS: docs/messaging.md.",
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "localhost:4222", "protocol": "nats"}},
        "channels": {},
        "operations": {},
        "components": {
            "messages": {**carried, "Webhook": raw, "WebhookAnswer": raw, "Webhooks": raw, "WebhookAnswers": raw},
            "schemas": {**schemas["$defs"], "Problem": _PROBLEM},
        },
    }
    for rpc, request, answer in zip(messages.ALL, requests, answers, strict=True):
        own = f"Errors of its own: {', '.join(rpc.errors) or 'none'}."
        _add_exchange(document, rpc.subject, names[request], names[answer], own)
    _add_exchange(document, INGEST_WEBHOOK, "Webhook", "WebhookAnswer", "The provider's bytes, and those to answer.")
    _add_exchange(document, INGEST_WEBHOOKS, "Webhooks", "WebhookAnswers", "Several at once: docs/messaging.md.")
    for kind, use in zip(events.ALL, data, strict=True):
        _add_event(document, kind, names[use])
    return document


def render() -> bytes:
    return orjson.dumps(build(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if FILE.exists() and FILE.read_bytes() == render():
            return 0
        sys.stderr.write(f"{FILE} is out of date; run: python -m boostedcalls.common.asyncapi\n")
        return 1
    if arguments:
        sys.stderr.write("usage: python -m boostedcalls.common.asyncapi [--check]\n")
        return 2
    FILE.write_bytes(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
