"""Kill at every await, in short (`make chaos-awaits` is the whole of it): the dispatch at every point, the rest by the
dice. No scenario may leave a double dial, a lost result, a call that is stuck or a row that differs from its facts."""

import random
from collections.abc import AsyncGenerator, Sequence

import pytest
import pytest_asyncio

from chaos.campaign import Plan, Waits, run_scenario
from chaos.every_await import find, sample
from chaos.lab import Lab, lab
from chaos.steps import Strike

pytestmark = pytest.mark.timeout(600)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Lab]:
    async with lab(tmp_path_factory.mktemp("every-await"), print) as opened:
        yield opened


def kills(waits: Waits) -> Sequence[Strike]:
    """Killed when a result has arrived: that is before the next point begins, too. While the request to the provider is
    under way, also before: what left by then is not known."""
    found = [Strike("kill", 1)]
    for point, lines in enumerate(waits, 1):
        found.append(Strike("kill", point, after=True))
        if lines and lines[-1].startswith("calls/vapi.py"):
            found.append(Strike("kill", point))
    return found


async def strike(running: Lab, name: str, plan: Plan) -> None:
    (scenario,) = find([name])
    line = await run_scenario(running, scenario, plan)
    assert sum(line.cases.values()) - line.cases["missed"] > 0
    assert not [f"{finding.kind}: {case}: {finding.about}: {finding.text}" for case, finding in line.findings]


@pytest.mark.parametrize("name", ["dispatch/00", "dispatch/22"])
async def test_a_process_killed_at_any_await_of_the_dispatch_dials_at_most_once_and_loses_nothing(
    running: Lab, name: str
) -> None:
    await strike(running, name, kills)


@pytest.mark.parametrize("name", ["spool/the power fails", "batch/with poison", "sweep/reconcile 10", "relay/5 events"])
async def test_a_process_struck_at_an_await_taken_by_the_dice_loses_nothing(running: Lab, name: str) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    await strike(running, name, sample(8, seed))
