"""Each mechanism matters: with it taken out of the process that is struck, the campaign finds what it looks for.

That it finds nothing while they are all in place is what `test_every_await` and `make chaos-awaits` show.
"""

from collections.abc import AsyncGenerator, Callable

import pytest
import pytest_asyncio

from chaos.books import DIFFERS, DOUBLE, LOST
from chaos.campaign import HARNESS, Plan, Waits, run_scenario
from chaos.every_await import find
from chaos.lab import Lab, lab
from chaos.mutations import MUTATIONS
from chaos.steps import Strike

pytestmark = pytest.mark.timeout(600)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Lab]:
    async with lab(tmp_path_factory.mktemp("mechanisms"), print) as opened:
        yield opened


def killed_in(*files: str) -> Plan:
    """Killed at each point, before and after, at which one of these files waits itself."""

    def plan(waits: Waits) -> list[Strike]:
        points = [point for point, lines in enumerate(waits, 1) if lines and lines[-1].startswith(files)]
        return [Strike("kill", point, after) for point in points for after in (False, True)]

    return plan


def not_struck(_: Waits) -> list[Strike]:
    return []


NEEDED: dict[str, tuple[str, Callable[[Waits], list[Strike]] | Plan, str]] = {
    "claim after send": ("dispatch/10", killed_in("calls/vapi.py"), DOUBLE),
    "retry unclear": ("dispatch/20", not_struck, DOUBLE),
    "publish after commit": ("dispatch/00", killed_in("common/db.py"), LOST),
    "term before letter": ("batch/with poison", killed_in("common/bus/"), LOST),
    "last write wins": ("batch/plain", not_struck, DIFFERS),
    "no key": ("dispatch/00", not_struck, LOST),
    "no sync": ("spool/the power fails", not_struck, LOST),
}


@pytest.mark.parametrize("mutation", NEEDED)
async def test_without_a_mechanism_the_campaign_finds_the_promise_broken(running: Lab, mutation: str) -> None:
    name, plan, kind = NEEDED[mutation]
    (scenario,) = find([name])
    line = await run_scenario(running, scenario, plan, mutation=mutation)
    for case, finding in line.findings:
        print(f"{finding.kind}: {case}: {finding.about}: {finding.text}")
    assert kind in {finding.kind for _, finding in line.findings}
    assert not line.count(HARNESS)


def test_every_mutation_is_tried() -> None:
    assert NEEDED.keys() == MUTATIONS.keys()
