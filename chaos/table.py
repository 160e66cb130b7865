"""The end of a campaign for people: one column a trial, and every violation with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.cluster import KIND
from chaos.random_kills import KINDS
from chaos.trial import Outcome

Cell = Callable[[Outcome], object]
_SHOWN = 40


def _figure(name: str) -> Cell:
    return lambda outcome: outcome.verdict.figures.get(name, 0)


def _struck(kind: str) -> Cell:
    return lambda outcome: f"{outcome.tally[f'kill {kind}']} / {outcome.tally[f'freeze {kind}']}"


_ROWS: Sequence[tuple[str, Cell]] = (
    ("seconds under fire", lambda outcome: round(outcome.seconds)),
    ("seconds until quiet", lambda outcome: round(outcome.quiet)),
    *((f"{kind}: kill -9 / frozen", _struck(kind)) for kind in (*KINDS, KIND)),
    ("one process of postgres: kill -9", lambda outcome: outcome.tally["part kill postgres"]),
    ("webhooks sent", _figure("sent")),
    ("  answered 200", _figure("answered 200")),
    ("  different ones among those", _figure("taken")),
    ("    applied", _figure("applied")),
    ("    dead-lettered", _figure("dead")),
    ("    pending", _figure("pending")),
    ("    LOST", _figure("lost")),
    ("calls requested", _figure("requested")),
    ("  answered", _figure("answered")),
    ("  dialled once", _figure("dialled once")),
    ("  never dialled", _figure("never dialled")),
    ("  DIALLED TWICE", _figure("dialled twice")),
    ("answers replayed for a key", _figure("replayed")),
    ("answers 500", _figure("internal errors")),
    ("calls", _figure("rows")),
    ("  rows DIFFERING from the fold", _figure("rows differing")),
    ("  NOT TERMINAL", _figure("not terminal")),
    ("rollups DIFFERING", _figure("rollups differing")),
    ("call events", _figure("call events")),
    ("contact events", _figure("contact events")),
    ("reports of calls that are not ours", _figure("unmatched")),
    ("violations", lambda outcome: len(outcome.verdict.violations)),
)


def table(seed: str, outcomes: Sequence[Outcome], home: Path) -> str:
    lines = [f"seed {seed}", ""]
    width = max(len(title) for title, _ in _ROWS) + 2
    columns = [max(14, len(outcome.name) + 2) for outcome in outcomes]
    heads = (f"{outcome.name:>{column}}" for outcome, column in zip(outcomes, columns, strict=True))
    lines.append(" " * width + "".join(heads))
    for title, cell in _ROWS:
        cells = (f"{cell(outcome)!s:>{column}}" for outcome, column in zip(outcomes, columns, strict=True))
        lines.append(f"{title:<{width}}" + "".join(cells))
    endings = sorted({name for outcome in outcomes for name in outcome.verdict.figures if name.startswith("ended ")})
    for name in endings:
        cells = (f"{_figure(name)(outcome)!s:>{column}}" for outcome, column in zip(outcomes, columns, strict=True))
        lines.append(f"{'  ' + name:<{width}}" + "".join(cells))
    return "\n".join([*lines, "", *_violations(seed, outcomes, home)])


def _violations(seed: str, outcomes: Sequence[Outcome], home: Path) -> list[str]:
    lines = [
        f"{outcome.name}: {violation.promise}: {violation.about}: {violation.seen}"
        for outcome in outcomes
        for violation in outcome.verdict.violations
    ]
    if not lines:
        return ["No promise was broken."]
    shown = [f"{len(lines)} VIOLATIONS (seed {seed}, evidence in {home}):", *lines[:_SHOWN]]
    return shown + ([f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])
