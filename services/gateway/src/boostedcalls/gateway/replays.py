"""Signed webhooks that were stored already, so that whoever recorded one cannot make work with it.

In this process only, and never the only thing that knows: the stream drops repeats too, whatever replica they came to.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

# A signature may be 300 s old, or as much ahead of our clock: it is good for twice that.
_SECONDS = 600.0
_MOST = 100_000


class Replays:
    """Remembers keys for at least 600 s, unless more than half of `most` come in that time; in two sets, of which the
    older goes when the younger is full or old enough."""

    def __init__(self, most: int = _MOST, seconds: float = _SECONDS, clock: Callable[[], float] = monotonic) -> None:
        self._half = most // 2
        self._seconds = seconds
        self._clock = clock
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._began = clock()

    def __contains__(self, key: bytes) -> bool:
        return key in self._young or key in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, key: bytes) -> None:
        now = self._clock()
        if len(self._young) >= self._half or now - self._began > self._seconds:
            self._old, self._young, self._began = self._young, set(), now
        self._young.add(key)
