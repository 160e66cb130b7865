"""The messages that cross a process boundary by request/reply: one module a noun, and the list of all pairs."""

from types import ModuleType
from typing import Any

from boostedcalls.common.messages import calls, contacts
from boostedcalls.common.messages.base import Rpc


def _pairs(module: ModuleType) -> list[Rpc[Any, Any]]:
    return [value for value in vars(module).values() if isinstance(value, Rpc)]


ALL: list[Rpc[Any, Any]] = [*_pairs(calls), *_pairs(contacts)]
