"""`python -m bench`: everything, side by side; the tables go to docs/benchmarks.md, the figures to .run/bench.

--quick        one round, fewer contenders, under five minutes, `login` only where it is named; prints the tables and
               writes no page
--only A,B     only these parts; the figures of the others stay as they are (parts: see PARTS)
--contender A  only these contenders; with --only their figures replace the same contenders' alone
--results F    the file of the figures (.run/bench/results.json, quick.json)
--render       measure nothing, only write the tables anew
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from bench import backlog, footprint, ingest, latency, login, placing, reads, results, scaling, tables, wrk
from bench.contenders import CONTENDERS
from bench.setup import Figures, Setup
from boostedcalls.devkit.errors import DevkitError
from boostedcalls.devkit.servers import CHECKOUT

PARTS: dict[str, Callable[[Setup], Awaitable[Figures]]] = {
    "ingest": ingest.part,
    "latency": latency.part,
    "reads": reads.part,
    "placing": placing.part,
    "backlog": backlog.part,
    "startup": footprint.startup,
    "memory": footprint.memory,
    "scaling": scaling.part,
    "login": login.part,
}
RUN = CHECKOUT / ".run" / "bench"
PAGE = CHECKOUT / "docs" / "benchmarks.md"


def _say(text: str) -> None:
    print(text, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="PART,PART")
    parser.add_argument("--contender", default="", metavar="NAME,NAME")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _merge(old: Any, new: Figures, *, some: bool) -> Figures:
    """The part's new figures; where only some contenders were measured, those of the others stay."""
    return {**old, **new} if some and isinstance(old, dict) else new


async def _measure(setup: Setup, parts: list[str], path: Path) -> None:
    for name in parts:
        began = monotonic()
        found = await PARTS[name](setup)
        if found:
            setup.results[name] = _merge(setup.results.get(name), found, some=bool(setup.only))
        setup.results["about"] = results.about()
        results.save(path, setup.results)
        setup.say(f"{name}: {monotonic() - began:.0f} s")


@contextmanager
def _alone() -> Generator[Path]:
    """A folder for the run's databases. One run at a time: two would measure each other."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DevkitError("another run is under way") from None
        # What a run left that was killed.
        for left in RUN.glob("data-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="data-", dir=RUN))
        try:
            if os.geteuid() == 0:
                # Postgres runs as another user then.
                for each in (folder, RUN, RUN.parent):
                    each.chmod(each.stat().st_mode | 0o011)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    given = _arguments()
    parts = _names(given.only) or [name for name in PARTS if name != "login" or not given.quick]
    for kind, names, known in (("part", parts, PARTS), ("contender", _names(given.contender), CONTENDERS)):
        if unknown := [name for name in names if name not in known]:
            print(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
            return 2
    path: Path = given.results or RUN / ("quick.json" if given.quick else "results.json")
    # A whole run begins anew; a part is measured into what is there.
    found = results.load(path) if given.only or given.contender or given.render else {}
    if not given.render:
        # As Ctrl-C: everything that was started is stopped in order.
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        began = monotonic()
        try:
            wrk.installed()
            with _alone() as folder:
                setup = Setup(folder, given.quick, _say, found, frozenset(_names(given.contender)))
                asyncio.run(_measure(setup, [name for name in PARTS if name in parts], path))
        except (DevkitError, wrk.WrkMissing) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        _say(f"{monotonic() - began:.0f} s in all; the figures are in {os.path.relpath(path)}")
    if given.quick:
        print(f"\n{tables.render(found)}")
    else:
        tables.write(PAGE, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
