"""What the harness did and what it was answered, as JSON lines: the history that the checker judges.

| what | members |
|---|---|
| user | user |
| request | n, user, number, key: one call that somebody wants |
| try | n, status (0: no answer), again (it had an answer before), and what the answer says: call, code, replayed |
| cancel | call, status |
| read | op, status; call, state and the time at which it was sent, where one call was read |
| contact | contact, op, change, status; create has no contact before it is answered |
| webhook | sort, sha256, status |
| strike | kind, process, how (kill, part kill or freeze) |
| note | text: for people |
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

Line = dict[str, Any]


class History:
    """The file, open for more lines. A line is in the file when `note` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def note(self, what: str, **members: Any) -> None:
        self._file.write(orjson.dumps({"at": time.time(), "what": what, **members}) + b"\n")


def lines_of(path: Path) -> Iterator[Line]:
    """Every whole line of a file of JSON lines; nothing where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)
