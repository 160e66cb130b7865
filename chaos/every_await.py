"""Kills the process at every point at which the paths that matter suspend, before and after the result arrives; cancels
there, and raises there; crossed with the faults of the simulator. `python -m chaos.every_await`, exit code 1 when a
promise was broken.

After each group of cases everything is started again, one waits until nothing is left to do, and the books must
balance: see `books` for what that means, and the paths for what each one is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.campaign import Line, Plan, Scenario, Waits, every_point, run_scenario, table
from chaos.lab import Lab, lab
from chaos.path_batch import BATCH
from chaos.path_calls import CREATE, SWEEP
from chaos.path_relay import RELAY
from chaos.path_spool import SPOOL
from chaos.reached import not_reached
from chaos.steps import Strike

_SHOWN = 40

SCENARIOS: Sequence[Scenario] = [*CREATE, *SWEEP, *BATCH, *RELAY, *SPOOL]


def sample(count: int, seed: int) -> Plan:
    """So many of all strikes, by the dice."""

    def plan(waits: Waits) -> list[Strike]:
        strikes = every_point(waits)
        return random.Random(seed).sample(strikes, min(count, len(strikes)))

    return plan


def find(names: Sequence[str]) -> list[Scenario]:
    """The scenarios with these names (`dispatch`, `dispatch/22`), all of them without one. Raises SystemExit."""
    found = [
        scenario
        for scenario in SCENARIOS
        if not names or {scenario.path, f"{scenario.path}/{scenario.name}"} & {*names}
    ]
    if not found:
        raise SystemExit(f"no such scenario; there are {', '.join(f'{each.path}/{each.name}' for each in SCENARIOS)}")
    return found


async def campaign(running: Lab, scenarios: Sequence[Scenario], plan: Plan) -> list[Line]:
    """Run the scenarios one after the other, telling of each as it ends."""
    lines: list[Line] = []
    for scenario in scenarios:
        began = time.monotonic()
        line = await run_scenario(running, scenario, plan)
        lines.append(line)
        struck = sum(line.cases.values())
        took = time.monotonic() - began
        running.say(f"{line.path}/{line.scenario}: {line.points} points, {struck} cases, {took:.0f} s")
        for case, finding in line.findings[:_SHOWN]:
            running.say(f"  {finding.kind}: {case}: {finding.about}: {finding.text}")
        if len(line.findings) > _SHOWN:
            running.say(f"  … and {len(line.findings) - _SHOWN} more")
    return lines


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _run(options: argparse.Namespace, home: Path) -> bool:
    plan = sample(options.sample, options.seed) if options.sample else every_point
    if options.sample:
        _say(f"seed {options.seed}")
    async with lab(home, _say, options.processes) as running:
        lines = await campaign(running, find(options.scenarios), plan)
    _say(table(lines))
    if options.lines:
        for path in dict.fromkeys(line.path for line in lines):
            seen = set[str]().union(*(line.lines for line in lines if line.path == path))
            _say(f"{path}: suspended at {', '.join(sorted(seen))}")
            _say(f"{path}: never suspended at {', '.join(not_reached(seen)) or 'none that it passes'}")
    return not any(line.findings for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.every_await", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="dispatch, dispatch/22, batch, relay, spool, sweep … (all)")
    parser.add_argument("--sample", type=int, default=0, help="so many strikes a scenario, by the dice (all of them)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of the dice")
    parser.add_argument("--processes", type=int, default=3, help="cases at once")
    parser.add_argument("--lines", action="store_true", help="print the source lines at which it was suspended")
    parser.add_argument("--home", type=Path, help="keep data and logs there (a temporary folder, kept after a failure)")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp(prefix="every-await-"))
    good = asyncio.run(_run(options, home))
    if good and not options.home:
        shutil.rmtree(home)
    else:
        _say(f"data and logs: {home}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
