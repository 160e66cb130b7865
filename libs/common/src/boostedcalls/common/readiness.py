"""Whether a process can serve: everything that it needs is asked, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

Check = Callable[[], Awaitable[bool]]

# Who asks gives up soon: an answer must come while what is asked about hangs.
_PATIENCE = 1.7


async def _ask(check: Check) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await check()
    except Exception:
        return False


async def ready_report(checks: Mapping[str, Check]) -> dict[str, bool]:
    """Ask every check once, side by side; one that raises, or does not say within 1.7 s, counts as not ready."""
    return dict(zip(checks, await asyncio.gather(*map(_ask, checks.values())), strict=True))
