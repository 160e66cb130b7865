"""The provider's `endedReason` -> our status: exact names, then prefixes, then a default.

The rules are data (`ended_reason_rules.json`), so that a new reason is a new line there.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TypedDict

import orjson

from boostedcalls.common.messages.calls import CallStatus


class _Rules(TypedDict):
    exact: dict[str, str]
    prefix: list[tuple[str, str]]
    default: str


@cache
def _rules() -> _Rules:
    return orjson.loads((resources.files(__package__ or "") / "ended_reason_rules.json").read_bytes())


def is_mapped(reason: str) -> bool:
    """Whether a rule names the reason; the default is used for one that none does."""
    rules = _rules()
    return reason in rules["exact"] or any(reason.startswith(prefix) for prefix, _ in rules["prefix"])


def status_of(reason: str) -> CallStatus:
    """The terminal status that an ended reason means."""
    rules = _rules()
    if found := rules["exact"].get(reason):
        return CallStatus(found)
    return CallStatus(next((to for prefix, to in rules["prefix"] if reason.startswith(prefix)), rules["default"]))
