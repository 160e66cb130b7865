"""`python -m chaos`: processes killed at random under load, then a cluster's leaders, then the table.

CHAOS_SECONDS  how long (600): four fifths for the processes, one fifth for the cluster; resting and judging come on top
CHAOS_SEED     of all that is left to chance (a new one)
CHAOS_HOME     where data, logs and history go (.run/chaos/<seed>)
CHAOS_KEEP     1: keep them, also when no promise was broken

Exit code 1 when one was.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from pathlib import Path

from boostedcalls.devkit.folder import private_folder
from chaos.cluster import leader_kills
from chaos.random_kills import random_kills
from chaos.table import table

_CLUSTER = 0.2
# Of each kind of process, whatever the machine: three runs of 600 s make over 200.
_KILLS_A_SECOND = 70 / 600


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main(seed: str, seconds: float, home: Path) -> bool:
    """Whether every promise held."""
    say(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g}, in {home}")
    least = max(1, int(seconds * _KILLS_A_SECOND))
    outcomes = [await random_kills(home / "random", seed, seconds * (1 - _CLUSTER), say, least=least)]
    outcomes.append(await leader_kills(home / "cluster", seed, seconds * _CLUSTER, say))
    text = table(seed, outcomes, home)
    (home / "table.txt").write_text(text + "\n")
    say(f"\n{text}")
    return not any(outcome.verdict.violations for outcome in outcomes)


if __name__ == "__main__":
    chosen = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
    folder = Path(os.environ.get("CHAOS_HOME") or Path(".run") / "chaos" / chosen).absolute()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is in use or holds an earlier run; remove it, or name another folder in CHAOS_HOME")
    private_folder(folder, passable=True)
    held = asyncio.run(main(chosen, float(os.environ.get("CHAOS_SECONDS") or 600), folder))
    if held and os.environ.get("CHAOS_KEEP") != "1":
        shutil.rmtree(folder)
    sys.exit(0 if held else 1)
