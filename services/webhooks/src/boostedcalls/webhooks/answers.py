"""What the provider is told where it waits for an answer in the body. Pure. Reference: Vapi's published
`ServerMessageResponse` schemas.

This product gives its assistants no tools, transfers, knowledge bases or campaigns, so every answer says just that, in
the shape that the provider expects, and lets the conversation go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import orjson

from boostedcalls.webhooks.vapi import Json, Message, as_object

OK = orjson.dumps({"ok": True})

# The provider's own pause before it takes a turn as ended.
_ENDPOINTING_SECONDS = 0.4
_LONGEST_NAME = 100


def answer_to(message: Message) -> bytes:
    """The body to answer with. For voice-request it is raw sound, of which there is none."""
    if message.kind == "voice-request":
        return b""
    build = _ANSWERS.get(message.kind)
    return orjson.dumps(build(message.content)) if build else OK


def _no_tools(content: Json) -> Json:
    return {
        "results": [
            {"toolCallId": call_id, "name": name, "error": f"No tool named {name} is available."}
            for call_id, name in _tool_calls(content)
        ]
    }


def _tool_calls(content: Json) -> Iterator[tuple[str, str]]:
    """(id, name) of each tool call, in order. Payloads put the name in `function` or beside the id, and the list
    itself under one of three names."""
    wrapped = [as_object(item).get("toolCall") for item in _list(content.get("toolWithToolCallList"))]
    for item in _list(content.get("toolCallList")) or _list(content.get("toolCalls")) or wrapped:
        call = as_object(item)
        call_id = call.get("id")
        if isinstance(call_id, str):
            yield call_id, _name(as_object(call.get("function")).get("name") or call.get("name"))


def _no_function(content: Json) -> Json:
    """The form before tool calls: one function, one result, no id. Newer payloads of this type carry tool calls."""
    if any(_tool_calls(content)):
        return _no_tools(content)
    return {"result": f"No tool named {_name(as_object(content.get('functionCall')).get('name'))} is available."}


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
