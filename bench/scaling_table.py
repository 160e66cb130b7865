"""The tables of part `scaling`, as Markdown, one column for each size; and their place in docs/scaling.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.footprint import SERVICES
from bench.results import about
from bench.setup import Figures
from bench.tables import BEGIN, END

Cell = Callable[[Figures], str]


def _rows(load: str, figures: Figures, names: Mapping[str, Cell]) -> str:
    runs = {size: found[load] for size, found in figures.items() if load in found}
    lines = [["of each", *runs], ["---"] * (len(runs) + 1)]
    lines += [[name, *(cell(run) for run in runs.values())] for name, cell in names.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(name: str, form: str = ",.0f") -> Cell:
    return lambda run: format(run[name], form)


def _each(kind: str) -> Cell:
    return lambda run: " / ".join(f"{value:,}" for name, value in run["work"].items() if name.startswith(kind))


def _linked(to: str) -> Cell:
    return lambda run: str(sum(count for name, count in run["connections"].items() if name.startswith(to)))


def _costs(kind: str) -> Cell:
    return lambda run: f"{run['cpu_us'][kind]:.0f}; {max(run['peak_mb'][kind]):.0f}"


def table(figures: Figures) -> str:
    """Both loads, as Markdown."""
    books: dict[str, Cell] = {
        **{f"taken by each of {kind}": _each(kind) for kind in SERVICES},
        "faults": lambda run: "; ".join(run["faults"]) or "none",
    }
    steady: dict[str, Cell] = {
        "webhooks answered a second": _figure("answered_per_s"),
        "applied a second": _figure("applied_per_s"),
        "slowest p99 of a gateway, ms": _figure("p99_ms"),
        **{f"{kind}: µs a webhook; MB each at most": _costs(kind) for kind in (*SERVICES, "nats", "postgres")},
        "connections to Postgres": _linked("postgres"),
        "connections to NATS": _linked("nats"),
        **books,
    }
    struck: dict[str, Cell] = {
        "webhooks": _figure("events"),
        "answered a second": _figure("answered_per_s"),
        "tries that were not answered 200": _figure("sent_again"),
        "answered from a spool": _figure("spooled"),
        "longest wait for a 200, s": _figure("longest_s", ".1f"),
        "everything back after, s": _figure("back_after_s", ".1f"),
        "all applied after the last answer, s": _figure("applied_after_s", ".1f"),
        **books,
    }
    return (
        f"{_rows('steady', figures, steady)}\n\nThe first of each killed, and the node that leads the stream:\n\n"
        f"{_rows('struck', figures, struck)}"
    )


def write(path: Path, figures: Figures) -> None:
    """Put the tables between the page's markers."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path.name} has no place for results: {BEGIN} … {END}")
    found = about()
    when = f"{found['date']}, commit {found['commit']}; {found['cpu']}, {found['cores']} cores."
    path.write_text(f"{before}{BEGIN}\n\n{when}\n\n{table(figures)}\n\n{END}{after}")
