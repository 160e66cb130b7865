"""An outage in the log: a line when it begins, one every half minute while it lasts, and one when it is over."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

_REMIND = 30.0
# What begins more often within that time is one outage: a disk that is full lets some of the writes through.
_AT_MOST = 3


class Trouble:
    """One thing that may be out of order. Tell it of every failure (`seen`) and of every success (`over`).

    begin, end   the events under which it is logged, with `fields`, and with `seconds` and `times` so far
    """

    def __init__(self, begin: str, end: str, **fields: Any) -> None:
        self._begin, self._end, self._fields = begin, end, fields
        self._since: float | None = None
        self._logged = False
        self._logged_at: deque[float] = deque([float("-inf")] * _AT_MOST, maxlen=_AT_MOST)
        self._times = 0

    def seen(self, reason: object) -> None:
        now = monotonic()
        begins = self._since is None
        if begins:
            self._since, self._times, self._logged = now, 0, False
        self._times += 1
        if now - self._logged_at[0 if begins else -1] >= _REMIND:
            self._logged = True
            self._logged_at.append(now)
            log.warning(self._begin, **self._fields, reason=str(reason)[:300], **self._lasted(now))

    def over(self) -> None:
        if self._since is None:
            return
        now = monotonic()
        if self._logged:
            log.info(self._end, **self._fields, **self._lasted(now))
        self._since = None

    def _lasted(self, now: float) -> dict[str, Any]:
        return {"seconds": round(now - (self._since or now), 1), "times": self._times}
