"""What the handlers work with."""

from __future__ import annotations

from dataclasses import dataclass

from boostedcalls.common.db import Pool
from boostedcalls.common.outbox import Relay

SCHEMA = "contacts"


@dataclass(frozen=True, slots=True)
class Deps:
    pool: Pool
    relay: Relay
    default_region: str
