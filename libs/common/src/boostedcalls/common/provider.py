"""The provider's webhooks, as far as the processes must agree on them: where the message stands in a body, and what the
provider is told where it waits for an answer. Pure. Reference: Vapi's published `ServerMessageResponse` schemas.

This product gives its assistants no tools, transfers, knowledge bases or campaigns, so every answer says just that, in
the shape that the provider expects, and lets the conversation go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import orjson

from boostedcalls.common import lenient_json

Json = Mapping[str, Any]

OK = orjson.dumps({"ok": True})

# The provider's own pause before it takes a turn as ended.
_ENDPOINTING_SECONDS = 0.4
_LONGEST_NAME = 100


def as_object(value: Any) -> Json:
    """The value where it is a JSON object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def message_in(envelope: Any) -> Json:
    """The message in a decoded body; empty where there is none."""
    return as_object(as_object(envelope).get("message"))


def answer_for(body: bytes) -> bytes:
    """The body to answer a webhook's raw body with, whatever it is."""
    try:
        return answer_to(message_in(lenient_json.loads(body)))
    except ValueError:
        return OK


def answer_to(message: Json) -> bytes:
    """The body to answer with. For voice-request it is raw sound, of which there is none."""
    kind = message.get("type")
    if kind == "voice-request":
        return b""
    build = _ANSWERS.get(kind) if isinstance(kind, str) else None
    return orjson.dumps(build(message)) if build else OK


def _no_tools(message: Json) -> Json:
    return {
        "results": [
            {"toolCallId": call_id, "name": name, "error": f"No tool named {name} is available."}
            for call_id, name in _tool_calls(message)
        ]
    }


def _tool_calls(message: Json) -> Iterator[tuple[str, str]]:
    """(id, name) of each tool call, in order. Payloads put the name in `function` or beside the id, and the list
    itself under one of three names."""
    wrapped = [as_object(item).get("toolCall") for item in _list(message.get("toolWithToolCallList"))]
    for item in _list(message.get("toolCallList")) or _list(message.get("toolCalls")) or wrapped:
        call = as_object(item)
        call_id = call.get("id")
        if isinstance(call_id, str):
            yield call_id, _name(as_object(call.get("function")).get("name") or call.get("name"))


def _no_function(message: Json) -> Json:
    """The form before tool calls: one function, one result, no id. Newer payloads of this type carry tool calls."""
    if any(_tool_calls(message)):
        return _no_tools(message)
    return {"result": f"No tool named {_name(as_object(message.get('functionCall')).get('name'))} is available."}


def _name(value: Any) -> str:
    """A name that stays on one line: the provider drops results that do not."""
    return " ".join(value.split())[:_LONGEST_NAME] if isinstance(value, str) and value.strip() else "unknown"


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


_ANSWERS: Mapping[str, Callable[[Json], Json]] = {
    "tool-calls": _no_tools,
    "function-call": _no_function,
    "assistant-request": lambda _: {"error": "Sorry, this number only makes calls and cannot take any. Goodbye."},
    "transfer-destination-request": lambda _: {"error": "No transfer destination is available."},
    "handoff-destination-request": lambda _: {"error": "No handoff destination is available."},
    "knowledge-base-request": lambda _: {"documents": []},
    "campaign.predial": lambda _: {"eligible": False},
    "call.endpointing.request": lambda _: {"timeoutSeconds": _ENDPOINTING_SECONDS},
}
