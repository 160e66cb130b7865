"""What every part of a run gets: where its databases are, how long it may take, and what was measured so far."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from bench.contender import Contender, NatsSync
from bench.contenders import start
from bench.data import PASSWORD, DataSet, email

Figures = dict[str, Any]
BASE = DataSet(calls=10_000)
"""What the database holds where its size is not what is measured."""


@dataclass
class Setup:
    """One run of the harness. `results` are those of the parts that ran before, by part."""

    folder: Path
    quick: bool
    say: Callable[[str], None]
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    only: frozenset[str] = frozenset()
    """Contenders to measure; empty for all."""

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def chosen(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.only or name in self.only]

    def home(self, name: str, purpose: str, data: DataSet | None) -> Path:
        return self.folder / f"{name}-{purpose}-{data.name if data else 'empty'}"

    @asynccontextmanager
    async def start(
        self, name: str, purpose: str, data: DataSet | None, sync: NatsSync = "default", **options: Any
    ) -> AsyncGenerator[Contender]:
        """A contender on a database of its own for the purpose, which is loaded once in a run."""
        # Postgres runs as another user where we are root.
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        if data is None:
            # A stream that has these webhooks from before would only find repeats.
            self.drop(name, purpose, data)
        async with start(name, self.home(name, purpose, data), data, nats_sync=sync, **options) as contender:
            yield contender

    def drop(self, name: str, purpose: str, data: DataSet | None) -> None:
        """Remove a database that is not needed any more: the large ones would fill the disk."""
        shutil.rmtree(self.home(name, purpose, data), ignore_errors=True)


def median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else 0.0


def spread(runs: Sequence[Figures], name: str) -> tuple[float, float, float]:
    """Median, least and greatest of a figure over its runs."""
    values = [run[name] for run in runs if run.get(name) is not None]
    return (median(values), min(values), max(values)) if values else (0.0, 0.0, 0.0)


async def log_in(contender: Contender, user: int = 0) -> str:
    async with httpx2.AsyncClient(base_url=contender.url, timeout=30, trust_env=False) as http:
        answer = await http.post("/api/token/", json={"username": email(user), "password": PASSWORD})
        answer.raise_for_status()
        return answer.json()["access"]
