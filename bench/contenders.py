"""Who is measured: short name -> how to start it, and its name in the tables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from bench.contender import Contender, NatsSync, start_ours
from bench.data import DataSet
from bench.peers.start import PEERS

CONTENDERS: dict[str, Callable[..., AbstractAsyncContextManager[Contender]]] = {"ours": start_ours, **PEERS}
TITLES = {
    "ours": "BoostedCalls",
    "django": "Django, as documented",
    "django-persistent": "Django, persistent connections",
    "django-indexed": "Django, persistent connections and one more index",
    "sqlalchemy": "FastAPI + SQLAlchemy",
    "faststream": "FastStream on NATS",
    "floor-publish": "floor: publish to JetStream",
    "floor-constant": "floor: answer a constant",
}
PLAIN = "django-persistent"
"""Without the index that none of its documentation asks for; `django-indexed` has it."""
DJANGO = (PLAIN, "django-indexed", "django")
FLOORS = ("floor-publish", "floor-constant")
WITH_NATS = ("ours", "faststream", "floor-publish")
"""Those for which it matters when NATS syncs."""


def start(
    name: str, folder: Path, data: DataSet | None, *, nats_sync: NatsSync, **options: Any
) -> AbstractAsyncContextManager[Contender]:
    return CONTENDERS[name](folder, data, nats_sync=nats_sync, **options)
