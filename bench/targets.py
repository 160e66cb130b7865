"""What the project set itself, judged by what was measured. A target whose figures are missing is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.contenders import DJANGO, PLAIN
from bench.footprint import SERVICES
from bench.reads import APPLY, FAR
from bench.setup import median

Results = dict[str, Any]
FLAT = ("first page", f"page {FAR} by cursor", "one call", "pending-count", "stats", APPLY)
SMALL, MIDDLE, LARGE = "10000-1", "100000-1", "1000000-1"
_LIMIT_MB = 90
_FLAT = 1.3
# Of the services' memory between the second sample and the last.
_GROWTH = 1.05


@dataclass(frozen=True)
class Verdict:
    """One target: what is asked, what was measured, and whether that is enough."""

    what: str
    wanted: str
    found: str
    met: bool


def _runs(results: Results, *path: str) -> list[dict[str, Any]]:
    found: Any = results
    for name in path:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, list) else []


def _middle(runs: Sequence[dict[str, Any]], name: str) -> float:
    return median(run[name] for run in runs if run.get(name) is not None)


def _at_least(what: str, found: float, wanted: float, unit: str = " times") -> Verdict:
    return Verdict(what, f"≥ {wanted:g}{unit}", f"{found:.2f}{unit}", found >= wanted)


def _ingest(results: Results) -> Iterator[Verdict]:
    peer = max((_middle(_runs(results, "ingest", name, "default"), "applied_per_s") for name in DJANGO), default=0.0)
    for sync, wanted in (("always", 5), ("default", 8)):
        ours = _middle(_runs(results, "ingest", "ours", sync), "applied_per_s")
        floor = _middle(_runs(results, "ingest", "floor-publish", sync), "answered_per_s")
        if ours and peer:
            yield _at_least(f"ingest to visible state, sync {sync}: beside the better Django", ours / peer, wanted)
        if ours and floor:
            yield _at_least(f"ingest to visible state, sync {sync}: beside the bare JetStream floor", ours / floor, 0.6)


def _latency(results: Results) -> Iterator[Verdict]:
    for sync in ("always", "default"):
        if most := _runs(results, "latency", "ours", sync, "most"):
            lost = sum(run["lost"] + run["sent"] - run["answered"] for run in most)
            late = sum(run["late"] for run in most)
            slowest = max(run["lag_ms"]["max"] for run in most) / 1000
            text = f"{lost} lost, {late} late, the slowest after {slowest:.2f} s"
            yield Verdict(
                f"at 80 % of that rate, sync {sync}: none lost, none applied later than 1 s",
                "0 lost, 0 late",
                text,
                not lost and not late,
            )
        if half := _runs(results, "latency", "ours", sync, "half"):
            p99 = median(run["ack_ms"]["p99"] for run in half)
            yield Verdict(f"at half of it, sync {sync}: acknowledgement p99", "< 50 ms", f"{p99:.1f} ms", p99 < 50)


def _reads(results: Results) -> Iterator[Verdict]:
    wanted = (("first page", SMALL, 15), ("first page", MIDDLE, 100), ("stats", SMALL, 100), ("stats", MIDDLE, 1000))
    for name, size, least in wanted:
        ours = _runs(results, "reads", "ours", size, name)
        peers = [runs for peer in DJANGO if (runs := _runs(results, "reads", peer, size, name))]
        if not ours or not peers:
            continue
        rate = _middle(ours, "per_s") / max(_middle(runs, "per_s") for runs in peers)
        time = min(_middle(runs, "p50_ms") for runs in peers) / _middle(ours, "p50_ms")
        calls = int(size.partition("-")[0])
        verdict = _at_least(f"{name} at {calls:,} calls: beside Django", rate, least)
        text = f"{verdict.found} as many a second, {time:.1f} in p50"
        plain = _runs(results, "reads", PLAIN, size, name)
        if len(peers) > 1 and plain:
            text += f" ({_middle(ours, 'per_s') / _middle(plain, 'per_s'):.0f} and "
            text += f"{_middle(plain, 'p50_ms') / _middle(ours, 'p50_ms'):.0f} beside one without our index)"
        yield Verdict(verdict.what, verdict.wanted, text, verdict.met)


def _flat(results: Results) -> Iterator[Verdict]:
    for name in FLAT:
        small = _middle(_runs(results, "reads", "ours", SMALL, name), "p50_ms")
        large = _middle(_runs(results, "reads", "ours", LARGE, name), "p50_ms")
        if small and large:
            grown = large / small
            text = f"{grown:.2f} times ({small:.2f} → {large:.2f} ms)"
            yield Verdict(f"p50 of {name}, 1,000,000 calls over 10,000", f"≤ {_FLAT:g} times", text, grown <= _FLAT)


def _backlog(results: Results) -> Iterator[Verdict]:
    drained = _middle(_runs(results, "backlog", "default"), "per_s")
    rate = _middle(_runs(results, "ingest", "ours", "default"), "applied_per_s")
    if drained and rate:
        events = _runs(results, "backlog", "default")[0]["events"]
        yield _at_least(f"a backlog of {events:,} events: beside the ingest rate", drained / rate, 1.5)


def peaks(found: Any) -> Iterator[tuple[str, float]]:
    """Every `peak_mb` in results, by label."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name == "peak_mb":
                yield from value.items()
            else:
                yield from peaks(value)
    elif isinstance(found, list):
        for each in found:
            yield from peaks(each)


def _memory(results: Results) -> Iterator[Verdict]:
    ours = [part.get("ours") for name, part in results.items() if name in ("ingest", "latency", "reads", "placing")]
    highest: dict[str, float] = {}
    for label, size in peaks([*ours, results.get("backlog"), results.get("memory")]):
        if label in SERVICES:
            highest[label] = max(highest.get(label, 0.0), size)
    if highest:
        text = ", ".join(f"{label} {size:.0f}" for label, size in sorted(highest.items()))
        yield Verdict(
            "most resident memory of a service, through all of it",
            f"< {_LIMIT_MB} MB",
            f"{text} MB",
            max(highest.values()) < _LIMIT_MB,
        )
    steady = results.get("memory", {})
    if len(samples := steady.get("samples_mb", [])) > 2:
        grown = {label: samples[-1][label] / samples[1][label] for label in SERVICES if label in samples[0]}
        text = ", ".join(f"{label} {100 * (times - 1):+.1f} %" for label, times in sorted(grown.items()))
        yield Verdict(
            f"memory over {steady['seconds']} s of steady load, from the second sample to the last",
            f"≤ {100 * (_GROWTH - 1):+.0f} %",
            text,
            max(grown.values()) <= _GROWTH,
        )


_JUDGES: tuple[Callable[[Results], Iterator[Verdict]], ...] = (_ingest, _latency, _reads, _flat, _backlog, _memory)


def verdicts(results: Results) -> list[Verdict]:
    return [verdict for judge in _JUDGES for verdict in judge(results)]
