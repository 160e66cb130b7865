"""Webhooks as fast as they are answered: part `ingest`, and by itself for one contender:

    python -m bench.ingest --contender ours --sync default --seconds 10 --connections 256

Starts the contender, loads live calls, drives wrk, waits until everything is applied, and prints the rates, CPU time
per event and peak memory by process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import usage, wrk
from bench.applied import all_applied, prepared
from bench.bodies import EVENTS
from bench.contender import Contender, NatsSync
from bench.contenders import CONTENDERS, FLOORS, WITH_NATS
from bench.setup import BASE, Figures, Setup

CONNECTIONS = 256
# A second; live calls are prepared for so many.
MOST_EVENTS, FEW_EVENTS = 12_000, 4_000
WITHOUT_NATS = ("django", "django-persistent", "sqlalchemy", "floor-constant")
QUICK = ("ours", "floor-publish", "django-persistent", "sqlalchemy")


@dataclass
class Run:
    """One run's figures. `applied` counts up to the last row's writing; where nothing is applied it is `answered`."""

    answered: float
    applied: float
    counted: wrk.Ingested
    missing: dict[str, int]
    used: usage.Usage

    @property
    def fine(self) -> bool:
        return self.counted.fine and not self.missing

    def as_json(self) -> dict[str, Any]:
        return {
            "answered_per_s": round(self.answered, 1),
            "applied_per_s": round(self.applied, 1),
            "p50_ms": self.counted.p50,
            "p99_ms": self.counted.p99,
            "events": self.counted.answered,
            "errors": self.counted.errors,
            "missing": self.missing,
            "cpu_us": self.used.cpu_micros(self.counted.answered),
            "peak_mb": self.used.peak_mb,
        }


async def ingest_once(
    contender: Contender, seconds: float, connections: int = CONNECTIONS, most: int = MOST_EVENTS
) -> Run:
    """Drive one contender, and wait until all that it answered is applied."""
    applies = contender.add_live is not None
    first = await prepared(contender, int(most * seconds / EVENTS)) if applies else 0
    async with usage.measured(contender.processes) as used:
        counted = await wrk.ingest(contender.url, contender.secret, first * EVENTS, seconds, connections)
        last, missing = await all_applied(contender, first, counted.sent) if applies else (0.0, {})
    span = max(last - counted.began if applies else 0.0, counted.seconds)
    # What is not applied after ten quiet seconds has no rate; the run is marked.
    return Run(counted.rate, 0.0 if missing else counted.answered / span, counted, missing, used)


async def part(setup: Setup) -> Figures:
    """Every contender, one after another, in rounds: {contender: {sync: [run, ...]}}."""
    seconds = 4 if setup.quick else 6
    plan: list[tuple[str, NatsSync]] = [(name, sync) for name in WITH_NATS for sync in ("always", "default")]
    plan += [(name, "default") for name in WITHOUT_NATS]
    if setup.quick:
        plan = [each for each in plan if each[0] in QUICK]
    figures: Figures = {}
    for turn in range(setup.rounds):
        for name, sync in plan:
            if not setup.chosen([name]):
                continue
            async with setup.start(name, "ingest", None if name in FLOORS else BASE, sync) as contender:
                run = await ingest_once(contender, seconds, most=MOST_EVENTS if name in WITH_NATS else FEW_EVENTS)
            figures.setdefault(name, {}).setdefault(sync, []).append(run.as_json())
            setup.say(
                f"ingest {turn + 1}: {name}, sync {sync}: answered {run.answered:.0f}/s, applied {run.applied:.0f}/s"
                f"{'' if run.fine else f', errors {run.counted.errors}, not applied {run.missing}'}"
            )
    return figures


def _show(name: str, run: Run) -> None:
    print(
        f"{name}: answered {run.answered:.0f}/s, applied {run.applied:.0f}/s, {run.counted.answered} events,"
        f" p50 {run.counted.p50:.1f} ms, p99 {run.counted.p99:.1f} ms"
    )
    micros, peaks = run.used.cpu_micros(run.counted.answered), run.used.peak_mb
    for label, value in sorted(micros.items(), key=lambda item: -item[1]):
        print(f"  {label:12}{value:9.1f} us CPU per event{peaks.get(label, 0):9.1f} MB peak")
    print(
        f"  {'together':12}{sum(micros.values()):9.1f} us; without the load {sum(micros.values()) - micros['load']:.1f}"
    )
    if not run.fine:
        print(f"  NOT FINE: errors {run.counted.errors}, not applied {run.missing}")


async def _alone(folder: Path, name: str, sync: NatsSync, seconds: float, connections: int, runs: int) -> bool:
    setup = Setup(folder, quick=True, say=print)
    fine = True
    async with setup.start(name, "ingest", None if name in FLOORS else BASE, sync) as contender:
        for _ in range(runs):
            run = await ingest_once(contender, seconds, connections)
            _show(f"{contender.name}, sync {sync}", run)
            fine = fine and run.fine
    return fine


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest")
    parser.add_argument("--contender", default="ours", choices=sorted(CONTENDERS))
    parser.add_argument("--sync", default="default", choices=("always", "default"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # Postgres runs as another user where we are root.
        Path(folder).chmod(0o711)
        work = _alone(Path(folder), given.contender, given.sync, given.seconds, given.connections, given.runs)
        return 0 if asyncio.run(work) else 1


if __name__ == "__main__":
    sys.exit(_main())
