"""The supervisor's terminal: one prefixed line for each line of a child, readable where the child wrote JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

_COLOURS = ("36", "32", "35", "34", "33", "96", "92")
_LEVEL_COLOURS = {"warning": "33", "error": "31", "critical": "31"}
_WIDTH = 11
_HIDDEN = {"timestamp", "level", "event", "service", "exception", "logger", "trace_id", "span_id"}


class Console:
    """Writes to one stream; colours only on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours = self._stream.isatty()
        self._names: list[str] = []

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def write(self, text: str) -> None:
        # A terminal that went away must not stop the processes that are still wanted.
        with contextlib.suppress(OSError):
            self._stream.write(text + "\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """A line of the supervisor itself."""
        self.write(self._paint(f"{'supervisor':<{_WIDTH}}", "1") + f"| {text}")

    def sink(self, name: str) -> Callable[[str], None]:
        """What takes the lines of the child `name`."""
        self._names.append(name)
        prefix = self._paint(f"{name:<{_WIDTH}}", _COLOURS[len(self._names) % len(_COLOURS)]) + "| "

        def take(line: str) -> None:
            for text in self._readable(line):
                self.write(prefix + text)

        return take

    def _readable(self, line: str) -> list[str]:
        try:
            parsed: Any = json.loads(line)
        except ValueError:
            return [line]
        if not isinstance(parsed, dict) or "event" not in parsed:
            return [line]
        entry = cast(dict[str, Any], parsed)
        level = str(entry.get("level", "info"))
        fields = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _HIDDEN)
        time = str(entry.get("timestamp", ""))[11:19]
        first = f"{time} {self._paint(f'{level:<7}', _LEVEL_COLOURS.get(level, '2'))} {entry['event']} {fields}"
        return [first.rstrip(), *str(entry.get("exception", "")).splitlines()]
