"""One scenario of one path: every point, every action; then the restart, the books, and a line of the table."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chaos.books import KINDS, STUCK, Finding
from chaos.lab import Lab
from chaos.steps import ACTIONS, Strike
from chaos.zygote import Ending

HARNESS = "harness"
_GROUP = 200
_numbers = itertools.count(1)


@dataclass(slots=True)
class Case:
    """One run of a path, struck at one point or not at all, with objects of its own."""

    strike: Strike | None
    args: dict[str, Any]
    mutation: str | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    ending: Ending = field(default_factory=lambda: Ending("failed"))

    def where(self) -> str:
        """Our lines at which it was struck."""
        waits = self.ending.waits
        if self.strike is None or len(waits) < self.strike.point:
            return ""
        return " > ".join(waits[self.strike.point - 1][-4:])

    def __str__(self) -> str:
        return f"case {self.number}, {self.strike or 'not struck'} ({self.where()}), {self.ending.end}"


class Scenario(Protocol):
    """A path under one condition. `runs` names what the case's process does (`chaos.cases`)."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def runs(self) -> str: ...
    @property
    def env(self) -> dict[str, str]: ...

    async def begin(self, lab: Lab) -> None:
        """Before a group of cases."""
        ...

    async def prepare(self, lab: Lab) -> dict[str, Any]:
        """Make what one case needs; the arguments of its process."""
        ...

    async def recover(self, lab: Lab, cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
        """After a group: restart, wait until quiet, compare the books."""
        ...


@dataclass(slots=True)
class Line:
    """A line of the table."""

    path: str
    scenario: str
    points: int = 0
    lines: set[str] = field(default_factory=set[str])
    cases: Counter[str] = field(default_factory=Counter[str])
    """By action: those that were struck. "missed": those that ended before their point came."""
    findings: list[tuple[Case, Finding]] = field(default_factory=list[tuple[Case, Finding]])

    def count(self, kind: str) -> int:
        return len({case.number for case, finding in self.findings if finding.kind == kind})


type Waits = Sequence[tuple[str, ...]]
type Plan = Callable[[Waits], Iterable[Strike]]
"""From the points of a run that is not struck (our lines at each) to the strikes to try."""


def every_point(waits: Waits, actions: Sequence[str] = ACTIONS) -> list[Strike]:
    """Every action at every point, before and after the result."""
    return [
        Strike(action, point, after)
        for point in range(1, len(waits) + 1)
        for after in (False, True)
        for action in actions
    ]


async def run_scenario(
    lab: Lab, scenario: Scenario, plan: Plan = every_point, *, mutation: str | None = None, group: int = _GROUP
) -> Line:
    """Measure how many points there are, strike as planned, and check. With the plan of every point, go on past the
    last one until a case is not struck any more."""
    line = Line(scenario.path, scenario.name)

    # What a case needs is made shortly before it runs, so that calls are not old by then.
    slots = asyncio.Semaphore(lab.zygotes.count + 1)

    async def one(strike: Strike | None) -> Case:
        async with slots:
            return await run(Case(strike, await scenario.prepare(lab), mutation))

    async def run(case: Case) -> Case:
        strike = case.strike
        spec: dict[str, Any] = {"id": case.number, "path": scenario.runs, "args": case.args, "env": scenario.env}
        if strike:
            spec["strike"] = [strike.action, strike.point, strike.after]
        case.ending = await lab.zygotes.run({**spec, "mutation": mutation})
        return case

    await scenario.begin(lab)
    # The first one finds cold caches, and has more to wait for.
    cases = [await one(None) for _ in range(2)]
    waits = max((case.ending.waits for case in cases), key=len)
    line.points = len(waits)
    strikes = list(plan(waits))
    while strikes or cases:
        chunk, strikes = strikes[: group - len(cases)], strikes[group - len(cases) :]
        cases += await asyncio.gather(*(one(strike) for strike in chunk))
        if not strikes and plan is every_point:
            cases += (beyond := await _beyond(one, line.points))
            line.points += len(beyond) - 1
        _count(line, cases)
        line.findings += _process_findings(cases)
        line.findings += await scenario.recover(lab, cases)
        cases = []
        if strikes:
            await scenario.begin(lab)
    return line


async def _beyond(one: Callable[[Strike], Any], points: int) -> list[Case]:
    """A run may have more points than the measured one had."""
    found: list[Case] = []
    while True:
        points += 1
        case = await one(Strike("kill", points))
        found.append(case)
        if not case.ending.struck:
            return found


def _count(line: Line, cases: Sequence[Case]) -> None:
    for case in cases:
        line.lines.update(itertools.chain.from_iterable(case.ending.waits))
        if case.strike and case.ending.struck:
            line.cases[case.strike.action] += 1
        elif case.strike and case.strike.point <= line.points:
            line.cases["missed"] += 1


def _process_findings(cases: Sequence[Case]) -> list[tuple[Case, Finding]]:
    found: list[tuple[Case, Finding]] = []
    for case in cases:
        if case.ending.end == "hung":
            found.append((case, Finding(STUCK, "", "the process hung")))
        elif case.ending.end == "failed":
            found.append((case, Finding(HARNESS, "", case.ending.outcome)))
    return found


def table(lines: Sequence[Line]) -> str:
    """The lines as text, and a total below each path."""
    head = ["path", "scenario", "points", "lines", *ACTIONS, "missed", *KINDS]
    body: list[list[str]] = []
    for path, members in itertools.groupby(lines, key=lambda line: line.path):
        group = list(members)
        rows = [(line.scenario, line.points, len(line.lines), line) for line in group]
        for name, points, where, line in rows:
            body.append(_cells(path, name, points, where, [line]))
        if len(group) > 1:
            where = len(set[str]().union(*(line.lines for line in group)))
            body.append(_cells(path, "all", max(line.points for line in group), where, group))
    widths = [max(len(row[place]) for row in [head, *body]) for place in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths, strict=True)] for row in [head, *body])
    )


def _cells(path: str, name: str, points: int, where: int, lines: Sequence[Line]) -> list[str]:
    struck = sum((line.cases for line in lines), Counter[str]())
    found = [sum(line.count(kind) for line in lines) for kind in KINDS]
    return [path, name, *(str(n) for n in (points, where, *(struck[a] for a in (*ACTIONS, "missed")), *found))]
