"""Passwords: argon2id in threads, on half of the processors: a crowd of logins waits in line, and neither fills the
memory nor keeps everybody else waiting.

The parameters are one of the equally strong sets that OWASP's cheat sheet gives, the one with 9 MiB: a hash takes some
20 ms. Hashes that were made elsewhere are verified too (legacy.py) and replaced at the next login. As long as anybody
has such a hash, every check that fails does the work of both kinds (legacy_cost.py).
"""

from __future__ import annotations

import asyncio
import os
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from boostedcalls.gateway import legacy
from boostedcalls.gateway.legacy_cost import LegacyCost

MIN_BYTES = 8
MAX_BYTES = 1024


class Passwords:
    """Hashes and verifies. One for the process: it holds the waiting line."""

    def __init__(self, legacy_cost: LegacyCost | None = None) -> None:
        self._legacy_cost = legacy_cost or LegacyCost()
        self._hasher = PasswordHasher(time_cost=4, memory_cost=9216, parallelism=1)
        self._slots = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        async with self._slots:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password is the one of the hash. None (an unknown user) takes as long, and is never right."""
        async with self._slots:
            return await asyncio.to_thread(self._check, password, password_hash, self._legacy_cost.iterations)

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made in another way, or with other parameters, than today's."""
        return legacy.is_pbkdf2(password_hash) or self._hasher.check_needs_rehash(password_hash)

    def _check(self, password: str, password_hash: str | None, iterations: int) -> bool:
        if password_hash is not None and legacy.is_pbkdf2(password_hash):
            if legacy.matches(password, password_hash):
                return True
            self._matches(password, self._nobody)
        elif self._matches(password, password_hash or self._nobody) and password_hash is not None:
            return True
        legacy.spend(password, password_hash, iterations)
        return False

    def _matches(self, password: str, password_hash: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
