"""The gateway's spool: webhooks that are taken in while the webhooks service is away, and the drain when it is back."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import orjson

from boostedcalls.common.bus.streams import PROVIDER_EVENTS
from boostedcalls.common.context import caller, new_id
from boostedcalls.gateway.drain import to_record
from boostedcalls.gateway.segment import encode
from boostedcalls.gateway.spool_files import SEGMENT
from boostedcalls.gateway.spool_folder import SpoolFolder
from chaos.books import LOST, STUCK, Finding
from chaos.campaign import HARNESS, Case
from chaos.lab import Lab

_WEBHOOKS = 4
_MAX_BYTES = 2**20


@dataclass(slots=True)
class Spools:
    """Webhooks of a case, in a folder of its own.

    drain        they are in the spool already, in two segments; else they come in
    away         the webhooks service is away while the cases run
    power_loss   what was not synced when the process died is gone as well
    """

    name: str
    drain: bool = False
    away: bool = False
    power_loss: bool = False
    path: str = "spool"
    env: dict[str, str] = field(default_factory=dict[str, str])
    _since: int = 0

    @property
    def runs(self) -> str:
        return "drain" if self.drain else "append"

    async def begin(self, lab: Lab) -> None:
        self._since = await lab.last(PROVIDER_EVENTS)
        if self.away:
            await lab.stack.stop("webhooks")

    async def prepare(self, lab: Lab) -> dict[str, Any]:
        label = str(new_id())
        folder = lab.stack.home / "spools" / label
        bodies = [_body(label, number) for number in range(_WEBHOOKS)]
        if self.drain:
            half = len(bodies) // 2
            for part in (bodies[:half], bodies[half:]):
                written = SpoolFolder(folder, _MAX_BYTES, _MAX_BYTES, time, os.fsync)
                records = (to_record(caller(), body.encode()) for body in part)
                assert not any(written.write([encode(record) for record in records]))
                written.close()
        return {"folder": str(folder), "bodies": bodies}

    async def recover(self, lab: Lab, cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
        """The gateway and the webhooks service come back: everything that was answered 200 reaches the stream."""
        if self.away:
            await lab.stack.start("webhooks")
        if self.power_loss:
            for case in cases:
                _lose_power(Path(case.args["folder"]), case.ending.notes)
        drain = {"folders": [case.args["folder"] for case in cases]}
        spec = {"id": 0, "path": "drain-spools", "args": drain, "mutation": cases[0].mutation}
        ending = await lab.zygotes.run(spec)
        found: list[tuple[Case, Finding]] = []
        if ending.end != "completed":
            found.append((cases[0], Finding(HARNESS, "", f"the fresh gateway: {ending.end} {ending.outcome}")))
        stored = Counter(
            (message.headers or {}).get("Nats-Msg-Id") for message in await lab.read(PROVIDER_EVENTS, self._since)
        )
        for case in cases:
            bodies = case.args["bodies"]
            kept = bodies if self.drain else [note["answered"] for note in case.ending.notes if "answered" in note]
            lost = [body for body in kept if stored[_digest(body)] == 0]
            if lost:
                found.append((case, Finding(LOST, case.args["folder"], f"{len(lost)} of {len(kept)} webhooks")))
            twice = [body for body in bodies if stored[_digest(body)] > 1]
            if twice:
                found.append((case, Finding(LOST, case.args["folder"], f"{len(twice)} are stored more than once")))
            left = [name for name in _names(Path(case.args["folder"])) if name.endswith(SEGMENT)]
            if left:
                found.append((case, Finding(STUCK, case.args["folder"], f"{left} are left")))
        return found


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.exists() else []


def _lose_power(folder: Path, notes: Iterable[dict[str, Any]]) -> None:
    """Cut every file to what was synced of it; one whose name was not synced is gone."""
    names: set[str] = set()
    sizes: dict[str, int] = {}
    for note in notes:
        names |= {Path(name).stem for name in note.get("names", ())}
        if "synced" in note:
            sizes[Path(note["synced"]).stem] = note["size"]
    for name in _names(folder):
        path = folder / name
        if path.stem not in names:
            path.unlink()
        else:
            os.truncate(path, min(path.stat().st_size, sizes.get(path.stem, 0)))


def _body(label: str, number: int) -> str:
    call = {"id": f"{label}-{number}"}
    return orjson.dumps({"message": {"type": "status-update", "status": "ringing", "call": call}}).decode()


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


SPOOL = [
    Spools("4 pass through"),
    Spools("4 come in", away=True),
    Spools("the power fails", away=True, power_loss=True),
    Spools("4 go out", drain=True),
]
