"""The short form of the random campaign (`make chaos`): everything killed under load, then the books."""

from pathlib import Path

import pytest

from chaos.random_kills import KINDS, random_kills
from chaos.table import table

SEED = "short"


@pytest.mark.timeout(300)
async def test_a_system_whose_every_process_is_killed_under_load_keeps_both_promises(tmp_path: Path) -> None:
    outcome = await random_kills(tmp_path / "chaos", SEED, 25, print, least=1, rate=3, patience=150)
    shown = table(SEED, [outcome], tmp_path)
    assert not outcome.verdict.violations, shown
    assert all(outcome.tally[f"kill {kind}"] for kind in KINDS), shown
    figures = outcome.verdict.figures
    assert figures["dialled once"] > 0
    assert figures["applied"] > 0
