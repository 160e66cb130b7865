"""What a call waits for, and when it is due for the next look: pure functions over its row.

One due time a call serves all three needs: a call that was never dispatched, one whose placing is unclear, and one
whose end the provider has not told us.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from boostedcalls.calls.settings import CallsSettings
from boostedcalls.calls.state import TERMINAL

# A dispatch begins at once; only one that its process never began is found by the sweep.
DISPATCH_SWEEP = timedelta(seconds=5)
# Somebody is being called who should not be: so often, and so soon after the last look.
_HANG_UPS = 6
_HANG_UP_AGAIN = timedelta(seconds=5)
# Of a call that is not over only the first steps count: how late its end may be noticed must not grow with its length.
_LIVE_STEPS = 2


class Stage(Enum):
    DISPATCH = "dispatch"
    RECONCILE = "reconcile"
    FOLLOW = "follow"
    SETTLED = "settled"


def stage(row: Mapping[str, Any]) -> Stage:
    """What the call waits for.

    DISPATCH: nobody has claimed its placing. RECONCILE: claimed, and whether the provider placed it is unclear.
    FOLLOW: placed, and the complete result is not here. SETTLED: nothing more is expected.
    """
    if row["provider_call_id"] is not None:
        return Stage.SETTLED if row["final"] and row["status"] in TERMINAL else Stage.FOLLOW
    if row["dispatch_closed"]:
        return Stage.SETTLED
    if row["dispatch_started_at"] is not None:
        return Stage.RECONCILE
    return Stage.SETTLED if row["status"] in TERMINAL else Stage.DISPATCH


def given_up(row: Mapping[str, Any], settings: CallsSettings) -> bool:
    """Whether no more looks are owed: a terminal call whose report never came, after all steps were gone through."""
    return row["status"] in TERMINAL and row["checks"] >= 2 * len(settings.sync_steps)


def too_old(row: Mapping[str, Any], settings: CallsSettings, now: datetime) -> bool:
    """Whether the call is older than any call can be."""
    return (now - row["created_at"]).total_seconds() > settings.call_max_age


def _step(steps: tuple[float, ...], checks: int) -> float:
    return steps[min(checks, len(steps) - 1)]


def next_due(row: Mapping[str, Any], settings: CallsSettings, now: datetime) -> datetime | None:
    """When to look at the call again; None when nothing more is expected."""
    match stage(row):
        case Stage.SETTLED:
            return None
        case Stage.DISPATCH:
            return now + DISPATCH_SWEEP
        case Stage.RECONCILE:
            step = _step(settings.reconcile_steps, row["checks"])
            return max(now, row["dispatch_started_at"] + timedelta(seconds=step))
        case Stage.FOLLOW:
            if given_up(row, settings):
                return None
            if row["hang_up_wanted"] and row["checks"] < _HANG_UPS:
                return max(now, row["synced_at"] + _HANG_UP_AGAIN) if row["synced_at"] else now
            over = row["status"] in TERMINAL
            steps = settings.sync_steps if over else settings.sync_steps[:_LIVE_STEPS]
            return now + timedelta(seconds=_step(steps, row["checks"]))


def unanswered_counts(row: Mapping[str, Any], settings: CallsSettings, now: datetime) -> bool:
    """Whether a look that the provider did not answer counts as one: not while an answer may still come, but neither is
    it asked for ever, nor every few seconds."""
    return too_old(row, settings, now) or (row["hang_up_wanted"] and row["checks"] < _HANG_UPS)


def unanswered_again(settings: CallsSettings) -> float:
    """After how many seconds the provider is asked again, when it did not answer and that does not count."""
    return _step(settings.sync_steps, _LIVE_STEPS - 1)
