"""The results as Markdown, and their place in docs/benchmarks.md. A run with errors is marked with a dagger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.contenders import DJANGO, TITLES, WITH_NATS
from bench.footprint import SERVICES
from bench.reads import AT_ONCE, MANY_USERS, ONE_USER
from bench.setup import spread
from bench.targets import verdicts

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_SKELETON = f"""# Benchmarks

`make bench` measures everything below in one run on one machine, side by side, and writes what it found between here
and the end of the results. `make bench-quick` is the short form: one round, fewer contenders, printed only.

{BEGIN}
{END}
"""
_DAGGER = " †"

Results = dict[str, Any]
Runs = Sequence[dict[str, Any]]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(runs: Runs, name: str) -> str:
    """`median (least to greatest)`, with a dagger where a run had errors."""
    if not any(run.get(name) is not None for run in runs):
        return "-"
    middle, least, greatest = spread(runs, name)
    text = _number(middle) + (f" ({_number(least)} to {_number(greatest)})" if len(runs) > 1 else "")
    return text + (_DAGGER if any(run.get("errors") or run.get("missing") for run in runs) else "")


def _times(value: float, other: float) -> str:
    return _number(value / other) if value and other else "-"


def _cpu(runs: Runs) -> float:
    return spread([{"us": sum(v for k, v in run["cpu_us"].items() if k != "load")} for run in runs], "us")[0]


def _inner(runs: Runs, group: str, *names: str) -> str:
    return " / ".join(_number(spread([run[group] for run in runs if run[group]], name)[0]) for name in names)


def about(found: Results) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return (
        f"{found['date']}, commit {found['commit']}. {found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB,"
        f" {found['system']}, Python {found['python']}, wrk {found['wrk']}. {packages}."
    )


def targets(results: Results) -> str:
    rows = [(one.what, one.wanted, one.found, "pass" if one.met else "**miss**") for one in verdicts(results)]
    return _table(("target", "wanted", "measured", ""), rows)


def ingest(found: Results) -> str:
    def applied(name: str, sync: str) -> float:
        return spread(found.get(name, {}).get(sync, []), "applied_per_s")[0]

    django = max(applied(name, "default") for name in DJANGO)
    rows: list[tuple[str, ...]] = []
    for name, syncs in found.items():
        for sync, runs in syncs.items():
            floor = spread(found.get("floor-publish", {}).get(sync, []), "answered_per_s")[0]
            rate = applied(name, sync)
            rows.append(
                (
                    TITLES.get(name, name),
                    sync if name in WITH_NATS else "no NATS",
                    _cell(runs, "answered_per_s"),
                    "-" if name.startswith("floor") else _cell(runs, "applied_per_s"),
                    _times(rate, django),
                    _times(rate, floor),
                    _cell(runs, "p50_ms"),
                    _cell(runs, "p99_ms"),
                    _number(_cpu(runs)),
                )
            )
    head = (
        "",
        "sync",
        "answered/s",
        "applied/s",
        "times Django",
        "times the floor",
        "p50 ms",
        "p99 ms",
        "µs CPU an event",
    )
    return _table(head, rows)


def processes(found: Results) -> str:
    """Where the CPU time of an event goes, and how much memory each process had, of each contender."""
    rows: list[tuple[str, ...]] = []
    for name, syncs in found.items():
        for sync, runs in syncs.items():
            labels = [label for label in runs[0]["cpu_us"] if label != "load"]
            parts = {label: spread([run["cpu_us"] for run in runs], label)[0] for label in labels}
            peaks = {label: spread([run["peak_mb"] for run in runs], label)[2] for label in labels}
            text = ", ".join(f"{label} {_number(value)}" for label, value in sorted(parts.items(), key=lambda p: -p[1]))
            memory = ", ".join(f"{label} {peaks[label]:.0f}" for label in sorted(peaks))
            rows.append((TITLES.get(name, name), sync if name in WITH_NATS else "no NATS", text, memory))
    return _table(("", "sync", "µs CPU an event", "peak MB"), rows)


def latency(found: Results) -> str:
    rows: list[tuple[str, ...]] = []
    for name, syncs in found.items():
        for sync, runs in syncs.items():
            half, most = runs["half"], runs["most"]
            bad = sum(run["lost"] + run["sent"] - run["answered"] for run in most)
            rows.append(
                (
                    TITLES.get(name, name),
                    sync if name in WITH_NATS else "no NATS",
                    _number(spread(half, "rate")[0]),
                    _inner(half, "ack_ms", "p50", "p99", "max"),
                    _number(spread(most, "rate")[0]),
                    _inner(most, "ack_ms", "p50", "p99", "max"),
                    _inner(most, "lag_ms", "p50", "p99", "max"),
                    _inner(most, "visible_ms", "p50", "p99", "max"),
                    f"{bad} / {sum(run['late'] for run in most)}",
                )
            )
    head = (
        "", "sync", "half: /s", "answered after, ms", "four fifths: /s", "answered after, ms", "written after, ms",
        "seen over REST after, ms", "lost / late",
    )  # fmt: skip
    return _table(head, rows)


def reads(found: Results, figure: str) -> str:
    sizes = [data.name for data in (*ONE_USER, MANY_USERS)]
    columns = [(name, size) for name in found for size in sizes if size in found[name]]
    names = list(dict.fromkeys(work for name, size in columns for work in found[name][size]))

    def title(name: str, size: str) -> str:
        calls, _, users = size.partition("-")
        of_many = "" if users == "1" else f" of {int(users):,} users"
        return f"{TITLES.get(name, name)}: {int(calls):,} calls{of_many}"

    rows = [(work, *(_cell(found[name][size].get(work, []), figure) for name, size in columns)) for work in names]
    return _table(("", *(title(name, size) for name, size in columns)), rows)


def ratios(found: Results) -> str:
    """Ours over the others, at the same size: as many answers a second, and the other's p50 over ours."""
    rows: list[tuple[str, ...]] = []
    for name in found:
        for size in found[name] if name != "ours" else ():
            ours = found.get("ours", {}).get(size)
            for work, runs in found[name][size].items() if ours else ():
                if work not in ours:
                    continue
                rate = _times(spread(ours[work], "per_s")[0], spread(runs, "per_s")[0])
                time = _times(spread(runs, "p50_ms")[0], spread(ours[work], "p50_ms")[0])
                rows.append((TITLES.get(name, name), f"{int(size.partition('-')[0]):,}", work, rate, time))
    return _table(("beside", "calls", "", "times as many a second", "times as fast (p50)"), rows)


def placing(found: Results) -> str:
    rows = [
        (
            TITLES.get(name, name), _cell(runs, "p50_ms"), _cell(runs, "per_s"), _cell(runs, "many_p99_ms"),
            _number(_cpu(runs)), str(sum(run["dialled_twice"] for run in runs)),
            str(sum(run["never_over"] for run in runs)),
        )
        for name, runs in found.items()
    ]  # fmt: skip
    head = ("", "p50 ms, alone", "a second", "p99 ms", "µs CPU a call", "dialled twice", "never over")
    return _table(head, rows)


def backlog(found: Results) -> str:
    runs = found["default"]
    rows = [
        (
            f"{runs[0]['events']:,}", _cell(runs, "per_s"), _cell(runs, "seconds"), _cell(runs, "started_after_s"),
            _number(_cpu(runs)),
        )
    ]  # fmt: skip
    return _table(("events", "a second", "seconds", "first applied after start, s", "µs CPU an event"), rows)


def startup(found: Results) -> str:
    runs = found["runs"]
    labels = sorted(runs[0]["idle_mb"])
    rows = [
        (
            _cell(runs, "first_s"), _cell(runs, "again_s"), _cell(runs, "idle_total_mb"),
            ", ".join(f"{label} {spread([run['idle_mb'] for run in runs], label)[0]:.0f}" for label in labels),
        )
    ]  # fmt: skip
    return _table(("first start, s", "later start, s", "at rest, MB", "of these"), rows)


def memory(found: Results) -> str:
    samples = found["samples_mb"]
    labels = [*SERVICES, *sorted(label for label in samples[0] if label not in SERVICES)]
    rows = [
        (f"{(place + 1) * found['every_s']} s", *(f"{sample[label]:.1f}" for label in labels))
        for place, sample in enumerate(samples)
    ]
    text = (
        f"{found['rate']:.0f} webhooks and {found['reads_per_s']} reads a second, sync always;"
        f" errors: {found['errors'] or 'none'}; resident MB:"
    )
    return f"{text}\n\n{_table(('after', *labels), rows)}"


def render(results: Results) -> str:
    """All that there are figures for."""
    sections: list[str] = [about(results["about"]), "### Targets", targets(results)]
    if found := results.get("ingest"):
        sections += ["### Webhook ingest", ingest(found), processes(found)]
    if found := results.get("latency"):
        sections += ["### Webhook latency at a steady rate (p50 / p99 / max)", latency(found)]
    if found := results.get("reads"):
        sections += ["### Reads: p50 in ms, one connection", reads(found, "p50_ms")]
        sections += [f"### Reads: answers a second, {AT_ONCE} connections", reads(found, "per_s")]
        sections += ["### Reads: ratios", ratios(found)]
    for name, title, write in (
        ("placing", "Placing calls against the simulator", placing),
        ("backlog", "Draining a backlog", backlog),
        ("startup", "Start-up and memory at rest", startup),
        ("memory", "Memory under a steady load", memory),
    ):
        if found := results.get(name):
            sections += [f"### {title}", write(found)]
    sections.append(
        "Median (least to greatest) of the runs. † a run had errors. Events to SSE listeners: not there yet."
    )
    return "\n\n".join(sections)


def write(path: Path, results: Results) -> None:
    """Put the tables between the markers; the page is made when there is none."""
    text = path.read_text() if path.exists() else _SKELETON
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for results: {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}")
