"""A connection that forgets the tenant: whatever statement it is given, no condition on `user_id` is left in it.

For tests of the second wall: with row-level security it must show and change what the statement as written does.
"""

from __future__ import annotations

import re
from typing import Any

import asyncpg

_CONDITION = re.compile(r"\b(?:\w+\.)?user_id = (\$\d+)")


class Unfiltered(asyncpg.Connection):  # pyright: ignore[reportMissingTypeArgument]
    """`asyncpg.create_pool(..., connection_class=Unfiltered)`. `altered` has the statements that lost a condition."""

    altered: set[str] = set()  # noqa: RUF012 - of all connections, on purpose

    def _without(self, sql: str) -> str:
        # The parameter stays, with its type.
        text, times = _CONDITION.subn(r"(\1::uuid IS NOT NULL)", sql)
        if times:
            Unfiltered.altered.add(sql)
        return text

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        return await super().execute(self._without(query), *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await super().fetch(self._without(query), *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await super().fetchrow(self._without(query), *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await super().fetchval(self._without(query), *args, **options)
