"""An outage in the log: a line when it begins, one every half minute while it lasts, and one when it is over."""

from __future__ import annotations

from time import monotonic
from typing import Any

from boostedcalls.common.logs import get_logger

log = get_logger(__name__)

_REMIND = 30.0
# What fails again so soon was never over: a disk that is full lets one of many writes through.
_CALM = 5.0


class Trouble:
    """One thing that may be out of order. Tell it of every failure (`seen`) and of every success (`over`).

    begin, end   the events under which it is logged, with `fields`, and with `seconds` and `times` so far
    """

    def __init__(self, begin: str, end: str, **fields: Any) -> None:
        self._begin, self._end, self._fields = begin, end, fields
        self._since: float | None = None
        self._ended_at = self._logged_at = float("-inf")
        self._logged = False
        self._times = 0

    @property
    def lasts(self) -> bool:
        return self._since is not None

    def seen(self, reason: object) -> None:
        now = monotonic()
        if self._since is None:
            self._since, self._times = now, 0
            self._logged = False
            calm = now - self._ended_at >= _CALM
        else:
            calm = False
        self._times += 1
        if calm or now - self._logged_at >= _REMIND:
            self._logged, self._logged_at = True, now
            log.warning(self._begin, **self._fields, reason=str(reason)[:300], **self._lasted(now))

    def over(self) -> None:
        if self._since is None:
            return
        now = monotonic()
        if self._logged:
            log.info(self._end, **self._fields, **self._lasted(now))
        self._since, self._ended_at = None, now

    def _lasted(self, now: float) -> dict[str, Any]:
        return {"seconds": round(now - (self._since or now), 1), "times": self._times}
